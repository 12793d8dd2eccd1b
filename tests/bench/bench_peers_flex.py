"""FlexAttention over the random 128x128 maps that check_kernels_cuda --bench timed: the same bits, drawn from the same
seeds, checked against the kept fraction that the file gives."""
import time

import torch

import bench_peers_timing as peers

BLOCK = 128
KEEPS = (1.0, 0.5, 0.25)  # the file's sparse_128x128_<keep>
MASK64 = (1 << 64) - 1


def signed(x):
    return x - (1 << 64) if x >> 63 else x


def shifted(x, bits):
    """Logical right shift of 64-bit words, which torch holds as signed."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def mix(x):
    """mix() of cuda_problem.cuh; products wrap."""
    x = x + signed(0x9E3779B97F4A7C15)
    x = (x ^ shifted(x, 30)) * signed(0xBF58476D1CE4E5B9)
    x = (x ^ shifted(x, 27)) * signed(0x94D049BB133111EB)
    return x ^ shifted(x, 31)


def random_map(n, keep, seed, device):
    """map_kernel() of cuda_problem.cuh: bool [heads, q blocks, k blocks], the diagonal always, nothing above it."""
    blocks = (n + BLOCK - 1) // BLOCK
    rows = torch.arange(peers.HEADS * blocks, device=device, dtype=torch.int64)[:, None]
    columns = torch.arange(blocks, device=device, dtype=torch.int64)[None, :]
    words = mix((rows * 4096 + columns) ^ signed(seed))
    uniform = (shifted(words, 40).to(torch.float32) + 0.5) * (1.0 / 16777216.0)
    kept = (uniform < torch.tensor(keep, dtype=torch.float32, device=device)) | (columns == rows % blocks)
    return (kept & (columns <= rows % blocks)).view(peers.HEADS, blocks, blocks)


def kept_fraction(tiles):
    blocks = tiles.shape[-1]
    return tiles.sum().item() / (peers.HEADS * blocks * (blocks + 1) / 2)


def block_mask(tiles, n):
    """Tiles under the diagonal are whole ones, which FlexAttention computes without a mask; those on it are causal."""
    from torch.nn.attention.flex_attention import BlockMask

    def listed(wanted):
        order = torch.argsort(wanted.to(torch.int8), dim=-1, descending=True, stable=True)
        return wanted.sum(-1).to(torch.int32)[None], order.to(torch.int32)[None]

    diagonal = torch.eye(tiles.shape[-1], dtype=torch.bool, device=tiles.device)
    partial, partial_at = listed(tiles & diagonal)
    whole, whole_at = listed(tiles & ~diagonal)
    return BlockMask.from_kv_blocks(partial, partial_at, whole, whole_at, BLOCK_SIZE=BLOCK, seq_lengths=(n, n),
                                    mask_mod=lambda b, h, i, j: i >= j)


def check_dense(out, q, k, v, name):
    """With every tile kept it must compute causal attention: a wrong mask would only look like a good time."""
    import torch.nn.functional as F

    expected = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).float()
    error = ((out.float() - expected).abs().sum() / expected.abs().sum()).item()
    if error > 0.02:
        raise RuntimeError(f"{name}: differs from SDPA with every tile kept, relative L1 {error:.3f}")


def time_flex(ours, budget_s):
    """{(what, d, n): ms}. A compilation cannot be interrupted, so the budget is looked at before each."""
    found = {}
    if budget_s <= 0:
        print("FlexAttention not run: --flex-seconds 0")
        return found
    begun = time.monotonic()
    try:
        from torch.nn.attention.flex_attention import flex_attention
    except ImportError as e:
        print(f"FlexAttention not run: {e}")
        return found
    for n in (8192, 32768, 2048):
        for d in peers.DIMS:
            spent = time.monotonic() - begun
            if spent >= budget_s:
                print(f"FlexAttention d={d} n={n} not run: {spent:.0f} of {budget_s:.0f} s are spent (--flex-seconds)")
                continue
            q, k, v = peers.random_inputs(d, n)
            torch._dynamo.reset()
            compiled = torch.compile(flex_attention, dynamic=False)
            compile_s = 0.0
            for keep in KEEPS:
                what = f"sparse_128x128_{keep:.2f}"
                if (what, d, n) not in ours:
                    print(f"FlexAttention {what} d={d} n={n} not run: the file has no such map")
                    continue
                _, kept, seed = ours[what, d, n]
                tiles = random_map(n, keep, seed, q.device)
                if abs(kept_fraction(tiles) - kept) > 1e-8:
                    raise RuntimeError(f"{what} d={d} n={n}: this map keeps {kept_fraction(tiles):.6f}, "
                                       f"ours {kept:.6f}")
                mask = block_mask(tiles, n)

                def call():
                    return compiled(q, k, v, block_mask=mask, enable_gqa=True)

                start = time.monotonic()
                try:
                    out = call()
                    torch.cuda.synchronize()
                    compile_s = max(compile_s, time.monotonic() - start)
                    if keep == 1.0:
                        check_dense(out, q, k, v, "FlexAttention")
                    found[what, d, n] = peers.median_ms(call, n)
                except (RuntimeError, torch._dynamo.exc.TorchDynamoException) as e:
                    print(f"FlexAttention d={d} n={n} not run: {(str(e).splitlines() or [type(e).__name__])[0]}")
                    break
                print(f"Flex   d={d:<3} n={n:<6} {found[what, d, n]:9.4f} ms at the same {kept:.3f} of the tiles"
                      f" (first call {compile_s:.1f} s)", flush=True)
    return found

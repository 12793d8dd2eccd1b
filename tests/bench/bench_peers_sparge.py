"""SpargeAttn's own call (prediction and quantisation included) at the fraction of tiles that ours kept.

It runs where `import spas_sage_attn` works. To get it, on a machine with nvcc, PyTorch and the Internet:
    git clone https://github.com/thu-ml/SpargeAttn && cd SpargeAttn
    TORCH_CUDA_ARCH_LIST=9.0 pip install --no-build-isolation .
Without the Internet or against another PyTorch: its Python is used as it is, and its extension modules _qattn and
_fused can be a shared library with a C interface that ctypes calls with data_ptr(). On Hopper the call needs three
functions of it: the sm90 attention kernel (int8 Q·K, one scale per block, P·V threshold, not causal, bf16 out),
transpose_pad_permute and scale_fuse_quant, both for f16. docs/speed/attention.md's figures were taken in this way.
Its prediction takes as many kv heads as query heads, so K and V are repeated for it beforehand, outside the timing.
"""
import torch

import bench_peers_timing as peers

BLOCK_Q, BLOCK_K = 64, 128  # its tiles on Hopper


def possible_tiles(n):
    return sum(min((i * BLOCK_Q + BLOCK_Q - 1) // BLOCK_K + 1, -(-n // BLOCK_K)) for i in range(-(-n // BLOCK_Q)))


def kept_with(count, n):
    """Fraction of the possible tiles when every row takes the best `count`."""
    rows = -(-n // BLOCK_Q)
    return sum(min(count, (i * BLOCK_Q + BLOCK_Q - 1) // BLOCK_K + 1) for i in range(rows)) / possible_tiles(n)


def topk_for(kept, n):
    """One topk per head: its share of *all* key blocks is cut to a whole count of tiles, so one count for some heads
    and the next for the others meets `kept` within a 32nd of a tile per row."""
    blocks = -(-n // BLOCK_K)
    count = max(c for c in range(1, blocks + 1) if c == 1 or kept_with(c, n) <= kept)
    low, high = kept_with(count, n), kept_with(count + 1, n)
    more = round(peers.HEADS * (kept - low) / (high - low)) if high > low else 0
    counts = torch.full((peers.HEADS,), float(count))
    counts[:max(0, min(more, peers.HEADS))] += 1
    return (counts + 0.5) / blocks


def kept_of(reported, n):
    """What it calls sparsity divides by a number of tiles somewhat above the possible ones."""
    columns, rows = -(-n // BLOCK_K), -(-n // BLOCK_Q)
    return (1 - reported) * ((columns + 2) // 2 * rows * peers.HEADS) / (peers.HEADS * possible_tiles(n))


def check_output(call, q, k, v):
    """Every possible tile kept, against exact attention over those tiles. Not against causal attention: tiles on the
    diagonal come out unmasked (docs/method.md), a finding about it and no reason not to time it."""
    n = q.shape[2]
    rows = torch.arange(n, device=q.device)[:, None] // BLOCK_Q * BLOCK_Q + BLOCK_Q - 1
    seen = rows // BLOCK_K >= torch.arange(n, device=q.device)[None, :] // BLOCK_K
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen).float()
    out = call(q, k, v, is_causal=True, topk=1.0).float()
    return ((out - expected).abs().sum() / expected.abs().sum()).item()


def time_sparge(ours):
    """{(what, d, n): (ms, kept)} for every whole call of ours in the file."""
    found = {}
    try:
        from spas_sage_attn import spas_sage2_attn_meansim_topk_cuda as call
    except ImportError as e:
        print(f"SpargeAttn not run: {e} (bench_peers_sparge.py says how to get it)")
        return found
    for (what, d, n), (_, kept, _) in sorted(ours.items()):
        if not what.startswith("call_") or n not in peers.LENGTHS:
            continue
        q, k, v = peers.random_inputs(d, n)
        k, v = (x.repeat_interleave(peers.HEADS // peers.KV_HEADS, dim=1) for x in (k, v))
        topk = topk_for(kept, n).to(q.device)
        try:
            if n == 2048:
                error = check_output(call, q, k, v)
                print(f"SpargeAttn d={d}: L1 {error:.3f} from exact attention over the same tiles")
            _, reported = call(q, k, v, is_causal=True, topk=topk, return_sparsity=True)
            ms = peers.median_ms(lambda: call(q, k, v, is_causal=True, topk=topk), n, 0.5 if n <= 4096 else 0.0)
        except RuntimeError as e:
            print(f"SpargeAttn d={d} n={n} not run: {str(e).splitlines()[0]}")
            continue
        found[what, d, n] = (ms, kept_of(reported, n))
        print(f"Sparge d={d:<3} n={n:<6} {ms:9.4f} ms, {kept_of(reported, n):.4f} of the tiles kept, "
              f"{kept:.4f} by {what}", flush=True)
    return found

"""Times other people's attention beside ours on the same GPU and prints both as Markdown tables:
PyTorch's cuDNN and FlashAttention SDPA, FlexAttention over the very maps ours was timed with, SpargeAttn at equal
kept tiles where it is installed. What is missing is said in a line and left out.

usage: bench_peers.py FILE [--flex-seconds S]    FILE is what check_kernels_cuda --bench FILE wrote
Shapes: batch 1, 32 query and 8 kv heads, causal, bf16, random normal data; medians of CUDA-event timings.
"""
import argparse
import os
import sys

os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # one kernel a shape: a pool of workers only starts slowly
LONGEST = 32768
BACKENDS = {"cuDNN": "CUDNN_ATTENTION", "FA2": "FLASH_ATTENTION"}


def time_sdpa():
    import torch.nn.functional as F
    from torch.nn.attention import SDPBackend, sdpa_kernel

    from bench_peers_timing import DIMS, HEADS, LENGTHS, median_ms, random_inputs

    found = {}
    for d in DIMS:
        for n in LENGTHS:
            q, k, v = random_inputs(d, n)
            for name, backend in BACKENDS.items():
                try:
                    with sdpa_kernel(getattr(SDPBackend, backend)):
                        found[name, d, n] = median_ms(
                            lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True), n)
                except RuntimeError as e:
                    print(f"{name} d={d} n={n} not run: {str(e).splitlines()[0]}")
                    continue
                ms = found[name, d, n]
                tflops = 2.0 * HEADS * n * n * d / ms * 1e-9
                print(f"{name:6} d={d:<3} n={n:<6} {ms:9.4f} ms {tflops:6.0f} TFLOP/s", flush=True)
    return found


def read_ours(path):
    """{(what, d, n): (ms, kept, seed)}"""
    ours = {}
    with open(path) as f:
        for line in f:
            what, d, n, ms, kept, seed = line.split()
            ours[what, int(d), int(n)] = (float(ms), float(kept), int(seed))
    return ours


def print_dense_and_maps(ours, sdpa, flex):
    """Both sides of a row compute the same tiles; the map is given, so no prediction is in it."""
    print("\n| d | n | tiles kept | ours ms | cuDNN ms | × | FA2 ms | × | FlexAttention ms | × |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    rows = sorted((d, n, -kept, what, ms) for (what, d, n), (ms, kept, _) in ours.items()
                  if n <= LONGEST and (what.startswith("dense") or what.startswith("sparse_128x128")))
    for d, n, kept, what, ms in rows:
        dense = what.startswith("dense")  # dense_int8 and dense_fp8 too, quantisation included
        if not dense and (what, d, n) not in flex:
            continue
        theirs = [sdpa.get((b, d, n)) if dense else None for b in BACKENDS] + [flex.get((what, d, n))]
        cells = "".join(f" {t:.4g} | {t / ms:.2f} |" if t else " | |" for t in theirs)
        print(f"| {d} | {n} | {what.replace('_', ', ') if dense else f'{-kept:.1%}'} | {ms:.4g} |{cells}")


def print_whole_calls(ours, sdpa, sparge):
    """Prediction included on both sides."""
    print("\n| d | n | ours: blocks, or products of eight bits in 128x64 | kept | ours ms | cuDNN dense ms | × | SpargeAttn kept | SpargeAttn ms | × |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for (what, d, n), (ms, kept, _) in sorted(ours.items(), key=lambda x: (x[0][1], x[0][2], x[0][0])):
        if not what.startswith("call_") or n > LONGEST:
            continue
        dense, (theirs, their_kept) = sdpa.get(("cuDNN", d, n)), sparge.get((what, d, n), (None, None))
        cells = f" {dense:.4g} | {dense / ms:.2f} |" if dense else " | |"
        cells += f" {their_kept:.3f} | {theirs:.4g} | {theirs / ms:.2f} |" if theirs else " | | |"
        print(f"| {d} | {n} | {what.split('_')[1]} | {kept:.3f} | {ms:.4g} |{cells}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", help="written by check_kernels_cuda --bench")
    parser.add_argument("--flex-seconds", type=float, default=300,
                        help="start no further compilation of FlexAttention after that (default 300; 0: none at all)")
    options = parser.parse_args()
    ours = read_ours(options.file)
    try:
        import torch
    except ImportError as e:
        print(f"bench_peers: no peer was run: {e}. They need a python3 that has PyTorch with CUDA.")
        return
    if not torch.cuda.is_available():
        sys.exit("bench_peers: PyTorch sees no CUDA device")
    import bench_peers_flex
    import bench_peers_sparge

    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}")
    with torch.no_grad():
        sdpa = time_sdpa()
        sparge = bench_peers_sparge.time_sparge(ours)
        print_whole_calls(ours, sdpa, sparge)  # before the compilations, which may outlast the caller's patience
        flex = bench_peers_flex.time_flex(ours, options.flex_seconds)
        print_dense_and_maps(ours, sdpa, flex)


if __name__ == "__main__":
    main()

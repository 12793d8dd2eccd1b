"""Times PyTorch's attention beside ours in one call and prints the ratios.

usage: bench_peers.py [FILE]   FILE holds lines "what head_dim n ms", as check_kernels_cuda --bench writes them.
Shapes: batch 1, 32 query and 8 kv heads, causal, bf16, random data; medians of CUDA-event timings.
"""
import sys

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

HEADS, KV_HEADS = 32, 8
LENGTHS = (2048, 8192, 32768)
BACKENDS = {"cudnn": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION}


def median_ms(body, n):
    calls, samples = (10, 15) if n <= 4096 else (2, 15) if n <= 16384 else (1, 9)
    for _ in range(3):
        body()
    times = []
    for _ in range(samples):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(calls):
            body()
        stop.record()
        stop.synchronize()
        times.append(start.elapsed_time(stop) / calls)
    return sorted(times)[len(times) // 2]


def time_peers():
    found = {}
    for d in (128, 64):
        for n in LENGTHS:
            q = torch.randn(1, HEADS, n, d, device="cuda", dtype=torch.bfloat16)
            k, v = (torch.randn(1, KV_HEADS, n, d, device="cuda", dtype=torch.bfloat16) for _ in range(2))
            for name, backend in BACKENDS.items():
                try:
                    with sdpa_kernel(backend):
                        ms = median_ms(
                            lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True), n)
                except RuntimeError as e:
                    print(f"{name} d={d} n={n}: {str(e).splitlines()[0]}")
                    continue
                found[name, d, n] = ms
    return found


def read_ours(path):
    ours = {}
    with open(path) as f:
        for line in f:
            what, d, n, ms = line.split()
            ours[what, int(d), int(n)] = float(ms)
    return ours


def main():
    if not torch.cuda.is_available():
        sys.exit("bench_peers: PyTorch sees no CUDA device")
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}")
    peers = time_peers()
    ours = {}
    for path in sys.argv[1:]:
        ours.update(read_ours(path))
    for (name, d, n), ms in sorted(peers.items(), key=lambda x: (x[0][1], x[0][2], x[0][0])):
        tflops = 2.0 * HEADS * n * n * d / ms * 1e-9
        print(f"{name:6} d={d:<3} n={n:<6} {ms:9.4f} ms {tflops:6.0f} TFLOP/s")
    print(f"{'ours':32} {'d':>3} {'n':>6} {'ms':>9}" + "".join(f" {'x ' + b:>8}" for b in BACKENDS))
    for (what, d, n), ms in ours.items():
        ratios = "".join(f" {peers[b, d, n] / ms:8.3f}" if (b, d, n) in peers else f" {'-':>8}" for b in BACKENDS)
        print(f"{what:32} {d:3} {n:6} {ms:9.4f}{ratios}")


if __name__ == "__main__":
    main()

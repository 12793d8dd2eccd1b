"""The shapes, inputs and stopwatch that every peer is timed with."""
import time

import torch

HEADS, KV_HEADS = 32, 8
LENGTHS = (2048, 8192, 32768)
DIMS = (128, 64)


def median_ms(body, n, warm_s=0.0):
    """Groups of calls as in check_kernels_cuda, so that launch gaps count the same for everybody. A call that the host
    bounds settles only after some hundreds (`warm_s` seconds); warming up one that the GPU bounds only heats it."""
    calls, samples = (10, 15) if n <= 4096 else (2, 15) if n <= 16384 else (1, 9)
    for _ in range(3):
        body()
    torch.cuda.synchronize()
    begun = time.monotonic()
    while time.monotonic() - begun < warm_s:
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


def random_inputs(d, n):
    torch.manual_seed(n + d)
    return [torch.randn(1, h, n, d, device="cuda", dtype=torch.bfloat16) for h in (HEADS, KV_HEADS, KV_HEADS)]

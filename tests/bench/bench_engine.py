"""Prefill and loss of a Hugging Face directory through transformers with SDPA in bf16, as
`sparsegauge bench DIR --device cuda` times them: medians of wall time, random tokens, batch 1.

usage: bench_engine.py [--compile] DIR LENGTH... ; prints one line per length, or why there is none.
--compile: the model compiled by torch.compile for each length, instead of eager."""
import statistics
import sys
import time


def median(run, repeats):
    import torch

    run()
    times = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main():
    try:
        import torch
        import transformers
        from transformers import LlamaForCausalLM
    except ImportError as error:
        print(f"not run: {error}")
        return
    compiles = "--compile" in sys.argv
    argv = [a for a in sys.argv[1:] if a != "--compile"]
    transformers.logging.set_verbosity_error()
    model = LlamaForCausalLM.from_pretrained(argv[0], dtype=torch.bfloat16, attn_implementation="sdpa").cuda().eval()
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, {torch.cuda.get_device_name()}")
    eager = model
    for n in map(int, argv[1:]):
        if compiles:
            torch._dynamo.reset()
            model = torch.compile(eager, dynamic=False)
        ids = torch.randint(0, eager.config.vocab_size, (1, n), device="cuda")
        repeats = 5 if n <= 8192 else 3
        with torch.inference_mode():
            torch.cuda.reset_peak_memory_stats()
            prefill = median(lambda: model(ids, use_cache=True, logits_to_keep=1), repeats)
            prefill_peak = torch.cuda.max_memory_allocated() / 2**30
            torch.cuda.reset_peak_memory_stats()
            loss = median(lambda: model(ids, labels=ids, use_cache=False).loss, repeats)
            loss_peak = torch.cuda.max_memory_allocated() / 2**30
            print(f"{n} tokens{', compiled' if compiles else ''}: prefill {prefill * 1e3:.2f} ms, {prefill_peak:.2f} GiB; "
                  f"loss {loss * 1e3:.2f} ms, {loss_peak:.2f} GiB", flush=True)
            if n <= 8192 and not compiles:
                state = model(ids, use_cache=True, logits_to_keep=1)
                cache = state.past_key_values
                token = ids[:, -1:]
                step = median(lambda: model(token, past_key_values=cache, use_cache=True), 20)
                print(f"{n} tokens: decode step {step * 1e3:.2f} ms", flush=True)
            torch.cuda.empty_cache()


main()

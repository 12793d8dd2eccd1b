"""sparsegauge on CUDA tensors of torch: against fp64 by definition and against the CPU, strides, streams, chunks, decode, ledgers,
models; and the attention time of a patched 1B shape beside SDPA's. Prints one line for each check; exits 1 when one failed.

    SPARSEGAUGE_LIBRARY=…/libsparsegauge.so PYTHONPATH=library/python python3 tests/bench/check_torch_cuda.py [--quick]
"""

import sys
import time
import traceback

import torch

import sparsegauge as sg

failed = 0


def check(name, ok, detail=""):
    global failed
    failed += not ok
    print(f"{'ok  ' if ok else 'FAIL'} {name} {detail}", flush=True)


def section(f):
    global failed
    try:
        f()
    except Exception:
        failed += 1
        print(f"FAIL {f.__name__}\n{traceback.format_exc()}", flush=True)
    return f


def tensors(h, kv, n, d, seed=0, keys=None):
    g = torch.Generator().manual_seed(seed)
    make = lambda heads, rows: torch.randn(heads, rows, d, generator=g)
    q, k, v = make(h, n), make(kv, keys or n), make(kv, keys or n)
    topic = torch.randn(1, (keys or n) // 128 + 1, d, generator=g).repeat_interleave(128, 1)  # tiles that differ
    k += 1.5 * topic[:, : keys or n]
    q += 1.5 * topic[:, (keys or n) - n : keys or n].flip(1)
    return [x.to("cuda", torch.bfloat16) for x in (q, k, v)]


def by_definition(q, k, v):
    q, k, v = (x.double() for x in (q, k, v))
    g, n, keys = q.shape[0] // k.shape[0], q.shape[1], k.shape[1]
    k, v = k.repeat_interleave(g, 0), v.repeat_interleave(g, 0)
    s = q @ k.transpose(1, 2) / q.shape[2] ** .5
    s.masked_fill_(torch.arange(keys, device=q.device)[None] > torch.arange(keys - n, keys, device=q.device)[:, None], float("-inf"))
    return s.softmax(-1) @ v


def away(a, b):
    return float((a.double() - b.double()).norm() / b.double().norm())


@section
def attention():
    for h, kv, n, d in ((8, 2, 1024, 64), (8, 2, 1000, 128), (4, 4, 300, 96)):
        q, k, v = tensors(h, kv, n, d)
        want = by_definition(q, k, v)
        plain = away(torch.nn.functional.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True, enable_gqa=True)[0], want)
        got = sg.attention(q, k, v)
        check(f"dense d {d} n {n}", away(got, want) < max(2 * plain, 2e-3), f"{away(got, want):.2e}, SDPA {plain:.2e}")
        p = sg.Policy(1, h, topk=.5)
        counted, on_cpu = sg.Ledger(1, h), sg.Ledger(1, h)
        got = sg.attention(q, k, v, p, ledger=counted)
        cpu = sg.attention(*(x.float().cpu() for x in (q, k, v)), p, ledger=on_cpu)
        check(f"sparse d {d} n {n}", away(got.cpu(), cpu) < .02, f"from the CPU {away(got.cpu(), cpu):.2e}")
        a, b = counted.totals, on_cpu.totals
        check("its ledger is the CPU's", a["tiles_possible"] == b["tiles_possible"] and a["calls_sparse"] == h
              and abs(a["tiles_computed"] - b["tiles_computed"]) <= .01 * b["tiles_possible"] and counted.sparsity > .2,
              f"{counted!r} {a['tiles_computed']} {b['tiles_computed']}")


@section
def layouts_and_streams():
    h, kv, n, d = 8, 2, 2048, 64
    q, k, v = tensors(h, kv, n, d)
    p = sg.Policy(1, h, topk=.5)
    want = sg.attention(q, k, v, p)
    apart = [x.transpose(0, 1).contiguous().transpose(0, 1) for x in (q, k, v)]
    out = torch.zeros(n, h, 2 * d, dtype=torch.bfloat16, device="cuda")
    sg.attention(*apart, p, out=out.transpose(0, 1)[:, :, :d])
    check("tokens before heads, output within a wider row", torch.equal(out.transpose(0, 1)[:, :, :d], want) and not out[:, :, d:].any())
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        late = [x.clone() for x in (q, k, v)]  # there only when the stream has slept
        got = sg.attention(*late, p)
    stream.synchronize()
    check("queued on the caller's stream", torch.equal(got, want))
    t = time.perf_counter()
    torch.cuda._sleep(200_000_000)
    sg.attention(q, k, v, p)
    queued = time.perf_counter() - t
    torch.cuda.synchronize()
    check("nothing waits", queued < .05, f"{1e3 * queued:.2f} ms to queue behind {1e3 * (time.perf_counter() - t):.0f} ms of work")


@section
def chunks_and_decode():
    h, kv, n, d = 8, 2, 2048, 64
    q, k, v = tensors(h, kv, n, d)
    p = sg.Policy(1, h, topk=.5, block="128x64")
    want, parts, whole = sg.attention(q, k, v, p), sg.Ledger(1, h), sg.Ledger(1, h)
    sg.attention(q, k, v, p, ledger=whole)
    got = torch.cat([sg.attention(q[:, i : i + 512], k[:, : i + 512], v[:, : i + 512], p, total=n, ledger=parts) for i in range(0, n, 512)], 1)
    check("chunks", away(got, want) < 1e-2, f"{away(got, want):.2e}, tiles {parts.totals['tiles_computed']} {whole.totals['tiles_computed']}")
    counted = sg.Ledger(1, h)
    one = sg.attention(q[:, -1:], k, v, p, ledger=counted)
    check("decode", away(one, by_definition(q, k, v)[:, -1:]) < 5e-3 and counted.totals["calls_dense_short"] == h)


@section
def refusals():
    q, k, v = tensors(4, 2, 512, 64)
    for what, args in (("float16", [x.half() for x in (q, k, v)]), ("float32", [x.float() for x in (q, k, v)]), ("mixed devices", [q, k.cpu().float(), v]),
                       ("a stride that is no multiple of 8", [x.new_zeros(x.shape[0], x.shape[1], 68)[:, :, :64] for x in (q, k, v)]),
                       ("a method without a GPU body", [q, k, v, sg.Policy(1, 4, "xattention")])):
        try:
            sg.attention(*args)
            check(what, False, "was taken")
        except sg.Error as e:
            check(what, True, str(e))
    check("works on", bool(sg.attention(q, k, v).isfinite().all()))


def llama(**shape):
    import transformers

    config = transformers.LlamaConfig(max_position_embeddings=131072, tie_word_embeddings=True, **shape)
    torch.manual_seed(0)
    with torch.device("cuda"):
        model = transformers.LlamaForCausalLM._from_config(config, dtype=torch.bfloat16).eval()
    return model


@section
def a_model():
    model = llama(hidden_size=512, intermediate_size=1024, num_hidden_layers=4, num_attention_heads=8, num_key_value_heads=2, head_dim=64, vocab_size=4096)
    with torch.no_grad():
        for m in model.modules():
            if hasattr(m, "q_proj"):
                m.q_proj.weight.mul_(6), m.k_proj.weight.mul_(6)
    ids = torch.randint(0, 4096, (1, 2000), device="cuda", generator=torch.Generator("cuda").manual_seed(1))
    with torch.no_grad():
        want = model(ids).logits
        sg.patch(model, method="dense")
        got = model(ids).logits
        check("a model, dense", away(got, want) < .03, f"{away(got, want):.2e} from SDPA")
        sg.patch(model, topk=.5)
        sparse = model(ids).logits
        counted = sg.ledger(model, reset=True)
        check("a model, sparse", counted.totals["calls_sparse"] == 32 and .3 < counted.sparsity < .6 and away(sparse, want) > .01, f"{counted!r}")
        cpu = sg.patch(type(model)(model.config).eval(), topk=.5)
        cpu.load_state_dict({k: v.float().cpu() for k, v in model.state_dict().items()})
        other = cpu(ids.cpu()).logits
        check("the same on the CPU in f32", away(sparse.cpu(), other) < .1, f"{away(sparse.cpu(), other):.2e}; {sg.ledger(cpu)!r}")
        tokens = model.generate(ids, max_new_tokens=8, do_sample=False, pad_token_id=0)
        counted = sg.ledger(model)
        check("generate", tokens.shape[1] == 2008 and counted.totals["calls_sparse"] == 32 and counted.totals["calls_dense_short"] == 32 * 7, f"{counted!r}")
    texts = [torch.randint(0, 4096, (1024,), generator=torch.Generator().manual_seed(i)) for i in range(4)]
    t = time.perf_counter()
    tuned = sg.tune(model, texts, layer_range=(1, 4), l1=.2, pv_l1=.25, min_sparsity=0)
    check("tune", tuned.settings["layers"] == "1-3" and "pairs" in tuned.verdict, f"{time.perf_counter() - t:.2f} s; {tuned.verdict}")
    with torch.no_grad():
        model(ids)
    check("a tuned model", sg.ledger(model).totals["calls_sparse"] > 0, repr(sg.ledger(model)))


class Stopwatch:
    """GPU time of the attention calls of a forward pass."""

    def __init__(self, name):
        from transformers import AttentionInterface

        self.mapping, self.name = AttentionInterface._global_mapping, name
        self.real, self.marks = self.mapping[name], []

    def __enter__(self):
        def timed(*args, **kwargs):
            a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            a.record()
            out = self.real(*args, **kwargs)
            b.record()
            self.marks.append((a, b))
            return out

        self.mapping[self.name] = timed
        return self

    def __exit__(self, *_):
        self.mapping[self.name] = self.real

    def ms(self):
        torch.cuda.synchronize()
        return sum(a.elapsed_time(b) for a, b in self.marks)


def prefill(model, name, ids, rounds):
    """Medians of attention time (ms, all layers) and of whole prefills (ms, without event marks)."""
    inside, whole = [], []
    with torch.no_grad():
        for i in range(rounds + 1):
            with Stopwatch(name) as watch:
                model(ids, use_cache=False, logits_to_keep=1)
                spent = watch.ms()
            torch.cuda.synchronize()
            t = time.perf_counter()
            model(ids, use_cache=False, logits_to_keep=1)
            torch.cuda.synchronize()
            if i:
                inside.append(spent), whole.append(1e3 * (time.perf_counter() - t))
    return sorted(inside)[rounds // 2], sorted(whole)[rounds // 2]


@section
def beside_sdpa():
    quick = "--quick" in sys.argv
    print(f"# {torch.cuda.get_device_name()}, torch {torch.__version__}; attention time of all layers in a prefill, half of the tiles left out (topk .5)")
    shapes = (("1B", 16, 2048, 8192, 32, 64), ("8B heads, 8 layers", 8, 4096, 14336, 32, 128))
    for title, layers, hidden, inter, heads, d in shapes[: 1 if quick else 2]:
        model = llama(hidden_size=hidden, intermediate_size=inter, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=8, head_dim=d,
                      vocab_size=128256)
        for n, wanted in ((2048, None), (8192, 1.3), (32768, 1.6)):
            ids = torch.randint(0, 128256, (1, n), device="cuda")
            rounds = 3 if n > 8192 else 7
            sdpa = prefill(model, "sdpa", ids, rounds)
            sg.patch(model, method="dense")
            dense = prefill(model, "sparsegauge", ids, rounds)
            sg.patch(model, topk=.5)
            half = prefill(model, "sparsegauge", ids, rounds)
            counted = sg.ledger(model)
            sg.unpatch(model)
            ratio = sdpa[0] / half[0]
            check(f"{title} {n}", wanted is None or ratio >= wanted,
                  f"attention: SDPA {sdpa[0]:.3f} ms, ours dense {dense[0]:.3f}, sparse {half[0]:.3f} ({100 * counted.sparsity:.1f} % left out): {ratio:.2f} x "
                  f"(wanted {wanted}); whole prefill {sdpa[1]:.1f}, {dense[1]:.1f}, {half[1]:.1f} ms")
        del model
        torch.cuda.empty_cache()


print(f"{failed} failed")
sys.exit(1 if failed else 0)

"""sparsegauge on CUDA tensors of torch: against fp64 by definition and against the CPU, strides, streams, threads, chunks, decode,
ledgers, refusals, memory; the bundled model beside its f32 self, the engine and the program; and the attention time of a patched 1B
shape beside SDPA's. Prints one line for each check; exits 1 when one failed.

    SPARSEGAUGE_LIBRARY=…/libsparsegauge.so SPARSEGAUGE_PROGRAM=…/sparsegauge PYTHONPATH=library/python \
        python3 tests/bench/check_torch_cuda.py [--check | --time] [--model suites/demo/model]
"""

import argparse
import copy
import cProfile
import pstats
import tempfile
import threading
import sys
import time
import traceback
from pathlib import Path

import torch

import sparsegauge as sg

options = argparse.ArgumentParser()
options.add_argument("--check", action="store_true", help="no timing")
options.add_argument("--time", action="store_true", help="timing alone")
options.add_argument("--model", default=str(Path(__file__).resolve().parents[2] / "suites" / "demo" / "model"))
options = options.parse_args()
failed = 0
ALWAYS = {"min_sparse_tokens": 256}  # short calls stay sparse, also where that does not pay on this GPU


def check(name, ok, detail=""):
    global failed
    failed += not ok
    print(f"{'ok  ' if ok else 'FAIL'} {name} {detail}", flush=True)


def section(f, of="check"):
    global failed
    if options.time if of == "check" else options.check:
        return f
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


def llama(**shape):
    import transformers

    config = transformers.LlamaConfig(max_position_embeddings=131072, tie_word_embeddings=True, **shape)
    torch.manual_seed(0)
    with torch.device("cuda"):
        model = transformers.LlamaForCausalLM._from_config(config, dtype=torch.bfloat16).eval()
    return model


@section
def attention():
    for h, kv, n, d in ((8, 2, 1024, 64), (8, 2, 1000, 128), (4, 4, 300, 96)):
        q, k, v = tensors(h, kv, n, d)
        want = by_definition(q, k, v)
        plain = away(torch.nn.functional.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True, enable_gqa=True)[0], want)
        got = sg.attention(q, k, v)
        check(f"dense d {d} n {n}", away(got, want) < max(2 * plain, 2e-3), f"{away(got, want):.2e}, SDPA {plain:.2e}")
        p = sg.Policy(1, h, topk=.5, **ALWAYS)
        counted, on_cpu = sg.Ledger(1, h), sg.Ledger(1, h)
        got = sg.attention(q, k, v, p, ledger=counted)
        cpu = sg.attention(*(x.float().cpu() for x in (q, k, v)), p, ledger=on_cpu)
        check(f"sparse d {d} n {n}", away(got.cpu(), cpu) < .02, f"from the CPU {away(got.cpu(), cpu):.2e}")
        heads = lambda l: [[l.head(0, i)[x] for x in ("tiles_possible", "tiles_computed", "pv_units_computed", "forced_sink",
                                                      "forced_diagonal", "calls_sparse")] for i in range(h)]
        check("its ledger is the CPU's, head by head", heads(counted) == heads(on_cpu) and counted.qk_sparsity > .1,
              f"{counted!r} {counted.totals['tiles_computed']} {on_cpu.totals['tiles_computed']}")


@section
def layouts_and_streams():
    h, kv, n, d = 8, 2, 2048, 64
    q, k, v = tensors(h, kv, n, d)
    p = sg.Policy(1, h, topk=.5, **ALWAYS)
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
def two_threads_two_streams():
    """Each thread with a stream of its own, calls of both kinds under one context: every result is that of the call alone."""
    p, work = sg.Policy(1, 8, topk=.5, **ALWAYS), []
    for i in range(2):
        q, k, v = tensors(8, 2, 1024 + 512 * i, 64, seed=i)
        work.append((q, k, v, sg.attention(q, k, v, p), sg.attention(q, k, v)))
    torch.cuda.synchronize()
    wrong = []

    def calls(i):
        q, k, v, sparse, dense = work[i]
        stream = torch.cuda.Stream()
        try:
            with torch.cuda.stream(stream):
                for _ in range(40):
                    got = sg.attention(q, k, v, p), sg.attention(q, k, v)
                    stream.synchronize()
                    if not torch.equal(got[0], sparse) or not torch.equal(got[1], dense):
                        wrong.append(i)
        except Exception as e:
            wrong.append(e)

    threads = [threading.Thread(target=calls, args=(i,)) for i in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    check("two threads on two streams", not wrong, f"{wrong or '2 x 80 calls, bit for bit'}")


@section
def no_leak():
    h, kv, n, d = 8, 2, 4096, 64
    q, k, v = tensors(h, kv, n, d)
    model = llama(hidden_size=256, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=64, vocab_size=512)
    ids = torch.randint(0, 512, (1, 1024), device="cuda")

    def once():
        counted = sg.Ledger(1, h)
        sg.attention(q, k, v, sg.Policy(1, h, topk=.5, **ALWAYS), ledger=counted)
        try:
            sg.attention(q, k[:, :100], v)
        except sg.Error:
            pass
        with torch.no_grad():
            model_ledger = sg.ledger(sg.patch(model, topk=.5, **ALWAYS))
            model(ids, use_cache=False)
            sg.unpatch(model)
        return model_ledger

    def held():
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        with open("/proc/self/statm") as f:
            host = int(f.read().split()[1]) * 4096
        return torch.cuda.memory_allocated(), torch.cuda.mem_get_info()[0], host

    for _ in range(20):
        once()
    before = held()
    for _ in range(100):
        once()
    after = held()
    check("100 calls and 100 patched models keep nothing", after[0] == before[0] and after[1] >= before[1] and after[2] - before[2] < 16 << 20,
          f"torch's {after[0] - before[0]:+d} bytes, the device's {before[1] - after[1]:+d}, the host's {after[2] - before[2]:+d}")


@section
def chunks_and_decode():
    h, kv, n, d = 8, 2, 2048, 64
    q, k, v = tensors(h, kv, n, d)
    p = sg.Policy(1, h, topk=.5, block="128x64", **ALWAYS)
    want, parts, whole = sg.attention(q, k, v, p), sg.Ledger(1, h), sg.Ledger(1, h)
    sg.attention(q, k, v, p, ledger=whole)
    got = torch.cat([sg.attention(q[:, i : i + 512], k[:, : i + 512], v[:, : i + 512], p, total=n, ledger=parts) for i in range(0, n, 512)], 1)
    check("chunks", away(got, want) < 1e-2, f"{away(got, want):.2e}, tiles {parts.totals['tiles_computed']} {whole.totals['tiles_computed']}")
    counted = sg.Ledger(1, h)
    one = sg.attention(q[:, -1:], k, v, p, ledger=counted)
    check("decode", away(one, by_definition(q, k, v)[:, -1:]) < 5e-3 and counted.totals["calls_dense_short"] == h)


@section
def where_it_pays():
    """The default: a call whose tiles cost more to choose than they save runs dense, and its time is that of a dense call."""
    for d in (64, 128):
        for n in (1024, 2048, 4096, 8192):
            q, k, v = (torch.randn(h, n, d, device="cuda", dtype=torch.bfloat16) for h in (32, 8, 8))
            default, always = sg.Policy(1, 32, topk=.5), sg.Policy(1, 32, topk=.5, **ALWAYS)
            counted = sg.Ledger(1, 32)
            got = sg.attention(q, k, v, default, ledger=counted)
            dense = counted.totals["calls_dense_cost"] == 32
            check(f"default d {d} n {n}", torch.equal(got, sg.attention(q, k, v, None if dense else always)),
                  "runs dense" if dense else "runs sparse")
            ms = {}
            for what, p in (("dense", None), ("always", always), ("default", default)) * 5:
                a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                torch.cuda._sleep(4_000_000)  # the host is ahead when the first call begins
                a.record()
                for _ in range(20):
                    sg.attention(q, k, v, p, out=got)
                b.record()
                torch.cuda.synchronize()
                ms.setdefault(what, []).append(a.elapsed_time(b) / 20)
            ms = {what: sorted(x)[2] for what, x in ms.items()}
            check(f"default d {d} n {n} is not slower than dense", ms["default"] < 1.03 * ms["dense"],
                  ", ".join(f"{what} {x:.4f}" for what, x in ms.items()) + " ms")


@section
def refusals():
    q, k, v = tensors(4, 2, 512, 64)
    for what, args in (("float16", [x.half() for x in (q, k, v)]), ("float32", [x.float() for x in (q, k, v)]), ("mixed devices", [q, k.cpu().float(), v]),
                       ("a stride that is no multiple of 8", [x.new_zeros(x.shape[0], x.shape[1], 68)[:, :, :64] for x in (q, k, v)]),
                       ("a method without a GPU body", [q, k, v, sg.Policy(1, 4, "xattention", **ALWAYS)]),
                       ("a head_dim that is not contiguous", [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v)]),
                       ("an address between two elements of 16 bytes", [x.new_zeros(x.numel() + 8)[1 : x.numel() + 1].view(x.shape) for x in (q, k, v)]),
                       ("too few keys", [q, k[:, :100], v[:, :100]]), ("heads of another policy", [q, k, v, sg.Policy(1, 8)]),
                       ("heads that do not divide", [q[:3], k, v]), ("two dimensions", [q[0], k, v]),
                       ("a prediction alone", None)):
        try:
            sg.attention(*args) if args else sg.predict(q, k, sg.Policy(1, 4))
            check(what, False, "was taken")
        except sg.Error as e:
            check(what, True, str(e))
    check("works on", bool(sg.attention(q, k, v).isfinite().all()))


def centred(x):
    x = x.double()
    return x - x.mean(-1, keepdim=True)


@section
def a_model():
    """The bundled model in bf16 on the GPU. What bf16 itself costs is how far torch's own attention is from the f32 model; ours may cost no
    more than that and a fifth, and the sparse run no more than half as much again, because a tile on the edge of being kept falls either way."""
    import transformers

    engine = sg.Model(options.model)
    source = "".join((Path(options.model).parents[2] / name).read_text(encoding="utf-8") for name in ("README.md", "docs/method.md"))
    ids = torch.from_numpy(engine.encode(source)[:2000]).long()[None]
    model = transformers.AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.bfloat16).eval().to("cuda")
    at, n_heads = ids.to("cuda"), engine.shape["n_heads"]
    exact = centred(torch.from_numpy(engine.logits(ids[0].numpy())))
    run = lambda: centred(model(at).logits[0].float().cpu())
    with torch.no_grad():
        plain = away(run(), exact)
        greedy = lambda n, new: model.generate(at[:, :n], attention_mask=torch.ones_like(at[:, :n]), max_new_tokens=new, do_sample=False, pad_token_id=0)

        def step_by_step():
            """Logits of 24 tokens of the text, each behind what is cached."""
            first = model(at[:, :600], use_cache=True)
            cache, rows = first.past_key_values, []
            for i in range(600, 624):
                rows.append(model(at[:, i : i + 1], past_key_values=cache, use_cache=True).logits[0])
            return centred(torch.cat(rows).float().cpu())

        stepped = away(step_by_step(), exact[600:624])
        sg.patch(model, method="dense")
        ours = away(run(), exact)
        check("the bundled model, dense", ours < 1.2 * plain, f"{ours:.4f} from f32 with our attention, {plain:.4f} with torch's")
        dense = sg.ledger(model, reset=True)
        check("its ledger", dense.sparsity == 0 and dense.totals["calls_sparse"] == 0, repr(dense))
        ours = away(step_by_step(), exact[600:624])
        check("24 steps of decoding", ours < 1.3 * stepped, f"{ours:.4f} from f32 with our attention, {stepped:.4f} with torch's")
        sg.ledger(model, reset=True)
        sg.patch(model, topk=.5, **ALWAYS)
        state = sg.models._state_of(model)
        on_cpu = engine.ledger()
        wanted = centred(torch.from_numpy(engine.logits(ids[0].numpy(), sg.policy(model), on_cpu)))
        got = run()
        counted = sg.ledger(model, reset=True)
        check("sparse, beside the engine in f32", away(got, wanted) < 1.5 * plain and away(wanted, exact) > 3 * plain,
              f"{away(got, wanted):.4f}; the engine's own sparse run is {away(wanted, exact):.4f} from dense")
        tiles, on_host = counted.totals["tiles_computed"], on_cpu.totals["tiles_computed"]
        check("its tiles", abs(tiles - on_host) < .005 * on_host and counted.totals["tiles_possible"] == on_cpu.totals["tiles_possible"], f"{tiles} {on_host}; {counted!r}")
        # From the same queries and keys the CPU's masks, head by head.
        state.capture, state.last = dict.fromkeys(range(engine.shape["n_layers"])), -1
        model(at)
        (held, state.capture), same = (state.capture, None), []
        for layer, (q, k, v) in held.items():
            a, b = sg.Ledger(len(held), n_heads), sg.Ledger(len(held), n_heads)
            sg.attention(*(x.to("cuda", torch.bfloat16) for x in (q, k, v)), sg.policy(model), layer=layer, ledger=a)
            sg.attention(q, k, v, sg.policy(model), layer=layer, ledger=b)
            same += [a.head(layer, h)["tiles_computed"] == b.head(layer, h)["tiles_computed"] for h in range(n_heads)]
        check("masks of its own queries and keys", sum(same) >= len(same) - 1, f"{sum(same)} of {len(same)} heads compute as many tiles as on the CPU")
        greedy(2000, 8)
        counted = sg.ledger(model, reset=True).totals
        heads = engine.shape["n_layers"] * n_heads
        check("decode", counted["calls_sparse"] == heads and counted["calls_dense_short"] == heads * 7, f"{counted['calls_sparse']} sparse, {counted['calls_dense_short']} short")
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            other = run()
        check("on another stream", torch.equal(other, got))
        both = model(at.repeat(2, 1)).logits
        check("a batch of two", away(centred(both[1].float().cpu()), got) < plain)
    texts = [source[i * 5000 : (i + 1) * 5000] for i in range(6)]
    t = time.perf_counter()
    tuned = sg.tune(model, texts, layer_range=(1, 7), l1=.06, pv_l1=.07, max_length=1024, num_tune_samples=2, check=1, held_out=3)
    spent = time.perf_counter() - t
    frame = tuned.to_frame()
    sparse = frame[frame.is_sparse]
    check("tune", tuned.settings["layers"] == "1-6" and len(sparse) > 4 and bool((sparse.error <= .07).all()) and "pairs" in tuned.verdict,
          f"{spent:.2f} s; {len(sparse)} sparse heads; {tuned.verdict}")
    sg.policy(model).set(**ALWAYS)
    with torch.no_grad():
        model(at)
    counted = sg.ledger(model)
    check("a tuned model", counted.sparsity > .02, repr(counted))
    with tempfile.TemporaryDirectory() as folder:
        sg.save(model, folder + "/tuned.json")
        with torch.no_grad():
            want = model(at).logits
            fresh = sg.load(copy.deepcopy(sg.unpatch(model)), folder + "/tuned.json")
            sg.policy(fresh).set(**ALWAYS)  # a caller's choice, not the file's
            check("saved and loaded", torch.equal(fresh(at).logits, want))
    reports = [sg.eval(options.model, texts=texts, tuned=tuned, max_length=1024, cache="none", **more) for more in ({}, {"device": "cuda"})]
    kl = [r["output_accuracy"]["kl"] for r in reports]
    left = [r["sparsity"]["mean"] for r in reports]
    check("eval by the program, CPU and GPU", abs(left[0] - left[1]) < .01 and left[1] > .02 and abs(kl[0] - kl[1]) < .2 * kl[0] + .002, f"KL {kl}, left out {left}")


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


def host_time():
    """What a call takes the host, microseconds: below it nothing of a launch-bound model can be."""
    model = llama(hidden_size=2048, intermediate_size=256, num_hidden_layers=1, num_attention_heads=32, num_key_value_heads=8, head_dim=64, vocab_size=512)
    from transformers import AttentionInterface

    mapping = AttentionInterface._global_mapping
    with torch.no_grad():
        for n, keys in ((2048, 2048), (1, 2048)):
            q, k = (torch.randn(1, h, m, 64, device="cuda", dtype=torch.bfloat16) for h, m in ((32, n), (8, keys)))
            line = []
            for what, more in (("SDPA", None), ("dense", {"method": "dense"}), ("topk .5", {"topk": .5})):
                if more:
                    sg.patch(model, **more)
                call = mapping["sparsegauge" if more else "sdpa"]
                module = model.model.layers[0].self_attn
                spent = []
                for _ in range(12):
                    torch.cuda.synchronize()
                    t = time.perf_counter()
                    for _ in range(20):
                        call(module, q, k, k, None, dropout=0.0, scaling=.125)
                    spent.append((time.perf_counter() - t) / 20)
                line.append(f"{what} {1e6 * sorted(spent)[6]:.1f}")
            print(f"# host time of a call of {n} rows, us: {', '.join(line)}")
            if n > 1:
                p = cProfile.Profile()
                p.enable()
                for i in range(1000):
                    call(module, q, k, k, None, dropout=0.0, scaling=.125)
                    if i % 20 == 0:
                        torch.cuda.synchronize()
                p.disable()
                pstats.Stats(p, stream=sys.stdout).sort_stats("tottime").print_stats(16)
            sg.unpatch(model)


def beside_sdpa():
    print(f"# {torch.cuda.get_device_name()}, torch {torch.__version__}; attention time of all layers in a prefill, half of the tiles left out (topk .5)")
    shapes = (("1B", 16, 2048, 8192, 32, 64), ("8B heads, 8 layers", 8, 4096, 14336, 32, 128))
    for title, layers, hidden, inter, heads, d in shapes:
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


section(host_time, "time")
section(beside_sdpa, "time")
print(f"{failed} failed")
sys.exit(1 if failed else 0)

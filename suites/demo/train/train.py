"""Train the bundled model on one GPU within a wall-clock budget, and measure it on held-out seeds.

Rows are chronicle, needle and RULER documents from gen.c, never repeated, and windows of English books. The context
grows in phases; the learning rate follows the clock. Matrices are trained with Muon, embeddings and norms with AdamW.
RULER's tasks are drawn the more often the more of them are still wrong; their haystacks, which nobody can predict,
weigh little in the loss, their answers much. Books that were read many times are learned by heart (the loss on them
falls, on other books it rises): with --keep a row of books is held to what an earlier model predicts there, not to what
stands there.

Without a GPU it runs too, slowly, to be tried: TORCHDYNAMO_DISABLE=1 train.py --sizes 2048 --phases 512x4:1 …
"""
import argparse
import csv
import json
import math
import os
import subprocess
import threading
import time
from contextlib import nullcontext
from queue import Queue

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

START = time.time()
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
RULER = ["niah_single_1", "niah_single_2", "niah_single_3", "niah_multikey_1", "niah_multikey_2", "niah_multikey_3",
         "niah_multivalue", "niah_multiquery", "vt", "cwe", "fwe"]
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 256, "intermediate_size": 704,
    "num_hidden_layers": 8, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 4096,
    "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 100000.0, "rope_scaling": None,
    "rope_parameters": {"rope_theta": 100000.0, "rope_type": "default"}, "tie_word_embeddings": True,
    "hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "attention_dropout": 0.0,
    "initializer_range": 0.02, "bos_token_id": 0, "eos_token_id": 1, "pretraining_tp": 1, "use_cache": True,
    "dtype": "bfloat16", "torch_dtype": "bfloat16"}
D, H, HKV, HD, FF, LAYERS, VOCAB = 256, 4, 2, 64, 704, 8, 4096
# Weights of tokens in the loss: text, an answer in it, a task's haystack, a task's answer.
WEIGHTS = (1.0, 3.0, 0.1, 8.0)
MAKERS = 3  # processes that write rows
BACKENDS = {"cudnn": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION}
# What a task counts for when those that are still wrong are drawn: counting is learned slowly and must not crowd out the
# rest, most of a chain is enough for its score, and one uuid of ninety is the hardest to find.
URGENCY = {"cwe": 0.2, "fwe": 0.25, "vt": 0.4, "niah_single_3": 1.5, "niah_multikey_3": 2.5, "niah_multivalue": 1.5}


class Norm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(D))

    def forward(self, x):
        return F.rms_norm(x.float(), (D,), self.weight, 1e-5)


def rotate(x, cos, sin):
    a, b = x.float().chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1).to(x.dtype)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q_proj = nn.Linear(D, H * HD, bias=False)
        self.k_proj = nn.Linear(D, HKV * HD, bias=False)
        self.v_proj = nn.Linear(D, HKV * HD, bias=False)
        self.o_proj = nn.Linear(H * HD, D, bias=False)

    def forward(self, x, cos, sin):
        b, t, _ = x.shape
        q = self.q_proj(x).view(b, t, H, HD).transpose(1, 2)
        k = self.k_proj(x).view(b, t, HKV, HD).transpose(1, 2)
        v = self.v_proj(x).view(b, t, HKV, HD).transpose(1, 2)
        y = F.scaled_dot_product_attention(rotate(q, cos, sin), rotate(k, cos, sin), v, is_causal=True, enable_gqa=True)
        return self.o_proj(y.transpose(1, 2).reshape(b, t, H * HD))


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate_proj = nn.Linear(D, FF, bias=False)
        self.up_proj = nn.Linear(D, FF, bias=False)
        self.down_proj = nn.Linear(FF, D, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = Norm(), Norm()
        self.self_attn, self.mlp = Attention(), Mlp()

    def forward(self, x, cos, sin):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed_tokens = nn.Embedding(VOCAB, D)
        self.layers = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = Norm()
        for name, p in self.named_parameters():
            if p.ndim == 2:
                last = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(p, std=0.02 if "embed" in name else (0.2 if last else 1) / math.sqrt(p.shape[1]))

    def forward(self, ids):
        x = self.embed_tokens(ids)
        inverse = CONFIG["rope_theta"] ** (-torch.arange(0, HD, 2, device=ids.device).float() / HD)
        angle = torch.arange(ids.shape[1], device=ids.device).float()[:, None] * inverse
        cos, sin = angle.cos(), angle.sin()
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.norm(x)


def attention(name="flash"):
    """The kernel of a forward pass; on the CPU whichever there is."""
    return sdpa_kernel(BACKENDS[name]) if DEVICE == "cuda" else nullcontext()


def weighted_loss(h, emb, targets, weight):
    nll = F.cross_entropy((h @ emb.T).float(), targets, reduction="none")
    return (nll * weight).sum(), nll.detach()


def kept_loss(h, emb, old_h, old_emb, targets, weight):
    """Cross entropy with the distribution of an earlier model instead of what stands there."""
    p, log_q = (old_h @ old_emb.T).float().softmax(-1), (h @ emb.T).float().log_softmax(-1)
    nll = -log_q.detach().gather(1, targets[:, None]).squeeze(1)
    return -((p * log_q).sum(-1) * weight).sum(), nll


@torch.compile
def orthogonal(g):
    """Newton-Schulz iteration of Muon (Jordan 2024) on a stack of matrices with rows <= columns."""
    x = g.bfloat16()
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.float()


class Muon:
    def __init__(self, params, momentum=0.95, decay=0.01):
        self.groups = {}
        for p in params:
            wide = p if p.shape[0] <= p.shape[1] else p.mT
            self.groups.setdefault(tuple(wide.shape), []).append(p)
        self.momentum, self.decay = momentum, decay
        self.buffers = {s: torch.zeros(len(g), *s, device=g[0].device) for s, g in self.groups.items()}

    @torch.no_grad()
    def step(self, lr):
        for shape, params in self.groups.items():
            wide = [p.shape[0] <= p.shape[1] for p in params]
            g = torch.stack([p.grad if w else p.grad.mT for p, w in zip(params, wide)])
            buf = self.buffers[shape]
            buf.lerp_(g, 1 - self.momentum)
            update = orthogonal(g.lerp(buf, self.momentum))
            for p, w, u in zip(params, wide, update.unbind()):
                p.mul_(1 - lr * self.decay)
                p.add_(u if w else u.mT, alpha=-lr * max(1, p.shape[0] / p.shape[1]) ** 0.5)


def generated(args, kind, seed, row, n, books, *more):
    cmd = [args.gen, kind, str(seed), str(row), str(n), f"{args.data}/bpe.txt", books, *more]
    return subprocess.Popen(cmd, stdout=subprocess.PIPE)


def held_out(args, kind, row, n, seed=1):
    proc = generated(args, kind, seed, row, n, f"{args.scratch}/valid.txt")
    rows = np.frombuffer(proc.stdout.read(), "<u2").reshape(n, row).astype(np.int64)
    return torch.from_numpy(rows & 0x3FFF), torch.from_numpy(rows >> 15)


class Batches:
    """Batches of one phase, made ahead by MAKERS threads: generated rows first, then book rows."""

    def __init__(self, args, books, context, rows, seed, weights):
        n_books = round(rows * args.book_share)
        size = context + 1
        self.context, self.rows, self.n_made = context, rows, rows - n_books
        self.queue, self.stop = Queue(8), False
        self.procs = [generated(args, "train", MAKERS * seed + k, size, 1 << 40, f"{args.scratch}/books.txt",
                                ",".join(map(str, weights))) for k in range(MAKERS)]

        def work(proc, rng):
            want = self.n_made * size * 2
            while not self.stop:
                raw = proc.stdout.read(want)
                if len(raw) < want:
                    return
                made = np.frombuffer(raw, "<u2").reshape(self.n_made, size)
                at = rng.integers(0, len(books) - size, n_books)
                prose = np.stack([books[i:i + size] for i in at])
                prose[:, 0] = 0
                both = np.concatenate([made, prose]).astype(np.int32)
                rows = torch.from_numpy(both)
                self.queue.put(rows.pin_memory() if DEVICE == "cuda" else rows)

        for k, proc in enumerate(self.procs):
            threading.Thread(target=work, args=(proc, np.random.default_rng(MAKERS * seed + k)), daemon=True).start()

    def next(self):
        """Ids, and what each token is: 1 in an answer, 2 in a task, 3 in a task's answer."""
        both = self.queue.get(timeout=120).to(DEVICE, non_blocking=True)
        return (both & 0x3FFF).long(), both >> 15 & 1 | both >> 13 & 2

    def close(self):
        self.stop = True
        for proc in self.procs:
            proc.kill()
        while not self.queue.empty():
            self.queue.get_nowait()


def encode_books(args, name, limit=None):
    import lzma
    with lzma.open(f"{args.data}/{name}.txt.xz", "rb") as f:
        raw = f.read()
    path = {"train": "books", "valid": "valid"}[name]
    with open(f"{args.scratch}/{path}.txt", "wb") as f:
        f.write(raw)
    text = raw.decode("utf-8", "ignore")
    step = 20000
    tok = Tokenizer.from_file(f"{args.data}/tokenizer.json")
    parts = tok.encode_batch([text[i:i + step] for i in range(0, limit or len(text), step)], add_special_tokens=False)
    return np.concatenate([np.array(p.ids, np.uint16) for p in parts])


def export(model, out):
    export_weights(model.state_dict(), out)


def export_weights(weights, out):
    names = {"model." + k: v.detach().to(torch.bfloat16).contiguous().cpu() for k, v in weights.items()}
    save_file(names, f"{out}/model.safetensors", {"format": "pt"})
    with open(f"{out}/config.json", "w") as f:
        json.dump(CONFIG, f, indent=2)


def weighted_sum(text):
    """Weights of FILE, or of FILE=SHARE,FILE=SHARE."""
    parts = [x.rsplit("=", 1) if "=" in x else (x, 1) for x in text.split(",")]
    files = [(load_file(name), float(share)) for name, share in parts]
    return {k.removeprefix("model."): sum(share * f[k].float() for f, share in files) for k in files[0][0]}


@torch.no_grad()
def hidden(model, ids):
    with torch.autocast(DEVICE, torch.bfloat16, enabled=DEVICE == "cuda"), attention():
        return model(ids)


@torch.no_grad()
def recall(model, ids, flags):
    """Answers whose every token is the argmax given what stands before: (right, asked, share of their tokens right)."""
    right = asked = tokens = 0
    per = max(1, 65536 // ids.shape[1])
    for a in range(0, len(ids), per):
        x = ids[a:a + per].to(DEVICE)
        h = hidden(model, x)
        f = flags[a:a + per].bool().to(DEVICE)
        hit = torch.zeros_like(x, dtype=torch.bool)
        where = f[:, 1:].nonzero()
        guess = (h[where[:, 0], where[:, 1]].float() @ model.embed_tokens.weight.T).argmax(-1)
        hit[where[:, 0], where[:, 1] + 1] = guess == x[where[:, 0], where[:, 1] + 1]
        for row_f, row_hit in zip(f.cpu().numpy(), hit.cpu().numpy()):
            edge = np.flatnonzero(np.diff(np.concatenate([[0], row_f, [0]]).astype(int)))
            for s, e in zip(edge[::2], edge[1::2]):
                asked += 1
                right += bool(row_hit[s:e].all())
                tokens += row_hit[s:e].mean()
    return right, asked, tokens / max(asked, 1)


@torch.no_grad()
def perplexity(model, ids, window=None):
    total = count = 0.0
    per = max(1, 32768 // ids.shape[1])
    for a in range(0, len(ids), per):
        x = ids[a:a + per].to(DEVICE)
        h = hidden(model, x)[:, :-1]
        logits = h.float() @ model.embed_tokens.weight.T
        nll = F.cross_entropy(logits.flatten(0, 1), x[:, 1:].flatten(), reduction="none").view(len(x), -1)
        live = ~((x[:, 1:] == 1) & (x[:, :-1] == 1))
        total += (nll * live).sum().item()
        count += live.sum().item()
    return math.exp(total / count)


def book_windows(valid, size, n):
    at = np.linspace(0, len(valid) - size, n).astype(int)
    rows = np.stack([valid[i:i + size] for i in at]).astype(np.int64)
    rows[:, 0] = 0
    return torch.from_numpy(rows)


class Progress:
    """What is wrong on the way, on seeds of their own, and from it how often each task is drawn next."""

    def __init__(self, args):
        self.sizes = args.sizes
        few = 16 if not args.smoke else 1
        self.kinds = [(t, size, few) for t in RULER for size in self.sizes]
        self.kinds += [("needle", 2048, 2 * few), ("book", self.sizes[0], 2 * few), ("chronicle", self.sizes[0], few // 2 or 1)]
        self.rows, self.weights = {}, [1, 1, 2, 1, 5, 9, 7, 4, 7, 2, 4]
        self.maker = threading.Thread(target=self.make, args=(args,), daemon=True)
        self.maker.start()

    def make(self, args):
        for kind, size, n in self.kinds:
            self.rows[kind, size] = held_out(args, kind, size, n, 777)

    def measure(self, model):
        self.maker.join()
        seen = {k: recall(model, *rows) for k, rows in self.rows.items()}
        for i, task in enumerate(RULER):
            wrong = sum(share * ((1 - r[0] / r[1]) / 2 + 1.5 * (1 - r[2]))
                        for share, r in ((0.3, seen[task, self.sizes[0]]), (0.7, seen[task, self.sizes[-1]])))
            self.weights[i] = round((2 + 40 * min(wrong, 0.4)) * URGENCY.get(task, 1)) or 1
        return ", ".join(f"{k}@{size} {r[0]}/{r[1]} {r[2]:.2f}" for (k, size), r in seen.items())


def evaluate(model, args, valid):
    res = {}
    n = 4 if args.smoke else args.eval_rows
    for size in args.sizes:
        for task in RULER:
            right, asked, tokens = recall(model, *held_out(args, task, size, n // 4))
            res[f"{task}_{size}"] = [right, asked]
            res[f"{task}_{size}_tokens"] = round(float(tokens), 4)
    for size in (1024, 2048, 4096, 8192):
        if size > args.sizes[-1]:
            continue
        count = n if size <= 4096 else n // 2
        for kind in ("needle", "book"):
            right, asked, _ = recall(model, *held_out(args, kind, size, count))
            res[f"needle_{'books' if kind == 'book' else 'chronicle'}_{size}"] = [right, asked]
        ids, flags = held_out(args, "chronicle", size, max(2 if args.smoke else 8, count // 10))
        res[f"chronicle_{size}"] = list(recall(model, ids, flags)[:2])
        res[f"perplexity_chronicle_{size}"] = perplexity(model, ids)
        res[f"perplexity_books_{size}"] = perplexity(model, book_windows(valid, size, 2 if args.smoke else max(8, 262144 // size)))
    return res


def check_transformers(model, out, ids):
    from transformers import LlamaForCausalLM
    theirs = LlamaForCausalLM.from_pretrained(out, dtype=torch.float32).to(DEVICE).eval()
    with torch.no_grad():
        a = theirs(ids).logits
        b = model(ids) @ model.embed_tokens.weight.T
    return {"max_abs": (a - b).abs().max().item(), "argmax_equal": (a.argmax(-1) == b.argmax(-1)).float().mean().item()}


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--data", required=True, help="folder with train.txt.xz valid.txt.xz tokenizer.json bpe.txt")
    p.add_argument("--gen", required=True, help="the compiled gen.c")
    p.add_argument("--out", required=True)
    p.add_argument("--scratch", default="/tmp")
    p.add_argument("--seconds", type=float, default=500, help="training ends this long after the start")
    p.add_argument("--book-share", type=float, default=0.35)
    p.add_argument("--muon-lr", type=float, default=0.02)
    p.add_argument("--adam-lr", type=float, default=3e-3)
    p.add_argument("--attn", choices=BACKENDS, default="cudnn")
    p.add_argument("--init", help="model.safetensors to continue from; FILE=SHARE,FILE=SHARE: their weighted sum")
    p.add_argument("--phases", default="1024x64:.10,2048x48:.24,4096x32:.76,8192x16:1",
                   help="context x rows per step : share of the time at which the phase ends")
    p.add_argument("--eval-rows", type=int, default=400)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--keep", help="model.safetensors: rows of books are held to what it predicts")
    p.add_argument("--decay", type=float, default=0.5, help="last share of the time, in which the learning rate falls to 0")
    p.add_argument("--save-every", type=float, default=0,
                   help="seconds between checkpoints OUT/at_N, each the mean of the weights since the last; 0: none")
    p.add_argument("--sizes", default="4096,8192", help="tokens of the tasks that are measured")
    p.add_argument("--smoke", action="store_true")
    args = p.parse_args()
    args.sizes = [int(x) for x in args.sizes.split(",")]
    os.makedirs(args.out, exist_ok=True)
    torch.manual_seed(args.seed)
    torch.set_float32_matmul_precision("high")
    torch._dynamo.config.cache_size_limit = 64

    model = Model().to(DEVICE)
    if args.init:
        model.load_state_dict(weighted_sum(args.init))
    old = Model().to(DEVICE).requires_grad_(False) if args.keep else None
    if old:
        old.load_state_dict(weighted_sum(args.keep))
    matrices = [x for n, x in model.named_parameters() if x.ndim == 2 and "embed" not in n]
    others = [x for n, x in model.named_parameters() if x.ndim != 2 or "embed" in n]
    muon = Muon(matrices)
    adam = torch.optim.AdamW(others, lr=args.adam_lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    for layer in [*model.layers, *(old.layers if old else ())]:
        layer.compile(dynamic=False)
    loss_fn, kept_fn = torch.compile(weighted_loss, dynamic=False), torch.compile(kept_loss, dynamic=False)

    phases = [tuple(float(x) for x in ph.replace("x", ":").split(":")) for ph in args.phases.split(",")]
    weights = torch.tensor(WEIGHTS, device=DEVICE)

    def gradients(ids, weight, n_made):
        """Of rows that were made, then rows of books; weight: [rows, tokens]."""
        n_made = n_made if old else len(ids)
        emb, made, prose = model.embed_tokens.weight, slice(None, n_made), slice(n_made, None)
        with torch.autocast(DEVICE, torch.bfloat16, enabled=DEVICE == "cuda"), attention(args.attn):
            h, want = model(ids[:, :-1]), ids[:, 1:]
            loss, nll = loss_fn(h[made].flatten(0, 1), emb, want[made].flatten(), weight[made].flatten())
            if n_made < len(ids):
                with torch.no_grad():
                    old_h = old(ids[prose, :-1])
                kept, nll_kept = kept_fn(h[prose].flatten(0, 1), emb, old_h.flatten(0, 1), old.embed_tokens.weight,
                                         want[prose].flatten(), weight[prose].flatten())
                loss, nll = loss + kept, torch.cat([nll, nll_kept])
        loss.backward()
        return nll

    def read_books():
        both["valid"] = encode_books(args, "valid", 4_000_000)
        if args.seconds > 0:
            both["train"] = encode_books(args, "train", 4_000_000 if args.smoke else None)

    both = {"train": ()}
    reader = threading.Thread(target=read_books)
    reader.start()
    if args.seconds > 0:  # the first phase is compiled while the books are read
        size, rows = int(phases[0][0]), int(phases[0][1])
        gradients(torch.zeros(rows, size + 1, dtype=torch.long, device=DEVICE),
                  torch.full((rows, size), 1 / (rows * size), device=DEVICE), rows - round(rows * args.book_share))
        model.zero_grad(set_to_none=False)
        muon.step(0.0)
        model.zero_grad(set_to_none=True)
        synchronize()
        print(f"{time.time() - START:.1f}s: compiled", flush=True)
    reader.join()
    books, valid = both["train"], both["valid"]
    print(f"{time.time() - START:.1f}s: {len(books)} book tokens, {sum(x.numel() for x in model.parameters())} parameters",
          flush=True)
    progress = Progress(args)
    log = open(f"{args.out}/loss.csv", "w", newline="")
    table = csv.writer(log)
    table.writerow(["step", "seconds", "tokens", "context", "lr", "nll_generated", "nll_answers", "nll_books"])
    mean = Mean(model) if args.save_every else None
    phase, batches, ahead, step, tokens, saved = -1, None, None, 0, 0, time.time()
    begin = time.time()
    budget = max(1e-9, args.seconds - (begin - START))
    marks = []

    def fresh():
        return Batches(args, books, int(phases[phase][0]), int(phases[phase][1]), args.seed * 1000 + step, progress.weights)

    while True:
        done = (time.time() - begin) / budget
        if done >= 1:
            break
        if phase < 0 or done >= phases[phase][2]:
            phase += 1
            for past in filter(None, (batches, ahead)):
                past.close()
            batches, ahead = fresh(), None
            print(f"{time.time() - START:.1f}s: context {batches.context}", flush=True)
        if ahead and not ahead.queue.empty():
            batches.close()
            batches, ahead = ahead, None
        context, rows, n_made = batches.context, batches.rows, batches.n_made
        lr = min(1.0, (step + 1) / 100) * min(1.0, (1 - done) / args.decay)
        ids, flags = batches.next()
        weight = weights[flags[:, 1:]]
        nll = gradients(ids, weight / weight.sum(), n_made)
        muon.step(args.muon_lr * lr)
        for g in adam.param_groups:
            g["lr"] = args.adam_lr * lr
        adam.step()
        model.zero_grad(set_to_none=True)
        step += 1
        tokens += rows * context
        if mean and step % 10 == 0:
            mean.add(model)
            if time.time() - mean.begin > args.save_every:
                mean.save(f"{args.out}/at_{time.time() - START:.0f}")
        if step % 25 == 0:
            nll = nll.view(rows, context)
            made, answer = nll[:n_made], flags[:n_made, 1:] & 1 == 1
            figures = torch.stack([made.mean(), made[answer].mean(), nll[n_made:].mean()]).tolist()
            now = time.time()
            marks.append((now, tokens))
            table.writerow([step, f"{now - START:.1f}", tokens, context, f"{lr:.4f}", *(f"{x:.4f}" for x in figures)])
            if step % 100 == 0 or args.smoke:
                rate = (tokens - marks[-2][1]) / (now - marks[-2][0]) if len(marks) > 1 else 0
                print(f"{now - START:.1f}s step {step} {tokens / 1e6:.0f}M tokens, {rate / 1e6:.2f}M/s, lr {lr:.3f}, "
                      f"generated {figures[0]:.3f} answers {figures[1]:.3f} books {figures[2]:.3f}", flush=True)
            if now - saved > 45 or (step == 100 and not args.smoke):
                saved = now
                log.flush()
                export(model, args.out)
                print(f"   {progress.measure(Plain(model))}\n   drawn {progress.weights}", flush=True)
                ahead = ahead or fresh()
    for past in filter(None, (batches, ahead)):
        past.close()
    log.close()
    synchronize()
    print(f"{time.time() - START:.1f}s: trained {step} steps, {tokens / 1e6:.1f}M tokens", flush=True)

    with torch.no_grad():
        for x in model.parameters():
            x.copy_(x.bfloat16().float())
    export(model, args.out)
    plain = Plain(model)
    res = {"steps": step, "tokens": tokens, "train_seconds": time.time() - START, "device": torch.cuda.get_device_name() if DEVICE == "cuda" else "cpu"}
    ids, _ = held_out(args, "chronicle", 512, 2)
    torch.set_float32_matmul_precision("highest")
    try:
        res["transformers"] = check_transformers(plain, args.out, ids.to(DEVICE))
    except Exception as e:
        res["transformers"] = repr(e)
    torch.set_float32_matmul_precision("high")
    print(res, flush=True)
    res.update(evaluate(plain, args, valid))
    with open(f"{args.out}/eval.json", "w") as f:
        json.dump(res, f, indent=1)
    print(json.dumps(res), f"{time.time() - START:.1f}s", flush=True)


def synchronize():
    if DEVICE == "cuda":
        torch.cuda.synchronize()


class Mean:
    """The mean of the weights since it was last saved."""

    def __init__(self, model):
        self.sum, self.n, self.begin = {k: torch.zeros_like(v) for k, v in model.state_dict().items()}, 0, time.time()

    @torch.no_grad()
    def add(self, model):
        self.n += 1
        for k, v in model.state_dict().items():
            self.sum[k] += v

    def save(self, out):
        os.makedirs(out, exist_ok=True)
        export_weights({k: v / self.n for k, v in self.sum.items()}, out)
        for v in self.sum.values():
            v.zero_()
        self.n, self.begin = 0, time.time()


class Plain(nn.Module):
    """The same weights without the compiled path, for shapes seen once."""

    def __init__(self, model):
        super().__init__()
        self.embed_tokens, self.norm = model.embed_tokens, model.norm
        self.plain_layers = model.layers

    @property
    def layers(self):
        return [lambda x, c, s, m=m: m.forward(x, c, s) for m in self.plain_layers]

    forward = Model.forward


main()

"""Perplexity of an interpolated Kneser-Ney trigram model, per token, on the rows train.py measures the model on.

    python3 trigram.py DATA_DIR GEN SCRATCH OUT.json

It is trained on the same mix: all book tokens, and as many generated ones.
"""
import json
import lzma
import subprocess
import sys

import numpy as np
from tokenizers import Tokenizer

D = 0.75


def counts(keys):
    return np.unique(keys, return_counts=True)


def look(table, keys):
    names, values = table
    at = np.minimum(np.searchsorted(names, keys), len(names) - 1)
    return np.where(names[at] == keys, values[at], 0)


class Trigram:
    def __init__(self, x):
        a, b, c = x[:-2], x[1:-1], x[2:]
        self.tri = counts(a << 24 | b << 12 | c)
        names, n = self.tri
        left = names >> 12
        start = np.flatnonzero(np.diff(left, prepend=-1))
        self.ctx = left[start], np.add.reduceat(n, start)              # tokens after a b
        self.ctx_types = left[start], np.diff(np.append(start, len(left)))
        self.bi = counts(names & 0xFFFFFF)                             # distinct a before b c
        names, n = self.bi
        left = names >> 12
        start = np.flatnonzero(np.diff(left, prepend=-1))
        self.mid = left[start], np.add.reduceat(n, start)
        self.mid_types = left[start], np.diff(np.append(start, len(left)))
        self.uni = np.bincount(names & 0xFFF, minlength=4096) + 0.1
        self.uni /= self.uni.sum()

    def nll(self, rows):
        a, b, c = rows[:, :-2].ravel(), rows[:, 1:-1].ravel(), rows[:, 2:].ravel()
        n = look(self.mid, b)
        p = np.where(n > 0, (np.maximum(look(self.bi, b << 12 | c) - D, 0) + D * look(self.mid_types, b) * self.uni[c])
                     / np.maximum(n, 1), self.uni[c])
        ab = a << 12 | b
        n = look(self.ctx, ab)
        p = np.where(n > 0, (np.maximum(look(self.tri, a << 24 | b << 12 | c) - D, 0) + D * look(self.ctx_types, ab) * p)
                     / np.maximum(n, 1), p)
        live = ~((c == 1) & (b == 1))
        return -np.log(p[live]).mean()


def books(data, name, limit=None):
    with lzma.open(f"{data}/{name}.txt.xz", "rt", encoding="utf-8", errors="ignore") as f:
        text = f.read(limit)
    with open(f"{scratch}/trigram_{name}.txt", "w") as f:
        f.write(text)
    tok = Tokenizer.from_file(f"{data}/tokenizer.json")
    parts = tok.encode_batch([text[i:i + 20000] for i in range(0, len(text), 20000)], add_special_tokens=False)
    return np.concatenate([np.array(p.ids, np.int64) for p in parts])


def generated(kind, seed, row, n, text):
    cmd = [gen, kind, str(seed), str(row), str(n), f"{data}/bpe.txt", text]
    raw = subprocess.run(cmd, stdout=subprocess.PIPE, check=True).stdout
    return np.frombuffer(raw, "<u2").reshape(n, row).astype(np.int64) & 0x3FFF


data, gen, scratch, out = sys.argv[1:]
train, valid = books(data, "train"), books(data, "valid", 4_000_000)
made = generated("train", 4242, 4096, len(train) // 4096, f"{scratch}/trigram_train.txt")
model = Trigram(np.concatenate([train, made.ravel()]))
res = {"tokens": int(len(train) + made.size)}
for size in (2048, 4096):
    at = np.linspace(0, len(valid) - size, 262144 // size).astype(int)
    rows = np.stack([valid[i:i + size] for i in at])
    res[f"perplexity_books_{size}"] = float(np.exp(model.nll(rows)))
    rows = generated("chronicle", 1, size, 40, f"{scratch}/trigram_valid.txt")
    res[f"perplexity_chronicle_{size}"] = float(np.exp(model.nll(rows)))
with open(out, "w") as f:
    json.dump(res, f, indent=1)
print(res)

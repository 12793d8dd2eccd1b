#!/usr/bin/env python3
"""Every method's tiles beside the definition of its paper, written again in torch, on real Q, K and V of a model.

    ninja -C build dump_masks
    build/tests/dump_masks suites/demo/model chronicle 3000 /tmp/masks 0,4
    python3 tests/methods/check_methods.py /tmp/masks [--write MAPS] [--public DIR]

Nothing of the C code is used but the tensors it dumped. All arithmetic is float64. A method agrees when it differs in at most one
possible tile in a thousand; exit 1 otherwise. With --public the methods' own code, from checkouts in DIR, chooses beside them
(public_code.py says which). Rules and scores were written from the papers, and from the public code where a
paper leaves a choice open: microsoft/MInference, ByteDance-Seed/FlexPrefill, xinghaow99/prism, Tencent/hpc-ops (stem),
mit-han-lab/x-attention, qhfan/FlashPrefill, thu-ml/SpargeAttn.
"""
import argparse
import json
import math
import sys

import numpy as np
import torch

import public_code

INF = float("inf")


def blocks_of(x, size, fill=0.0):
    """[heads, n, d] -> [heads, blocks, size, d], filled up."""
    pad = -x.shape[1] % size
    x = torch.nn.functional.pad(x, (0, 0, 0, pad), value=fill)
    return x.view(x.shape[0], -1, size, x.shape[2])


def counts_of(n, size):
    return torch.tensor([min(size, n - i) for i in range(0, n, size)], dtype=torch.float64)


class Case:
    """Tensors of one layer, K and V repeated for every query head, and what is possible and always kept in a map."""

    def __init__(self, q, k, v, m):
        self.q, self.k, self.v = q, k, v
        self.n, self.d, self.scale = q.shape[1], q.shape[2], 1 / math.sqrt(q.shape[2])
        self.bq, self.bk, self.m = m["block_q"], m["block_k"], m
        self.nq, self.nk = -(-self.n // self.bq), -(-self.n // self.bk)
        i, j = torch.arange(self.nq)[:, None], torch.arange(self.nk)[None, :]
        last = torch.clamp((i + 1) * self.bq, max=self.n) - 1
        self.possible = j * self.bk <= last
        self.forced = ((j == 0) | ((j + 1) * self.bk > i * self.bq)) & self.possible
        self.first_row = 0  # of those that are compared with public code
        self.number = dict(w.split("=") for w in m["method"].split("+")[1:])

    def best_of_row(self, p, count):
        return best_of_row(self, p, count)

    def value(self, name, default):
        return float(self.number.get(name, default))

    def means(self):
        return (blocks_of(self.q, self.bq).sum(2) / counts_of(self.n, self.bq)[:, None],
                blocks_of(self.k, self.bk).sum(2) / counts_of(self.n, self.bk)[:, None])

    def softmax(self, score):
        return torch.softmax(score.masked_fill(~self.possible, -INF), -1)


def ranked(p):
    """Sorted values and where they go back to; ties by lower index."""
    value, at = torch.sort(p, dim=-1, descending=True, stable=True)
    return value, at


def back(kept, at):
    return torch.zeros_like(kept).scatter_(-1, at, kept)


def most_within(p, tau):
    """The largest count whose running sum is at most tau, at least one."""
    value, at = ranked(p)
    kept = value.cumsum(-1) <= tau
    kept[..., 0] = True
    return back(kept & (value > 0), at)


def best_of_row(c, p, count):
    """count [rows]: how many of each row."""
    value, at = ranked(p.masked_fill(~c.possible, -INF))
    place = torch.arange(c.nk)
    return back((place < count[:, None]).expand_as(value).clone(), at)


def possible_share(c, share):
    return torch.ceil(c.possible.sum(-1) * share - 1e-10)


# Each returns the kept tiles, [heads, query blocks, key blocks]; what is always kept is added by the caller.

def sparge(c):
    theta = c.m["theta"]
    unit = torch.nn.functional.normalize
    q = blocks_of(c.q, c.bq)
    q_sim = (unit(q, dim=-1).sum(2) / counts_of(c.n, c.bq)[:, None]).pow(2).sum(-1)
    running = c.k.cumsum(1) / torch.arange(1, c.n + 1, dtype=torch.float64)[:, None]
    ends = torch.clamp(torch.arange(1, c.nk + 1) * c.bk, max=c.n) - 1
    if c.m.get("smooth_k") == "global":
        ends[:] = c.n - 1
    centred = blocks_of(c.k, c.bk) - running[:, ends][:, :, None]
    inside = torch.arange(c.nk * c.bk).view(c.nk, c.bk, 1) < c.n
    k_sim = (unit(centred * inside, dim=-1).sum(2) / counts_of(c.n, c.bk)[:, None]).pow(2).sum(-1)
    mean_q, mean_k = c.means()
    alike = (k_sim > theta)[:, None, :]
    score = (mean_q @ mean_k.transpose(1, 2) * c.scale).masked_fill(~alike, -INF)
    p = torch.nan_to_num(c.softmax(score))
    kept = most_within(p, c.m["keep"]) if not c.m["topk"] else best_of_row(c, p.masked_fill(~alike, -1), possible_share(c, c.m["topk"])) & alike
    return kept | ~(q_sim > theta)[:, :, None] | ~alike


def bound(c):
    rows, keys, groups = int(c.value("rows", 32)), int(c.value("keys", 16)), int(c.value("groups", 16))
    half = c.d // 2
    groups = groups if 0 < groups <= half else c.d
    while groups != c.d and half % groups:
        groups -= 1
    bf16 = lambda x: x.to(torch.float32).to(torch.bfloat16).to(torch.float64)
    q = bf16(blocks_of(c.q, rows).sum(2) / counts_of(c.n, rows)[:, None])
    k, number = blocks_of(c.k, keys), counts_of(c.n, keys)
    inside = torch.arange(k.shape[1] * keys).view(-1, keys, 1) < c.n
    if c.number.get("spread") == "range":
        high, low = k.masked_fill(~inside, -INF).amax(2), k.masked_fill(~inside, INF).amin(2)
        centre, spread = (high + low) / 2, (high - low) / 2
    else:
        centre = k.sum(2) / number[:, None]
        spread = (((k - centre[:, :, None]) * inside).pow(2).sum(2) / number[:, None]).sqrt()
    if groups == c.d:
        needs, has = q.abs(), spread
    else:
        pairs = lambda x: x.view(*x.shape[:-1], 2, groups, half // groups)
        needs, has = pairs(q.abs()).sum((-3, -1)), pairs(spread).mean((-3, -1))
    score = (q @ bf16(centre).transpose(1, 2) + bf16(needs) @ bf16(has).transpose(1, 2)) * c.scale
    seen = torch.arange(k.shape[1])[None, :] * keys <= (torch.arange(q.shape[1])[:, None] + 1) * rows - 1
    p = torch.softmax(score.masked_fill(~seen, -INF), -1)
    p = torch.nn.functional.pad(p, (0, c.nk * c.bk // keys - p.shape[2])).view(p.shape[0], p.shape[1], c.nk, -1).sum(-1)
    p = torch.nn.functional.pad(p, (0, 0, 0, c.nq * c.bq // rows - p.shape[1])).view(p.shape[0], c.nq, -1, c.nk)
    mass = p.pow(2).sum(2).sqrt()
    return (mass >= (1 - c.m["keep"]) * mass.amax(-1, keepdim=True)) & c.possible


def xattention(c):
    s = int(c.value("stride", 8))
    groups = -(-c.n // s)
    q = blocks_of(c.q, s).flip(2).reshape(c.q.shape[0], groups, -1)
    k = blocks_of(c.k, s).reshape(c.k.shape[0], groups, -1)
    seen = torch.tril(torch.ones(groups, groups, dtype=torch.bool))
    a = torch.softmax((q @ k.transpose(1, 2) * c.scale / s).masked_fill(~seen, -INF), -1)
    a = torch.nn.functional.pad(a, (0, c.nk * c.bk // s - groups, 0, c.nq * c.bq // s - groups))
    mass = a.view(a.shape[0], c.nq, c.bq // s, c.nk, c.bk // s).sum((2, 4))
    p = mass / mass.sum(-1, keepdim=True)
    first = (p * c.forced).sum(-1, keepdim=True)
    value, at = ranked(p)  # the fewest that reach the share, what is kept anyhow counted first
    fresh = value.masked_fill(c.forced.expand_as(p).gather(-1, at), 0)
    before = first + fresh.cumsum(-1) - fresh
    return back(before < c.m["keep"], at) & c.possible


def flashprefill(c):
    _, mean_k = c.means()
    whole = (torch.arange(c.n)[:, None] + 1) // c.bk > torch.arange(c.nk)[None, :]
    score = (c.q @ mean_k.transpose(1, 2) * c.scale).masked_fill(~whole, -INF)
    score = torch.nn.functional.pad(score, (0, 0, 0, c.nq * c.bq - c.n), value=-INF)
    e = torch.logsumexp(score.view(score.shape[0], c.nq, c.bq, c.nk), 2)
    top = e.amax(-1, keepdim=True)
    kept = (e >= top + math.log(1 - c.m["keep"])) & (e > -INF)
    i, j = torch.arange(c.nq)[:, None], torch.arange(c.nk)[None, :]
    sink, window, last = int(c.value("sink", 2)), int(c.value("window", 4)), int(c.value("last", 2))
    return (kept | (j < sink) | (j + window > i * c.bq // c.bk) | (i >= c.nq - last)) & c.possible


def subblock(c):
    rows, keys = c.bq // int(c.value("queries", 4)), c.bk // int(c.value("keys", 4))
    q = blocks_of(c.q, rows).sum(2) / counts_of(c.n, rows)[:, None]
    k = blocks_of(c.k, keys).sum(2) / counts_of(c.n, keys)[:, None]
    seen = torch.arange(k.shape[1])[None, :] * keys <= (torch.arange(q.shape[1])[:, None] + 1) * rows - 1
    score = (q @ k.transpose(1, 2) * c.scale).masked_fill(~seen, -INF)
    score = torch.nn.functional.pad(score, (0, c.nk * c.bk // keys - k.shape[1], 0, c.nq * c.bq // rows - q.shape[1]), value=-INF)
    e = torch.logsumexp(score.view(score.shape[0], c.nq, c.bq // rows, c.nk, c.bk // keys).transpose(2, 3).flatten(3), -1)
    c.subblock_score = e  # for what is compared with public code
    return best_of_row(c, e, possible_share(c, c.m["keep"])) & c.possible


def prism(c):
    """Dual-band means; zeros fill the last block."""
    q, k = blocks_of(c.q, c.bq).mean(2), blocks_of(c.k, c.bk).mean(2)
    half = c.d // 2
    rms = lambda x: x.pow(2).mean((1, 2), keepdim=True).sqrt()
    kept = torch.zeros(q.shape[0], c.nq, c.nk, dtype=torch.bool)
    for share, fast in ((c.value("high", .5), True), (c.value("low", .75), False)):
        pairs = int(share * c.d / 2 + .5)
        band = (lambda x: torch.cat((x[..., :pairs], x[..., half:half + pairs]), -1)) if fast else \
               (lambda x: torch.cat((x[..., half - pairs:half], x[..., c.d - pairs:]), -1))
        bq, bk = band(q), band(k)
        temperature = math.sqrt(2 * pairs / c.d) * rms(bq) / rms(q) * rms(bk) / rms(k)
        p = c.softmax(bq @ bk.transpose(1, 2) / (math.sqrt(2 * pairs) * temperature))
        value, at = ranked(p)
        kept |= back(value.cumsum(-1) - value < c.m["keep"], at)
    return kept & c.possible


def stem(c):
    s, strength = int(c.value("stride", 16)), c.value("lambda", .3)
    q = blocks_of(c.q, c.bq).view(c.q.shape[0], c.nq, c.bq // s, s, c.d).sum(2)
    k = blocks_of(c.k, c.bk).view(c.k.shape[0], c.nk, c.bk // s, s, c.d).sum(2).flip(2)
    score = q.flatten(2) @ k.flatten(2).transpose(1, 2) / ((c.bq // s) * (c.bk // s))
    norm = torch.log(blocks_of(c.v, c.bk).norm(dim=-1).view(c.v.shape[0], -1, s).amax(-1) + 1e-6)
    above = (norm - norm.mean(1, keepdim=True)) / (norm.std(1, keepdim=True) + 1e-6)
    score = score + strength * above.clamp(min=0).view(c.v.shape[0], c.nk, -1).mean(-1)[:, None, :]
    i, j = torch.arange(c.nq)[:, None], torch.arange(c.nk)[None, :]
    budget = torch.ceil(c.m["keep"] * c.nk * (1 - .3 * torch.arange(c.nq, dtype=torch.float64) / c.nq) - 1e-9)
    last = c.possible.sum(-1, keepdim=True) - 1
    return (best_of_row(c, score, budget) | (j < c.value("sink", 4)) | (j > last - c.value("window", 4))) & c.possible


def last_rows(c, rows):
    """What the last rows give each key, and each distance to a key, means over the rows."""
    rows = min(rows, c.n)
    score = c.q[:, -rows:] @ c.k.transpose(1, 2) * c.scale
    distance = torch.arange(c.n - rows, c.n)[:, None] - torch.arange(c.n)[None, :]
    p = torch.softmax(score.masked_fill(distance < 0, -INF), -1)
    by_distance = torch.zeros(p.shape[0], c.n, dtype=torch.float64)
    by_distance.scatter_add_(1, distance.clamp(min=0).flatten().expand(p.shape[0], -1), p.flatten(1))
    return p.mean(1), by_distance / rows


def flexprefill(c):
    gamma, tau, least, b = c.value("gamma", .9), c.value("tau", .1), int(c.value("least", 1)), c.bq
    if c.n <= 2 * b:
        return c.possible.expand(c.q.shape[0], -1, -1).clone()
    by_key, by_distance = last_rows(c, b)
    mean_q, mean_k = c.means()
    look = torch.softmax((c.q[:, -b:].mean(1, keepdim=True) @ mean_k.transpose(1, 2)).squeeze(1) * c.scale, -1)
    pooled = blocks_of(by_key[..., None], b).sum((2, 3))
    far = by_distance.flip(1)  # from the far end, as the public code cuts it
    pooled_far = blocks_of(far[..., None], b).sum((2, 3))
    middle = (look + pooled) / 2
    part = lambda p: torch.where(p > 0, p * torch.log(p / middle), torch.zeros_like(p)).sum(-1) / 2
    trusted = (part(look) + part(pooled)).clamp(min=0).sqrt() < tau
    cover = lambda x: ((torch.sort(x, -1, descending=True).values.cumsum(-1) <= gamma).sum(-1) + 1) // 128 + 1
    keys, distances = cover(by_key).clamp(least, c.nk), cover(by_distance).clamp(least, c.nk)
    keys[trusted] = distances[trusted] = min(least, c.nk)
    pooled[:, 0] = INF
    pooled_far[:, -1] = INF
    i, j = torch.arange(c.nq)[:, None], torch.arange(c.nk)[None, :]
    kept = torch.zeros(c.q.shape[0], c.nq, c.nk, dtype=torch.bool)
    block_score = c.softmax(mean_q @ mean_k.transpose(1, 2) * c.scale)
    for h in range(kept.shape[0]):
        columns = torch.sort(pooled[h], descending=True, stable=True).indices[:keys[h]]
        offsets = c.nk - 1 - torch.sort(pooled_far[h], descending=True, stable=True).indices[:distances[h]]
        kept[h] = torch.isin(j, columns) | torch.isin(i - j, offsets)
        if trusted[h]:
            value, at = torch.sort(block_score[h].flatten(), descending=True, stable=True)
            kept[h].view(-1)[at[value.cumsum(0) <= gamma * c.nq]] = True
    return kept & c.possible


def minference(c):
    pattern, vertical, slash = c.m["pattern"], c.m["vertical"], c.m["slash"]
    token, key = torch.arange(c.n)[:, None], torch.arange(c.n)[None, :]
    if pattern == 2:
        q, k = blocks_of(c.q, c.bq).sum(2), blocks_of(c.k, c.bk).sum(2)
        return best_of_row(c, q @ k.transpose(1, 2), torch.full((c.nq,), c.value("blocks", 100))) & c.possible
    if pattern == 1:
        entries = ((key < vertical) | (token - key < slash)).expand(c.q.shape[0], -1, -1)
    else:
        by_key, by_distance = last_rows(c, 64)
        by_key[:, :30] = by_distance[:, :100] = INF
        keys = by_key.topk(min(c.n, max(vertical, 30)), -1).indices
        distances = by_distance.topk(min(c.n, max(slash, 50)), -1).indices
        column = torch.zeros(c.q.shape[0], c.n, dtype=torch.bool).scatter_(1, keys, True)
        offset = torch.zeros(c.q.shape[0], c.n, dtype=torch.bool).scatter_(1, distances, True)
        entries = column[:, None, :] | offset[:, (token - key).clamp(min=0)]
    entries = entries & (key <= token)
    entries = torch.nn.functional.pad(entries, (0, c.nk * c.bk - c.n, 0, c.nq * c.bq - c.n))
    return entries.view(c.q.shape[0], c.nq, c.bq, c.nk, c.bk).any(4).any(2)


METHODS = {f.__name__: f for f in (sparge, bound, xattention, flashprefill, subblock, prism, stem, flexprefill, minference)}


beside = {}  # by method, over layers and settings: tiles that differ from public code, and all


def beside_public(folder, c, m, got):
    name = m["method"].split("+")[0]
    kept = public_code.PUBLIC[name](folder, c) if name in public_code.PUBLIC else None
    if kept is None:
        return
    want = (kept | c.forced) & c.possible
    off, all_tiles = int((want ^ got)[:, c.first_row:].sum()), int(c.possible[c.first_row:].sum()) * got.shape[0]
    before = beside.get(name, (0, 0))
    beside[name] = (before[0] + off, before[1] + all_tiles)
    print(f"     layer {m['layer']:2d} {m['method']:36s} {c.bq}x{c.bk}: {off} of {all_tiles} tiles differ from the public code's, "
          f"which keeps {float((kept & c.possible)[:, c.first_row:].sum()) / all_tiles:.3f}")


def main():
    arguments = argparse.ArgumentParser(usage="check_methods.py FOLDER [--write MAPS] [--public DIR]")
    arguments.add_argument("folder")
    arguments.add_argument("--write")
    arguments.add_argument("--public")
    given = arguments.parse_args()
    folder = given.folder
    written = open(given.write, "wb") if given.write else None  # for those who have no torch
    manifest = json.load(open(folder + "/manifest.json"))
    layers, groups, failed, checked = {}, {}, 0, 0
    for x in manifest["layers"]:
        plane = lambda w, heads: torch.from_numpy(np.fromfile(f"{folder}/layer{x['layer']}_{w}.f32", np.float32).astype(np.float64)).view(
            heads, x["tokens"], x["head_dim"])
        group = groups[x["layer"]] = x["heads"] // x["kv_heads"]
        layers[x["layer"]] = (plane("q", x["heads"]), plane("k", x["kv_heads"]).repeat_interleave(group, 0),
                              plane("v", x["kv_heads"]).repeat_interleave(group, 0))
    for m in manifest["maps"]:
        c = Case(*layers[m["layer"]], m)
        c.group = groups[m["layer"]]
        want = (METHODS[m["method"].split("+")[0]](c) | c.forced) & c.possible
        if written:
            written.write(want.to(torch.uint8).numpy().tobytes())
        got = torch.from_numpy(np.fromfile(folder + "/" + m["file"], np.uint8)).view(-1, c.nq, c.nk).bool()
        off, all_tiles = int((want ^ got).sum()), int(c.possible.sum()) * got.shape[0]
        good = off <= max(1, all_tiles // 1000)
        failed, checked = failed + (not good), checked + 1
        if given.public:
            beside_public(given.public, c, m, got)
        print(f"{'ok  ' if good else 'FAIL'} layer {m['layer']:2d} {m['method']:36s} {c.bq}x{c.bk}: {off} of {all_tiles} tiles differ, "
              f"kept {float(got.sum()) / all_tiles:.3f}")
    print(f"{failed} of {checked} maps differ in more than one tile in a thousand")
    for name, (off, all_tiles) in beside.items():
        good = off <= all_tiles // 1000
        failed += not good
        print(f"{'ok  ' if good else 'FAIL'} {name}: {off} of {all_tiles} tiles differ from the public code's")
    missing = sorted(set(public_code.PUBLIC) - set(beside))
    if given.public and missing:
        print("left out, for want of a checkout or of a setting that both have:", ", ".join(missing))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

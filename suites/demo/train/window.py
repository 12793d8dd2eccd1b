"""What a window does to the bundled model: recall and KL with the first 64 and the last 256 tokens visible only.

    python3 window.py DATA_DIR GEN VALID.txt MODEL_DIR OUT.json
"""
import json
import subprocess
import sys

import numpy as np
import torch
import torch.nn.functional as F
from transformers import LlamaForCausalLM

SINK, WINDOW = 64, 256
data, gen, valid, model_dir, out = sys.argv[1:]
torch.set_num_threads(1)
model = LlamaForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()


def rows(kind, size, n):
    raw = subprocess.run([gen, kind, "1", str(size), str(n), f"{data}/bpe.txt", valid], stdout=subprocess.PIPE).stdout
    return np.frombuffer(raw, "<u2").reshape(n, size).astype(np.int64)


def right(logits, ids, flags):
    hit = (logits.argmax(-1)[:-1] == ids[1:]).numpy()
    edge = np.flatnonzero(np.diff(np.concatenate([[0], flags, [0]])))
    return [bool(hit[s - 1:e - 1].all()) for s, e in zip(edge[::2], edge[1::2])]


res = {}
for kind, size, n in (("needle", 4096, 12), ("book", 4096, 12), ("chronicle", 4096, 3)):
    dense, sparse, kl = [], [], []
    i, j = torch.arange(size)[:, None], torch.arange(size)[None]
    mask = ((j <= i) & ((j < SINK) | (i - j < WINDOW)))[None, None]
    for row in rows(kind, size, n):
        ids, flags = torch.from_numpy(row & 0x7FFF), row >> 15
        with torch.no_grad():
            z = model(ids[None]).logits[0]
            w = model(ids[None], attention_mask=mask).logits[0]
        dense += right(z, ids, flags)
        sparse += right(w, ids, flags)
        kl.append(F.kl_div(w.log_softmax(-1), z.log_softmax(-1), reduction="none", log_target=True).sum(-1).mean().item())
    res[f"{kind}_{size}"] = {"asked": len(dense), "dense": sum(dense), "window": sum(sparse), "kl": float(np.mean(kl))}
    print(res, flush=True)
with open(out, "w") as f:
    json.dump(res, f, indent=1)

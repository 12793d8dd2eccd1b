"""Our logits against transformers' in half precision and in f32, on one GPU.

usage: compare_logits.py BENCH_LOGITS DIR N [TEXT] ; N tokens of the text, or random ones without it. For each pair: relative
error of the logits (norm over norm) of all positions and of the worst, mean |difference|, mean KL, share of equal argmax."""
import subprocess
import sys
import tempfile

import numpy as np
import torch
import transformers
from transformers import AutoTokenizer, LlamaForCausalLM

transformers.logging.set_verbosity_error()


def theirs(path, dtype, ids):
    model = LlamaForCausalLM.from_pretrained(path, dtype=dtype, attn_implementation="sdpa").cuda().eval()
    with torch.inference_mode():
        out = model(torch.from_numpy(ids.astype(np.int64))[None].cuda()).logits[0].float().cpu()
    del model
    torch.cuda.empty_cache()
    return out


def ours(program, path, how, ids, folder):
    ids.tofile(folder + "/ids")
    subprocess.run([program, path, how, folder + "/ids", folder + "/out"], check=True)
    return torch.from_numpy(np.fromfile(folder + "/out", dtype=np.float32).reshape(len(ids), -1))


def row(name, x, reference):
    error, norm = (x - reference).double(), reference.double()
    rows = error.norm(dim=1) / norm.norm(dim=1)
    p, q = torch.log_softmax(norm, 1), torch.log_softmax(x.double(), 1)
    kl = (p.exp() * (p - q)).sum(1).mean()
    same = (x.argmax(1) == reference.argmax(1)).double().mean()
    print(f"{name:42s} {error.norm() / norm.norm():.5f}  worst {rows.max():.5f}  mean |d| {error.abs().mean():.5f}  "
          f"KL {kl:.2e}  argmax equal {same:.4f}", flush=True)


def main():
    program, path, n = sys.argv[1], sys.argv[2], int(sys.argv[3])
    config = transformers.AutoConfig.from_pretrained(path)
    if len(sys.argv) > 4:
        ids = AutoTokenizer.from_pretrained(path)(open(sys.argv[4], encoding="utf-8").read())["input_ids"][:n]
    else:
        ids = torch.randint(0, config.vocab_size, (n,), generator=torch.Generator().manual_seed(1)).tolist()
    ids = np.array(ids, dtype=np.int32)
    stored = getattr(config, "dtype", None) or getattr(config, "torch_dtype", None)
    half = torch.float16 if stored in (torch.float16, "float16") else torch.bfloat16
    print(f"{path}: {len(ids)} tokens, stored as {stored}, torch {torch.__version__}, transformers {transformers.__version__}")
    torch.backends.cuda.matmul.allow_tf32 = False
    full, low = theirs(path, torch.float32, ids), theirs(path, half, ids)
    name = str(half).replace("torch.", "")
    row(f"transformers {name} against its f32", low, full)
    with tempfile.TemporaryDirectory() as folder:
        for how in ("f32", "bf16"):
            x = ours(program, path, how, ids, folder)
            row(f"stream {how} against transformers {name}", x, low)
            row(f"stream {how} against transformers f32", x, full)


main()

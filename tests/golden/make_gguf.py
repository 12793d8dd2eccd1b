#!/usr/bin/env python3
"""Small GGUF files with every offered type and both kinds of vocabulary, and what transformers reads in them.

Usage: make_gguf.py [OUT_DIR]     (default: gguf/ beside this file)
Needs gguf, torch, transformers >= 5, numpy. Every number comes from a fixed seed. For each NAME.gguf: NAME.json (ids of
a sequence, positions, ids of the texts of tokenizer_texts.json with special tokens) and NAME.bin (f32 logits of the positions, from
transformers' own reading of the file in f32).
"""
import json
import os
import sys

import gguf
import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

HERE = os.path.dirname(os.path.abspath(__file__))
Q = gguf.GGMLQuantizationType


def k_blocks(rng, kind, rows, columns, size):
    """Random bytes of a K type, with scales of a size that suits a weight. gguf has no code to quantise to these."""
    n = rows * columns // 256
    width = gguf.GGML_QUANT_SIZES[kind][1]
    raw = rng.integers(0, 256, (n, width), dtype=np.uint8)
    scale = np.full(n, size / 40, np.float16).view(np.uint8).reshape(n, 2)
    if kind == Q.Q6_K:
        raw[:, 192:208] = rng.integers(-30, 30, (n, 16), dtype=np.int8).view(np.uint8)
        raw[:, 208:210] = np.full(n, size / 500, np.float16).view(np.uint8).reshape(n, 2)
    else:
        raw[:, 0:2] = np.full(n, size / 150, np.float16).view(np.uint8).reshape(n, 2)
        raw[:, 2:4] = np.full(n, size / 25, np.float16).view(np.uint8).reshape(n, 2)
    return raw.reshape(rows, -1)


def add(w, rng, name, rows, columns, kind):
    size = 1.2 / np.sqrt(columns)
    if kind in (Q.Q4_K, Q.Q5_K, Q.Q6_K):
        w.add_tensor(name, k_blocks(rng, kind, rows, columns, size), raw_dtype=kind)
        return
    x = (rng.standard_normal((rows, columns)) * size).astype(np.float32)
    if kind == Q.F32:
        w.add_tensor(name, x)
    elif kind == Q.F16:
        w.add_tensor(name, x.astype(np.float16))
    elif kind == Q.BF16:
        half = torch.from_numpy(x).to(torch.bfloat16).view(torch.uint8).numpy()
        w.add_tensor(name, half, raw_shape=half.shape, raw_dtype=kind)
    else:
        w.add_tensor(name, gguf.quants.quantize(x, kind), raw_dtype=kind)


def base(path, arch, c):
    w = gguf.GGUFWriter(path, arch)
    w.add_context_length(512)
    w.add_embedding_length(c["hidden"])
    w.add_block_count(c["layers"])
    w.add_feed_forward_length(c["inter"])
    w.add_head_count(c["heads"])
    w.add_head_count_kv(c["kv"])
    w.add_key_length(c["dim"])
    w.add_value_length(c["dim"])
    w.add_layer_norm_rms_eps(1e-5)
    w.add_rope_freq_base(50000.0)
    w.add_rope_dimension_count(c["dim"])
    return w


def tensors(w, rng, c, kinds, vocab, tied, qk_norm=False, bias=False):
    h, q, kv = c["hidden"], c["heads"] * c["dim"], c["kv"] * c["dim"]
    add(w, rng, "token_embd.weight", vocab, h, Q.F16)
    w.add_tensor("output_norm.weight", (1 + 0.1 * rng.standard_normal(h)).astype(np.float32))
    if not tied:
        add(w, rng, "output.weight", vocab, h, kinds[0])
    k = iter(kinds * 8)
    for l in range(c["layers"]):
        for part in ("attn_norm", "ffn_norm"):
            w.add_tensor(f"blk.{l}.{part}.weight", (1 + 0.1 * rng.standard_normal(h)).astype(np.float32))
        if qk_norm:
            for part in ("attn_q_norm", "attn_k_norm"):
                w.add_tensor(f"blk.{l}.{part}.weight", (1 + 0.1 * rng.standard_normal(c["dim"])).astype(np.float32))
        for part, rows, columns in (("attn_q", q, h), ("attn_k", kv, h), ("attn_v", kv, h), ("attn_output", h, q),
                                    ("ffn_gate", c["inter"], h), ("ffn_up", c["inter"], h), ("ffn_down", h, c["inter"])):
            add(w, rng, f"blk.{l}.{part}.weight", rows, columns, next(k))
            if bias and part in ("attn_q", "attn_k", "attn_v"):
                w.add_tensor(f"blk.{l}.{part}.bias", (0.3 * rng.standard_normal(rows)).astype(np.float32))


def write(w):
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def sentencepiece(w):
    """The vocabulary of tokenizer_llama2.json, with scores that fall in the order in which its pieces were merged."""
    t = json.load(open(os.path.join(HERE, "tokenizer_llama2.json")))["tokenizer"]
    tokens = sorted(t["model"]["vocab"], key=t["model"]["vocab"].get)
    rank = {m.replace(" ", ""): i for i, m in enumerate(t["model"]["merges"])}
    types, special = [], {"<unk>": 2, "<s>": 3, "</s>": 3}
    for x in tokens:
        types.append(special.get(x, 6 if len(x) == 6 and x.startswith("<0x") else 1))
    w.add_tokenizer_model("llama")
    w.add_token_list(tokens)
    w.add_token_scores([float(-rank[x]) if x in rank else -1000.0 - i for i, x in enumerate(tokens)])
    w.add_token_types(types)
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    w.add_unk_token_id(0)
    w.add_add_bos_token(True)
    return len(tokens)


def byte_level(w):
    t = json.load(open(os.path.join(HERE, "tokenizer_llama3.json")))["tokenizer"]
    tokens = sorted(t["model"]["vocab"], key=t["model"]["vocab"].get)
    added = [x["content"] for x in t["added_tokens"]]
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("qwen2")
    w.add_token_list(tokens + added)
    w.add_token_types([1] * len(tokens) + [3] * len(added))
    w.add_token_merges([" ".join(m) for m in t["model"]["merges"]])
    w.add_eos_token_id(len(tokens) + 1)
    w.add_add_bos_token(False)
    return len(tokens) + len(added)


@torch.no_grad()
def golden(out, name, vocab):
    model = AutoModelForCausalLM.from_pretrained(out, gguf_file=name + ".gguf", dtype=torch.float32,
                                                 attn_implementation="eager").eval()
    tokenizer = AutoTokenizer.from_pretrained(out, gguf_file=name + ".gguf")
    ids = np.random.default_rng(9).integers(0, vocab, 90).tolist()
    rows = [0, 1, 2, 40, 77, 89]
    logits = model(torch.tensor([ids]), use_cache=False).logits[0][rows]
    texts = json.load(open(os.path.join(HERE, "tokenizer_texts.json")))
    texts = [bytes.fromhex(x).decode("utf-8", "replace") if all(c in "0123456789abcdef" for c in x) else x
             for x in texts]
    texts = [x for x in texts if "\0" not in x]  # a C string ends there
    with open(os.path.join(out, name + ".json"), "w") as f:
        json.dump({"ids": ids, "positions": rows, "texts": texts,
                   "token_ids": [tokenizer(x)["input_ids"] for x in texts]}, f, separators=(",", ":"))
        f.write("\n")
    logits.contiguous().numpy().astype("<f4").tofile(os.path.join(out, name + ".bin"))
    print(name, "logits std", float(logits.std()), "texts", len(texts))


def main():
    out = sys.argv[1] if len(sys.argv) > 1 else os.path.join(HERE, "gguf")
    os.makedirs(out, exist_ok=True)
    torch.set_num_threads(1)

    rng = np.random.default_rng(1)
    c = dict(hidden=256, inter=256, layers=1, heads=4, kv=2, dim=64)
    w = base(os.path.join(out, "llama_k.gguf"), "llama", c)
    vocab = sentencepiece(w)
    tensors(w, rng, c, [Q.Q6_K, Q.Q4_K, Q.Q5_K, Q.Q8_0, Q.Q4_K, Q.Q6_K, Q.Q5_K], vocab, False)
    write(w)
    golden(out, "llama_k", vocab)

    c = dict(hidden=64, inter=96, layers=2, heads=2, kv=1, dim=128)
    w = base(os.path.join(out, "qwen3_small.gguf"), "qwen3", c)
    vocab = byte_level(w)
    tensors(w, rng, c, [Q.Q4_0, Q.Q4_1, Q.Q5_0, Q.Q5_1, Q.Q8_0, Q.BF16, Q.F32], vocab, True, qk_norm=True)
    write(w)
    golden(out, "qwen3_small", vocab)

    c = dict(hidden=64, inter=96, layers=2, heads=2, kv=1, dim=32)
    w = base(os.path.join(out, "qwen2_v2.gguf"), "qwen2", c)
    vocab = byte_level(w)
    tensors(w, rng, c, [Q.Q8_0, Q.F16, Q.Q4_0, Q.F32, Q.Q5_1, Q.Q4_1, Q.Q5_0], vocab, False, bias=True)
    write(w)
    with open(os.path.join(out, "qwen2_v2.gguf"), "r+b") as f:  # version 2 has the layout of version 3
        f.seek(4)
        f.write(b"\2\0\0\0")
    golden(out, "qwen2_v2", vocab)


if __name__ == "__main__":
    main()

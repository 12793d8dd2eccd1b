#!/usr/bin/env python3
"""Tiny random LLaMA checkpoints and what transformers computes from them; see README.md.

Usage: make_models.py [OUT_DIR [NAME...]]     (default: models/ beside this file, all)
Needs torch, transformers >= 5, safetensors, numpy. Every number comes from a fixed seed.
"""
import json
import os
import shutil
import struct
import sys

import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM

N_POSITIONS = 12
N_GREEDY = 16
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def config(new_style, rope=None, theta=10000.0, dtype="F32", kin=("llama", "LlamaForCausalLM"), **fields):
    """A config.json in the keys of transformers 5 (new_style) or in the long-standing ones."""
    c = {
        "architectures": [kin[1]],
        "model_type": kin[0],
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 512,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "vocab_size": 96,
        "num_hidden_layers": 2,
        "tie_word_embeddings": False,
        **fields,
    }
    if new_style:
        c.setdefault("rope_parameters", {"rope_type": "default", "rope_theta": theta, **(rope or {})})
        c["dtype"] = NAMES[dtype]
    else:
        c["rope_theta"] = theta
        c["rope_scaling"] = rope
        c["torch_dtype"] = NAMES[dtype]
    return c


LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}

# name, config, storage: dtype of a tensor by name, file layout
MODELS = [
    ("mha_default", dict(
        config=config(False, hidden_size=48, intermediate_size=64, num_attention_heads=3, head_dim=None),
        n=96)),
    ("gqa_d64_tied", dict(
        config=config(True, dtype="BF16", hidden_size=32, intermediate_size=48, num_attention_heads=4,
                      num_key_value_heads=2, head_dim=64, tie_word_embeddings=True),
        dtype="BF16", n=200)),
    ("mqa_linear_f16", dict(
        config=config(False, rope={"type": "linear", "factor": 2.5}, dtype="F16", hidden_size=48,
                      intermediate_size=64, num_attention_heads=4, num_key_value_heads=1, head_dim=32),
        dtype="F16", n=128)),
    ("dynamic_tied_head", dict(
        config=config(False, rope={"type": "dynamic", "factor": 4.0}, hidden_size=32, intermediate_size=48,
                      num_attention_heads=2, num_key_value_heads=2, head_dim=16, max_position_embeddings=64,
                      tie_word_embeddings=True),
        n=160, embedding_name="lm_head.weight")),
    ("dynamic_new_keys", dict(
        config=config(True, rope={"rope_type": "dynamic", "factor": 2.0}, theta=5000.0, dtype="BF16", hidden_size=32,
                      intermediate_size=48, num_attention_heads=2, num_key_value_heads=1, head_dim=64,
                      max_position_embeddings=100),
        dtype="BF16", n=300)),
    ("llama3_d64", dict(
        config=config(False, rope={"rope_type": "llama3", **LLAMA3}, theta=500000.0, dtype="BF16", hidden_size=48,
                      intermediate_size=64, num_attention_heads=3, num_key_value_heads=1, head_dim=64,
                      tie_word_embeddings=True),
        dtype="BF16", n=256)),
    ("llama3_new_keys_d16", dict(
        config=config(True, rope={"rope_type": "llama3", **LLAMA3, "factor": 32.0}, theta=1000.0, hidden_size=32,
                      intermediate_size=48, num_attention_heads=4, num_key_value_heads=2, head_dim=16),
        n=180)),
    ("bias_d16", dict(
        config=config(True, dtype="F32", hidden_size=32, intermediate_size=48, num_attention_heads=2,
                      num_key_value_heads=2, head_dim=16, attention_bias=True, mlp_bias=True),
        n=130)),
    ("d128_gqa", dict(
        config=config(False, dtype="BF16", hidden_size=32, intermediate_size=48, num_attention_heads=2,
                      num_key_value_heads=1, head_dim=128),
        dtype="BF16", n=150)),
    ("sharded_bf16", dict(
        config=config(True, dtype="BF16", hidden_size=48, intermediate_size=72, num_attention_heads=6,
                      num_key_value_heads=2, head_dim=16, num_hidden_layers=3, attention_bias=True),
        dtype="BF16", n=144, shards=3)),
    ("mixed_unaligned", dict(
        config=config(False, hidden_size=32, intermediate_size=48, num_attention_heads=2, num_key_value_heads=2,
                      head_dim=32, pretraining_tp=2),
        dtype={"norm": "F32", "self_attn": "BF16", "mlp": "F16", "embed": "BF16", "lm_head": "F32"}, n=100,
        odd_header=True, extra=True)),
    # kin of LLaMA: engine/checkpoint/family.c
    ("mistral_window", dict(
        config=config(False, kin=("mistral", "MistralForCausalLM"), hidden_size=48, intermediate_size=64,
                      num_attention_heads=4, num_key_value_heads=2, head_dim=32, sliding_window=70),
        n=200)),
    ("mistral_full", dict(
        config=config(True, kin=("mistral", "MistralForCausalLM"), theta=1e6, dtype="BF16", hidden_size=32,
                      intermediate_size=48, num_attention_heads=2, num_key_value_heads=1, head_dim=64,
                      sliding_window=None),
        dtype="BF16", n=150, keep_null=["sliding_window"])),
    ("ministral_layers", dict(
        config=config(True, kin=("ministral", "MinistralForCausalLM"), dtype="BF16", hidden_size=32,
                      intermediate_size=48, num_attention_heads=2, num_key_value_heads=1, head_dim=64,
                      num_hidden_layers=3, sliding_window=33,
                      layer_types=["full_attention", "sliding_attention", "full_attention"]),
        dtype="BF16", n=180)),
    ("qwen2_bias", dict(
        config=config(False, kin=("qwen2", "Qwen2ForCausalLM"), theta=1e6, dtype="BF16", hidden_size=32,
                      intermediate_size=48, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
                      use_sliding_window=False, sliding_window=64, max_window_layers=1),
        dtype="BF16", n=160, bias="qkv")),
    ("qwen2_window_yarn", dict(
        config=config(True, kin=("qwen2", "Qwen2ForCausalLM"), theta=1e6,
                      rope={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
                      hidden_size=32, intermediate_size=48, num_attention_heads=2, num_key_value_heads=2,
                      num_hidden_layers=3, use_sliding_window=True, sliding_window=100, max_window_layers=1),
        n=220, bias="qkv")),
    ("qwen3_norms", dict(
        config=config(False, kin=("qwen3", "Qwen3ForCausalLM"), theta=1e6, dtype="BF16", hidden_size=32,
                      intermediate_size=48, num_attention_heads=4, num_key_value_heads=2, head_dim=64,
                      attention_bias=False, use_sliding_window=False, sliding_window=None, max_window_layers=2),
        dtype="BF16", n=170, qk_norm=True)),
    ("qwen3_bias", dict(
        config=config(True, kin=("qwen3", "Qwen3ForCausalLM"), hidden_size=32, intermediate_size=48,
                      num_attention_heads=2, num_key_value_heads=1, head_dim=32, attention_bias=True),
        n=140, qk_norm=True)),
    ("smollm3_some_turn", dict(
        config=config(False, kin=("smollm3", "SmolLM3ForCausalLM"), pad_token_id=0, theta=5e4, dtype="BF16", hidden_size=48,
                      intermediate_size=64, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=4,
                      tie_word_embeddings=True, no_rope_layers=[1, 0, 1, 0], no_rope_layer_interval=4),
        dtype="BF16", n=190)),
    ("smollm3_interval", dict(
        config=config(True, kin=("smollm3", "SmolLM3ForCausalLM"), pad_token_id=0, hidden_size=32, intermediate_size=48,
                      num_attention_heads=2, num_key_value_heads=1, num_hidden_layers=3, no_rope_layer_interval=2),
        n=130)),
    ("yarn_llama", dict(
        config=config(False, rope={"type": "yarn", "factor": 8.0, "beta_fast": 16, "beta_slow": 2,
                                   "original_max_position_embeddings": 40, "attention_factor": 1.3},
                      dtype="F32", hidden_size=32, intermediate_size=48, num_attention_heads=2,
                      num_key_value_heads=1, head_dim=64),
        n=240)),
    ("longrope_long", dict(
        config=config(True, rope={"rope_type": "longrope", "original_max_position_embeddings": 96,
                                  "short_factor": [1.0 + 0.02 * i for i in range(16)],
                                  "long_factor": [1.0 + 0.3 * i for i in range(16)], "factor": 4.0},
                      hidden_size=32, intermediate_size=48, num_attention_heads=2, num_key_value_heads=1, head_dim=32),
        n=150)),
    ("longrope_short", dict(
        config=config(True, rope={"rope_type": "longrope", "original_max_position_embeddings": 400,
                                  "short_factor": [1.0 + 0.02 * i for i in range(16)],
                                  "long_factor": [1.0 + 0.3 * i for i in range(16)], "factor": 1.25},
                      hidden_size=32, intermediate_size=48, num_attention_heads=2, num_key_value_heads=1, head_dim=32),
        n=150)),
    ("granite_scalars", dict(
        config=config(False, kin=("granite", "GraniteForCausalLM"), dtype="BF16", hidden_size=64, intermediate_size=96,
                      num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True, embedding_multiplier=12.0,
                      residual_multiplier=0.22, attention_multiplier=0.4, logits_scaling=1.6),
        dtype="BF16", n=170)),
    ("granite_bias", dict(
        config=config(True, kin=("granite", "GraniteForCausalLM"), theta=1e6, hidden_size=32, intermediate_size=48,
                      num_attention_heads=2, num_key_value_heads=1, attention_bias=True, mlp_bias=True,
                      embedding_multiplier=3.0, residual_multiplier=0.5, attention_multiplier=0.25),
        n=140)),
    ("yarn_mscale", dict(
        config=config(True, rope={"rope_type": "yarn", "factor": 6.0, "original_max_position_embeddings": 48,
                                  "mscale": 0.9, "mscale_all_dim": 0.5, "truncate": False},
                      hidden_size=32, intermediate_size=48, num_attention_heads=2, num_key_value_heads=1, head_dim=32),
        n=200)),
    ("ministral_window", dict(
        config=config(False, kin=("ministral", "MinistralForCausalLM"), hidden_size=32, intermediate_size=48,
                      num_attention_heads=2, num_key_value_heads=1, head_dim=32, sliding_window=50),
        n=160)),
    # fused matrices, other names
    ("phi3_longrope", dict(
        config=config(False, kin=("phi3", "Phi3ForCausalLM"), dtype="BF16", pad_token_id=0, hidden_size=64,
                      intermediate_size=96, num_attention_heads=2, num_key_value_heads=1, attention_bias=False,
                      original_max_position_embeddings=64, sliding_window=None, partial_rotary_factor=1.0,
                      rope={"type": "longrope", "short_factor": [1.0 + 0.02 * i for i in range(16)],
                            "long_factor": [1.0 + 0.3 * i for i in range(16)]}),
        dtype="BF16", n=150, fused=True)),
    ("phi3_window", dict(
        config=config(True, kin=("phi3", "Phi3ForCausalLM"), pad_token_id=0, hidden_size=48, intermediate_size=64,
                      num_attention_heads=3, sliding_window=47),
        n=130, fused=True, shards=2)),
    ("exaone_names", dict(
        config=config(False, kin=("exaone", "ExaoneForCausalLM"), dtype="BF16", hidden_size=64, intermediate_size=96,
                      num_attention_heads=4, num_key_value_heads=2, theta=1e6, rope={"rope_type": "llama3", **LLAMA3}),
        dtype="BF16", n=140,
        fields={"num_hidden_layers": "num_layers", "rms_norm_eps": "layer_norm_epsilon", "hidden_act": "activation_function"},
        names=[("model.embed_tokens", "transformer.wte"), ("model.layers", "transformer.h"), ("model.norm", "transformer.ln_f"),
               ("self_attn.o_proj", "attn.attention.out_proj"), ("self_attn", "attn.attention"), ("input_layernorm", "ln_1"),
               ("post_attention_layernorm", "ln_2"), ("gate_proj", "c_fc_0"), ("up_proj", "c_fc_1"),
               ("down_proj", "c_proj")])),
    ("internlm3_bias", dict(
        config=config(False, kin=("internlm3", "InternLM3ForCausalLM"), hidden_size=32, intermediate_size=48,
                      num_attention_heads=2, num_key_value_heads=1, head_dim=32, attention_bias=True, mlp_bias=True,
                      rope={"rope_type": "dynamic", "factor": 6.0}, max_position_embeddings=100),
        n=140, fields={"attention_bias": "qkv_bias", "mlp_bias": "bias"})),
    ("iquestcoder_plain", dict(
        config=config(True, kin=("iquestcoder", "LlamaForCausalLM"), dtype="BF16", theta=5e5, hidden_size=32,
                      intermediate_size=48, num_attention_heads=2, num_key_value_heads=1, head_dim=32),
        dtype="BF16", n=120)),
    ("seed_oss_bias", dict(
        config=config(True, kin=("seed_oss", "SeedOssForCausalLM"), dtype="BF16", theta=1e7, hidden_size=32,
                      intermediate_size=48, num_attention_heads=2, num_key_value_heads=1, head_dim=64),
        dtype="BF16", n=140, bias="qkv")),
    ("cwm_windows", dict(
        config=config(True, kin=("cwm", "CwmForCausalLM"), theta=1e6, rope={"rope_type": "llama3", **LLAMA3},
                      hidden_size=32, intermediate_size=48, num_attention_heads=2, num_key_value_heads=1, head_dim=32,
                      num_hidden_layers=5, sliding_window=40),
        n=130)),
    ("phi3_partial", dict(
        config=config(False, kin=("phi3", "Phi3ForCausalLM"), pad_token_id=0, hidden_size=96,
                      intermediate_size=128, num_attention_heads=3, num_key_value_heads=1, tie_word_embeddings=True,
                      original_max_position_embeddings=64, sliding_window=262144, partial_rotary_factor=0.75,
                      rope={"type": "longrope", "short_factor": [1.0 + 0.02 * i for i in range(12)],
                            "long_factor": [1.0 + 0.3 * i for i in range(12)]}),
        n=150, fused=True)),
    ("phi3_partial_new", dict(
        config=config(True, kin=("phi3", "Phi3ForCausalLM"), pad_token_id=0, dtype="BF16", hidden_size=64,
                      intermediate_size=96, num_attention_heads=4, num_key_value_heads=2,
                      rope={"partial_rotary_factor": 0.5}),
        dtype="BF16", n=130, fused=True)),
]


# norms behind attention and MLP
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "beta_fast": 32.0, "beta_slow": 1.0,
        "attention_factor": 1.2}
MODELS += [
    ("olmo2_behind", dict(
        config=config(False, kin=("olmo2", "Olmo2ForCausalLM"), pad_token_id=0, theta=5e5, hidden_size=48,
                      intermediate_size=64, num_attention_heads=3, num_key_value_heads=3, attention_bias=False),
        n=150, norms="behind", qk_norm="whole")),
    ("olmo2_groups", dict(
        config=config(True, kin=("olmo2", "Olmo2ForCausalLM"), pad_token_id=0, dtype="BF16", hidden_size=64,
                      intermediate_size=96, num_attention_heads=4, num_key_value_heads=2, attention_bias=True),
        dtype="BF16", n=130, norms="behind", qk_norm="whole")),
    ("olmo3_yarn", dict(
        config=config(False, kin=("olmo3", "Olmo3ForCausalLM"), pad_token_id=0, theta=5e5, rope=YARN, dtype="BF16",
                      hidden_size=64, intermediate_size=64, num_attention_heads=4, num_key_value_heads=2,
                      num_hidden_layers=4, sliding_window=40),
        dtype="BF16", n=180, norms="behind", qk_norm="whole")),
    ("olmo3_ropes", dict(
        config=config(True, kin=("olmo3", "Olmo3ForCausalLM"), pad_token_id=0, hidden_size=32, intermediate_size=48,
                      num_attention_heads=2, num_hidden_layers=2, sliding_window=33,
                      layer_types=["full_attention", "sliding_attention"],
                      rope_parameters={"full_attention": {**YARN, "rope_theta": 1e4},
                                       "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}),
        n=140, norms="behind", qk_norm="whole")),
    ("exaone4_hybrid", dict(
        config=config(False, kin=("exaone4", "Exaone4ForCausalLM"), theta=1e6, dtype="BF16", hidden_size=32,
                      intermediate_size=48, num_attention_heads=2, num_key_value_heads=1, head_dim=32, num_hidden_layers=4,
                      rope={"rope_type": "llama3", **LLAMA3}, sliding_window=40, sliding_window_pattern=4),
        dtype="BF16", n=170, norms="behind", qk_norm=True)),
    ("exaone4_full", dict(
        config=config(True, kin=("exaone4", "Exaone4ForCausalLM"), theta=1e6, hidden_size=32, intermediate_size=48,
                      num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=True, sliding_window=None,
                      sliding_window_pattern=None, layer_types=["full_attention"] * 2),
        n=130, norms="behind", qk_norm=True, keep_null=["sliding_window", "sliding_window_pattern"])),
    ("hyperclovax_around", dict(
        config=config(True, kin=("hyperclovax", "HyperCLOVAXForCausalLM"), theta=1e5, dtype="BF16", hidden_size=64,
                      intermediate_size=96, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
                      embedding_multiplier=6.0, residual_multiplier=0.4, attention_multiplier=0.2, logits_scaling=0.7),
        dtype="BF16", n=150, norms="around")),
    ("hyperclovax_before", dict(
        config=config(False, kin=("hyperclovax", "HyperCLOVAXForCausalLM"), hidden_size=32, intermediate_size=48,
                      num_attention_heads=2, num_key_value_heads=1, use_post_norm=False, mlp_bias=True,
                      logits_scaling=1.5),
        n=120)),
]
LAYER_NORMS = {"before": ["input_layernorm", "post_attention_layernorm"],
               "behind": ["post_attention_layernorm", "post_feedforward_layernorm"],
               "around": ["input_layernorm", "post_attention_layernorm", "post_norm1", "post_norm2"]}


def shapes(c, spec):
    h, f, v = c["hidden_size"], c["intermediate_size"], c["vocab_size"]
    d = c.get("head_dim") or h // c["num_attention_heads"]
    q, kv = c["num_attention_heads"] * d, (c.get("num_key_value_heads") or c["num_attention_heads"]) * d
    out = {"model.embed_tokens.weight": (v, h)}
    for i in range(c["num_hidden_layers"]):
        p = f"model.layers.{i}."
        for norm in LAYER_NORMS[spec.get("norms", "before")]:
            out[p + norm + ".weight"] = (h,)
        for part, m, k in (("q", q, h), ("k", kv, h), ("v", kv, h), ("o", h, q)):
            out[p + f"self_attn.{part}_proj.weight"] = (m, k)
            if c.get("attention_bias") or (spec.get("bias") == "qkv" and part != "o"):
                out[p + f"self_attn.{part}_proj.bias"] = (m,)
        if spec.get("qk_norm"):
            whole = spec["qk_norm"] == "whole"
            out[p + "self_attn.q_norm.weight"] = (q if whole else d,)
            out[p + "self_attn.k_norm.weight"] = (kv if whole else d,)
        for part, m, k in (("gate", f, h), ("up", f, h), ("down", h, f)):
            out[p + f"mlp.{part}_proj.weight"] = (m, k)
            if c.get("mlp_bias"):
                out[p + f"mlp.{part}_proj.bias"] = (m,)
    out["model.norm.weight"] = (h,)
    if not c["tie_word_embeddings"]:
        out["lm_head.weight"] = (v, h)
    return out


def random_tensor(rng, name, shape):
    """Large enough that attention is far from uniform and every weight shows in the logits."""
    x = rng.standard_normal(shape)
    if len(shape) == 1 and name.endswith(".weight"):
        return 1 + 0.2 * x
    if name.endswith(".bias"):
        return 0.3 * x
    if "embed" in name or "lm_head" in name:
        return 0.4 * x
    gain = 1.6 if "q_proj" in name or "k_proj" in name else 1.0
    return gain * x / np.sqrt(shape[1])


def type_of(dtype, name):
    if isinstance(dtype, str):
        return dtype
    return next(t for part, t in dtype.items() if part in name)


def write_safetensors(path, tensors, odd_header=False):
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, (kind, x) in tensors.items():
        raw = x.contiguous().view(torch.uint8).numpy().tobytes()
        header[name] = {"dtype": kind, "shape": list(x.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8 + (3 if odd_header else 0))
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + data)


def fuse(tensors):
    """q, k and v in one matrix, gate and up in another."""
    out = {}
    for name, (kind, x) in tensors.items():
        for first, others, whole in (("q_proj", ("k_proj", "v_proj"), "qkv_proj"), ("gate_proj", ("up_proj",), "gate_up_proj")):
            if first in name:
                parts = [x] + [tensors[name.replace(first, o)][1] for o in others]
                out[name.replace(first, whole)] = (kind, torch.cat(parts))
                break
            if any(o in name for o in others):
                break
        else:
            out[name] = (kind, x)
    return out


def write_checkpoint(out, spec, seed):
    c = {spec.get("fields", {}).get(k, k): v for k, v in spec["config"].items()}
    with open(os.path.join(out, "config.json"), "w") as f:
        json.dump({k: v for k, v in c.items() if v is not None or k in ["rope_scaling", *spec.get("keep_null", [])]}, f, indent=1)
        f.write("\n")
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in shapes(spec["config"], spec).items():
        kind = type_of(spec.get("dtype", "F32"), name)
        x = torch.from_numpy(random_tensor(rng, name, shape).astype(np.float32)).to(DTYPES[kind])
        if name == "model.embed_tokens.weight":
            name = spec.get("embedding_name", name)
        tensors[name] = (kind, x)
    if spec.get("fused"):
        tensors = fuse(tensors)
    for ours, theirs in spec.get("names", []):
        tensors = {name.replace(ours, theirs): x for name, x in tensors.items()}
    if spec.get("extra"):
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = ("F32", torch.ones(16))
    n_shards = spec.get("shards", 1)
    if n_shards == 1:
        write_safetensors(os.path.join(out, "model.safetensors"), tensors, spec.get("odd_header", False))
        return
    names, where = sorted(tensors), {}
    for i in range(n_shards):
        file = f"model-{i + 1:05d}-of-{n_shards:05d}.safetensors"
        part = names[i::n_shards]
        write_safetensors(os.path.join(out, file), {n: tensors[n] for n in part})
        where.update({n: file for n in part})
    total = sum(x.numel() * x.element_size() for _, x in tensors.values())
    with open(os.path.join(out, "model.safetensors.index.json"), "w") as f:
        json.dump({"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}, f, indent=1)
        f.write("\n")


def positions_of(n):
    """The first rows, the last, and a spread between them."""
    spread = np.linspace(3, n - 1, N_POSITIONS - 3).round().astype(int).tolist()
    return sorted({0, 1, 2, *spread})


@torch.no_grad()
def write_golden(out, spec, seed):
    model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32, attn_implementation="eager").eval()
    c = model.config
    ids = np.random.default_rng(seed + 1000).integers(0, c.vocab_size, spec["n"]).tolist()
    rows = positions_of(len(ids))
    logits = model(torch.tensor([ids]), use_cache=False).logits[0]
    rotary = model.model.rotary_emb
    inv_freq = getattr(rotary, "inv_freq", getattr(rotary, "full_attention_inv_freq", None)).tolist()  # for this length
    greedy, margins, text = [], [], list(ids)
    if c.rope_parameters.get("rope_type") not in ("dynamic", "longrope"):  # whose frequencies change while the text grows
        for _ in range(N_GREEDY):
            top = model(torch.tensor([text]), use_cache=False).logits[0, -1].topk(2)
            greedy.append(int(top.indices[0]))
            margins.append(float(top.values[0] - top.values[1]))
            text.append(greedy[-1])
    golden = {
        "transformers": transformers.__version__,
        "torch": torch.__version__.split("+")[0],
        "ids": ids,
        "positions": rows,
        "vocab_size": c.vocab_size,
        "inv_freq": inv_freq,
        "greedy": greedy,
        "greedy_min_margin": min(margins) if margins else None,
    }
    with open(os.path.join(out, "golden.json"), "w") as f:
        f.write(json.dumps(golden, separators=(",", ":")).replace(',"', ',\n"') + "\n")
    logits[rows].contiguous().numpy().astype("<f4").tofile(os.path.join(out, "logits.bin"))
    return logits, golden


def main():
    out = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(os.path.abspath(__file__)), "models")
    torch.set_num_threads(1)
    only = sys.argv[2:]
    for i, (name, spec) in enumerate(MODELS):
        if only and name not in only:
            continue
        path = os.path.join(out, name)
        shutil.rmtree(path, ignore_errors=True)
        os.makedirs(path)
        write_checkpoint(path, spec, i)
        logits, golden = write_golden(path, spec, i)
        print(f"{name}: {len(golden['ids'])} tokens, logits std {logits.std():.3f}, "
              f"smallest greedy margin {golden['greedy_min_margin']}")


if __name__ == "__main__":
    main()

"""Sparse attention in a transformers model: put in, tuned, loaded, taken out, counted.

patch() registers an attention implementation, "sparsegauge", with transformers' AttentionInterface and gives it to the model:
whatever goes through that interface with causal attention and rotated keys works (Llama, Mistral, Qwen2, Qwen3, …), prefill
and decode, with and without a cache, f32 on the CPU and bf16 on a GPU. Other dtypes of a CPU are widened to f32 and back.

What the kernels do not define is refused with a sentence (soft caps, sinks, dropout, gradients), and calls whose mask says more
than "causal" (padding, packed sequences, a sliding window shorter than the text) go through torch's own attention and are counted
as such: ledger(model).totals["calls_dense_masked"].
"""

import ctypes as c
import math
import warnings
import weakref

import torch

from . import _native, _tensors, core
from ._native import ArgumentError, NotSupportedError, call
from .core import Ledger, Policy

NAME = "sparsegauge"
MODULE = "sparse_attn"
FIELDS = ("is_sparse", "cdfthreshd", "simthreshd1", "simthreshd2", "pvthreshd")

_states = weakref.WeakKeyDictionary()  # attention module -> _State of its model


class _Enough(Exception):
    """Ends a forward pass whose last wanted layer was seen."""


class _State:
    def __init__(self, n_layers, n_heads, policy):
        self.n_layers, self.n_heads, self.policy = n_layers, n_heads, policy
        self.before = None  # the implementation that patch() took the place of
        self.capture = None  # {layer: (q, k, v)} while tuning: dense then, and not counted
        self.last = -1
        self.reset()

    def reset(self):
        self.ledger = Ledger(self.n_layers, self.n_heads)
        self.on_gpu = {}  # device -> counters in its memory

    def gpu_counts(self, device, layer):
        per_layer = self.n_heads * c.sizeof(_native.Ledger)
        if device not in self.on_gpu:
            self.on_gpu[device] = torch.zeros(self.n_layers * per_layer, dtype=torch.uint8, device=device)
        return self.on_gpu[device].data_ptr() + layer * per_layer

    def collect(self):
        """What was counted on GPUs, added to the ledger."""
        per_layer = self.n_heads * c.sizeof(_native.Ledger)
        for counts in self.on_gpu.values():
            host = counts.cpu()
            counts.zero_()
            for layer in range(self.n_layers):
                call("sg_gpu_ledger_read", host.data_ptr() + layer * per_layer, self.n_heads, self.ledger._at(layer))
        return self.ledger


def _interface():
    try:
        from transformers import AttentionInterface
        from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
        from transformers.integrations.sdpa_attention import sdpa_attention_forward
    except ImportError as e:
        import transformers

        raise NotSupportedError(f"transformers {transformers.__version__} has no AttentionInterface with masks ({e}); version 5 or later "
                                "is needed: pip install -U transformers") from None
    return AttentionInterface, AttentionMaskInterface, sdpa_mask, sdpa_attention_forward


def _mask(*args, **kwargs):
    """None where the mask is the plain causal one, whatever is cached; else what torch's attention takes."""
    _, _, sdpa_mask, _ = _interface()
    n, keys, padding = kwargs.get("q_length"), kwargs.get("kv_length"), kwargs.get("attention_mask")
    window, offset = kwargs.get("local_size"), kwargs.get("q_offset")
    if (not args and None not in (n, keys, offset) and kwargs.get("allow_is_causal_skip", True)
            and (window is None or keys <= window) and (padding is None or bool(padding.all()))
            and int(offset) + n == int(kwargs.get("kv_offset", 0)) + keys):
        return None
    return sdpa_mask(*args, **kwargs)


def _one(state, module, q, k, v, scaling, out):
    """One sequence: q, k, v [heads, tokens, d]; out [tokens, heads, d]."""
    layer, n = module.layer_idx, q.shape[1]
    q_start = k.shape[1] - n
    dtype = q.dtype
    if q.device.type == "cpu" and dtype in (torch.bfloat16, torch.float16):
        q, k, v = q.float(), k.float(), v.float()
    if q.device.type == "cuda" and dtype != torch.bfloat16:
        raise NotSupportedError(f"attention on a GPU works in bfloat16, the model is in {dtype}; load it with dtype=torch.bfloat16")
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    to = out if out.dtype == q.dtype else torch.empty(out.shape, dtype=q.dtype)
    views = [_tensors.view(*x) for x in (("query", q), ("key", k), ("value", v), ("output", to.transpose(0, 1)))]
    capture = state.capture
    if capture is not None and layer in capture:
        capture[layer] = tuple(x.detach().to("cpu", torch.float32, copy=True).contiguous() for x in (q, k, v))
        if layer == state.last:
            raise _Enough
    policy = state.policy if capture is None else None
    counted = state.ledger._at(layer) if capture is None else None
    on_gpu = state.gpu_counts(q.device, layer) if capture is None and q.is_cuda else None
    core.run(*views, policy, layer, q_start, scaling, None, None, None, counted, on_gpu)
    if to is not out:
        out.copy_(to)


@torch.compiler.disable
def _forward(module, query, key, value, attention_mask, dropout=0.0, scaling=None, is_causal=None, sliding_window=None, **kwargs):
    state = _states.get(module)
    if state is None:
        raise ArgumentError('this model was given the attention "sparsegauge" by name only; call sparsegauge.patch(model)')
    for name in ("softcap", "s_aux", "position_bias"):
        if kwargs.get(name) is not None:
            raise NotSupportedError(f"{type(module).__name__} uses {name}, which the kernels do not know")
    if dropout:
        raise NotSupportedError("attention dropout is for training, which this is not; call model.eval()")
    if torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value)):
        raise NotSupportedError("the kernels have no backward pass; run the model under torch.no_grad(), or unpatch(model) to train it")
    if kwargs.get("output_attentions"):
        raise NotSupportedError("attention weights are never made here; unpatch(model), or use attn_implementation=\"eager\"")
    if attention_mask is not None:
        if state.capture is not None:
            raise NotSupportedError("tuning needs texts without padding, one at a time, and no longer than the model's sliding window")
        state.ledger._masked[module.layer_idx] += query.shape[0]
        return _interface()[3](module, query, key, value, attention_mask, dropout=0.0, scaling=scaling, **kwargs)
    if not (is_causal if is_causal is not None else getattr(module, "is_causal", True)):
        raise NotSupportedError(f"{type(module).__name__} is not causal, these kernels are")
    batch, n_heads, n, d = query.shape
    if value.shape[-1] != d or key.shape[-1] != d:
        raise NotSupportedError(f"queries of {d}, keys of {key.shape[-1]} and values of {value.shape[-1]} dimensions: expected one number")
    if n_heads != state.n_heads:
        raise ArgumentError(f"layer {module.layer_idx} has {n_heads} heads, the policy is of {state.n_heads}")
    out = torch.empty(batch, n, n_heads, d, dtype=query.dtype, device=query.device)
    for b in range(batch):
        _one(state, module, query[b], key[b], value[b], scaling, out[b])
    return out, None


def _shape(model):
    config = model.config.get_text_config()
    return config.num_hidden_layers, config.num_attention_heads


def _attention_modules(model):
    n_layers, _ = _shape(model)
    found = {m.layer_idx: m for m in model.modules()
             if isinstance(getattr(m, "layer_idx", None), int) and hasattr(m, "num_key_value_groups")}
    if sorted(found) != list(range(n_layers)):
        raise NotSupportedError(f"{type(model).__name__}: found attention in layers {sorted(found)}, expected all of 0 to {n_layers - 1}, as "
                                "in Llama, Mistral, Qwen2 or Qwen3")
    return found


def _state_of(model):
    for m in model.modules():
        if m in _states:
            return _states[m]
    return None


def _patched(model):
    state = _state_of(model)
    if state is None:
        raise ArgumentError(f"{type(model).__name__} is not patched; call sparsegauge.patch(model) first")
    return state


def patch(model, policy=None, *, method="sparge", **settings):
    """Give the model sparse attention; the model itself is returned.

    policy: thresholds for every head (Policy, or the path of a tuned file as in load()); without one all heads have the tuning
    guide's untuned thresholds, under `method` and the settings of Policy.set(): layers, layer_range, topk, block, smooth_k, …
    """
    attention, masks, _, _ = _interface()
    modules = _attention_modules(model)
    n_layers, n_heads = _shape(model)
    if policy is None:
        policy = Policy(n_layers, n_heads, method, **settings)
    elif settings or method != "sparge":
        raise ArgumentError("a policy brings its own method and settings; drop the others, or use policy.set()")
    elif not isinstance(policy, Policy):
        policy = _read(model, policy, None)
    s = policy.settings
    if (s["n_layers"], s["n_heads"]) != (n_layers, n_heads):
        raise ArgumentError(f"the policy is of {s['n_layers']} layers x {s['n_heads']} heads, the model has {n_layers}x{n_heads}; tune this model")
    attention.register(NAME, _forward)
    masks.register(NAME, _mask)
    state = _state_of(model)
    if state is None:
        state = _State(n_layers, n_heads, policy)
        state.before = model.config._attn_implementation
        model.set_attn_implementation(NAME)
        if model.config._attn_implementation != NAME:
            raise NotSupportedError(f"{type(model).__name__} keeps its own attention ({model.config._attn_implementation}): it does not go "
                                    "through transformers' AttentionInterface")
    state.policy = policy
    state.reset()
    for m in modules.values():
        _states[m] = state
    return model


def unpatch(model):
    """Give the model the attention back that it had."""
    state = _patched(model)
    for m in model.modules():
        _states.pop(m, None)
    model.set_attn_implementation(state.before)
    return model


def policy(model):
    """The Policy that the model runs with: one object, so changing it changes what runs."""
    return _patched(model).policy


def ledger(model, reset=False):
    """What the model's heads did since patch(), load() or tune(), or since the last reset, as a Ledger."""
    state = _patched(model)
    counted = state.collect()
    if reset:
        state.reset()
    return counted


def _read(model, source, module, **settings):
    n_layers, n_heads = _shape(model)
    if isinstance(source, dict):
        found = _from_state_dict(source, n_layers, n_heads, module)
    else:
        found = Policy.read(source, n_layers, n_heads, module)
    if settings:
        found.set(**settings)
    return found


def load(model, source, *, module=None, **settings):
    """Put tuned thresholds into the model, which is patched if it was not: the path of a tuned.json or of a .pt, what extract() or
    torch.load() of a .pt gave, or a Policy. module: which attention modules of a .pt are meant ("sparse_attn",
    "inner_attention"); nothing of that name is an error, never a silent nothing. A .pt says neither block nor smooth_k:
    SpargeAttn's (128x64, global) are taken unless block= and smooth_k= say otherwise."""
    found = source if isinstance(source, Policy) else _read(model, source, module, **settings)
    if isinstance(source, Policy) and (module or settings):
        raise ArgumentError("a Policy is taken as it is; module and settings go with files")
    return patch(model, found)


def save(model_or_policy, path, module=None):
    """Into a tuned.json, which carries everything, or a .pt for SpargeAttn, by the name's end."""
    p = model_or_policy if isinstance(model_or_policy, Policy) else policy(model_or_policy)
    if str(path).endswith(".pt"):
        _warn_of_loss(p, str(path))
    p.write(path, module)


def _warn_of_loss(p, what):
    s = p.settings
    if s["block"] != "128x64" or s["smooth_k"] != "global":
        warnings.warn(f"{what} says neither block nor smooth_k: load it with block=\"{s['block']}\", smooth_k=\"{s['smooth_k']}\" to have "
                      "the same tiles; SpargeAttn itself uses 128x64 and global", stacklevel=3)


def _module_path(module, layer):
    module = module or MODULE
    if "%d" in module:
        return module.replace("%d", str(layer))
    return f"model.layers.{layer}.self_attn.{module}"


def extract(model_or_policy, module=None):
    """The thresholds as a state dict in the form of SpargeAttn's .pt: torch.save() of it is such a file, and load() takes it."""
    p = model_or_policy if isinstance(model_or_policy, Policy) else policy(model_or_policy)
    s = p.settings
    if s["method"] != "sparge" or s["topk"] > 0:
        raise NotSupportedError(f"method {s['method']}{' with topk' if s['topk'] > 0 else ''} has no form in a .pt; save() it as tuned.json")
    _warn_of_loss(p, "a state dict")
    out = {}
    for layer in range(s["n_layers"]):
        heads = [p.head(layer, h) for h in range(s["n_heads"])]
        if not heads[0]["in_range"]:
            continue
        at, sparse = _module_path(module, layer), [h["is_sparse"] for h in heads]
        dense = {"cdfthreshd": 1.0, "simthreshd1": 1.0, "pvthreshd": 50.0}
        out[f"{at}.is_sparse"] = torch.tensor(sparse, dtype=torch.bool)
        for name in FIELDS[1:]:
            values = [0.0 if name == "simthreshd2" else h[name] if h["is_sparse"] else dense[name] for h in heads]
            out[f"{at}.{name}"] = torch.tensor(values, dtype=torch.float32)
    if not out:
        raise ArgumentError("no layer is on, so there is nothing to take out; tune() or load() first")
    return out


def _from_state_dict(source, n_layers, n_heads, module):
    """Through the library's own reader, which checks names, shapes and ranges."""
    import os
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "state_dict.pt")
        torch.save(dict(source), path)
        return Policy.read(path, n_layers, n_heads, module)


def _token_rows(model, texts, tokenizer, max_length):
    """Rows of ids; strings through the tokenizer."""
    if isinstance(texts, (str, bytes)):
        raise ArgumentError("texts: found one string, expected a list of texts or of token ids")
    rows = []
    for text in texts:
        if isinstance(text, str):
            if tokenizer is None:
                from transformers import AutoTokenizer

                try:
                    tokenizer = AutoTokenizer.from_pretrained(model.name_or_path)
                except (OSError, ValueError) as e:
                    raise ArgumentError(f"texts are strings, and no tokenizer was found for \"{model.name_or_path}\" ({e}); give "
                                        "tokenizer=, or token ids") from None
            ids = tokenizer(text).input_ids
        else:
            ids = torch.as_tensor(text).flatten().tolist()
        rows.append(ids[:max_length])
    return rows


def _split(n, n_tune, n_check, n_held_out):
    """How many of n texts are chosen on, checked on and held out: what was asked for, or each its part of what there is."""
    want = n_tune + n_check + n_held_out
    if n >= want:
        return n_tune, n_check, n_held_out
    parts = [n_tune, n_check, n_held_out]
    got = [min(1, p) for p in parts]
    if sum(got) > n:
        raise ArgumentError(f"{n} texts of 256 tokens or more: expected at least {sum(got)}, to choose on, to check on and to hold out; give "
                            "more, or check=0 and held_out=0")
    while sum(got) < n:
        i = max(range(3), key=lambda j: parts[j] / want - got[j] / n)
        got[i] += 1
    return tuple(got)


def _capture(model, state, rows, layers):
    """[text][layer] -> q, k, v of the dense model."""
    out = []
    device = model.get_input_embeddings().weight.device
    for ids in rows:
        state.capture, state.last = dict.fromkeys(layers), layers[-1]
        try:
            with torch.no_grad():
                model(input_ids=torch.tensor([ids], device=device), use_cache=False)
        except _Enough:
            pass
        finally:
            found, state.capture = state.capture, None
        missing = [layer for layer, x in found.items() if x is None]
        if missing:
            raise NotSupportedError(f"the attention of layers {missing} was not called")
        out.append(found)
    return out


def tune(model, texts, *, l1=0.06, pv_l1=0.07, layer_range=None, layers=None, rule="l1", method="sparge", block=None, smooth_k=None,
         max_length=2048, num_tune_samples=5, check=2, held_out=5, min_sparsity=0.1, tokenizer=None, memory=2 << 30, progress=None):
    """Find every head's thresholds under the bounds on texts of your own, verify them, and give them to the model.

    texts: strings, or rows of token ids; those under 256 tokens are left out, aloud. num_tune_samples of them are chosen on, `check`
    further ones backed off by, `held_out` ones looked at once at the end; with fewer texts each gets its part. layer_range
    (10, 30): layers 10 to 29, the others stay dense. memory: bytes for queries, keys and values held at once; the dense model
    runs as often as that takes. progress(done, total) hears of layers. Returns the Policy; policy.verdict says how many
    heads are over their bounds on the held-out texts."""
    if _state_of(model) is None:
        patch(model, method="dense")
    state = _patched(model)
    n_layers, n_heads = _shape(model)
    if model.training:
        raise ArgumentError("the model is in training mode; call model.eval()")
    new = Policy(n_layers, n_heads, method, layers=layers, layer_range=layer_range, block=block, smooth_k=smooth_k)
    wanted = [i for i in range(n_layers) if new.head(i, 0)["in_range"]]
    if not wanted:
        raise ArgumentError("no layer is in the range")
    all_rows = _token_rows(model, texts, tokenizer, max_length)
    rows = [x for x in all_rows if len(x) >= 256]
    if len(rows) < len(all_rows):
        warnings.warn(f"{len(all_rows) - len(rows)} of {len(all_rows)} texts have under 256 tokens and are left out: sparse attention is not "
                      "used below that", stacklevel=2)
    n = _split(len(rows), num_tune_samples, check, held_out)
    rows = rows[: sum(n)]
    if len({tuple(x) for x in rows}) < len(rows):
        raise ArgumentError("two of the texts are equal: what is chosen on one is no news on the other")
    uses = [core.CHOOSE] * n[0] + [core.CHECK] * n[1] + [core.HELD_OUT] * n[2]
    config = model.config.get_text_config()
    d = getattr(config, "head_dim", None) or config.hidden_size // n_heads
    per_layer = 4 * d * (n_heads + 2 * config.num_key_value_heads) * sum(map(len, rows))
    at_once = max(1, int(memory // max(1, per_layer)))
    scales = {m.layer_idx: getattr(m, "scaling", None) for m in _attention_modules(model).values()}
    for first in range(0, len(wanted), at_once):
        some = wanted[first : first + at_once]
        held = _capture(model, state, rows, some)
        for i, layer in enumerate(some):
            samples = [(use, *found.pop(layer)) for use, found in zip(uses, held)]
            core.tune_layer(new, layer, samples, l1=l1, pv_l1=pv_l1, rule=rule, min_sparsity=min_sparsity, scale=scales[layer])
            if progress:
                progress(first + i + 1, len(wanted))
    new.set(model=model.name_or_path or type(model).__name__, data=f"{len(rows)} texts given from Python", fingerprint=_fingerprint(model))
    load(model, new)
    return new


def _fingerprint(model):
    """By which the program would know the model, where it can open it too: then what is tuned here runs there."""
    try:
        return core.Model(model.name_or_path).fingerprint if model.name_or_path else None
    except (_native.Error, OSError):
        return None

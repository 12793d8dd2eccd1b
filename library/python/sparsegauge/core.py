"""Policies, ledgers and attention on arrays: sparsegauge.h in Python's manner."""

import ctypes as c
import math

from . import _native, _tensors
from ._native import ArgumentError, call, plain, struct

_SIZED = ("model", "fingerprint", "data", "layers", "smooth_k")


def _text(x):
    return None if x is None else str(x).encode()


class Policy(_native.Handle):
    """Which layers and heads run sparse, how tiles are chosen, and what tuning measured.

    >>> p = Policy(2, 4, layers="1", min_sparse_tokens=512)
    >>> p.settings["layers"], p.settings["block"], p.head(1, 3)["cdfthreshd"]
    ('1', '128x64', 0.98)
    """

    _close = "sg_policy_close"

    def __init__(self, n_layers, n_heads, method="sparge", **settings):
        super().__init__()
        self.workspaces = {}
        call("sg_policy_open", c.byref(self.pointer), _text(method), n_layers, n_heads)
        if settings:
            self.set(**settings)

    @classmethod
    def _empty(cls):
        self = cls.__new__(cls)
        _native.Handle.__init__(self)
        self.workspaces = {}
        return self

    @classmethod
    def read(cls, path, n_layers=0, n_heads=0, module=None):
        """From a tuned.json, or a .pt of SpargeAttn, which names neither model nor blocks: give its layers and heads.
        module: which attention modules of a .pt are meant, e.g. "inner_attention"."""
        self = cls._empty()
        call("sg_policy_read", c.byref(self.pointer), _text(path), n_layers, n_heads, _text(module))
        return self

    @classmethod
    def parse(cls, text):
        """From the text of a tuned.json."""
        self, data = cls._empty(), text.encode()
        call("sg_policy_parse", c.byref(self.pointer), data, len(data))
        return self

    def write(self, path, module=None):
        """Into a tuned.json or a .pt, by the name's end."""
        call("sg_policy_write", self.pointer, _text(path), _text(module))

    @property
    def text(self):
        """The tuned.json as text."""
        out = c.c_void_p()
        call("sg_policy_text", self.pointer, c.byref(out))
        try:
            return c.string_at(out).decode()
        finally:
            plain("sg_free", out)

    def set(self, layers=None, layer_range=None, block=None, smooth_k=None, min_sparse_tokens=0, topk=0.0, window=0, model=None,
            fingerprint=None, data=None):
        """What is not given stays. layer_range (10, 30) is the tuning guide's form of layers="10,30": 10 … 29."""
        q, k = 0, 0
        if layer_range is not None:
            if layers is not None:
                raise ArgumentError("layers and layer_range say the same; give one")
            layers = f"{int(layer_range[0])},{int(layer_range[1])}"
        if block is not None:
            try:
                q, k = (int(x) for x in str(block).split("x"))
            except ValueError:
                raise ArgumentError(f'block: found "{block}", expected as in "128x64"') from None
        s = struct(_native.Setting, layers=_text(layers), block_q=q, block_k=k, smooth_k=_text(smooth_k),
                   min_sparse_tokens=min_sparse_tokens, topk=topk, window=window, model=_text(model), fingerprint=_text(fingerprint),
                   data=_text(data))
        call("sg_policy_set", self.pointer, c.byref(s))
        self.workspaces.clear()

    @property
    def settings(self):
        """What the whole policy runs with, as a dictionary: method, layers, block, smooth_k, topk, window, what it was tuned on."""
        s = struct(_native.Setting)
        call("sg_policy_get", self.pointer, c.byref(s))
        return {
            "n_layers": s.n_layers, "n_heads": s.n_heads, "method": s.method.decode(), "layers": s.layers.decode(),
            "block": f"{s.block_q}x{s.block_k}", "smooth_k": s.smooth_k.decode(), "min_sparse_tokens": s.min_sparse_tokens,
            "topk": s.topk, "window": s.window, "model": s.model.decode(), "fingerprint": s.fingerprint.decode(),
            "data": s.data.decode(),
        }

    def head(self, layer, head):
        """Thresholds of a head and what tuning measured; errors are nan where they are not known."""
        h = struct(_native.Head)
        call("sg_policy_head", self.pointer, layer, head, c.byref(h))
        out = {name: getattr(h, name) for name, _ in _native.Head._fields_[1:]}
        for name in ("simthreshd1", "cdfthreshd", "pvthreshd"):
            out[name] = _short(out[name])
        return out | {"in_range": bool(h.in_range), "is_sparse": bool(h.is_sparse)}

    def set_head(self, layer, head, simthreshd1, cdfthreshd, pvthreshd=50.0, is_sparse=True, part=0):
        """Thresholds of one head: simthreshd1 in [-1, 1], cdfthreshd in (0, 1], pvthreshd in [0, 50]; part: which of a mixture's methods."""
        h = struct(_native.Head, is_sparse=bool(is_sparse), simthreshd1=simthreshd1, cdfthreshd=cdfthreshd, pvthreshd=pvthreshd,
                   part=part)
        call("sg_policy_set_head", self.pointer, layer, head, c.byref(h))
        self.workspaces.clear()

    @property
    def verdict(self):
        """How many heads are over their bounds on texts that were held out; "" without any."""
        return plain("sg_policy_verdict", self.pointer).decode()

    def to_frame(self):
        """A row for every head, as a pandas DataFrame."""
        import pandas as pd

        s = self.settings
        return pd.DataFrame([{"layer": i, "head": j, **self.head(i, j)} for i in range(s["n_layers"]) for j in range(s["n_heads"])])

    def __deepcopy__(self, memo):
        return self

    def __reduce__(self):
        raise TypeError("a policy is not pickled; keep policy.text, and Policy.parse() it")

    def __repr__(self):
        s = self.settings
        return f"<Policy {s['method']} of {s['n_layers']} layers x {s['n_heads']} heads, layers {s['layers']}>"

    def _repr_html_(self):
        return self.to_frame()._repr_html_()


def _short(x):
    """The shortest decimal that is the same float."""
    for digits in range(6, 10):
        y = float(f"{x:.{digits}g}")
        if c.c_float(y).value == x:
            return y
    return x


class Ledger:
    """What every head did, counted inside the kernel: counters of [n_layers, n_heads].

    masked: calls that went to torch's attention, because a mask beyond the causal one was given."""

    def __init__(self, n_layers, n_heads):
        self.n_layers, self.n_heads = n_layers, n_heads
        self._array = (_native.Ledger * (n_layers * n_heads))()
        self._masked = [0] * n_layers

    def _at(self, layer):
        return c.byref(self._array, layer * self.n_heads * c.sizeof(_native.Ledger))

    def _sum(self, layer=None):
        total = _native.Ledger()
        cells = range(len(self._array)) if layer is None else range(layer * self.n_heads, (layer + 1) * self.n_heads)
        for i in cells:
            plain("sg_ledger_add", c.byref(total), c.byref(self._array[i]))
        return total

    @property
    def sparsity(self):
        """1 - work done / work possible, both products, over all heads."""
        return plain("sg_sparsity", c.byref(self._sum()))

    @property
    def qk_sparsity(self):
        """Share of the tiles whose Q·K was left out."""
        return plain("sg_qk_sparsity", c.byref(self._sum()))

    @property
    def pv_sparsity(self):
        """Share of the units whose P·V was left out, in tiles left out and in computed ones."""
        return plain("sg_pv_sparsity", c.byref(self._sum()))

    @property
    def layers(self):
        """Sparsity of each layer."""
        return [plain("sg_sparsity", c.byref(self._sum(i))) for i in range(self.n_layers)]

    @property
    def totals(self):
        """Every counter summed over all heads, by the names of library/sparsegauge.h."""
        total = self._sum()
        return {name: getattr(total, name) for name in _native.Ledger.COUNTERS} | {"calls_dense_masked": sum(self._masked) * self.n_heads}

    def head(self, layer, head):
        """The counters of one head, by the names of library/sparsegauge.h."""
        if not (0 <= layer < self.n_layers and 0 <= head < self.n_heads):
            raise ArgumentError(f"layer {layer}, head {head}: expected 0 to {self.n_layers - 1} and 0 to {self.n_heads - 1}")
        x = self._array[layer * self.n_heads + head]
        return {name: getattr(x, name) for name in _native.Ledger.COUNTERS}

    def to_frame(self):
        """A row for every head, as a pandas DataFrame."""
        import pandas as pd

        rows = []
        for i in range(self.n_layers):
            for j in range(self.n_heads):
                x = self._array[i * self.n_heads + j]
                rows.append({"layer": i, "head": j, "sparsity": plain("sg_sparsity", c.byref(x)), **self.head(i, j)})
        return pd.DataFrame(rows)

    def __repr__(self):
        t = self.totals
        dense = {k[12:]: v for k, v in t.items() if k.startswith("calls_dense_") and v}
        return (f"<Ledger: {100 * self.sparsity:.1f} % left out (QK {100 * self.qk_sparsity:.1f} %, PV {100 * self.pv_sparsity:.1f} %) in "
                f"{t['calls_sparse']} sparse head calls; dense: {dense or 'none'}>")

    def _repr_html_(self):
        rows = "".join(f"<tr><td>{i}</td><td>{100 * x:.1f} %</td></tr>" for i, x in enumerate(self.layers))
        return f"<p>{repr(self)[1:-1]}</p><table><tr><th>layer</th><th>left out</th></tr>{rows}</table>"


def _call_of(q, k, v, o, layer, q_start, scale, window, total, kernel):
    def strides(x):
        return (x.strides[1], x.strides[0]) if x is not None else (0, 0)

    pointers = [x.pointer if x is not None else None for x in (q, k, v, o)]
    return _native.Attention(  # by position, in the order of _fields_, which is a third of the time by name
        _ATTENTION_SIZE, q.dtype, q.gpu is not None, q.gpu or 0, None, None, 0, q.shape[1], q_start, q.shape[0], k.shape[0], q.shape[2],
        scale or 0.0, *pointers, *strides(q), *strides(k), *strides(v), *strides(o), layer, window or 0, total or 0, _text(kernel))


_ATTENTION_SIZE = c.sizeof(_native.Attention)


def _check_shapes(q, k, v, q_start):
    if k.shape[2] != q.shape[2] or (v is not None and v.shape != k.shape):
        raise ArgumentError(f"q {q.shape}, k {k.shape}, v {v.shape if v else None}: expected [heads, tokens, head_dim], k and v alike, and "
                            "one head_dim")
    if q_start < 0 or q_start + q.shape[1] != k.shape[1]:
        raise ArgumentError(f"q_start {q_start} and {q.shape[1]} rows of q: expected {k.shape[1]} keys in all, as in k: what k has behind "
                            "the last row is not looked at, so leave it out")
    devices = {x.gpu for x in (q, k, v) if x is not None}
    if len(devices) > 1 or len({x.dtype for x in (q, k, v) if x is not None}) > 1:
        raise ArgumentError("q, k and v: expected tensors of one type on one device")


_sizes = {}


def _workspace_bytes(a, policy, key):
    """What a call on a GPU needs; a prompt's calls of one shape are asked about once, until the policy changes."""
    sizes = policy.workspaces if policy is not None else _sizes
    found = sizes.get(key)
    if found is None:
        n = c.c_size_t()
        call("sg_attention_workspace", c.byref(a), policy.pointer if policy is not None else None, c.byref(n))
        found = n.value
        if a.n_q > 1:
            if len(sizes) > 1000:
                sizes.clear()
            sizes[key] = found
    return found


def run(q, k, v, o, policy, layer, q_start, scale, window, total, kernel, ledger_at, gpu_ledger=None):
    """One call on views; ledger_at: pointer to the layer's counters or None; gpu_ledger: address on the GPU or None."""
    a = _call_of(q, k, v, o, layer, q_start, scale, window, total, kernel)
    pointer = policy.pointer if policy is not None else None
    context = _native.context()
    if q.gpu is not None:
        import torch

        a.stream = torch.cuda.current_stream(q.gpu).cuda_stream
        key = (q.shape, k.shape, q.strides, k.strides, v.strides, o.strides, layer, q_start, window, total, kernel, q.gpu)
        n = _workspace_bytes(a, policy, key)
        if n:
            workspace = torch.empty(n, dtype=torch.uint8, device=q.owner.device)
            a.workspace, a.workspace_bytes = workspace.data_ptr(), n
    call("sg_attention_forward", context.pointer, c.byref(a), pointer, ledger_at, gpu_ledger)


def attention(q, k, v, policy=None, *, layer=0, q_start=None, scale=None, window=None, total=None, out=None, ledger=None, kernel=None):
    """Causal attention on arrays of your own: q [heads, n, d], k and v [kv heads, keys, d], the result like q.

    Row r of q stands at position q_start + r (the last rows, when q_start is not given) and sees all keys up to itself.
    numpy and torch tensors are used where they are, with any strides of heads and tokens: f32 on the CPU, bf16 on a GPU.

    >>> import numpy as np
    >>> x = np.random.default_rng(0).standard_normal((2, 300, 32), dtype=np.float32)
    >>> counted = Ledger(1, 2)
    >>> y = attention(x, x, x, Policy(1, 2, topk=.5), ledger=counted)
    >>> y.shape, counted.sparsity > .1
    ((2, 300, 32), True)
    """
    views = [_tensors.view(name, x) for name, x in (("q", q), ("k", k), ("v", v))]
    if q_start is None:
        q_start = views[1].shape[1] - views[0].shape[1]
    _check_shapes(*views, q_start)
    if out is None:
        out = _tensors.empty_like(views[0], views[0].shape)
    o = _tensors.view("out", out)
    if o.shape != views[0].shape or o.dtype != views[0].dtype or o.gpu != views[0].gpu:
        raise ArgumentError(f"out: found the shape {tuple(o.shape)}, expected {tuple(views[0].shape)}, of q's type and device")
    if ledger is not None and (ledger.n_heads != o.shape[0] or not 0 <= layer < ledger.n_layers):
        raise ArgumentError(f"ledger: of {ledger.n_layers} layers x {ledger.n_heads} heads, the call is of layer {layer} and {o.shape[0]} heads")
    gpu_counts = None
    if ledger is not None and o.gpu is not None:
        import torch

        gpu_counts = torch.zeros(o.shape[0] * c.sizeof(_native.Ledger), dtype=torch.uint8, device=q.device)
    run(*views, o, policy, layer, q_start, scale, window, total, kernel, ledger._at(layer) if ledger is not None else None,
        gpu_counts.data_ptr() if gpu_counts is not None else None)
    if gpu_counts is not None:
        host = gpu_counts.cpu()
        call("sg_gpu_ledger_read", host.data_ptr(), o.shape[0], ledger._at(layer))
    return out


def predict(q, k, policy, *, layer=0, q_start=None, scale=None, total=None):
    """The prediction alone: a numpy array [heads, query blocks, key blocks] of bool, True where a tile would be computed."""
    import numpy as np

    views = [_tensors.view(name, x) for name, x in (("q", q), ("k", k))]
    if q_start is None:
        q_start = views[1].shape[1] - views[0].shape[1]
    _check_shapes(views[0], views[1], None, q_start)
    a = _call_of(*views, None, None, layer, q_start, scale, None, total, None)
    context = _native.context()
    n = [plain(name, c.byref(a), policy.pointer) for name in ("sg_q_blocks", "sg_k_blocks")]
    tiles = np.zeros((a.n_heads, *n), dtype=np.uint8)
    call("sg_attention_predict", context.pointer, c.byref(a), policy.pointer, tiles.ctypes.data, None)
    return tiles.astype(bool)


CHOOSE, CHECK, HELD_OUT = 0, 1, 2


def tune_layer(policy, layer, samples, *, l1=0.06, pv_l1=0.07, rule="l1", min_sparsity=0.1, scale=None):
    """Thresholds for one layer from its q, k and v on some texts, verified, entered into the policy.

    samples: (use, q, k, v) of CHOOSE, then CHECK, then HELD_OUT; f32 on the CPU, [heads, tokens, d], q and k behind the rotation."""
    array, keep = (_native.Sample * len(samples))(), []
    for s, (use, *tensors) in zip(array, samples):
        views = [_tensors.view(name, x) for name, x in zip("qkv", tensors)]
        _check_shapes(*views, 0)
        if views[0].gpu is not None:
            raise _native.NotSupportedError("tuning from tensors works on the CPU; give q.float().cpu()")
        keep.append(views)
        s.size, s.use, s.n_tokens = c.sizeof(_native.Sample), use, views[0].shape[1]
        for name, x in zip("qkv", views):
            setattr(s, name, x.pointer)
            setattr(s, name + "_head", x.strides[0])
            setattr(s, name + "_token", x.strides[1])
    if not keep:
        raise ArgumentError("samples: found none")
    first = keep[0]
    if any(x[0].shape[::2] != first[0].shape[::2] or x[1].shape[::2] != first[1].shape[::2] for x in keep):
        raise ArgumentError("samples: expected the same heads and head_dim in all of them")
    if first[0].shape[0] != policy.settings["n_heads"]:
        raise ArgumentError(f"q of {first[0].shape[0]} heads, the policy is of {policy.settings['n_heads']}; it is of another model")
    t = struct(_native.Tuning, layer=layer, n_kv_heads=first[1].shape[0], head_dim=first[0].shape[2], scale=scale or 0.0,
               samples=c.cast(array, c.POINTER(_native.Sample)), n_samples=len(array), rule=_text(rule), l1=l1, pv_l1=pv_l1,
               min_sparsity=min_sparsity if min_sparsity > 0 else -1)
    context = _native.context()
    call("sg_tune", context.pointer, c.byref(t), policy.pointer)
    policy.workspaces.clear()


class Model(_native.Handle):
    """A checkpoint run by the engine itself: a Hugging Face directory, an id in the hub's cache, or a GGUF file."""

    _close = "sg_model_close"

    def __init__(self, path):
        super().__init__()
        self._context = _native.context()  # outlives the model
        call("sg_model_open", c.byref(self.pointer), self._context.pointer, _text(path))
        s = struct(_native.Shape)
        call("sg_model_shape", self.pointer, c.byref(s))
        self.shape = {name: getattr(s, name) for name in _native.Shape.NUMBERS}

    @property
    def name(self):
        """Of a repository "org/name", else that of its directory or file."""
        return plain("sg_model_name", self.pointer).decode()

    @property
    def fingerprint(self):
        """Hash of weights, configuration and tokenizer, by which a tuned file names its model."""
        return plain("sg_model_fingerprint", self.pointer).decode()

    def ledger(self):
        """A new, empty Ledger of this model's shape, to hand to logits(), loss() or generate()."""
        return Ledger(self.shape["n_layers"], self.shape["n_heads"])

    def encode(self, text):
        """Token ids of a text, int32, with what the tokenizer puts in front."""
        import numpy as np

        data, n = text.encode(), c.c_size_t()
        call("sg_model_encode", self.pointer, data, len(data), None, 0, c.byref(n))
        ids = np.zeros(n.value, dtype=np.int32)
        call("sg_model_encode", self.pointer, data, len(data), ids.ctypes.data, ids.size, c.byref(n))
        return ids

    def decode(self, ids):
        """The text of token ids."""
        ids, out = _ids(ids), c.c_void_p()
        call("sg_model_decode", self.pointer, ids.ctypes.data, ids.size, c.byref(out))
        try:
            return c.string_at(out).decode()
        finally:
            plain("sg_free", out)

    def logits(self, ids, policy=None, ledger=None):
        """[tokens, vocabulary] f32"""
        import numpy as np

        ids = _ids(ids)
        out = np.empty((ids.size, self.shape["vocab_size"]), dtype=np.float32)
        call("sg_model_logits", self.pointer, ids.ctypes.data, ids.size, _pointer(policy), out.ctypes.data, _counters(self, ledger))
        return out

    def loss(self, ids, policy=None, ledger=None):
        """Mean negative log-likelihood of ids[1:], nats."""
        ids, mean = _ids(ids), c.c_double(math.nan)
        call("sg_model_loss", self.pointer, ids.ctypes.data, ids.size, _pointer(policy), None, c.byref(mean), _counters(self, ledger))
        return mean.value

    def generate(self, text_or_ids, policy=None, *, max_new=50, temperature=0.0, top_k=0, top_p=0.0, seed=0, ignore_eos=False, ledger=None):
        """The text, or the ids, that follow; a text for a text."""
        import numpy as np

        is_text = isinstance(text_or_ids, str)
        ids = self.encode(text_or_ids) if is_text else _ids(text_or_ids)
        out, n = np.zeros(max_new, dtype=np.int32), c.c_int()
        g = struct(_native.Generation, max_new=max_new, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed, ignore_eos=ignore_eos)
        call("sg_model_generate", self.pointer, ids.ctypes.data, ids.size, _pointer(policy), c.byref(g), out.ctypes.data, c.byref(n),
             _counters(self, ledger))
        return self.decode(out[: n.value]) if is_text else out[: n.value]


def _ids(x):
    import numpy as np

    x = np.asarray(x)
    if x.ndim != 1 or (x.size and not np.issubdtype(x.dtype, np.integer)):
        raise ArgumentError(f"ids: found {x.dtype} of the shape {x.shape}, expected one row of whole numbers")
    return np.ascontiguousarray(x, dtype=np.int32)


def _pointer(policy):
    return policy.pointer if policy is not None else None


def _counters(model, ledger):
    if ledger is None:
        return None
    if (ledger.n_layers, ledger.n_heads) != (model.shape["n_layers"], model.shape["n_heads"]):
        raise ArgumentError(f"ledger: of {ledger.n_layers} layers x {ledger.n_heads} heads, the model has {model.shape['n_layers']} x "
                            f"{model.shape['n_heads']}")
    return ledger._at(0)

"""libsparsegauge.so through ctypes: the structs and functions of sparsegauge.h, and failures as exceptions."""

import ctypes as c
import os
import sys
import threading
from pathlib import Path

API_VERSION = 1
HERE = Path(__file__).resolve().parent


class Error(RuntimeError):
    """A call that failed; the text is the sentence that the program would print."""

    status = ""


class ArgumentError(Error, ValueError):
    """The request makes no sense."""


class FormatError(Error, ValueError):
    """A file is not what it claims to be."""


class NotSupportedError(Error, NotImplementedError):
    """Understood, and not offered."""


class OutOfMemoryError(Error, MemoryError):
    """Does not fit."""


_ERRORS = {1: ArgumentError, 3: FormatError, 4: OutOfMemoryError, 5: NotSupportedError}


class Ledger(c.Structure):
    COUNTERS = (
        "tiles_possible", "tiles_computed", "pv_units_possible", "pv_units_computed",
        "forced_sink", "forced_diagonal", "forced_theta_q", "forced_theta_k",
        "calls_sparse", "calls_dense_head", "calls_dense_layer", "calls_dense_short", "calls_eight",
        "tiles_corrected", "calls_dense_cost",
    )
    _fields_ = [(name, c.c_uint64) for name in COUNTERS] + [("reserved", c.c_uint64)]


class Setting(c.Structure):
    _fields_ = [
        ("size", c.c_size_t), ("n_layers", c.c_int), ("n_heads", c.c_int), ("method", c.c_char_p),
        ("layers", c.c_char_p), ("block_q", c.c_int), ("block_k", c.c_int), ("smooth_k", c.c_char_p),
        ("min_sparse_tokens", c.c_int), ("topk", c.c_double), ("window", c.c_int), ("model", c.c_char_p),
        ("fingerprint", c.c_char_p), ("data", c.c_char_p),
    ]


class Head(c.Structure):
    _fields_ = [
        ("size", c.c_size_t), ("in_range", c.c_int), ("is_sparse", c.c_int), ("simthreshd1", c.c_float),
        ("cdfthreshd", c.c_float), ("pvthreshd", c.c_float), ("part", c.c_int), ("error", c.c_double),
        ("error_check", c.c_double), ("error_held_out", c.c_double), ("qk_sparsity", c.c_double),
        ("sparsity", c.c_double), ("back_offs", c.c_int),
    ]


_STRIDES = [(f"{x}_{y}", c.c_ssize_t) for x in "qkvo" for y in ("token", "head")]


class Attention(c.Structure):
    _fields_ = [
        ("size", c.c_size_t), ("dtype", c.c_int), ("on_gpu", c.c_int), ("device", c.c_int), ("stream", c.c_void_p),
        ("workspace", c.c_void_p), ("workspace_bytes", c.c_size_t), ("n_q", c.c_int), ("q_start", c.c_int),
        ("n_heads", c.c_int), ("n_kv_heads", c.c_int), ("head_dim", c.c_int), ("scale", c.c_float),
        ("q", c.c_void_p), ("k", c.c_void_p), ("v", c.c_void_p), ("o", c.c_void_p), *_STRIDES,
        ("layer", c.c_int), ("window", c.c_int), ("total", c.c_int), ("kernel", c.c_char_p),
    ]


class Sample(c.Structure):
    _fields_ = [
        ("size", c.c_size_t), ("n_tokens", c.c_int), ("use", c.c_int), ("q", c.c_void_p), ("k", c.c_void_p),
        ("v", c.c_void_p), *_STRIDES[:6], ("name", c.c_char_p),
    ]


class Tuning(c.Structure):
    _fields_ = [
        ("size", c.c_size_t), ("layer", c.c_int), ("n_kv_heads", c.c_int), ("head_dim", c.c_int), ("scale", c.c_float),
        ("samples", c.POINTER(Sample)), ("n_samples", c.c_int), ("rule", c.c_char_p), ("l1", c.c_double),
        ("pv_l1", c.c_double), ("min_sparsity", c.c_double), ("stop", c.c_void_p), ("stop_context", c.c_void_p),
    ]


class Shape(c.Structure):
    NUMBERS = ("n_layers", "n_heads", "n_kv_heads", "head_dim", "hidden_size", "vocab_size", "max_position")
    _fields_ = [("size", c.c_size_t)] + [(name, c.c_int) for name in NUMBERS]


class Generation(c.Structure):
    _fields_ = [
        ("size", c.c_size_t), ("max_new", c.c_int), ("temperature", c.c_double), ("top_k", c.c_int),
        ("top_p", c.c_double), ("seed", c.c_uint64), ("ignore_eos", c.c_int), ("token", c.c_void_p),
        ("token_context", c.c_void_p),
    ]


_P, _I, _S, _D = c.c_void_p, c.c_int, c.c_char_p, c.c_double
_CALLS = {  # what fails by a status
    "sg_open": [_P, _I], "sg_policy_open": [_P, _S, _I, _I], "sg_policy_read": [_P, _S, _I, _I, _S],
    "sg_policy_write": [_P, _S, _S], "sg_policy_text": [_P, _P], "sg_policy_parse": [_P, _S, c.c_size_t],
    "sg_policy_get": [_P, _P], "sg_policy_set": [_P, _P], "sg_policy_head": [_P, _I, _I, _P],
    "sg_policy_set_head": [_P, _I, _I, _P], "sg_attention_forward": [_P, _P, _P, _P, _P],
    "sg_attention_workspace": [_P, _P, _P], "sg_attention_predict": [_P, _P, _P, _P, _P], "sg_tune": [_P, _P, _P],
    "sg_gpu_ledger_read": [_P, _I, _P], "sg_model_open": [_P, _P, _S], "sg_model_shape": [_P, _P],
    "sg_model_encode": [_P, _S, c.c_size_t, _P, c.c_size_t, _P], "sg_model_decode": [_P, _P, c.c_size_t, _P],
    "sg_model_logits": [_P, _P, _I, _P, _P, _P], "sg_model_loss": [_P, _P, _I, _P, _P, _P, _P],
    "sg_model_generate": [_P, _P, _I, _P, _P, _P, _P, _P],
}
_OTHERS = {
    "sg_api_version": ([], _I), "sg_version": ([], _S), "sg_has_cuda": ([], _I), "sg_message": ([], _S),
    "sg_status_name": ([_I], _S), "sg_close": ([_P], None), "sg_policy_close": ([_P], None), "sg_free": ([_P], None),
    "sg_model_close": ([_P], None), "sg_threads": ([_P], _I), "sg_sparsity": ([_P], _D), "sg_qk_sparsity": ([_P], _D),
    "sg_pv_sparsity": ([_P], _D), "sg_ledger_add": ([_P, _P], None), "sg_q_blocks": ([_P, _P], _I),
    "sg_k_blocks": ([_P, _P], _I), "sg_policy_verdict": ([_P], _S), "sg_model_name": ([_P], _S),
    "sg_model_fingerprint": ([_P], _S),
}


def _candidates():
    """Where the library may be: as it was asked for, in the wheel, in a build of the source tree, in the system."""
    asked = os.environ.get("SPARSEGAUGE_LIBRARY")
    if asked:
        yield asked
        return
    for folder in ("lib", "lib64"):
        yield from sorted(map(str, (HERE / folder).glob("libsparsegauge.so.1")))
    yield "libsparsegauge.so.1"


def _load():
    tried = []
    for path in _candidates():
        try:
            library = c.CDLL(path)
        except OSError as e:
            tried.append(f"{path}: {e}")
            continue
        library.sg_api_version.restype = c.c_int
        if library.sg_api_version() != API_VERSION:
            raise ImportError(f"{path} has interface {library.sg_api_version()}, this module needs {API_VERSION}; "
                              "install both from one version")
        return library, path
    raise ImportError("libsparsegauge.so.1 was not found (" + "; ".join(tried) + "); `pip install .` in the source tree "
                      "builds it, or set SPARSEGAUGE_LIBRARY to its path")


_library, path = _load()
for _name, _types in _CALLS.items():
    getattr(_library, _name).argtypes = _types
    getattr(_library, _name).restype = c.c_int
for _name, (_types, _result) in _OTHERS.items():
    getattr(_library, _name).argtypes = _types
    getattr(_library, _name).restype = _result


def plain(name, *args):
    return getattr(_library, name)(*args)


def call(name, *args):
    status = getattr(_library, name)(*args)
    if status:
        message = _library.sg_message().decode("utf-8", "replace")
        kind = OSError if status == 2 else _ERRORS.get(status, Error)
        error = kind(message)
        error.status = _library.sg_status_name(status).decode()
        raise error


def struct(kind, **members):
    s = kind(**members)
    s.size = c.sizeof(kind)
    return s


class Handle:
    """Something that the library opened, closed when nobody has it any more."""

    _close = None

    def __init__(self):
        self.pointer = c.c_void_p()

    def __del__(self, _library=_library):
        pointer = getattr(self, "pointer", None)
        if pointer and pointer.value and self._close:
            getattr(_library, self._close)(c.byref(pointer))


class Context(Handle):
    _close = "sg_close"

    def __init__(self, n_threads=0):
        super().__init__()
        call("sg_open", c.byref(self.pointer), n_threads)


_lock = threading.Lock()
_contexts = {}


def context():
    """The context of this process: a forked child (a DataLoader's worker) opens its own."""
    with _lock:
        pid = os.getpid()
        if pid not in _contexts:
            _contexts[pid] = Context(int(os.environ.get("SPARSEGAUGE_THREADS", "0")))
        return _contexts[pid]


def set_threads(n_threads):
    """How many threads attention and tuning use, 0: one for each processor that this process may run on."""
    with _lock:
        _contexts[os.getpid()] = Context(n_threads)


def program():
    """Path of the `sparsegauge` program that came with this module, else of the one on PATH."""
    import shutil

    asked = os.environ.get("SPARSEGAUGE_PROGRAM")
    inside = HERE / "bin" / "sparsegauge"
    found = asked or (str(inside) if inside.is_file() else shutil.which("sparsegauge"))
    if not found:
        raise FileNotFoundError("the program sparsegauge is neither beside this module nor on PATH; `pip install .` in the "
                                "source tree builds it, or set SPARSEGAUGE_PROGRAM to its path")
    return found


def main():
    os.execv(program(), ["sparsegauge", *sys.argv[1:]])

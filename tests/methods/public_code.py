"""The methods' own public code, imported from checkouts of the user's: `check_methods.py FOLDER --public DIR`.

DIR holds any of these, as `git clone` names them; a method whose checkout is not there is said to be left out:
    x-attention   https://github.com/mit-han-lab/x-attention       xattention
    FlexPrefill   https://github.com/ByteDance-Seed/FlexPrefill    flexprefill
    prism         https://github.com/xinghaow99/prism              prism
    MInference    https://github.com/microsoft/MInference          minference
    FlashPrefill  https://github.com/qhfan/FlashPrefill            flashprefill
    SpargeAttn    https://github.com/thu-ml/SpargeAttn             sparge
    AngelSlim     https://github.com/Tencent/AngelSlim             stem
    sglang        https://github.com/sgl-project/sglang            subblock (or the wheel of that name, unpacked)

Their functions that choose blocks are called as they are, in float32, on the GPU when there is one. Packages that they import and that
choosing needs nothing of (attention kernels, transformers) are stood in for by empty ones. Without a GPU their Triton kernels run in
Triton's interpreter, but for xattention and prism, which have torch code of their own, and flexprefill's mean of a block, which is a
torch mean. Kernels that tune themselves run in their first configuration. What a method says of a whole attention call is caught where
it hands its choice to the kernel that attends.
"""
import functools
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import math
import os
import sys
import types
from unittest.mock import MagicMock

import torch

CUDA = torch.cuda.is_available()
os.environ.setdefault("TRITON_F32_DEFAULT", "ieee")  # products of float32 are to be that
if not CUDA:
    os.environ.setdefault("TRITON_INTERPRET", "1")
STOOD_IN = ("block_sparse_attn", "flash_attn", "einops", "transformers", "fla", "vllm", "vllm_flash_attn", "sgl_kernel", "msgspec",
            "minference.cuda", "minference.modules.flexprefill", "minference.modules.kvcompression", "minference.modules.quest",
            "minference.modules.snapkv")
TORCH_ALONE = ("xattn", "flex_prefill", "prism")  # that do without Triton where there is no GPU


class Empty(MagicMock):
    __path__ = []


class StandIn(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Before all other finders, while a file of a checkout is imported: torch looks for Triton too, and shall not find this one."""

    def __init__(self, names):
        self.names = names

    def stands_in(self, name):
        return any(name == s or name.startswith(s + ".") for s in self.names)

    def find_spec(self, name, path=None, target=None):
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if self.stands_in(name) else None

    def create_module(self, spec):
        module = Empty(name=spec.name)
        module.autocast_custom_fwd = module.contiguous = lambda f: f  # of fla.utils
        module.__all__, module.torch, module.math = ["torch", "math"], torch, math  # what MInference takes from its neighbours by *
        return module

    def exec_module(self, module):
        pass


def rearrange(x, pattern, **_):
    """Of einops, what FlexPrefill asks for."""
    assert pattern == "b h g i j -> b (h g) i j", pattern
    return x.flatten(1, 2)


def as_it_is(function=None, **_):
    return function or (lambda f: f)


PLACES = torch.arange


def arange(*a, device=None, **k):
    return PLACES(*a, device=device if CUDA or device != "cuda" else None, **k)


class First:
    def __init__(self, kernel, config):
        self.kernel, self.config = kernel, config

    def __getitem__(self, grid):
        return lambda *a, **k: self.kernel[grid](*a, **self.config.kwargs, **k)


def first_configuration(configs, **_):
    return lambda kernel: First(kernel, configs[0])


@functools.cache
def interpreter_takes_any_mask():
    """A mask that is the product of two comparisons is of 32 bits in the interpreter, and its stores refuse that."""
    if CUDA:
        return
    from triton.runtime.interpreter import InterpreterBuilder as Builder
    store, load = Builder.create_masked_store, Builder.create_masked_load

    def as_bool(mask):
        mask.data = mask.data.astype(bool)
        return mask

    Builder.create_masked_store = lambda self, where, what, mask, *a: store(self, where, what, as_bool(mask), *a)
    Builder.create_masked_load = lambda self, where, mask, *a: load(self, where, as_bool(mask), *a)


class WideTorch:
    bfloat16 = torch.float32

    def __getattr__(self, name):
        return getattr(torch, name)


class Caught(Exception):
    """What was handed to the kernel that would attend."""


def catch(*a, **_):
    raise Caught(*a)


class CaughtKernel:
    def __getitem__(self, grid):
        return catch


def caught(call):
    try:
        call()
    except Caught as e:
        return e.args
    raise AssertionError("no kernel was called")


def module_of(public, checkout, name):
    """One file of a checkout, without its packages' __init__, which import all of a server."""
    root = os.path.join(public, checkout)
    if not os.path.isdir(root):
        return None
    if name in sys.modules:
        return sys.modules[name]
    parts = name.split(".")
    for i in range(1, len(parts)):
        parent = ".".join(parts[:i])
        if parent not in sys.modules:
            spec = importlib.machinery.ModuleSpec(parent, None, is_package=True)
            spec.submodule_search_locations = [os.path.join(root, *parts[:i])]
            sys.modules[parent] = importlib.util.module_from_spec(spec)
    stand_in = StandIn(STOOD_IN + (("triton",) if not CUDA and parts[0] in TORCH_ALONE else ()))
    mine = lambda: [n for n in sys.modules if stand_in.stands_in(n)]
    own = {n: sys.modules.pop(n) for n in mine()}
    compiled, places, torch.compile, torch.arange = torch.compile, torch.arange, as_it_is, arange
    if "triton" not in stand_in.names:
        import triton
        interpreter_takes_any_mask()
        tuned, triton.autotune = triton.autotune, first_configuration
    sys.meta_path.insert(0, stand_in)
    try:
        return importlib.import_module(name)
    finally:
        sys.meta_path.pop(0)
        torch.compile, torch.arange = compiled, places
        if "triton" not in stand_in.names:
            triton.autotune = tuned
        for n in mine():
            del sys.modules[n]
        sys.modules.update(own)


TO = torch.Tensor.to
if not CUDA:  # "cuda" is where the tensors are
    torch.Tensor.to = lambda x, *a, **k: x if a == ("cuda",) else TO(x, *a, **k)


def on_device(x):
    return x.float().cuda() if CUDA else x.float()


def xattention(public, c):
    """Query blocks go through it in chunks. In the first chunk the mark of the sink is written over by that of the diagonal
    (find_blocks_chunked), so that the sink is ranked there like any tile and up to one tile more is kept; later chunks are as the
    paper has them, and are what is compared."""
    m = module_of(public, "x-attention", "xattn.src.Xattention")
    if m is None or c.bq != c.bk or c.n % 1024 == 0:  # without padding its torch code hides every key
        return None
    _, mask = m.xattn_estimate(on_device(c.q)[None], on_device(c.k)[None], c.bq, int(c.value("stride", 8)), threshold=c.m["keep"],
                               chunk_size=1024, use_triton=CUDA)
    c.first_row = 1024 // c.bq
    return mask[0, :, :c.nq, :c.nk].cpu()


def flexprefill(public, c):
    m = module_of(public, "FlexPrefill", "flex_prefill.ops.flex_prefill_attention")
    if m is None:
        return None
    if c.n <= 2 * c.bq:
        return None
    m.rearrange = rearrange
    if not CUDA:
        def mean(x, size):
            n = x.shape[1]
            pad = torch.nn.functional.pad(x, (0, 0, 0, 0, 0, -n % size)).view(x.shape[0], -1, size, *x.shape[2:]).sum(2)
            return pad / torch.tensor([min(size, n - i) for i in range(0, n, size)])[None, :, None, None]
        m.triton_bnhd_pool = mean
    m.causal_mask = None
    heads = c.q.shape[0]
    q, k, v = (on_device(x).transpose(0, 1)[None].contiguous() for x in (c.q, c.k[::c.group], c.v[::c.group]))
    blocks = m.get_active_blocks(q, k, v, c.bq, c.value("gamma", .9), int(c.value("least", 1)), c.nq, c.value("tau", .1))
    kept = torch.zeros(heads, c.nq * c.nk, dtype=torch.bool)
    for h in range(heads):
        kept[h, blocks[0][h].cpu()] = True
    return kept.view(heads, c.nq, c.nk)


def prism(public, c):
    m = module_of(public, "prism", "prism.prism")
    if m is None or c.bq != c.bk:
        return None
    pad = lambda x: torch.nn.functional.pad(on_device(x), (0, 0, 0, -c.n % c.bq))[None]
    even = lambda share: 2 * int(share * c.d / 2 + .5)
    estimate = getattr(m.prism_block_estimate, "__wrapped__", m.prism_block_estimate)
    mask = estimate(pad(c.q), pad(c.k), low_freq_dim=even(c.value("low", .75)), high_freq_dim=even(c.value("high", .5)), block_size=c.bq,
                    low_freq_threshold=c.m["keep"], high_freq_threshold=c.m["keep"])
    return mask[0].cpu()


def minference(public, c):
    """Which keys and distances it chooses; a tile is kept that holds any of them. (Its kernel gathers the keys one by one.)"""
    m = module_of(public, "MInference", "minference.modules.minference_forward")
    if m is None or (c.bq, c.bk) != (64, 64):  # its blocks
        return None
    m.vertical_slash_sparse_attention = m.streaming_forward = m.block_sparse_attention = catch
    name = ("vertical_and_slash", "stream_llm", "block_sparse")[c.m["pattern"]]
    heads = c.q.shape[0]
    settings = types.SimpleNamespace(head_dim=c.d, config=types.SimpleNamespace(to_dict=dict),
                                     best_pattern={h: (name, c.m["vertical"], c.m["slash"], 1) for h in range(heads)})
    token, key = torch.arange(c.n)[:, None], torch.arange(c.n)[None, :]
    kept = torch.zeros(heads, c.nq, c.nk, dtype=torch.bool)
    for h in range(heads):
        q, k, v = (on_device(x[h])[None, None] for x in (c.q, c.k, c.v))
        chosen = caught(lambda: m.gather_last_q_vertical_slash_topk_v4(settings, q, k, v, h))[3:]
        if name == "block_sparse":
            blocks = sys.modules["minference.ops.block_sparse_flash_attention"]._build_block_index(
                *(torch.nn.functional.pad(x, (0, 0, 0, -c.n % 64)) for x in (q, k)), int(c.value("blocks", chosen[0])))
            kept[h].scatter_(1, blocks[0, 0].long().cpu(), True)
            continue
        if name == "stream_llm":
            entries = (key < chosen[0]) | (token - key < chosen[1])
        else:
            keys, distances = (torch.zeros(c.n, dtype=torch.bool).index_fill_(0, x.flatten().long().cpu(), True) for x in chosen)
            entries = keys[None, :] | distances[(token - key).clamp(min=0)]
        entries = torch.nn.functional.pad(entries & (key <= token), (0, c.nk * c.bk - c.n, 0, c.nq * c.bq - c.n))
        kept[h] = entries.view(c.nq, c.bq, c.nk, c.bk).any(3).any(1)
    return kept


def flashprefill(public, c):
    m = module_of(public, "FlashPrefill", "ops.flashprefill_native_forward")
    if m is None or c.bq != c.bk:
        return None
    m._flash_forward = CaughtKernel()
    q, k, v = (on_device(x).transpose(0, 1)[None].contiguous() for x in (c.q, c.k[::c.group], c.v[::c.group]))
    index, counts = caught(lambda: m.FlashPrefill.forward(
        None, q, k, v, torch.empty_like(q), c.bq, c.bq, int(c.value("sink", 2)), int(c.value("window", 4)), 1 - c.m["keep"],
        int(c.value("last", 2))))[4:6]  # [1, query blocks, key blocks, heads], how many of a row count
    kept = torch.zeros(1, c.nq, c.nk + 1, c.q.shape[0], dtype=torch.bool)
    kept.scatter_(2, torch.where(torch.arange(c.nk)[None, None, :, None] < counts[:, :, None].cpu(), index.cpu(), c.nk), True)
    return kept[0, :, :c.nk].permute(2, 0, 1)


def sparge(public, c):
    """With its mean over the whole sequence taken off the keys, as it does (--smooth-k global). Of its fraction (--topk) it counts all
    key blocks in every row, so that upper rows are dense: another budget, which is not compared."""
    m = module_of(public, "SpargeAttn", "spas_sage_attn.utils")
    if m is None or c.m.get("smooth_k", "running") != "global" or c.m["topk"]:
        return None
    q, k = on_device(c.q)[None].contiguous(), on_device(c.k)[None].contiguous()
    return m.get_block_map_meansim_fuse_quant(q, k, k.mean(-2, keepdim=True), is_causal=True, BLKQ=c.bq, BLKK=c.bk, simthreshd1=c.m["theta"],
                                              cdfthreshd=c.m["keep"])[0][0].bool().cpu()


def stem(public, c):
    """Scores are theirs, and what a row keeps of them is the budget of here: theirs has one for each of three lengths, and below 56
    blocks keeps all. Its scores are divided by the root of head_dim and by the stride and a value counts .2; with norm set so both
    weigh as here. It leaves a group that is not full out of the spread of values."""
    m = module_of(public, "AngelSlim", "angelslim.compressor.sparsity.algorithms.stem.backends.torch_impl")
    if m is None or c.bq != c.bk or c.n % c.bq:
        return None
    stride = int(c.value("stride", 16))
    norm = c.value("lambda", .3) / (.2 * math.sqrt(c.d) * stride)
    score = m._compute_triton_block_logits(*(on_device(x)[None] for x in (c.q, c.k, c.v)), block_size=c.bq, stride=stride, chunk_size=2048,
                                           norm=norm, causal=True)[0].double().cpu()
    budget = torch.ceil(c.m["keep"] * c.nk * (1 - .3 * torch.arange(c.nq, dtype=torch.float64) / c.nq) - 1e-9)
    i, j = torch.arange(c.nq)[:, None], torch.arange(c.nk)[None, :]
    return c.best_of_row(score, budget) | (j < c.value("sink", 4)) | (j > i - c.value("window", 4))


def subblock(public, c):
    """It is for attention that is not causal: every row is scored with the keys that it may see, and the tile on the diagonal, whose
    parts it does not tell apart, is given the score of here. Its budget is rounded up to a multiple of eight, which is not compared.
    It rounds the means of parts to bf16, which moves a tile here and there. Triton's interpreter has no products of bf16: there they are
    kept in float32 once they are rounded."""
    root = "sglang/python" if os.path.isdir(os.path.join(public, "sglang/python")) else "."
    if not os.path.isdir(os.path.join(public, "sglang")) or (c.bq, c.bk) != (64, 64):
        return None
    m = module_of(public, root, "sglang.multimodal_gen.runtime.layers.attention.backends.subblock_sparse.router")
    router = m.SubBlockRouter(n_k=int(c.value("keys", 4)), n_q=int(c.value("queries", 4)))
    q, k = (on_device(x).transpose(0, 1)[None].contiguous() for x in (c.q, c.k))
    if not CUDA:
        m.torch = WideTorch()
    score = router.scores(q, k, c.scale)[0].double().cpu()
    i = torch.arange(c.nq)
    score[:, i, i] = c.subblock_score[:, i, i]
    return c.best_of_row(score, torch.ceil(c.possible.sum(-1) * c.m["keep"] - 1e-10))


PUBLIC = {f.__name__: f for f in (xattention, flexprefill, prism, minference, flashprefill, sparge, stem, subblock)}

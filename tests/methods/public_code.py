"""The methods' own public code, imported from checkouts of the user's: `check_methods.py FOLDER --public DIR`.

DIR holds any of these, as `git clone` names them; a method whose checkout is not there is said to be left out:
    x-attention   https://github.com/mit-han-lab/x-attention       xattention
    FlexPrefill   https://github.com/ByteDance-Seed/FlexPrefill    flexprefill
    prism         https://github.com/xinghaow99/prism              prism

Their functions that choose blocks are called as they are, in float32, on the GPU when there is one. Packages that they import and that
choosing needs nothing of (block_sparse_attn, flash_attn, transformers) are stood in for by empty ones; so is Triton without a GPU,
 where xattention and prism have torch code of their own, and flexprefill's Triton mean of a block is a torch mean.
"""
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from unittest.mock import MagicMock

import torch

CUDA = torch.cuda.is_available()
STOOD_IN = ("block_sparse_attn", "flash_attn", "einops", "transformers") + (() if CUDA else ("triton",))


class Empty(MagicMock):
    __path__ = []


class StandIn(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Before all other finders, while a file of a checkout is imported: torch looks for Triton too, and shall not find this one."""

    def find_spec(self, name, path=None, target=None):
        if any(name == s or name.startswith(s + ".") for s in STOOD_IN):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        return Empty(name=spec.name)

    def exec_module(self, module):
        pass


def rearrange(x, pattern, **_):
    """Of einops, what FlexPrefill asks for."""
    assert pattern == "b h g i j -> b (h g) i j", pattern
    return x.flatten(1, 2)


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
    mine = lambda: [n for n in sys.modules if any(n == s or n.startswith(s + ".") for s in STOOD_IN)]
    own = {n: sys.modules.pop(n) for n in mine()}
    sys.meta_path.insert(0, StandIn())
    try:
        return importlib.import_module(name)
    finally:
        sys.meta_path.pop(0)
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


PUBLIC = {f.__name__: f for f in (xattention, flexprefill, prism)}

"""Tensors of numpy and torch as pointers and strides, without copies; torch is not needed for numpy's."""

import sys

from ._native import ArgumentError, NotSupportedError

DTYPE_F32, DTYPE_BF16 = 0, 2


class View:
    """A [heads, tokens, head_dim] tensor where it is."""

    __slots__ = ("pointer", "shape", "strides", "dtype", "gpu", "owner")

    def __init__(self, pointer, shape, strides, dtype, gpu, owner):
        self.pointer, self.shape, self.strides, self.dtype, self.gpu, self.owner = pointer, shape, strides, dtype, gpu, owner


def _is_torch(x):
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def _of_torch(name, x, torch):
    """The usual tensor in few steps: a model makes four of these in each of its layers."""
    device, dtype = x.device, x.dtype
    kind = device.type
    if kind not in ("cpu", "cuda"):
        raise NotSupportedError(f"{name}: found a tensor on {device}, expected one on the CPU or a CUDA device")
    if x.layout is not torch.strided:
        raise NotSupportedError(f"{name}: found the layout {x.layout}, expected a strided tensor")
    gpu = None if kind == "cpu" else device.index
    number = DTYPE_F32 if dtype is torch.float32 else DTYPE_BF16 if dtype is torch.bfloat16 else None
    return number, tuple(x.shape), x.stride(), gpu, x.data_ptr(), dtype


def view(name, x):
    """x: [heads, tokens, head_dim], f32 on the CPU or bf16 on a GPU, the last dimension contiguous."""
    if _is_torch(x):
        dtype, shape, strides, gpu, pointer, found = _of_torch(name, x, sys.modules["torch"])
    else:
        import numpy as np

        if not isinstance(x, np.ndarray):
            raise ArgumentError(f"{name}: found {type(x).__name__}, expected a numpy array or a torch tensor")
        dtype, shape, gpu, found = (DTYPE_F32 if x.dtype == np.float32 else None), x.shape, None, str(x.dtype)
        if any(s % x.itemsize for s in x.strides):
            raise ArgumentError(f"{name}: strides of {x.strides} bytes are no multiples of an element")
        strides, pointer = tuple(s // x.itemsize for s in x.strides), x.__array_interface__["data"][0]
    if dtype is None or (dtype == DTYPE_F32) == (gpu is not None):
        raise NotSupportedError(f"{name}: found {found} on the {'CPU' if gpu is None else 'GPU'}, expected float32 on the CPU or "
                                "bfloat16 on a GPU")
    if len(shape) != 3:
        raise ArgumentError(f"{name}: found the shape {tuple(shape)}, expected [heads, tokens, head_dim]")
    if shape[2] > 1 and strides[2] != 1:
        raise ArgumentError(f"{name}: found a last dimension with a stride of {strides[2]}, expected a contiguous one; "
                            "call .contiguous() or numpy.ascontiguousarray() first")
    return View(pointer, shape, strides, dtype, gpu, x)


def empty_like(v, shape):
    """A new contiguous tensor of that shape, of v's kind and place."""
    if _is_torch(v.owner):
        torch = sys.modules["torch"]
        return torch.empty(shape, dtype=v.owner.dtype, device=v.owner.device)
    import numpy as np

    return np.empty(shape, dtype=np.float32)

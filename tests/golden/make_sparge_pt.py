"""Files as SpargeAttn's tuner saves them, as torch.save varies them, and a look into what we write.

    python3 tests/golden/make_sparge_pt.py            writes sparge_*.pt beside this script
    python3 tests/golden/make_sparge_pt.py --show F   loads F with weights_only and prints every tensor

A model of 4 layers and 3 heads, of which layers 1 and 3 were tuned. Head 1 of layer 1 is dense. Every
readable file holds the same thresholds, all of which bfloat16 and half hold exactly. Runs give equal
bytes, except in sparge_legacy.pt, which holds addresses.
"""

import collections
import io
import os
import sys
import zipfile

import torch

HERE = os.path.dirname(os.path.abspath(__file__))
GUIDE = "model.layers.%d.self_attn.sparse_attn.%s"
VALUES = {
    1: dict(
        is_sparse=[True, False, True],
        cdfthreshd=[0.96875, 1.0, 0.875],
        simthreshd1=[-0.9375, 1.0, 0.3125],
        simthreshd2=[0.0, 0.0, 0.0],
        pvthreshd=[4.5, 49.75, 20.0],
    ),
    3: dict(
        is_sparse=[True, True, True],
        cdfthreshd=[0.5, 0.25, 0.9375],
        simthreshd1=[-1.0, 0.0625, 0.5],
        simthreshd2=[0.0, 0.0, 0.0],
        pvthreshd=[0.25, 50.0, 12.0],
    ),
}


def tensors(pattern=GUIDE, values=VALUES, cast=lambda name, t: t):
    out = {}
    for layer, fields in values.items():
        for name, v in fields.items():
            t = torch.tensor(v, dtype=torch.bool if name == "is_sparse" else torch.float32)
            out[pattern % (layer, name)] = cast(name, t)
    return out


def save(name, obj, **options):
    torch.save(obj, os.path.join(HERE, "sparge_%s.pt" % name), **options)


def state_dict_of_a_model():
    """A real state_dict: an OrderedDict with _metadata, under a longer prefix, with weights beside it."""
    model = torch.nn.Module()
    model.model = torch.nn.Module()
    model.model.model = torch.nn.Module()
    model.model.model.layers = torch.nn.ModuleList(torch.nn.Module() for _ in range(4))
    for layer in model.model.model.layers:
        layer.self_attn = torch.nn.Module()
        layer.self_attn.q_proj = torch.nn.Linear(2, 2, bias=False)
        torch.nn.init.zeros_(layer.self_attn.q_proj.weight)
    for layer, fields in VALUES.items():
        module = torch.nn.Module()
        for name, v in fields.items():
            t = torch.tensor(v, dtype=torch.bool if name == "is_sparse" else torch.float32)
            setattr(module, name, torch.nn.Parameter(t, requires_grad=False))
        model.model.model.layers[layer].self_attn.inner_attention = module
    return model.state_dict()


def mixed(name, t):
    return t.to({"is_sparse": torch.uint8, "cdfthreshd": torch.float64, "simthreshd1": torch.float16,
                 "simthreshd2": torch.int64, "pvthreshd": torch.bfloat16}[name])


def strided():
    """Views of shared storages: columns, the begin of a row, every second element, an expanded zero."""
    out = {}
    for layer, fields in VALUES.items():
        table = torch.full((5, 4), -7.0)
        table[1:4, 1] = torch.tensor(fields["cdfthreshd"])
        table[1:4, 2] = torch.tensor(fields["simthreshd1"])
        table[4, 0:3] = torch.tensor(fields["pvthreshd"])
        zero = torch.zeros(1).expand(3)
        flags = torch.ones(8, dtype=torch.bool)
        flags[2::2] = torch.tensor(fields["is_sparse"])
        columns = dict(is_sparse=flags[2::2], cdfthreshd=table[1:4, 1], simthreshd1=table[1:4, 2],
                       simthreshd2=zero, pvthreshd=table[4, 0:3])
        for name, t in columns.items():
            out[GUIDE % (layer, name)] = t
    return out


def save_as_cuda(obj):
    """The locations that tensors on a GPU are saved with; no GPU is needed to write the word."""
    torch.serialization.register_package(0, lambda storage: "cuda:0", lambda storage, location: None)
    try:
        save("cuda", obj)
    finally:
        torch.serialization._package_registry[:] = [
            entry for entry in torch.serialization._package_registry if entry[0] != 0]


def repack(name, compression, drop=()):
    data = io.BytesIO()
    torch.save(tensors(), data)
    path = os.path.join(HERE, "sparge_%s.pt" % name)
    with zipfile.ZipFile(data) as old, zipfile.ZipFile(path, "w", compression) as new:
        for entry in old.infolist():
            if entry.filename.split("/", 1)[1] in drop:
                continue
            new.writestr(zipfile.ZipInfo(entry.filename, (1980, 1, 1, 0, 0, 0)), old.read(entry), compression)


class Dangerous:
    def __reduce__(self):
        return os.system, ("true",)


def make():
    save("plain", tensors())
    save("ordered", state_dict_of_a_model())
    save("parameters", collections.OrderedDict(
        (k, torch.nn.Parameter(t, requires_grad=False)) for k, t in tensors().items()))
    save("mixed", dict(tensors(cast=mixed), note="tuned", bounds=[0.06, 0.07],
                       steps=(1, 300, 70000, -1, 1 << 40), nested={"a": None, "b": False}))
    save("bf16", tensors(cast=lambda name, t: t.to(torch.bfloat16)))
    save("strided", strided())
    save_as_cuda(tensors())
    save("proto4", tensors(), pickle_protocol=4)
    save("blocks", tensors(pattern="transformer_blocks.%d.attn1.inner_attention.%s"))
    newer = ("byteorder", ".format_version", ".storage_alignment", ".data/serialization_id")
    repack("old", zipfile.ZIP_STORED, drop=newer)
    repack("deflate", zipfile.ZIP_DEFLATED)
    save("legacy", tensors(), _use_new_zipfile_serialization=False)
    save("dangerous", dict(tensors(), extra=Dangerous()))
    save("nan", tensors(values={1: dict(VALUES[1], cdfthreshd=[0.5, float("nan"), 0.5])}))
    save("range", tensors(values={1: dict(VALUES[1], pvthreshd=[0.5, 20.0, 50.5])}))
    save("missing", tensors(values={1: {k: v for k, v in VALUES[1].items() if k != "pvthreshd"}}))
    save("other", {"model.embed_tokens.weight": torch.zeros(2, 2)})
    save("list", [torch.zeros(2)])


def show(path):
    for key, t in torch.load(path, weights_only=True).items():
        values = " ".join("%.9g" % v for v in t.flatten().to(torch.float64).tolist())
        print(key, t.dtype, list(t.shape), list(t.stride()), t.device, values)


if len(sys.argv) == 3 and sys.argv[1] == "--show":
    show(sys.argv[2])
elif len(sys.argv) == 1:
    make()
else:
    sys.exit(__doc__)

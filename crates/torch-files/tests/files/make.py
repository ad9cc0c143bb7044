#!/usr/bin/env python3
"""Writes the files in this folder with PyTorch: python make.py

Each readable NAME.pt comes with NAME.safetensors, which has its values as contiguous tensors, and NAME.json, which has
the order of its names. The files were written with torch 2.10.0.
"""

import json
import os
import pathlib
import pickle
import warnings
import zipfile
from collections import OrderedDict

import torch
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).resolve().parent
warnings.filterwarnings("ignore")
torch.manual_seed(0)

# Float32 values that a conversion may easily change.
AWKWARD = torch.tensor([0.0, -0.0, float("inf"), float("-inf"), float("nan"), 1e-45, 1.1754942e-38, 3.4028235e38, 1 / 3])


def values(state):
    return {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}


def write(name, state, **options):
    torch.save(state, HERE / f"{name}.pt", **options)
    save_file(values(state), HERE / f"{name}.safetensors")
    (HERE / f"{name}.json").write_text(json.dumps(list(state)))


class Network(torch.nn.Module):
    """A network with normalization, whose buffers include a long scalar."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Conv2d(3, 4, 3)
        self.norm = torch.nn.BatchNorm2d(4)
        self.last = torch.nn.Linear(4, 2)


def plain():
    return {"weight": torch.randn(3, 4), "bias": AWKWARD.clone(), "scalar": torch.tensor(2.5), "empty": torch.zeros(0, 3)}


def views():
    """Tensors that share storages, in all ways that occur in a state dict."""
    base = torch.arange(24, dtype=torch.float32) / 7
    weight = torch.randn(5, 6)
    return OrderedDict(
        whole=base,
        part=base[5:11],
        transposed=weight.t(),
        strided=base[::3],
        columns=weight[1:4, ::2],
        permuted=base.view(2, 3, 4).permute(2, 0, 1),
        channels_last=torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        expanded=torch.tensor([1.5, 2.5]).expand(3, 2),
        one=base[7],
    )


def types():
    state = OrderedDict()
    for dtype in [torch.float16, torch.bfloat16, torch.float32, torch.float64]:
        state[str(dtype)] = torch.cat([AWKWARD.to(dtype), torch.randn(5).to(dtype)])
    for dtype in [torch.int8, torch.int16, torch.int32, torch.int64]:
        state[str(dtype)] = torch.tensor([0, -1, 100, torch.iinfo(dtype).min, torch.iinfo(dtype).max], dtype=dtype)
    state["torch.uint8"] = torch.tensor([0, 1, 255], dtype=torch.uint8)
    state["torch.bool"] = torch.tensor([True, False, True])
    return state


def newer_types():
    """Types without a storage class, which torch saves as bytes."""
    return {
        "torch.uint16": torch.tensor([0, 1, 65535], dtype=torch.uint16),
        "torch.uint32": torch.tensor([0, 1, 2**32 - 1], dtype=torch.uint32),
        "torch.uint64": torch.tensor([0, 1, 2**63], dtype=torch.uint64),
    }


def parameters():
    parameter = torch.nn.Parameter(torch.randn(3, 2))
    return OrderedDict(parameter=parameter, frozen=torch.nn.Parameter(torch.randn(2), requires_grad=False), tied=parameter)


class Command:
    """Executes a program when Python unpickles it."""

    def __reduce__(self):
        return os.system, ("touch /tmp/admiral-torch-files-was-here",)


def without_data_descriptor(source, target, compression):
    """Repacks an archive with Python."""
    with zipfile.ZipFile(HERE / source) as old, zipfile.ZipFile(HERE / target, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))


def main():
    old = {"_use_new_zipfile_serialization": False}
    for protocol in [2, 3, 4, 5]:
        write(f"plain-{protocol}", plain(), pickle_protocol=protocol)
        write(f"old-{protocol}", plain(), pickle_protocol=protocol, **old)
    for name, state in [
        ("module", Network().state_dict()),
        ("views", views()),
        ("types", types()),
        ("parameters", parameters()),
    ]:
        write(name, state)
        write(f"old-{name}", state, **old)
    write("newer-types", newer_types())

    # Without checksums; torch has an option for that.
    torch.serialization.set_crc32_options(False)
    write("no-checksums", plain())
    torch.serialization.set_crc32_options(True)

    without_data_descriptor("plain-2.pt", "deflated.pt", zipfile.ZIP_DEFLATED)
    without_data_descriptor("plain-2.pt", "repacked.pt", zipfile.ZIP_STORED)

    # Files that must be refused.
    torch.save({"weight": torch.ones(2), "command": Command()}, HERE / "malicious.pt")
    torch.save({"weight": torch.ones(2), "command": Command()}, HERE / "old-malicious.pt", **old)
    torch.save({"state_dict": plain(), "epoch": 3}, HERE / "nested.pt")
    torch.save({"weight": torch.ones(2), "epoch": 3}, HERE / "number.pt")
    torch.save([torch.ones(2)], HERE / "list.pt")
    torch.save(Network(), HERE / "whole-module.pt")
    torch.save({"weight": torch.ones(2).to(torch.complex64)}, HERE / "complex.pt")
    torch.save({"weight": torch.eye(3).to_sparse()}, HERE / "sparse.pt")
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(HERE / "script.pt"))
    (HERE / "pickle.pt").write_bytes(pickle.dumps({"weight": [1.0, 2.0]}))


main()

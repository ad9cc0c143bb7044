#!/usr/bin/env python3
"""Writes the .pt files of this folder with PyTorch itself: python make.py MANIFEST

MANIFEST is the manifest.json of any checkpoint of the tiny network that the tests train (tests/support/runs.rs): names
and shapes are taken from there. Every tensor is a stretch of one storage, which keeps the files small, and some are
views that are not contiguous. Written with torch 2.10.0.
"""

import json
import math
import pathlib
import sys
from collections import OrderedDict

import torch

HERE = pathlib.Path(__file__).resolve().parent


def state_dict(parameters, values):
    """Each tensor from another place of `values`, every third with two dimensions swapped."""
    state = OrderedDict()
    for number, parameter in enumerate(parameters):
        shape = parameter["shape"]
        count = math.prod(shape)
        offset = number * 61 % (len(values) - count + 1)
        stretch = values[offset : offset + count]
        if number % 3 == 0 and len(shape) >= 2:
            swapped = [shape[1], shape[0], *shape[2:]]
            state[parameter["name"]] = stretch.view(swapped).transpose(0, 1)
        else:
            state[parameter["name"]] = stretch.view(shape)
    state._metadata = OrderedDict({"": {"version": 1}})
    return state


def main():
    parameters = json.loads(pathlib.Path(sys.argv[1]).read_text())["parameters"]
    longest = max(math.prod(parameter["shape"]) for parameter in parameters)
    torch.manual_seed(0)
    values = torch.randn(longest + 977) * 0.05
    torch.save(state_dict(parameters, values), HERE / "tiny.pt")
    torch.save(state_dict(parameters, values.half()), HERE / "tiny-old-half.pt", _use_new_zipfile_serialization=False)


main()

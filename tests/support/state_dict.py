"""Reads a .pt file with Python's own zipfile and pickle, without PyTorch: state_dict.py FILE.pt FILE.safetensors

Fails unless both hold the same names with the same float32 bits. Prints the names of the first in its order.
"""

import pickle
import sys
import zipfile
from collections import OrderedDict

import numpy
from safetensors.numpy import load_file


def rebuild_tensor(storage, offset, size, stride, requires_grad, hooks):
    assert not requires_grad and hooks == OrderedDict()
    strides = [4 * n for n in stride]
    return numpy.lib.stride_tricks.as_strided(storage[offset:], size, strides) if storage.size else storage.reshape(size)


NAMES = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): rebuild_tensor,
    ("torch", "FloatStorage"): "FloatStorage",
}


class Unpickler(pickle.Unpickler):
    def __init__(self, archive, root):
        super().__init__(archive.open(f"{root}/data.pkl"))
        self.archive, self.root = archive, root

    def find_class(self, module, name):
        return NAMES[module, name]

    def persistent_load(self, identity):
        kind, storage, key, device, count = identity
        assert (kind, storage, device) == ("storage", "FloatStorage", "cpu")
        values = numpy.frombuffer(self.archive.read(f"{self.root}/data/{key}"), "<f4")
        assert values.size == count
        return values


def main():
    archive = zipfile.ZipFile(sys.argv[1])
    assert archive.testzip() is None
    state = Unpickler(archive, archive.namelist()[0].split("/")[0]).load()
    other = load_file(sys.argv[2])
    assert sorted(state) == sorted(other), "names differ"
    for name, values in state.items():
        assert values.shape == other[name].shape, name
        assert values.tobytes() == other[name].tobytes(), name
    print("\n".join(state))


main()

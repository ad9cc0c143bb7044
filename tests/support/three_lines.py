"""Holds what the page's lines have loaded, `ema`, to the names and shapes of a released architecture.

Arguments: architectures.json and the name of the architecture. The lines stand before this text.
"""

import json
import sys

import numpy

path, name = sys.argv[1:]
expected = json.load(open(path))[name]["tensors"]
found = {name: list(array.shape) for name, array in ema.items()}
assert found == expected, [name for name in expected | found if expected.get(name) != found.get(name)]
for place, (name, array) in enumerate((name, ema[name]) for name in expected):
    assert array.dtype == numpy.float32, name
    # As the test filled them: each with its place in the network.
    assert (array == place + 1).all(), name
print(f"{len(found)} tensors, {sum(array.size for array in ema.values())} values")

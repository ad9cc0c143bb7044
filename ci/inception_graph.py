"""Writes the constants of TensorFlow's Inception graph: inception_graph.py WEIGHTS.npz GRAPH.pb

WEIGHTS.npz holds the tensors of a state dict. The names in the graph are those of the published graph of 2015-12-05. The
graph has only the nodes that hold weights, and the batch normalizations.
"""

import sys

import numpy as np
import tensorflow.compat.v1 as tf

# The names of blocks.
BLOCKS = ["5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c"]

# The scope of each branch: all but `branch1x1` and `branch3x3`, which are `conv` itself.
TOWERS = {"branch5x5": "tower", "branch3x3dbl": "tower_1", "branch7x7": "tower", "branch7x7dbl": "tower_1"}
TOWERS |= {"branch3x3": "tower", "branch7x7x3": "tower_1", "branch_pool": "tower_2"}

STEM = ["Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3"]


def numbered(index):
    """Returns the name of the convolution at `index` in its scope."""
    return f"conv_{index}" if index else "conv"


def node_of(layer):
    """Returns the node of a layer of the state dict."""
    if layer in STEM:
        return numbered(STEM.index(layer))
    block, branch = layer.removeprefix("Mixed_").split(".")
    index = BLOCKS.index(block)
    scope = f"mixed_{index}" if index else "mixed"
    if branch in ("branch1x1", "branch3x3"):
        return f"{scope}/conv"
    if branch == "branch_pool":
        return f"{scope}/tower_2/conv"
    name, place = branch.rsplit("_", 1)
    # The block 6a has no other tower.
    tower = "tower" if block == "6a" else TOWERS[name]
    if place[-1] in "ab":
        return f"{scope}/{tower}/mixed/{numbered('ab'.index(place[-1]))}"
    return f"{scope}/{tower}/{numbered(int(place) - 1)}"


def main(weights, graph_file):
    """Writes the graph."""
    weights, graph = np.load(weights), tf.GraphDef()
    graph.versions.producer = 8

    def constant(name, value):
        node = graph.node.add(op="Const", name=name)
        node.attr["dtype"].type = tf.float32.as_datatype_enum
        node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(np.ascontiguousarray(value)))

    for name in weights.files:
        if not name.endswith(".conv.weight"):
            continue
        layer = name.removesuffix(".conv.weight")
        node = node_of(layer)
        constant(f"{node}/conv2d_params", weights[name].transpose(2, 3, 1, 0))
        for part, in_graph in [
            ("running_mean", "moving_mean"),
            ("running_var", "moving_variance"),
            ("bias", "beta"),
            ("weight", "gamma"),
        ]:
            constant(f"{node}/batchnorm/{in_graph}", weights[f"{layer}.bn.{part}"])
        normalization = graph.node.add(op="BatchNormWithGlobalNormalization", name=f"{node}/batchnorm")
        normalization.attr["variance_epsilon"].f = 0.001
        normalization.attr["scale_after_normalization"].b = True
    constant("softmax/weights", weights["fc.weight"].T)
    constant("softmax/biases", weights["fc.bias"])
    with open(graph_file, "wb") as file:
        file.write(graph.SerializeToString())


main(*sys.argv[1:])

"""Metrics of features as other programs compute them, timed. ci/bench-evaluate calls it.

    eager_metrics.py root [--width 2048]          the matrix root of FID by scipy.linalg.sqrtm
    eager_metrics.py manifold [--num 10000]       precision and recall by TensorFlow in float16, in blocks of rows

`manifold` computes what the published evaluator computes, in the same order of operations: square distances in float16
by TensorFlow, the fourth smallest of each row, and comparisons with the radii. Prints JSON: the seconds.
"""

import argparse
import json
import time

import numpy as np

# The rows of a block of distances, and the neighbor whose distance is the radius.
BLOCK = 10_000
NEIGHBORS = 3


def covariances(width):
    """Returns two covariances of correlated features."""
    random = np.random.default_rng(0)
    found = []
    for _ in range(2):
        features = random.standard_normal((2 * width, width)) * np.linspace(0.1, 1, width)
        features += features[:, :1]
        found.append(np.cov(features, rowvar=False))
    return found


def root(options):
    """The root of the product of two covariances."""
    import scipy.linalg

    left, right = covariances(options.width)
    start = options.now()
    trace = np.trace(scipy.linalg.sqrtm(left @ right)).real
    assert np.isfinite(trace)
    return options.now() - start


def manifold(options):
    """Precision and recall."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    random = np.random.default_rng(0)
    sets = [np.abs(random.standard_normal((options.num, options.width), np.float32)) * 0.4 for _ in range(2)]

    @tf.function
    def distances(rows, columns):
        rows, columns = tf.cast(rows, tf.float16), tf.cast(columns, tf.float16)
        norms = [tf.reduce_sum(tf.square(side), axis=1) for side in (rows, columns)]
        products = tf.matmul(rows, columns, transpose_b=True)
        return tf.maximum(norms[0][:, None] - 2 * products + norms[1][None, :], 0)

    def blocks(rows, columns):
        for start in range(0, len(rows), BLOCK):
            own = rows[start : start + BLOCK]
            parts = [distances(own, columns[at : at + BLOCK]).numpy() for at in range(0, len(columns), BLOCK)]
            yield slice(start, start + len(own)), np.concatenate(parts, axis=1)

    start = options.now()
    radii = []
    for features in sets:
        own = [np.partition(part, NEIGHBORS, axis=1)[:, NEIGHBORS] for _, part in blocks(features, features)]
        radii.append(np.concatenate(own))
    inside = [np.zeros(options.num, bool) for _ in sets]
    for rows, part in blocks(sets[0], sets[1]):
        inside[1] |= (part <= radii[0][rows][:, None]).any(axis=0)
        inside[0][rows] |= (part <= radii[1][None, :]).any(axis=1)
    assert all(0 <= flags.mean() <= 1 for flags in inside)
    return options.now() - start


def main():
    """Measures and prints JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["root", "manifold"])
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--num", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--processor-time", action="store_true")
    options = parser.parse_args()
    options.now = (lambda: time.process_time() / options.threads) if options.processor_time else time.monotonic
    print(json.dumps({"seconds": {"root": root, "manifold": manifold}[options.what](options)}))


if __name__ == "__main__":
    main()

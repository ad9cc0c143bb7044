#!/usr/bin/env python3
"""A peer of ci/bench-peers that draws batches with ci/eager_sample.py (ci/peer_process.py: how it is asked).

    ci/peer_sample.py --form FORM --precision PRECISION --config JSON --weights FILE.pt --process JSON --steps N ...

A batch begins with its noise and ends with its bytes. With --classifier, its gradient guides each step. The form
`published` recomputes attention when it computes that gradient; the others do not. bfloat16 is by torch.autocast.
"""

import argparse
import json
import pathlib
import sys
import time

# Do not leave __pycache__ in the repository.
sys.dont_write_bytecode = True

import torch

from eager_sample import Sampler
from peer_process import serve
from peer_step import add_peer_options, autocast, device_memory


def prepare(options):
    """Reads the networks. Returns the function that draws one batch and returns its seconds."""
    config = json.loads(options.config)
    classes = config["num_classes"] or (json.loads(options.classifier)["out_channels"] if options.classifier else None)
    recompute = {"recompute_attention": options.form == "published"}
    options.config = json.dumps({**config, **recompute})
    if options.classifier:
        options.classifier = json.dumps({**json.loads(options.classifier), **recompute})
    options.compile = options.form.endswith("compile")
    sampler = Sampler(options, json.loads(options.process), options.form == "channels_last+compile")
    shape = [options.batch, config["image_channels"], config["image_size"], config["image_size"]]
    labels = None if classes is None else torch.randint(0, classes, [options.batch], device=options.device)
    now = (lambda: time.process_time() / options.threads) if options.processor_time else time.monotonic

    def batch():
        began = now()
        with autocast(options.device, options.precision):
            sampler.sample(torch.randn(shape, device=options.device), labels)
        return now() - began

    return batch


def main():
    """Answers until stdin ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_peer_options(parser)
    parser.add_argument("--weights", required=True, type=pathlib.Path)
    parser.add_argument("--process", required=True, help="the section `diffusion` as JSON")
    parser.add_argument("--classifier", help="the classifier as JSON")
    parser.add_argument("--classifier-weights", type=pathlib.Path)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--processor-time", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    serve(lambda: prepare(options), lambda: device_memory(options.device))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Writes the checkpoints of this folder with the program of a release: make.py ADMIRAL

Needs numpy and safetensors. Each checkpoint is one optimizer step of a tiny network. Most weights are plus or minus one
power of two, and the layers that start at zero are zero, so that an archive takes about 35 KB: a network that the
configuration allows has at least 100,000 values, and random values do not compress.
"""

import pathlib
import struct
import subprocess
import sys
import tempfile

import numpy
from safetensors.numpy import load_file, save_file

HERE = pathlib.Path(__file__).resolve().parent
# Layers that start at zero. A classifier starts with its last layer at zero too, so that all other gradients are zero.
ZERO = ("out_layers.3.weight", "proj_out.weight", "c_proj.weight", "out.2.weight")

BASE = """\
task: {task}
run: {{folder: run, device: cpu, num_threads: 1, seed: 5}}
data: {{source: idx, path: images, label_path: labels, num_workers: 1}}
model: {{image_size: 8, image_channels: 1, num_classes: 3, num_channels: 32, num_res_blocks: 1, channel_mult: [1],
        attention_resolutions: [], num_head_channels: 32, use_scale_shift_norm: false{model}}}
diffusion: {{noise_schedule: cosine{diffusion}}}
training: {{global_batch: 8, microbatch: 8, steps: 1, log_interval: 1, save_interval: 1, sample_interval: 0}}
optimizer: {{learning_rate: 0.001, ema_rates: [0.99]}}
precision: {{mode: {mode}, initial_lg_loss_scale: 10}}
sampling: {{timestep_respacing: "{respacing}", samples_per_class: 2}}
"""
SAMPLER = ", timestep_sampler: loss-second-moment, diffusion_steps: 4"
KINDS = {
    "diffusion-fp32": dict(task="diffusion", mode="fp32", model="", diffusion="", respacing="ddim5"),
    "diffusion-fp16": dict(task="diffusion", mode="fp16", model="", diffusion=SAMPLER, respacing="2"),
    "classifier": dict(task="classifier", mode="fp32", model="", diffusion="", respacing="ddim5"),
    "super-resolution": dict(
        task="super_resolution", mode="fp32", model=", small_size: 4", diffusion="", respacing="ddim5"
    ),
}


def write_images(folder):
    """64 grey images of 8x8 pixels in 3 classes, as tests/support/runs.rs writes them."""
    pixels = bytes((i * 2654435761 & 0xFFFFFFFF) >> 24 for i in range(64 * 8 * 8))
    (folder / "images").write_bytes(bytes([0, 0, 8, 3]) + struct.pack(">III", 64, 8, 8) + pixels)
    (folder / "labels").write_bytes(bytes([0, 0, 8, 1]) + struct.pack(">I", 64) + bytes(i % 3 for i in range(64)))


def simple(name, values, random):
    """Values of the same shape that compress well."""
    is_encoder_output = name == "out.2.weight" and values.ndim < 3
    if name.endswith(ZERO) and not is_encoder_output:
        return numpy.zeros_like(values)
    if values.ndim < 2 or not values.any():
        return values
    scale = numpy.float32(2.0 ** numpy.round(numpy.log2(numpy.abs(values).mean())))
    return (random.integers(0, 2, values.shape) * 2 - 1).astype(numpy.float32) * scale


def main():
    admiral = pathlib.Path(sys.argv[1]).resolve()
    for kind, fields in KINDS.items():
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)

            def run(*arguments):
                subprocess.run([admiral, *arguments], cwd=folder, check=True, stdout=subprocess.DEVNULL)

            write_images(folder)
            (folder / "run.yaml").write_text(BASE.format(**fields))
            run("train", "run.yaml", "--set", "run.folder=names")
            run("checkpoint", "export", "names", "names.safetensors", "--weights", "master")
            random = numpy.random.default_rng(0)
            weights = load_file(folder / "names.safetensors")
            weights = {name: simple(name, values, random) for name, values in weights.items()}
            save_file(weights, folder / "start.safetensors")
            run("checkpoint", "import", "start.safetensors", "run/checkpoints", "--config", "run.yaml")
            run("train", "run.yaml", "--resume", "latest")
            archive = HERE / f"{kind}.tar.xz"
            subprocess.run(["tar", "-cJf", archive, "-C", folder / "run/checkpoints", "step-000000001"], check=True)
            print(f"{archive.name}: {archive.stat().st_size} bytes")


main()

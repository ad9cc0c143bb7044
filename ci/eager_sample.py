#!/usr/bin/env python3
"""Samples images in PyTorch with DDIM, as the published implementation does, and prints the seconds of batches as JSON.

    ci/eager_sample.py --config JSON --weights FILE.pt --process JSON --steps N ...

The network is that of ci/eager_unet.py. `ci/bench-sample` compares `admiral bench sample` with it. With --compile the
networks are channels-last and compiled by torch.compile. With a classifier, its gradient guides each step (the paper's
algorithm 2). A batch begins with its noise and ends with its bytes.
"""

import argparse
import json
import math
import pathlib
import statistics
import sys
import time

# Do not leave __pycache__ in the repository.
sys.dont_write_bytecode = True

import torch

from eager_unet import Encoder, UNet


def alphas_cumprod(process):
    """Returns the products of 1 - beta of a process, float64."""
    count = process["diffusion_steps"]
    if process["noise_schedule"] == "linear":
        scale = 1000 / count
        betas = torch.linspace(scale * 1e-4, scale * 0.02, count, dtype=torch.float64)
    else:
        level = [math.cos((t / count + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(count + 1)]
        betas = torch.tensor([min(1 - b / a, 0.999) for a, b in zip(level, level[1:])], dtype=torch.float64)
    return torch.cumprod(1 - betas, dim=0)


def visited(count, steps):
    """Returns the timesteps of `ddimN`: every k-th, for the k that gives N of them."""
    for stride in range(1, count):
        if len(range(0, count, stride)) == steps:
            return list(range(0, count, stride))
    sys.exit(f"eager_sample: no stride over {count} timesteps gives {steps} of them")


class Sampler:
    """DDIM without noise, with predicted images that are clamped. `options` are those of `main`."""

    def __init__(self, options, process):
        self.channels_last = options.compile
        self.model = self.load(UNet(json.loads(options.config)), options.weights, options)
        self.classifier, self.scale = None, options.scale
        if options.classifier:
            self.classifier = self.load(Encoder(json.loads(options.classifier)), options.classifier_weights, options)
        alpha_bars = alphas_cumprod(process)
        timesteps = visited(len(alpha_bars), options.steps)
        kept = alpha_bars[timesteps]
        scale = 1000 / process["diffusion_steps"] if process["rescale_timesteps"] else 1.0
        before = torch.cat([torch.ones(1, dtype=torch.float64), kept[:-1]])
        self.schedule = [
            (t * scale, now.item(), previous.item()) for t, now, previous in zip(timesteps, kept, before)
        ][::-1]

    def load(self, network, weights, options):
        """Reads the weights of a network, and compiles it if that is asked for."""
        network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        network = network.eval().to(options.device)
        if not options.compile:
            return network
        return torch.compile(network.to(memory_format=torch.channels_last), dynamic=False)

    def gradient(self, x, timesteps, labels):
        """Returns the gradient of the classifier's log probability of the labels, times the scale."""
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            probabilities = torch.log_softmax(self.classifier(x, timesteps), dim=-1)
            selected = probabilities[range(len(labels)), labels]
            return torch.autograd.grad(selected.sum(), x)[0] * self.scale

    @torch.no_grad()
    def sample(self, x, labels):
        """Returns the bytes of a batch that starts from noise `x`, `[batch, height, width, channels]`."""
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        for timestep, now, previous in self.schedule:
            timesteps = torch.full([x.shape[0]], timestep, device=x.device)
            epsilon = self.model(x, timesteps, labels if hasattr(self.model, "label_emb") else None)[:, : x.shape[1]]
            start = (math.sqrt(1 / now) * x - math.sqrt(1 / now - 1) * epsilon).clamp(-1, 1)
            epsilon = (math.sqrt(1 / now) * x - start) / math.sqrt(1 / now - 1)
            if self.classifier is not None:
                epsilon = epsilon - math.sqrt(1 - now) * self.gradient(x, timesteps, labels)
                start = math.sqrt(1 / now) * x - math.sqrt(1 / now - 1) * epsilon
            x = math.sqrt(previous) * start + math.sqrt(1 - previous) * epsilon
        return ((x + 1) * 127.5).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu()


def main():
    """Samples batches and prints their seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="the network as JSON, with the fields of the golden files")
    parser.add_argument("--weights", required=True, type=pathlib.Path)
    parser.add_argument("--process", required=True, help="the section `diffusion` as JSON")
    parser.add_argument("--classifier", help="the classifier as JSON")
    parser.add_argument("--classifier-weights", type=pathlib.Path)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--batches", type=int, default=3)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--processor-time", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = json.loads(options.config)
    sampler = Sampler(options, json.loads(options.process))
    shape = [options.batch, config["image_channels"], config["image_size"], config["image_size"]]
    classes = config["num_classes"] or (json.loads(options.classifier)["out_channels"] if options.classifier else None)
    labels = None if classes is None else torch.randint(0, classes, [options.batch], device=options.device)
    now = (lambda: time.process_time() / options.threads) if options.processor_time else time.monotonic
    seconds = []
    for _ in range(options.warmup + options.batches):
        began = now()
        sampler.sample(torch.randn(shape, device=options.device), labels)
        seconds.append(now() - began)
    counted = seconds[options.warmup :]
    print(json.dumps({"seconds": counted, "median": statistics.median(counted), "torch": torch.__version__}))


if __name__ == "__main__":
    main()

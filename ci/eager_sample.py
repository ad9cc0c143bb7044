"""Samples images in PyTorch with DDIM, as the published implementation does.

The networks are those of ci/eager_unet.py. With a classifier, its gradient guides each step (the paper's algorithm 2).
"""

import json
import math
import sys

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
    """DDIM without noise, with predicted images that are clamped.

    `options` has the networks `config` and `classifier` (or None) as JSON, the files of their weights, `weights` and
    `classifier_weights`, the `scale` of the guidance, `steps`, `device`, and `compile`, which compiles the networks.
    `process` is the section `diffusion`. A compiled network is channels-last unless `channels_last` says otherwise.
    """

    def __init__(self, options, process, channels_last=None):
        self.channels_last = options.compile if channels_last is None else channels_last
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
        if self.channels_last:
            network.to(memory_format=torch.channels_last)
        return torch.compile(network, dynamic=False) if options.compile else network

    def gradient(self, x, timesteps, labels):
        """Returns the gradient of the classifier's log probability of the labels, times the scale."""
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            probabilities = torch.log_softmax(self.classifier(x, timesteps), dim=-1)
            selected = probabilities[range(len(labels)), labels]
            return torch.autograd.grad(selected.sum(), x)[0] * self.scale

    @torch.no_grad()
    def sample(self, x, labels):
        """Returns the bytes `[batch, height, width, channels]` of the batch that begins with the noise `x`."""
        count, channels = x.shape[:2]
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        for timestep, now, previous in self.schedule:
            timesteps = torch.full([count], timestep, device=x.device)
            epsilon = self.model(x, timesteps, labels if hasattr(self.model, "label_emb") else None)[:, :channels]
            start = (math.sqrt(1 / now) * x - math.sqrt(1 / now - 1) * epsilon).clamp(-1, 1)
            epsilon = (math.sqrt(1 / now) * x - start) / math.sqrt(1 / now - 1)
            if self.classifier is not None:
                epsilon = epsilon - math.sqrt(1 - now) * self.gradient(x, timesteps, labels)
                start = math.sqrt(1 / now) * x - math.sqrt(1 / now - 1) * epsilon
            x = math.sqrt(previous) * start + math.sqrt(1 - previous) * epsilon
        return ((x + 1) * 127.5).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu()

#!/usr/bin/env python3
"""A peer of ci/bench-peers that trains a network of ci/eager_unet.py (ci/peer_process.py: how it is asked).

    ci/peer_step.py --form FORM --precision PRECISION --config JSON --optimizer JSON --batch N --microbatch N ...

--config has the fields of the golden files; its field `model` chooses a diffusion model (`unet`), an upsampler
(`super_res`) or a classifier (`encoder`). --optimizer has the section `optimizer` of a configuration.

A step is forward and backward of each microbatch, the norm of the gradient and clipping to it if that is configured,
AdamW, and the EMAs. Its images are random numbers, drawn before the step, in place of noised images: the peer neither
reads nor noises images, and the measured step of Admiral does both. The loss of a classifier is the cross entropy. That
of the others is the mean squared output, which is cheaper than the published loss.

The form `published` is the published implementation's loop: attention is recomputed, AdamW is not fused, norms and EMAs
are loops over the parameters; float16 has a scaled loss and two flat float32 masters. The other forms have no
recomputation, a fused AdamW, and EMAs and norms over all parameters at once; bfloat16 is by torch.autocast. `compile`
compiles the forward with the loss, and so their backward. `channels_last+compile` also stores images and weights
channels-last.
"""

import argparse
import contextlib
import json
import math
import sys
import time

# Do not leave __pycache__ in the repository.
sys.dont_write_bytecode = True

import torch
from torch import nn
from torch.nn import functional as F

from eager_unet import build
from peer_process import serve


def channels_last(images):
    """Returns images stored channels-last. torch's own conversion keeps the strides of images with one channel, which
    the network then treats as contiguous."""
    _, channels, height, width = images.shape
    strides = (height * width * channels, 1, width * channels, channels)
    return torch.empty_strided(images.shape, strides, dtype=images.dtype, device=images.device).copy_(images)


def autocast(device, precision):
    """Returns the context in which a network runs."""
    return torch.autocast(device, torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()


def device_memory(device):
    """Returns the peaks of memory of a GPU."""
    if device != "cuda":
        return {}
    # What nvidia-smi shows: the peak of the allocator's cache, and all memory outside it: the CUDA context, and what
    # other processes hold, so that it is only right for a single peer.
    free, total = torch.cuda.mem_get_info()
    used = torch.cuda.max_memory_reserved() + total - free - torch.cuda.memory_reserved()
    # Between its rounds, a peer leaves the memory to the others.
    torch.cuda.empty_cache()
    return {"device_peak_bytes": torch.cuda.max_memory_allocated(), "device_peak_used_bytes": used}


class Tuned:
    """Training with the operations over all parameters at once that PyTorch has."""

    def __init__(self, model, settings):
        self.parameters = list(model.parameters())
        self.optimizer = adamw(self.parameters, settings, fused=True)
        self.rates = settings["ema_rates"]
        self.averages = [[p.detach().clone() for p in self.parameters] for _ in self.rates]
        self.clip = settings["gradient_clip_norm"]

    def backward(self, loss):
        """Adds the gradients of a loss."""
        loss.backward()

    def update(self):
        """Updates the parameters and their averages."""
        if self.clip is None:
            nn.utils.get_total_norm([p.grad for p in self.parameters]).item()
        else:
            nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.optimizer.step()
        for rate, averages in zip(self.rates, self.averages):
            torch._foreach_lerp_(averages, [p.detach() for p in self.parameters], 1 - rate)


class Published:
    """Training as published in float32, in which the parameters are the masters."""

    def __init__(self, model, settings):
        self.parameters = list(model.parameters())
        self.masters = self.make_masters()
        self.optimizer = adamw(self.masters, settings, fused=False)
        self.rates = settings["ema_rates"]
        self.averages = [[master.detach().clone() for master in self.masters] for _ in self.rates]

    def make_masters(self):
        """Returns what the optimizer updates."""
        return self.parameters

    def backward(self, loss):
        """Adds the gradients of a loss."""
        loss.backward()

    def masters_from_model(self):
        """Returns True, because the masters have the gradients already."""
        return True

    def model_from_masters(self):
        """Does nothing, because the parameters are the masters."""

    def update(self):
        """Updates the parameters and their averages."""
        if not self.masters_from_model():
            return
        for master in self.masters:
            master.grad.norm().item(), master.detach().norm().item()
        self.optimizer.step()
        for rate, averages in zip(self.rates, self.averages):
            for average, master in zip(averages, self.masters):
                average.mul_(rate).add_(master.detach(), alpha=1 - rate)
        self.model_from_masters()


class PublishedHalf(Published):
    """Training as published in float16 with a scaled loss. A flat float32 master has all vectors, another the rest."""

    def make_masters(self):
        self.scale_log2 = 20.0
        everything = self.parameters
        self.groups = [[p for p in everything if p.ndim <= 1], [p for p in everything if p.ndim > 1]]
        return [nn.Parameter(self.flat(group)) for group in self.groups]

    @staticmethod
    def flat(tensors):
        """Returns the values of all tensors in one float32 vector."""
        return torch.cat([tensor.detach().float().reshape(-1) for tensor in tensors])

    def backward(self, loss):
        """Adds the gradients of the scaled loss."""
        (loss * 2**self.scale_log2).backward()

    def masters_from_model(self):
        """Copies the gradients to the masters. Returns False if they overflow and the step must be skipped."""
        for master, group in zip(self.masters, self.groups):
            master.grad = self.flat([p.grad for p in group])
        if not all(math.isfinite(master.grad.norm().item()) for master in self.masters):
            self.scale_log2 -= 1
            return False
        for master in self.masters:
            master.grad.mul_(2.0**-self.scale_log2)
        self.scale_log2 += 1e-3
        return True

    def model_from_masters(self):
        """Copies the masters to the parameters."""
        for master, group in zip(self.masters, self.groups):
            for parameter, values in zip(group, master.detach().split([p.numel() for p in group])):
                parameter.detach().copy_(values.view_as(parameter))


def adamw(parameters, settings, fused):
    """Returns the optimizer of a configuration."""
    return torch.optim.AdamW(
        parameters,
        lr=settings["learning_rate"],
        betas=(settings["beta1"], settings["beta2"]),
        eps=settings["epsilon"],
        weight_decay=settings["weight_decay"],
        fused=fused,
    )


def loss_of(model, config):
    """Returns the function from the inputs of a network to its loss."""
    if config["model"] == "encoder":
        return lambda x, timesteps, labels: F.cross_entropy(model(x, timesteps).float(), labels)
    if config["model"] == "super_res":
        small = config["small_size"]

        def upsampling(x, timesteps, labels):
            return model(x, timesteps, labels, F.adaptive_avg_pool2d(x, small)).float().square().mean()

        return upsampling
    return lambda x, timesteps, labels: model(x, timesteps, labels).float().square().mean()


def inputs(config, batch, device):
    """Returns random images, timesteps and labels. Labels are None for a model without classes."""
    images = torch.randn(batch, config["image_channels"], config["image_size"], config["image_size"], device=device)
    timesteps = torch.randint(0, 1000, (batch,), device=device)
    classes = config["num_classes"]
    return images, timesteps, torch.randint(0, classes, (batch,), device=device) if classes else None


def prepare(options):
    """Builds the network. Returns the function that runs one step and returns its seconds."""
    config, settings = json.loads(options.config), json.loads(options.optimizer)
    is_published = options.form == "published"
    model = build({**config, "recompute_attention": is_published}).to(options.device).train()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.02)
    if is_published:
        training = PublishedHalf(model.half(), settings) if options.precision == "fp16" else Published(model, settings)
    else:
        if options.form == "channels_last+compile":
            model.to(memory_format=torch.channels_last)
        training = Tuned(model, settings)
    loss = loss_of(model, config)
    if options.form.endswith("compile"):
        loss = torch.compile(loss, dynamic=False)

    def step():
        images, timesteps, labels = inputs(config, options.batch, options.device)
        if options.form == "channels_last+compile":
            images = channels_last(images)
        if options.device == "cuda":
            torch.cuda.synchronize()
        began = time.monotonic()
        for parameter in training.parameters:
            parameter.grad = None
        for part in range(0, options.batch, options.microbatch):
            chosen = slice(part, part + options.microbatch)
            x = images[chosen]
            with autocast(options.device, options.precision):
                value = loss(x, timesteps[chosen], labels[chosen] if labels is not None else None)
            training.backward(value * (len(x) / options.batch))
        training.update()
        if options.device == "cuda":
            torch.cuda.synchronize()
        return time.monotonic() - began

    return step


def add_peer_options(parser):
    """Adds the options that all peers have."""
    parser.add_argument("--form", required=True)
    parser.add_argument("--precision", required=True)
    parser.add_argument("--config", required=True, help="the network as JSON, with the fields of the golden files")
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--device", required=True)


def main():
    """Answers until stdin ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_peer_options(parser)
    parser.add_argument("--optimizer", required=True, help="the section `optimizer` as JSON")
    parser.add_argument("--microbatch", type=int, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    serve(lambda: prepare(options), lambda: device_memory(options.device))


if __name__ == "__main__":
    main()

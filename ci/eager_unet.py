#!/usr/bin/env python3
"""The networks of ADM and a training step in eager PyTorch, with the operations of the published implementation.

`ci/bench-eager` compares `admiral bench step` with it. `ci/eager_sample.py` samples with its networks.

    ci/eager_unet.py check FILE...                  compares with golden numbers (kinds `unet`, `encoder`)
    ci/eager_unet.py step --config JSON ...         measures training steps and prints their seconds as JSON

As in the published implementation, group normalization (in float32) and SiLU are two operations. Attention is two
matrix products and a softmax, and backward always recomputes it. With float16, the torso's convolutions are float16, and
the float32 masters are two flat tensors. Norms and EMAs are loops over the parameters. The loss is the mean squared
output, which is cheaper than the published loss.
"""

import argparse
import json
import math
import pathlib
import statistics
import struct
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


class Norm(nn.GroupNorm):
    """Group normalization with 32 groups, computed in float32."""

    def __init__(self, channels):
        super().__init__(32, channels)

    def forward(self, x):
        return super().forward(x.float()).to(x.dtype)


class Resample(nn.Module):
    """Doubles the image size (nearest neighbour) or halves it (average), without parameters."""

    def __init__(self, up):
        super().__init__()
        self.up = up

    def forward(self, x):
        return F.interpolate(x, scale_factor=2, mode="nearest") if self.up else F.avg_pool2d(x, 2)


class Residual(nn.Module):
    """A residual block. `resample` is True to double the image size, False to halve it, None to keep it."""

    def __init__(self, channels, out, config, resample=None):
        super().__init__()
        self.modulates = config["use_scale_shift_norm"]
        self.resample = Resample(resample) if resample is not None else None
        self.in_layers = nn.Sequential(Norm(channels), nn.SiLU(), nn.Conv2d(channels, out, 3, padding=1))
        width = 4 * config["model_channels"]
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * out if self.modulates else out))
        self.out_layers = nn.Sequential(
            Norm(out), nn.SiLU(), nn.Dropout(config["dropout"]), nn.Conv2d(out, out, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if channels == out else nn.Conv2d(channels, out, 1)

    def forward(self, x, embedding):
        norm, silu, conv = self.in_layers
        hidden = silu(norm(x))
        if self.resample is not None:
            hidden, x = self.resample(hidden), self.resample(x)
        hidden = conv(hidden)
        shift = self.emb_layers(embedding).to(hidden.dtype)[:, :, None, None]
        if self.modulates:
            scale, shift = shift.chunk(2, dim=1)
            hidden = self.out_layers[1:](self.out_layers[0](hidden) * (1 + scale) + shift)
        else:
            hidden = self.out_layers(hidden + shift)
        return self.skip_connection(x) + hidden


def num_heads(channels, config):
    """Returns the number of heads of attention."""
    per_head = config.get("num_head_channels") or -1
    return config.get("num_heads") or 1 if per_head == -1 else channels // per_head


def attend(qkv, heads, heads_inside):
    """Attention from the joint projection `[batch, 3 * channels, length]` to `[batch, channels, length]`."""
    batch, channels, length = qkv.shape[0], qkv.shape[1] // 3, qkv.shape[2]
    width = channels // heads
    if heads_inside:
        q, k, v = (part.reshape(batch * heads, width, length) for part in qkv.chunk(3, dim=1))
    else:
        q, k, v = qkv.reshape(batch * heads, 3 * width, length).split(width, dim=1)
    # q and k are scaled before the product, so that it does not overflow in float16.
    scale = width**-0.25
    weights = torch.softmax(torch.einsum("bct,bcs->bts", q * scale, k * scale).float(), dim=-1).to(v.dtype)
    return torch.einsum("bts,bcs->bct", weights, v).reshape(batch, channels, length)


class Attention(nn.Module):
    """Self-attention over all positions of an image, with a residual connection."""

    def __init__(self, channels, config):
        super().__init__()
        self.heads = num_heads(channels, config)
        self.heads_inside = config.get("use_new_attention_order", False)
        self.norm = Norm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x, _embedding):
        # The gradient of a classifier for its input alone cannot be had from the reentrant kind.
        return checkpoint(self.attend, x, use_reentrant=self.training) if x.requires_grad else self.attend(x)

    def attend(self, x):
        flat = x.flatten(2)
        hidden = attend(self.qkv(self.norm(flat)), self.heads, self.heads_inside)
        return (flat + self.proj_out(hidden)).reshape(x.shape)


class Convolution(nn.Module):
    """Doubles or halves the image size with a convolution, whose parameter is named `conv` or `op`."""

    def __init__(self, channels, up):
        super().__init__()
        self.up = up
        layer = nn.Conv2d(channels, channels, 3, stride=1 if up else 2, padding=1)
        setattr(self, "conv" if up else "op", layer)

    def forward(self, x, _embedding):
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest")) if self.up else self.op(x)


class Plain(nn.Conv2d):
    """A convolution that takes the embedding of the other layers and ignores it."""

    def forward(self, x, _embedding):
        return super().forward(x)


def with_attention(layers, channels, size, config):
    """Adds attention to the layers of a block, at the sizes that have it."""
    return layers + [Attention(channels, config)] if size in config["attention_resolutions"] else layers


def resampling(channels, up, config):
    """Returns a layer that doubles or halves the image size."""
    if config["resblock_updown"]:
        return Residual(channels, channels, config, resample=up)
    return Convolution(channels, up)


def down_path(config):
    """Returns the downward blocks, the channels of each one's output, and the last image size."""
    width, size, multiples = config["model_channels"], config["image_size"], config["channel_mult"]
    channels = int(multiples[0] * width)
    blocks = [[Plain(config.get("image_channels", 3), channels, 3, padding=1)]]
    widths = [channels]
    for level, multiple in enumerate(multiples):
        for _ in range(config["num_res_blocks"]):
            out = int(multiple * width)
            blocks.append(with_attention([Residual(channels, out, config)], out, size, config))
            channels = out
            widths.append(channels)
        if level + 1 < len(multiples):
            blocks.append([resampling(channels, False, config)])
            widths.append(channels)
            size //= 2
    return blocks, widths, size


def time_embedding(model, timesteps):
    """Returns the embedding of timesteps by the layers of a model."""
    half = model.width // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(half, device=timesteps.device, dtype=torch.float32) / half)
    angles = timesteps[:, None].float() * frequencies
    return model.time_embed(torch.cat([angles.cos(), angles.sin()], dim=1))


class UNet(nn.Module):
    """The network. `config` has the field names of the golden files."""

    def __init__(self, config):
        super().__init__()
        width = config["model_channels"]
        self.width = width
        self.time_embed = nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, 4 * width))
        if config.get("num_classes"):
            self.label_emb = nn.Embedding(config["num_classes"], 4 * width)
        image_channels, multiples = config.get("image_channels", 3), config["channel_mult"]
        down, widths, size = down_path(config)
        channels = widths[-1]
        self.input_blocks = nn.ModuleList(map(nn.ModuleList, down))
        self.middle_block = nn.ModuleList(
            [Residual(channels, channels, config), Attention(channels, config), Residual(channels, channels, config)]
        )
        up = []
        for level, multiple in reversed(list(enumerate(multiples))):
            for block in range(config["num_res_blocks"] + 1):
                out = int(multiple * width)
                layers = with_attention([Residual(channels + widths.pop(), out, config)], out, size, config)
                channels = out
                if level and block == config["num_res_blocks"]:
                    layers.append(resampling(channels, True, config))
                    size *= 2
                up.append(layers)
        self.output_blocks = nn.ModuleList(map(nn.ModuleList, up))
        outputs = image_channels * (2 if config["learn_sigma"] else 1)
        self.out = nn.Sequential(Norm(channels), nn.SiLU(), nn.Conv2d(channels, outputs, 3, padding=1))
        self.kind = torch.float32

    def half(self):
        """Converts the torso's convolutions to float16."""
        for layer in [*self.input_blocks.modules(), *self.middle_block.modules(), *self.output_blocks.modules()]:
            if isinstance(layer, (nn.Conv1d, nn.Conv2d)):
                layer.to(torch.float16)
        self.kind = torch.float16
        return self

    def forward(self, x, timesteps, labels=None):
        embedding = time_embedding(self, timesteps)
        if labels is not None:
            embedding = embedding + self.label_emb(labels)

        def run(block, hidden):
            for layer in block:
                hidden = layer(hidden, embedding)
            return hidden

        hidden, skips = x.to(self.kind), []
        for block in self.input_blocks:
            hidden = run(block, hidden)
            skips.append(hidden)
        hidden = run(self.middle_block, hidden)
        for block in self.output_blocks:
            hidden = run(block, torch.cat([hidden, skips.pop()], dim=1))
        return self.out(hidden.to(x.dtype))


class AttentionPool(nn.Module):
    """The pool of a classifier: the mean of all positions attends to all of them and itself."""

    def __init__(self, channels, size, outputs, config):
        super().__init__()
        self.heads = num_heads(channels, config)
        self.positional_embedding = nn.Parameter(torch.randn(channels, size * size + 1) / channels**0.5)
        self.qkv_proj = nn.Conv1d(channels, 3 * channels, 1)
        self.c_proj = nn.Conv1d(channels, outputs, 1)

    def forward(self, x):
        flat = x.flatten(2)
        flat = torch.cat([flat.mean(dim=-1, keepdim=True), flat], dim=-1) + self.positional_embedding
        return self.c_proj(attend(self.qkv_proj(flat), self.heads, True))[:, :, 0]


class Encoder(nn.Module):
    """A noised classifier with the paper's pool. `config` has the field names of the golden files."""

    def __init__(self, config):
        super().__init__()
        width = config["model_channels"]
        self.width = width
        self.time_embed = nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, 4 * width))
        down, widths, size = down_path(config)
        channels = widths[-1]
        self.input_blocks = nn.ModuleList(map(nn.ModuleList, down))
        self.middle_block = nn.ModuleList(
            [Residual(channels, channels, config), Attention(channels, config), Residual(channels, channels, config)]
        )
        self.out = nn.Sequential(
            Norm(channels), nn.SiLU(), AttentionPool(channels, size, config["out_channels"], config)
        )

    def forward(self, x, timesteps):
        embedding = time_embedding(self, timesteps)
        for block in [*self.input_blocks, self.middle_block]:
            for layer in block:
                x = layer(x, embedding)
        return self.out(x)


# ---- a training step ----


class Float32Step:
    """Training in float32, in which the parameters are the masters."""

    def __init__(self, model):
        self.parameters = list(model.parameters())
        self.masters = self.parameters

    def backward(self, loss):
        """Computes the gradients of the loss."""
        loss.backward()

    def masters_from_model(self):
        """Returns True, because the masters have the gradients already."""
        return True

    def model_from_masters(self):
        """Does nothing, because the parameters are the masters."""


class Float16Step:
    """Training in float16 with a scaled loss. One flat float32 master holds all vectors, another all the rest."""

    def __init__(self, model):
        everything = list(model.parameters())
        self.parameters = everything
        self.groups = [[p for p in everything if p.ndim <= 1], [p for p in everything if p.ndim > 1]]
        self.masters = [nn.Parameter(self.flat(group)) for group in self.groups]
        self.scale_log2 = 20.0

    @staticmethod
    def flat(tensors):
        """Returns the values of all tensors in one float32 vector."""
        return torch.cat([tensor.detach().float().reshape(-1) for tensor in tensors])

    def backward(self, loss):
        """Computes the gradients of the scaled loss."""
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


def step_times(options):
    """Measures training steps on random images and prints their times as JSON."""
    config = json.loads(options.config)
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    model = UNet(config).to(device).train()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.02)
    precision = Float16Step(model.half()) if options.fp16 else Float32Step(model)
    optimizer = torch.optim.AdamW(precision.masters, lr=1e-4, weight_decay=0.0)
    averages = [master.detach().clone() for master in precision.masters]
    channels = config.get("image_channels", 3)
    seconds = []
    for step in range(options.warmup + options.steps):
        images = torch.randn(options.batch, channels, config["image_size"], config["image_size"], device=device)
        timesteps = torch.randint(0, 1000, (options.batch,), device=device)
        labels = None
        if config.get("num_classes"):
            labels = torch.randint(0, config["num_classes"], (options.batch,), device=device)
        if device.type == "cuda":
            torch.cuda.synchronize()
        began = time.monotonic()
        for parameter in precision.parameters:
            parameter.grad = None
        for part in range(0, options.batch, options.microbatch):
            chosen = slice(part, part + options.microbatch)
            loss = model(images[chosen], timesteps[chosen], labels[chosen] if labels is not None else None)
            precision.backward(loss.square().mean())
        if precision.masters_from_model():
            for master in precision.masters:
                master.grad.norm().item(), master.detach().norm().item()
            optimizer.step()
            for average, master in zip(averages, precision.masters):
                average.mul_(0.9999).add_(master.detach(), alpha=1 - 0.9999)
            precision.model_from_masters()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.monotonic() - began)
    counted = seconds[options.warmup :]
    result = {"seconds": counted, "median": statistics.median(counted), "torch": torch.__version__}
    if device.type == "cuda":
        result["peak_bytes"] = torch.cuda.max_memory_allocated()
        # What nvidia-smi shows: the peak of the allocator's cache, and memory outside it such as the CUDA context.
        free, total = torch.cuda.mem_get_info()
        result["peak_used_bytes"] = torch.cuda.max_memory_reserved() + total - free - torch.cuda.memory_reserved()
    print(json.dumps(result))


# ---- golden numbers ----


def golden_values(salt, key, shape):
    """Returns the numbers that the file format calls `uniform`, scaled to the range from -1 to 1."""

    def signed(value):
        return value - 2**64 if value >= 2**63 else value

    def shifted(values, by):
        return (values >> by) & (2 ** (64 - by) - 1)

    seed = 0xCBF29CE484222325
    for byte in f"{salt}/{key}".encode():
        seed = (seed ^ byte) * 0x100000001B3 % 2**64
    # int64 overflows to the same bits as the format's uint64.
    z = signed(seed) + torch.arange(1, math.prod(shape) + 1) * signed(0x9E3779B97F4A7C15)
    z = (z ^ shifted(z, 30)) * signed(0xBF58476D1CE4E5B9)
    z = (z ^ shifted(z, 27)) * signed(0x94D049BB133111EB)
    z = z ^ shifted(z, 31)
    return (2 * (shifted(z, 40).double() / 2**24) - 1).reshape(shape)


def golden_file(path):
    """Returns the metadata and the tensors of a safetensors file."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    metadata = header.pop("__metadata__")
    kinds = {"F32": torch.float32, "F64": torch.float64, "I64": torch.int64}
    tensors = {}
    for name, entry in header.items():
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        values = torch.frombuffer(bytearray(data[begin:end]), dtype=kinds[entry["dtype"]])
        tensors[name] = values.reshape(entry["shape"])
    return metadata, tensors


def golden_parameter(salt, name, shape):
    """Returns the value of a parameter in the golden files."""
    values = golden_values(salt, name, shape)
    if name.endswith("label_emb.weight"):
        scale, offset = 1, 0
    elif name.endswith("positional_embedding"):
        scale, offset = 0.1, 0
    elif len(shape) >= 2:
        scale, offset = math.sqrt(3 / math.prod(shape[1:])), 0
    elif name.endswith("weight"):
        scale, offset = 0.2, 1
    else:
        scale, offset = 0.1, 0
    return (offset + scale * values).float()


def check(options):
    """Compares outputs and gradients with golden files, and exits with an error if one is off."""
    errors = {}
    for path in options.files:
        metadata, tensors = golden_file(path)
        config = json.loads(metadata["config"])
        model = (Encoder if metadata["kind"] == "encoder" else UNet)(config).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(golden_parameter(metadata["salt"], name, tuple(parameter.shape)))
        is_half = config.get("use_fp16", False)
        if is_half:
            model.half()
        x = tensors["x"].clone().requires_grad_()
        out = model(x, tensors["t"], *([tensors["y"]] if "y" in tensors else []))
        (out * tensors["out_weight"]).sum().backward()
        for name, found, tolerance in [("out", out, 1e-5), ("grad.x", x.grad, 1e-4)]:
            expected = tensors[name]
            off = ((found - expected).abs().max() / expected.abs().max()).item()
            allowed = 1e-2 if is_half else tolerance
            errors[f"{path.stem} {name}"] = off
            if not off <= allowed:
                sys.exit(f"eager_unet: {path}: {name} is off by {off:.1e}, {allowed:.0e} is allowed")
    print(json.dumps(errors, indent=2))


def main():
    """Runs the command of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    check_options = verbs.add_parser("check")
    check_options.add_argument("files", nargs="+", type=pathlib.Path)
    check_options.set_defaults(run=check)
    step_options = verbs.add_parser("step")
    step_options.add_argument("--config", required=True, help="the network as JSON, with the fields of the golden files")
    step_options.add_argument("--batch", type=int, required=True)
    step_options.add_argument("--microbatch", type=int, required=True)
    step_options.add_argument("--threads", type=int, default=1)
    step_options.add_argument("--steps", type=int, default=7)
    step_options.add_argument("--warmup", type=int, default=2)
    step_options.add_argument("--device", default="cpu")
    step_options.add_argument("--fp16", action="store_true")
    step_options.set_defaults(run=step_times)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()

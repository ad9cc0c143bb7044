#!/usr/bin/env python3
"""The networks of ADM in PyTorch, with the operations of the published implementation.

`ci/peer_step.py` trains them and `ci/eager_sample.py` samples with them.

    ci/eager_unet.py FILE...      compares with golden numbers (kinds `unet`, `super_res` and `encoder`)

As in the published implementation, group normalization (in float32) and SiLU are two operations, and attention is two
matrix products and a softmax. Backward recomputes attention unless the field `recompute_attention` is false. `half()`
makes the torso's convolutions float16.
"""

import argparse
import json
import math
import pathlib
import struct
import sys

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
        self.recompute = config.get("recompute_attention", True)
        self.norm = Norm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x, _embedding):
        if not (self.recompute and x.requires_grad):
            return self.attend(x)
        # The gradient of a classifier for its input alone cannot be had from the reentrant kind.
        return checkpoint(self.attend, x, use_reentrant=self.training)

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


def down_path(config, inputs):
    """Returns the downward blocks for `inputs` channels, the channels of each block's output, and the last size."""
    width, size, multiples = config["model_channels"], config["image_size"], config["channel_mult"]
    channels = int(multiples[0] * width)
    blocks = [[Plain(inputs, channels, 3, padding=1)]]
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

    def __init__(self, config, images=1):
        """Builds a network whose input has the channels of `images` images."""
        super().__init__()
        width = config["model_channels"]
        self.width = width
        self.time_embed = nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, 4 * width))
        if config.get("num_classes"):
            self.label_emb = nn.Embedding(config["num_classes"], 4 * width)
        image_channels, multiples = config.get("image_channels", 3), config["channel_mult"]
        down, widths, size = down_path(config, images * image_channels)
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


class Upsampler(UNet):
    """A network whose input is the noised image and the small image, which is enlarged bilinearly."""

    def __init__(self, config):
        super().__init__(config, images=2)

    def forward(self, x, timesteps, labels=None, low_res=None):
        enlarged = F.interpolate(low_res, x.shape[2:], mode="bilinear")
        return super().forward(torch.cat([x, enlarged], dim=1), timesteps, labels)


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
        down, widths, size = down_path(config, config.get("image_channels", 3))
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


def build(config):
    """Returns the network of a configuration, whose field `model` has the kinds of the golden files."""
    return {"unet": UNet, "super_res": Upsampler, "encoder": Encoder}[config["model"]](config)


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


def check(path):
    """Compares outputs and gradients with a golden file, with and without recomputation of attention.

    Returns the largest relative errors, or exits if one is too large.
    """
    metadata, tensors = golden_file(path)
    config = json.loads(metadata["config"])
    model = build(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(golden_parameter(metadata["salt"], name, tuple(parameter.shape)))
    is_half = config.get("use_fp16", False)
    if is_half:
        model.half()
    errors = {"out": 0.0, "grad.x": 0.0}
    for recompute in [True, False]:
        for layer in model.modules():
            if isinstance(layer, Attention):
                layer.recompute = recompute
        x = tensors["x"].clone().requires_grad_()
        out = model(x, tensors["t"], *(tensors[name] for name in ["y", "low_res"] if name in tensors))
        (out * tensors["out_weight"]).sum().backward()
        for name, found, tolerance in [("out", out, 1e-5), ("grad.x", x.grad, 1e-4)]:
            expected = tensors[name]
            off = ((found - expected).abs().max() / expected.abs().max()).item()
            allowed = 1e-2 if is_half else tolerance
            if not off <= allowed:
                sys.exit(f"eager_unet: {path}: {name} is off by {off:.1e}, {allowed:.0e} is allowed")
            errors[name] = max(errors[name], off)
    return errors


def main():
    """Checks the files of the command line and prints the errors as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=pathlib.Path)
    # On a busy machine, the threads of operations this small mostly wait for each other.
    torch.set_num_threads(1)
    print(json.dumps({path.stem: check(path) for path in parser.parse_args().files}, indent=2))


if __name__ == "__main__":
    main()

"""The description of a network for ci/eager_unet.py, and the Python and the environment in which it runs."""

import os
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent

# The levels of the networks for each image size, where a configuration leaves them out.
CHANNEL_MULTIPLES = {
    512: [0.5, 1, 1, 2, 2, 4, 4],
    256: [1, 1, 2, 2, 4, 4],
    128: [1, 1, 2, 3, 4],
    64: [1, 2, 3, 4],
}

# The kinds of networks by the task of a configuration.
KINDS = {"diffusion": "unet", "super_resolution": "super_res", "classifier": "encoder"}


class Unsupported(Exception):
    """A configuration whose network ci/eager_unet.py does not have."""


def network(config):
    """Returns the network of a configuration with the field names of ci/eager_unet.py, or raises `Unsupported`."""
    model, task = config["model"], config["task"]
    if model["rescale_residual"]:
        raise Unsupported("the eager networks do not rescale residuals: set model.rescale_residual=false")
    if task == "classifier" and model["pool"] != "attention":
        raise Unsupported("the eager classifier has only the pool `attention`")
    same = ["image_size", "small_size", "image_channels", "num_classes", "num_res_blocks", "attention_resolutions"]
    same += ["num_heads", "num_head_channels", "use_new_attention_order", "use_scale_shift_norm", "resblock_updown"]
    return {
        "model": KINDS[task],
        **{name: model[name] for name in [*same, "dropout"]},
        "channel_mult": model["channel_mult"] or CHANNEL_MULTIPLES[model["image_size"]],
        "model_channels": model["num_channels"],
        "learn_sigma": config["diffusion"]["variance"].startswith("learned"),
        "out_channels": model["num_classes"],
    }


def python_with_torch(chosen):
    """Returns the Python that runs the eager side: the chosen one, or else that of `ci/setup torch`."""
    own = ROOT / ".deps/torch-venv/bin/python"
    return chosen or (own if own.exists() else pathlib.Path(sys.executable))


def release(version):
    """Returns a version without its build: 2.10.0 for 2.10.0+cu128."""
    return version.partition("+")[0]


def eager_environment(library_path):
    """Returns this process's environment with another LD_LIBRARY_PATH, which is removed if it is empty.

    Returns None, which keeps the environment, if `library_path` is None.
    """
    if library_path is None:
        return None
    others = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"}
    return {**others, **({"LD_LIBRARY_PATH": library_path} if library_path else {})}

"""What ci/bench-eager and ci/bench-sample share: their options, and the commands that they run."""

import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent

# The levels of the networks for each image size, where a configuration leaves them out.
CHANNEL_MULTIPLES = {
    512: [0.5, 1, 1, 2, 2, 4, 4],
    256: [1, 1, 2, 2, 4, 4],
    128: [1, 1, 2, 3, 4],
    64: [1, 2, 3, 4],
}


def add_common_options(parser):
    """Adds the options of both scripts."""
    parser.add_argument("--admiral", default=ROOT / "target/release/admiral", type=pathlib.Path)
    parser.add_argument("--python", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument(
        "--eager-library-path",
        metavar="PATH",
        help="LD_LIBRARY_PATH of the eager side, '' for none (default: that of this process)",
    )
    parser.add_argument("--json", action="store_true")


def python_with_torch(options):
    """Returns the Python that runs the eager side."""
    own = ROOT / ".deps/torch-venv/bin/python"
    return options.python or (own if own.exists() else pathlib.Path(sys.executable))


def run(words, environment=None):
    """Runs a command and returns its JSON output."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        sys.exit(f"{pathlib.Path(sys.argv[0]).name}: {' '.join(map(str, words))}\n{done.stderr}")
    return json.loads(done.stdout)


def network(config):
    """Returns the network of a configuration with the field names of ci/eager_unet.py."""
    model = config["model"]
    same = ["image_size", "image_channels", "num_classes", "num_res_blocks", "channel_mult", "attention_resolutions"]
    same += ["num_heads", "num_head_channels", "use_new_attention_order", "use_scale_shift_norm", "resblock_updown"]
    return {
        **{name: model[name] for name in same},
        "channel_mult": model["channel_mult"] or CHANNEL_MULTIPLES[model["image_size"]],
        "dropout": model["dropout"],
        "model_channels": model["num_channels"],
        "learn_sigma": config["diffusion"]["variance"].startswith("learned"),
    }


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

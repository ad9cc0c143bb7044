"""Features by torch-fidelity's or pytorch-fid's Inception network, timed. ci/bench-evaluate calls it.

    eager_inception.py weights FILE.pth
    eager_inception.py time torch-fidelity|pytorch-fid FILE.pth [options]

`weights` writes random weights that keep the size of features about the same from layer to layer. `time` prints JSON:
the seconds of each round over all images. Neither downloads anything.
"""

import argparse
import json
import statistics
import time
from unittest import mock

import torch


def random_weights(seed=0):
    """Returns a state dict of the network. torchvision has the same names and, without its head, the same shapes."""
    import torchvision

    torch.manual_seed(seed)
    state = torchvision.models.inception_v3(num_classes=1008, aux_logits=False, init_weights=False).state_dict()
    state = {name: values for name, values in state.items() if not name.endswith("num_batches_tracked")}
    for name, values in state.items():
        if name.endswith("running_var") or name.endswith("bn.weight"):
            values.uniform_(0.9, 1.1)
        elif name.endswith("weight"):
            values.normal_(std=(2 / values[0].numel()) ** 0.5)
        else:
            values.normal_(std=0.1)
    return state


def torch_fidelity_features(weights):
    """Returns a function from uint8 [batch, 3, height, width] to features."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    network = FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=weights
    ).eval()
    return network


def pytorch_fid_network(weights):
    """Returns pytorch-fid's module with the weights of a file."""
    from pytorch_fid import inception

    state = torch.load(weights, map_location="cpu", weights_only=True)
    with mock.patch.object(inception, "load_state_dict_from_url", lambda *_, **__: state):
        return inception.InceptionV3([3]).eval()


def pytorch_fid_features(weights):
    """Returns a function from uint8 [batch, 3, height, width] to features."""
    network = pytorch_fid_network(weights)
    # As pytorch-fid reads pictures: from 0 to 1.
    return lambda images: network(images.float() / 255)


SIDES = {"torch-fidelity": torch_fidelity_features, "pytorch-fid": pytorch_fid_features}


@torch.no_grad()
def measure(options):
    """Returns the seconds of each round."""
    torch.set_num_threads(options.threads)
    extract = SIDES[options.side](options.weights)
    images = torch.randint(0, 256, (options.images, 3, options.size, options.size), dtype=torch.uint8)
    now = (lambda: time.process_time() / options.threads) if options.processor_time else time.monotonic
    seconds = []
    for _ in range(options.warmup + options.rounds):
        began = now()
        for batch in images.split(options.batch_size):
            extract(batch)
        seconds.append(now() - began)
    return seconds[options.warmup :]


def main():
    """Writes weights, or measures and prints JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("weights").add_argument("weights")
    timing = commands.add_parser("time")
    timing.add_argument("side", choices=sorted(SIDES))
    timing.add_argument("weights")
    for name, default in [("images", 64), ("size", 64), ("batch-size", 32), ("rounds", 3), ("warmup", 1), ("threads", 1)]:
        timing.add_argument(f"--{name}", type=int, default=default)
    timing.add_argument("--processor-time", action="store_true")
    options = parser.parse_args()
    if options.command == "weights":
        torch.save(random_weights(), options.weights)
        return print(json.dumps({"torch": torch.__version__}))
    seconds = measure(options)
    print(json.dumps({"seconds": {"median": statistics.median(seconds)}, "torch": torch.__version__}))


if __name__ == "__main__":
    main()

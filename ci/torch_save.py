#!/usr/bin/env python3
"""Measures torch.save of float32 state, for ci/bench-checkpoint: torch_save.py FOLDER PARAMETERS COPIES

Prints as JSON the bytes of the file, the seconds of torch.save, and the seconds of torch.save with fsync.
"""

import json
import os
import sys
import time

import torch

folder, parameters, copies = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
# The layout of a trainer's state: a few state dicts of a few hundred tensors each.
pieces = 400
sizes = [parameters // pieces + (i < parameters % pieces) for i in range(pieces)]
state = [{f"parameter.{i}": torch.empty(size).uniform_(-1, 1) for i, size in enumerate(sizes)} for _ in range(copies)]
path = os.path.join(folder, "state.pt")
start = time.monotonic()
with open(path, "wb") as file:
    torch.save(state, file)
    saved = time.monotonic()
    file.flush()
    os.fsync(file.fileno())
durable = time.monotonic()
size = os.path.getsize(path)
os.remove(path)
print(json.dumps({"bytes": size, "save_seconds": saved - start, "durable_seconds": durable - start}))

"""The processes of ci/bench-peers: programs that run once, and peers that stay and answer one line for each round.

A peer (`ci/peer_step.py`, `ci/peer_sample.py`) prepares itself, runs one iteration (which compiles what is compiled),
and prints a line of JSON. For each line `{"warmup": W, "count": N}` of its stdin it then prints the seconds of N
iterations. A peer that fails prints `{"error": REASON}` and ends. This module does not import torch.
"""

import contextlib
import json
import os
import pathlib
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback

# A longer reason does not fit into a table.
LONGEST_REASON = 200

# A peer that has not ended after this time is killed.
SECONDS_TO_END = 20


class Failed(Exception):
    """A process that failed. The message is its reason."""


def peak_bytes():
    """Returns the highest number of bytes that this process has had in memory so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def ending(status, errors):
    """Returns why a process failed, from its status as subprocess gives it and its stderr."""
    if status < 0:
        return f"ended by {signal.Signals(-status).name}"
    lines = [line for line in errors.splitlines() if line.strip()]
    # Admiral begins the line of its error with this word, and ends with it or with a hint.
    first = next((number for number, line in enumerate(lines) if line.startswith("error")), -1)
    return "\n".join(lines[first:]) if lines else f"exited with {status}"


def start(words, **others):
    """Starts a program, or raises `Failed`."""
    try:
        return subprocess.Popen([str(word) for word in words], **others)
    except OSError as error:
        raise Failed(f"{words[0]}: {error.strerror}") from None


def run(words, environment=None):
    """Runs a program. Returns its output, a text, and the peak of its memory in bytes. Raises `Failed`."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        process = start(words, stdin=subprocess.DEVNULL, stdout=out, stderr=errors, env=environment)
        # subprocess would wait without the usage of resources.
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        errors.seek(0)
        if process.returncode != 0:
            raise Failed(f"{pathlib.Path(words[0]).name} {words[1]}: {ending(process.returncode, errors.read())}")
        return out.read(), usage.ru_maxrss * 1024


def run_json(words, environment=None):
    """Runs a program that prints JSON. Returns the document and the peak of its memory in bytes. Raises `Failed`."""
    out, peak = run(words, environment)
    return json.loads(out), peak


class Peer:
    """A running peer, on the side that asks. Each method raises `Failed` if the peer fails."""

    def __init__(self, words, environment=None):
        self.errors = tempfile.TemporaryFile("w+")
        pipe = subprocess.PIPE
        self.process = start(words, stdin=pipe, stdout=pipe, stderr=self.errors, text=True, env=environment)
        try:
            self.ready = self.answer()
        except Failed:
            self.close()
            raise

    def answer(self):
        """Returns the next line of the peer."""
        line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            raise Failed(ending(self.process.wait(), self.errors.read()))
        values = json.loads(line)
        if "error" in values:
            raise Failed(values["error"])
        return values

    def measure(self, warmup, count):
        """Returns what the peer answers to one round."""
        try:
            print(json.dumps({"warmup": warmup, "count": count}), file=self.process.stdin, flush=True)
        except BrokenPipeError:
            pass  # the reason is in its answer or its stderr
        return self.answer()

    def close(self):
        """Ends the peer, which ends when its stdin does, with the processes that compiled for it."""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(timeout=SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.errors.close()


def reason_of(error):
    """Returns an exception as one line of a table."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= LONGEST_REASON else text[: LONGEST_REASON - 3] + "..."


def serve(prepare, memory):
    """Answers as a peer until stdin ends.

    `prepare()` returns a function that runs one iteration and returns its seconds. `memory()` returns more fields of an
    answer about memory. Call this before the network is built, because it notes the memory of the process until then.
    """
    idle = peak_bytes()
    answers, sys.stdout = sys.stdout, sys.stderr

    def answer(values):
        print(json.dumps(values), file=answers, flush=True)

    try:
        began = time.monotonic()
        iteration = prepare()
        iteration()
        answer({"idle_bytes": idle, "prepare_seconds": time.monotonic() - began})
        for line in sys.stdin:
            round_ = json.loads(line)
            for _ in range(round_["warmup"]):
                iteration()
            seconds = [iteration() for _ in range(round_["count"])]
            answer({"seconds": seconds, "peak_bytes": peak_bytes(), **memory()})
    except Exception as error:
        traceback.print_exc()
        answer({"error": reason_of(error)})
        sys.exit(1)

"""Runs commands that print JSON."""

import json
import pathlib
import subprocess
import sys


def run(words, environment=None):
    """Runs a command and returns the JSON that it prints. Ends this program with the command's errors if it fails."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        sys.exit(f"{pathlib.Path(sys.argv[0]).name}: {' '.join(map(str, words))}\n{done.stderr}")
    return json.loads(done.stdout)

"""A training that is stopped or out of disk loses nothing: the first paper's script, from the shell.

kill_and_resume.py, too slow to be a test here, kills trainings of all folders at random moments and inside writes.
"""

import os
import re
import shlex
import signal
import subprocess
import sys

import pytest
import torch
from conftest import ROOT

TRAIN = "nu_deeplabv3plus/train.py"
TINY = ("--size", 32, "--weights", "none", "--device", "cpu")


@pytest.fixture
def start(faces, tmp_path):
    """start(prefix) starts a training of a hundred epochs, with `prefix` before the command -> Popen."""

    def run(prefix: tuple[str, ...] = ()):
        arguments = ("--data", faces, "--out", "run", "--cache", "cache", "--epochs", 100, *TINY)
        command = [*prefix, sys.executable, str(ROOT / TRAIN), *map(str, arguments)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=tmp_path, env=environment, **pipes)

    return run


def test_a_stopped_training_says_how_to_go_on_and_that_works(start, call, tmp_path, monkeypatch):
    """SIGTERM; Ctrl-C takes the same way (test_checkpoint.py)."""
    process = start()
    for line in process.stdout:
        if line.startswith("epoch   1"):
            break
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143
    said = [line for line in errors.splitlines() if "stopped" in line]
    assert len(said) == 1 and "Traceback" not in errors
    command = shlex.split(re.search("go on with: (.*)", said[0])[1])
    assert command[0] == "python" and command[1].endswith(TRAIN)
    done = torch.load(tmp_path / "run" / "last.pt", weights_only=True)["epoch"]
    assert done >= 1
    monkeypatch.chdir(tmp_path)
    from nu_deeplabv3plus import train

    assert call(train, *command[2:], "--epochs", done + 1, "--cache", "cache").returncode == 0
    assert torch.load(tmp_path / "run" / "last.pt", weights_only=True)["epoch"] == done + 1


def test_a_full_disk_leaves_the_checkpoint_before(start, tmp_path):
    """No file may be larger than 100 MB: the weights fit (the start's last.pt), with the optimiser they do not."""
    process = start(("bash", "-c", 'ulimit -f 100000; exec "$@"', "-"))
    _, errors = process.communicate(timeout=120)
    lines = [line for line in errors.splitlines() if "error:" in line]
    assert process.returncode == 2 and len(lines) == 1 and "Traceback" not in errors
    assert "best.pt" in lines[0] and "free some space" in lines[0]
    assert torch.load(tmp_path / "run" / "last.pt", weights_only=True)["epoch"] == 0
    assert not list((tmp_path / "run").glob(".*"))

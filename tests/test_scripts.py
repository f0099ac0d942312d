"""What every training of the five folders must pass: stopped, killed, resumed, in two processes."""

import importlib
import multiprocessing
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys

import pytest
import torch
import trainings
from conftest import ROOT, one_line_error, succeed
from torch import nn
from trainings import TRAININGS, make_networks_small

from common.run import load_checkpoint

each_training = pytest.mark.parametrize("name", TRAININGS)


@pytest.fixture
def training(name, monkeypatch, no_pictures):
    """One of TRAININGS with a small network."""
    made = TRAININGS[name]
    make_networks_small(made.folder, monkeypatch.setattr)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    return made


def arguments(training, faces, tmp_path, out: str, *more) -> tuple:
    where = ("--data", faces, "--out", tmp_path / out, "--cache", tmp_path / "cache", "--device", "cpu", "--amp", "off")
    return *training.arguments.split(), *where, *more


def equal(a, b) -> bool:
    """Whether two parts of checkpoints are equal, tensors bit for bit; of the log all but the seconds."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        keys = a.keys() - {"seconds"}
        return keys == b.keys() - {"seconds"} and all(equal(a[key], b[key]) for key in keys)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b or (a != a and b != b)  # noqa: PLR0124 (both nan)


def differences(run, whole, training) -> list[str]:
    """The files, or the parts of the checkpoints, in which two finished runs differ, but for how they were started."""
    found = sorted({path.name for path in run.iterdir()} ^ {path.name for path in whole.iterdir()})
    for name in ("last.pt", training.best):
        a, b = (load_checkpoint(path / name, training.folder) for path in (run, whole))
        found += [f"{name}: {key}" for key in (a.keys() | b.keys()) - {"starts"} if not equal(a.get(key), b.get(key))]
    return found


def at_backward(monkeypatch, act, step: int) -> list:
    """Call act() in the backward pass number `step` of this process; the list counts them."""
    backward, steps = torch.Tensor.backward, []

    def counted(self, *args, **kwargs):
        steps.append(1)
        if len(steps) == step:
            act()
        return backward(self, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "backward", counted)
    return steps


# ---- Stopped, killed, resumed --------------------------------------------------------------------------------------


@each_training
def test_a_run_that_was_stopped_and_killed_equals_a_whole_one(name, training, faces, call, tmp_path, monkeypatch):
    """In one go; and stopped in its second epoch by Ctrl-C or SIGTERM, gone on with by the command that it said, killed
    with half of last.pt on disk, and gone on with again: the same weights, optimiser and log, bit for bit."""
    with monkeypatch.context() as patch:
        steps = at_backward(patch, None, 0)
        succeed(call(training.module, *arguments(training, faces, tmp_path, "whole", "--epochs", 3)))
    number, code = (signal.SIGTERM, 143) if list(TRAININGS).index(name) % 2 else (signal.SIGINT, 130)

    def stop():
        assert signal.getsignal(number) != signal.SIG_DFL, "the script does not take it; it would end the tests"
        signal.raise_signal(number)

    with monkeypatch.context() as patch:
        at_backward(patch, stop, len(steps) // 3 + 1)
        result = call(training.module, *arguments(training, faces, tmp_path, "my run", "--epochs", 3))
    said = [line for line in result.stderr.splitlines() if line]
    assert result.returncode == code and len(said) == 1 and "stopped; go on with: " in said[0]
    last = tmp_path / "my run" / "last.pt"
    assert load_checkpoint(last, training.folder)["epoch"] == 1
    _, script, *command = shlex.split(said[0].split("go on with: ")[1])
    assert script == training.module.__file__ and command == ["--resume", str(last)]

    def die():  # in the second write of last.pt: half of it is on disk
        writes = []

        def deadly(descriptor):
            target = os.readlink(f"/proc/self/fd/{descriptor}")
            writes.append(1) if target.endswith(".last.pt.tmp") else None
            if len(writes) == 2:
                os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
                os.kill(os.getpid(), signal.SIGKILL)

        monkeypatch.setattr(os, "fsync", deadly)
        call(training.module, *command, "--cache", tmp_path / "cache")

    if sys.platform == "linux":
        process = multiprocessing.get_context("fork").Process(target=die)
        process.start()
        process.join(120)
        assert process.exitcode == -signal.SIGKILL and load_checkpoint(last, training.folder)["epoch"] == 2
    succeed(call(training.module, *command, "--cache", tmp_path / "cache"))
    assert differences(tmp_path / "my run", tmp_path / "whole", training) == []
    assert len(load_checkpoint(last, training.folder)["starts"]) == (3 if sys.platform == "linux" else 2)


@each_training
def test_a_run_stopped_in_its_first_epoch_can_be_resumed_and_data_that_changed_is_refused(
    name, training, faces, call, tmp_path, monkeypatch
):
    data = shutil.copytree(faces, tmp_path / "CelebAMask-HQ")
    with monkeypatch.context() as patch:
        at_backward(patch, lambda: signal.raise_signal(signal.SIGINT), 1)
        assert call(training.module, *arguments(training, data, tmp_path, "run", "--epochs", 1)).returncode == 130
    resume = ("--resume", tmp_path / "run" / "last.pt", "--cache", tmp_path / "cache")
    changed = shutil.copytree(data, tmp_path / "changed")
    for path in changed.rglob("*.jpg" if training.script == "pretrain" else "*_hair.png"):
        path.write_bytes(path.read_bytes() + b"\0")  # still a picture, and another file
    error = one_line_error(call(training.module, *resume, "--data", changed))
    assert "not those that" in error and "give the folders as they were" in error
    moved = data.rename(tmp_path / "moved")
    gone = f"{data}: is gone, where {tmp_path / 'run' / 'last.pt'} had its data; give --data where they are now"
    assert gone in one_line_error(call(training.module, *resume))
    succeed(call(training.module, *resume, "--data", moved))
    assert load_checkpoint(tmp_path / "run" / "last.pt", training.folder)["epoch"] == 1
    if training.script == "train":
        moved.rename(tmp_path / "again")
        evaluate = importlib.import_module(f"{training.folder}.eval")
        assert f"{moved}: is gone, where" in one_line_error(call(evaluate, tmp_path / "run" / "best.pt"))


@each_training
def test_a_loss_of_nan_names_the_images_of_its_batch(name, training, faces, call, tmp_path, monkeypatch):
    """Every convolution answers with nan from the second step on."""
    steps = at_backward(monkeypatch, None, 0)
    forward = nn.Conv2d.forward
    monkeypatch.setattr(nn.Conv2d, "forward", lambda self, x: forward(self, x) * (torch.nan if steps else 1))
    error = one_line_error(call(training.module, *arguments(training, faces, tmp_path, "run", "--epochs", 1)))
    found = re.search(r"epoch 1, batch 2: the loss is not finite; its images are (.*); look at them", error)
    images = found[1].split(", ")
    assert len(images) >= 2 and all(re.fullmatch(r"(.*/)?\d+\.jpg", image) for image in images), images
    assert load_checkpoint(tmp_path / "run" / "last.pt", training.folder)["epoch"] == 0


# ---- In two processes ----------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="PyTorch's torchrun does not start there")
def test_two_processes_train_a_network_together(faces, tmp_path):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", trainings.__file__]
    flags = arguments(TRAININGS["nu_deeplabv3plus"], faces, tmp_path, "run", "--epochs", "1")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*launch, *flags], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    out = succeed(done)
    assert "2 process(es)" in out and out.count("epoch   1") == 1 and out.count("next ") == 1
    assert load_checkpoint(tmp_path / "run" / "last.pt", "nu_deeplabv3plus")["epoch"] == 1

"""Nothing is lost and nothing is silent: runs that are stopped, out of disk, with other workers, with losses of nan.

kill_and_resume.py, too slow to be a test here, kills them at random moments and inside writes.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
import time

import fuzz
import pytest
import torch
from conftest import ROOT, one_line_error
from kill_and_resume import check_what_is_left, differences
from trainings import TRAININGS, make_networks_small

from common.checkpoint import load_checkpoint

TRAIN = "nu_deeplabv3plus/train.py"
TINY = ("--size", 32, "--weights", "none", "--device", "cpu")
each_training = pytest.mark.parametrize("name", TRAININGS)


@pytest.fixture
def training(name, monkeypatch, no_pictures):
    """One of TRAININGS with a small network."""
    made = TRAININGS[name]
    make_networks_small(made.folder, monkeypatch.setattr)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    yield made
    torch.use_deterministic_algorithms(False)


def arguments(training, faces, tmp_path, out: str, *more) -> tuple:
    where = ("--data", faces, "--out", tmp_path / out, "--cache", tmp_path / "cache", "--device", "cpu")
    return *training.arguments, *where, *more


# ---- Stopped, resumed, started again -------------------------------------------------------------------------------


@each_training
def test_a_stopped_run_with_loader_processes_equals_a_whole_one_without(
    name, training, faces, call, tmp_path, monkeypatch
):
    """The same seed is the same run, bit for bit: in one go without loader processes; with two of them, stopped in the
    second epoch by Ctrl-C or SIGTERM, and gone on with by the command that it said."""
    module, same_run = training.module, ("--epochs", 2, "--deterministic", "--amp", "off")
    result = call(module, *arguments(training, faces, tmp_path, "whole", *same_run))
    assert result.returncode == 0, result.stderr
    number, code = (signal.SIGTERM, 143) if list(TRAININGS).index(name) % 2 else (signal.SIGINT, 130)
    train_epoch = module.train_epoch

    def stopped(*args):
        if args[-1] == 2:
            os.kill(os.getpid(), number)
            time.sleep(5)
            raise AssertionError("the signal did not stop it")
        return train_epoch(*args)

    with monkeypatch.context() as patch:
        patch.setattr(module, "train_epoch", stopped)
        result = call(module, *arguments(training, faces, tmp_path, "stopped", *same_run, "--workers", 2))
    said = [line for line in result.stderr.splitlines() if line]
    assert result.returncode == code and len(said) == 1 and "stopped; go on with: " in said[0]
    assert load_checkpoint(tmp_path / "stopped" / "last.pt", training.folder)["epoch"] == 1
    _, script, *command = shlex.split(said[0].split("go on with: ")[1])
    assert script == module.__file__
    result = call(module, *command, "--cache", tmp_path / "cache")
    assert result.returncode == 0, result.stderr
    check_what_is_left(tmp_path / "stopped", training.folder)
    # the arguments hold the number of workers
    assert set(differences(tmp_path / "stopped", tmp_path / "whole", training)) == {
        "last.pt: args",
        f"{training.best}: args",
    }


@pytest.fixture
def start(faces, tmp_path):
    """start("--flag", value) starts a training of a hundred epochs, with `prefix` before the command -> Popen."""

    def run(*flags, prefix: tuple[str, ...] = ()):
        arguments = ("--data", faces, "--out", "run", "--cache", "cache", "--epochs", 100, *TINY, *flags)
        command = [*prefix, sys.executable, str(ROOT / TRAIN), *map(str, arguments)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, cwd=tmp_path, env=environment, start_new_session=True, **pipes))
        return started[-1]

    started = []
    yield run
    for process in started:
        process.kill()
        process.wait()


def test_ctrl_c_in_a_shell_stops_a_training_and_its_loader_processes_in_one_line(start, tmp_path):
    process = start("--workers", 2)
    for line in process.stdout:
        if line.startswith("epoch   1"):
            break
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to all of them
    _, errors = process.communicate(timeout=60)
    said = [line for line in errors.splitlines() if line]
    assert process.returncode == 130 and len(said) == 1
    assert re.search(r"go on with: python \S*train.py --resume run/last.pt$", said[0])
    assert torch.load(tmp_path / "run" / "last.pt", weights_only=True)["epoch"] >= 1


def test_a_full_disk_leaves_the_checkpoint_before(start, tmp_path):
    """No file may be larger than 100 MB: the weights fit (the start's last.pt), with the optimiser they do not."""
    process = start(prefix=("bash", "-c", 'ulimit -f 100000; exec "$@"', "-"))
    _, errors = process.communicate(timeout=120)
    lines = [line for line in errors.splitlines() if "error:" in line]
    assert process.returncode == 2 and len(lines) == 1 and "Traceback" not in errors
    assert "best.pt" in lines[0] and "free some space" in lines[0]
    assert torch.load(tmp_path / "run" / "last.pt", weights_only=True)["epoch"] == 0
    assert not list((tmp_path / "run").glob(".*"))


# ---- Losses that are not finite ------------------------------------------------------------------------------------


def times_nan(output):
    return output * torch.nan if isinstance(output, torch.Tensor) else type(output)(map(times_nan, output))


@each_training
def test_in_bf16_losses_are_float32_and_one_of_nan_names_the_images_of_its_batch(
    name, training, faces, call, tmp_path, monkeypatch
):
    """The network answers with nan in the second batch of the first epoch."""
    module, loaders, outputs, losses = training.module, [], [], []
    loader, check_finite = module.loader, module.check_finite

    def spoil(network, inputs, output):
        outputs.append(output)
        return times_nan(output) if len(outputs) == 2 else output

    def with_hook(network, *args, **kwargs):
        network.register_forward_hook(spoil)
        return network

    monkeypatch.setattr(module, "loader", lambda *args: loaders.append(loader(*args)) or loaders[-1])
    monkeypatch.setattr(module, "check_finite", lambda *args: losses.extend(args[0]) or check_finite(*args))
    monkeypatch.setattr(module.distributed, "wrap", with_hook)
    error = one_line_error(call(module, *arguments(training, faces, tmp_path, "run", "--epochs", 1, "--amp", "bf16")))
    names = ", ".join(loaders[0].dataset.name(i) for i in list(loaders[0].sampler)[1])
    assert f"epoch 1, batch 2: the loss is not finite; its images are {names}; " in error
    assert len(losses) >= 2 and all(loss.dtype == torch.float32 for loss in losses)
    assert load_checkpoint(tmp_path / "run" / "last.pt", training.folder)["epoch"] == 0


@pytest.mark.parametrize("name", ["masked_ssl", "masked_ssl/pretrain"])  # what they evaluate has no loss
def test_a_network_that_breaks_in_its_last_step_does_not_overwrite_the_checkpoint(
    name, training, faces, call, tmp_path, monkeypatch
):
    train_epoch = training.module.train_epoch

    def breaking(network, *args):
        scores = train_epoch(network, *args)
        torch.nn.init.constant_(next(network.parameters()), torch.nan)
        return scores

    monkeypatch.setattr(training.module, "train_epoch", breaking)
    error = one_line_error(call(training.module, *arguments(training, faces, tmp_path, "run", "--epochs", 1)))
    assert ".pt: not overwritten, because " in error and "has become nan or inf" in error
    assert load_checkpoint(tmp_path / "run" / "last.pt", training.folder)["epoch"] == 0


def test_the_fuzzer_still_knows_every_reader(monkeypatch, capsys, tmp_path):
    """tests/fuzz.py with a few files: its readers are those that the scripts use today."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["fuzz.py", "60", "--seed", "3"])
    fuzz.main()
    assert capsys.readouterr().out.startswith(f"60 damaged files of {len(fuzz.KINDS)} kinds")
    assert not list(tmp_path.iterdir())

"""Two processes of torchrun compute what one process computes. torchrun_worker.py holds what is computed."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchrun_worker

from common import cli, distributed
from common.cli import InputError

SIZES = (torchrun_worker.N, 8, 3)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return torchrun_worker.everything(tmp_path_factory.mktemp("single"))


def two_processes(argument) -> subprocess.CompletedProcess:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}",
         str(Path(torchrun_worker.__file__)), str(argument)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("torchrun")
    result = two_processes(folder)
    assert result.returncode == 0, result.stderr
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def test_there_are_two_processes(two):
    assert [result["world_size"] for result in two] == [2, 2]


@pytest.mark.parametrize("folder", torchrun_worker.LOSSES)
def test_two_processes_have_the_loss_and_the_gradient_of_the_whole_batch(one, two, folder):
    expected = one["gradients"][folder]
    assert expected["sizes"] == [6] * 4 and len(set(expected["losses"])) == 4
    for found in (result["gradients"][folder] for result in two):
        assert found["sizes"] == [3] * 4
        assert found["losses"] == pytest.approx(expected["losses"], rel=1e-5)
        for step, whole in zip(found["gradients"], expected["gradients"], strict=True):
            assert max(b.abs().max() for b in whole) > 1e-4
            torch.testing.assert_close(step, whole, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("n", SIZES)
def test_two_processes_evaluate_like_one(one, two, n):
    expected = one["evaluation"][n]
    for result in two:
        found = result["evaluation"][n]
        assert torch.equal(found["counts"], expected["counts"])
        for name in ("loss", "iou", "f1"):
            assert found[name] == pytest.approx(expected[name], abs=1e-6), name
    assert expected["counts"].sum(1).tolist() == [n * torchrun_worker.SIZE**2] * 18  # every pixel once
    assert 0 < expected["iou"] < expected["f1"] < 1


def test_the_means_run_over_batches_of_unequal_size(one):
    parts = [torchrun_worker.evaluation(n)["iou"] for n in (8, torchrun_worker.N)]
    assert parts[0] != parts[1]  # the third, smaller batch counts


def test_sums_and_copies_between_processes(two):
    for rank, result in enumerate(two):
        found = result["collectives"]
        assert found["mine"].tolist() == [1 + rank]  # left as it was
        assert found["total"].tolist() == [3]
        assert found["running_mean"].tolist() == [1, 1]
        assert found["found"] is (rank > 0)  # the first process was first


def test_without_torchrun_nothing_happens(one, monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert distributed.start(torchrun_worker.CPU) == distributed.world() == (0, 1)
    assert not torch.distributed.is_initialized()
    model, x = torch.nn.Linear(2, 2), torch.ones(3, requires_grad=True)
    assert distributed.wrap(model, torchrun_worker.CPU) is model
    assert distributed.sum_over_processes(x) is x
    distributed.sum_with_gradient(x).sum().backward()
    assert x.grad.tolist() == [1, 1, 1]
    assert one["collectives"]["total"].tolist() == [1]
    assert one["collectives"]["found"] is False
    distributed.stop()


def test_a_process_that_dies_ends_the_job_with_a_clear_line():
    """Killed as by a machine that runs out of memory; the other process waits for it in a collective."""
    result = two_processes("--lose")
    assert result.returncode != 0
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("torchrun_worker.py: ")]
    # what the other hears first: that its partner is gone, or torchrun's SIGTERM
    assert "another process of this job has died" in line or "stopped" in line
    assert "go on with" in line and "--resume run/last.pt" in line
    assert "-9" in result.stderr  # torchrun says which, and by what signal


@pytest.mark.parametrize("words", cli.LOST_PROCESS)
def test_a_collective_whose_other_side_has_died_is_one_clear_line(words, capsys):
    def main():
        cli.go_on_with(Path("run/last.pt"))
        raise RuntimeError(f"[gloo] Connection {words} [127.0.0.1]:4711")

    with pytest.raises(SystemExit) as stop:
        cli.run(main)
    assert stop.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "another process of this job has died; go on with" in line and "--resume run/last.pt" in line


def test_sync_batch_norm_on_the_cpu_is_refused(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    with pytest.raises(InputError, match="--sync-batch-norm"):
        distributed.wrap(torch.nn.BatchNorm2d(2), torchrun_worker.CPU, sync_batch_norm=True)
    monkeypatch.undo()
    with pytest.raises(InputError, match="processes of torchrun, here is one"):
        distributed.wrap(torch.nn.BatchNorm2d(2), torch.device("cuda"), sync_batch_norm=True)


def test_sync_batch_norm_keeps_the_names_and_the_parameters(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.nn.parallel, "DistributedDataParallel", lambda model, device_ids: model)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))
    names, parameters = list(model.state_dict()), list(model.parameters())
    distributed.wrap(model, torch.device("cuda", 0))
    assert isinstance(model[1], torch.nn.BatchNorm2d)
    distributed.wrap(model, torch.device("cuda", 0), sync_batch_norm=True)
    assert isinstance(model[1], torch.nn.SyncBatchNorm)
    assert list(model.state_dict()) == names
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))


def test_a_compiled_network_trains_the_model_that_is_saved(monkeypatch):
    model = torch.nn.Linear(2, 2)
    monkeypatch.setattr(torch, "compile", lambda network: torch.nn.Sequential(network))  # the real one takes a minute
    network = distributed.wrap(model, torchrun_worker.CPU, compiled=True)
    assert network is not model and next(network.parameters()) is model.weight
    assert list(model.state_dict()) == ["weight", "bias"]


def test_several_processes_on_an_apple_gpu_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="--device cpu"):
        distributed.start(torch.device("mps"))

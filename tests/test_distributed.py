"""Two processes compute what one process computes. torchrun_worker.py holds what is computed.

The processes are forked, with the environment that torchrun gives, which spares them PyTorch's import; torchrun itself
starts a training in test_scripts.py.
"""

import multiprocessing
import os
import socket
import sys
from argparse import Namespace

import pytest
import torch
import torchrun_worker
from conftest import refused

from common import cli
from common.device import parallel, start

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return torchrun_worker.everything(tmp_path_factory.mktemp("single"))


def work(rank: int, port: int, argument: str, errors: str) -> None:
    """One of two processes."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "CUDA_VISIBLE_DEVICES": ""}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    sys.argv = [torchrun_worker.__file__, argument]
    sys.stderr = open(errors, "w")
    cli.run(torchrun_worker.main)


def two_processes(argument: str, folder) -> tuple[list[int], list[str]]:
    """Their exit codes, and what they said on stderr."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    errors = [folder / f"{rank}.txt" for rank in range(2)]
    fork = multiprocessing.get_context("fork").Process
    processes = [fork(target=work, args=(rank, port, argument, str(errors[rank]))) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    return [process.exitcode for process in processes], [path.read_text() for path in errors]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("torchrun")
    codes, said = two_processes(str(folder), folder)
    assert codes == [0, 0], said
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


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


@pytest.mark.parametrize("n", [torchrun_worker.N, 8, 3])
def test_two_processes_evaluate_like_one(one, two, n):
    expected = one["evaluation"][n]
    for result in two:
        found = result["evaluation"][n]
        assert torch.equal(found["counts"], expected["counts"])
        for name in ("loss", "iou", "f1"):
            assert found[name] == pytest.approx(expected[name], abs=1e-6), name
    assert expected["counts"].sum(1).tolist() == [n * torchrun_worker.SIZE**2] * 18  # every pixel once
    assert 0 < expected["iou"] < expected["f1"] < 1


def test_sums_copies_and_seeds_between_processes(one, two):
    assert [result["world_size"] for result in two] == [2, 2]
    for rank, result in enumerate(two):
        found = result["collectives"]
        assert found["mine"].tolist() == [1 + rank]  # left as it was
        assert found["total"].tolist() == [3] and found["mean"].tolist() == [1, 1]
        assert found["found"] is (rank > 0)  # the first process was first
    dropped = [result["collectives"]["dropped"].item() for result in (one, *two)]
    assert dropped[0] == dropped[1] != dropped[2]  # dropout of its own in the second process


def test_a_compiled_network_trains_the_model_that_is_saved(monkeypatch):
    model = torch.nn.Linear(2, 2)
    assert parallel(model, torchrun_worker.CPU) is model
    monkeypatch.setattr(torch, "compile", lambda network: torch.nn.Sequential(network))  # the real one takes a minute
    network = parallel(model, torchrun_worker.CPU, compiled=True)
    assert network is not model and next(network.parameters()) is model.weight
    assert list(model.state_dict()) == ["weight", "bias"]


def test_several_processes_on_an_apple_gpu_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    args = Namespace(device="mps", amp="off", batch_size=2, seed=0)
    assert "--device cpu" in refused(start, args)


def test_a_process_that_dies_ends_the_job_with_a_clear_line(tmp_path):
    """Killed as by a machine that runs out of memory; the other process waits for it in a collective."""
    codes, said = two_processes("--lose", tmp_path)
    assert codes == [1, -9]
    (line,) = said[0].splitlines()
    assert "another process of this job has died" in line and "go on with" in line and "--resume run/last.pt" in line

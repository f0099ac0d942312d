"""Loader processes: every way to start them gives the same batches, and what goes wrong in one is said in one line."""

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from torch.utils.data import Dataset

import hair_transfer.dataset
import lrn_headtorso.dataset
import masked_ssl.dataset
import mut1ny_fairness.dataset
import nu_deeplabv3plus.dataset
from common import cli
from common.cli import InputError
from common.data import EvalBatches, loader
from masked_ssl import pool
from masked_ssl.classes import classes_of


class Together(Dataset):
    """All data sets of the folders as one, so that a process is started once and not for each of them."""

    def __init__(self, faces: Path, cache: Path):
        nu, hair, lrn = nu_deeplabv3plus.dataset, hair_transfer.dataset, lrn_headtorso.dataset
        ssl, mut1ny = masked_ssl.dataset, mut1ny_fairness.dataset
        arrays, found = nu.load(faces, 32, cache)
        pairs = lrn.list_pairs(faces).pairs
        data, classes = ssl.locate(faces), classes_of("celebamask", "own")
        labelled, photos = data.parts["train"], pool.gather(data, [])[0]
        self.sets = [
            nu.FaceParts(arrays, list(range(8)), found, "flip-swap"),
            hair.HairMasks(hair.list_faces([faces]), 32, cache),
            lrn.HeadTorso(lrn.load(pairs, 32, cache), [pair.name for pair in pairs], augment=True),
            ssl.FaceLabels(
                ssl.load(labelled, 32, classes, cache), list(range(8)), [f.name for f in labelled], classes, flip=True
            ),
            pool.MaskedPhotos(pool.load(photos, 32, cache), photos, (4, 28), 0.5, flip=True),
            mut1ny.LabelledFaces(mut1ny.list_samples(faces)[0], 32, cache),
        ]

    def __getitem__(self, batch):
        return [tensor for data in self.sets for tensor in data[batch]]


@pytest.fixture
def start_method(request):
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method(request.param, force=True)
    yield request.param
    multiprocessing.set_start_method(before, force=True)


@pytest.mark.parametrize("start_method", multiprocessing.get_all_start_methods(), indirect=True)
def test_processes_that_are_forked_spawned_or_served_give_the_batches_of_none(start_method, faces, tmp_path):
    """Linux forks (from Python 3.14 on a server does), macOS and Windows spawn."""
    data = Together(faces, tmp_path)
    alone, processes = (list(loader(data, EvalBatches(8, 4), workers)) for workers in (0, 1))
    assert len(alone) == len(processes) == 2 and len(alone[0]) == 12
    for a, b in zip(alone, processes, strict=True):
        assert all(x.dtype == y.dtype and torch.equal(x, y) for x, y in zip(a, b, strict=True))


# ---- What goes wrong in them ---------------------------------------------------------------------------------------


class Failing(Dataset):
    def __init__(self, failure):
        self.failure = failure

    def __getitem__(self, batch):
        if 5 in batch:
            self.failure()
        return torch.tensor(batch)


def a_bad_file():
    raise InputError("faces/5.png: is broken; remove it")


def a_lost_file():
    open("nowhere/5.png")


def a_bug():
    return list(range(5))[5]


def a_bug_in_torch():
    torch.stack([torch.zeros(2), torch.zeros(3)])


def a_kill():
    os.kill(os.getpid(), signal.SIGKILL)


def read(failure, workers):
    def main():
        batches = iter(loader(Failing(failure), EvalBatches(8, 4), workers))
        assert next(batches).tolist() == [0, 1, 2, 3]
        next(batches)

    cli.run(main)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("failure", "named"),
    [
        (a_bad_file, "error: faces/5.png: is broken; remove it"),
        (a_lost_file, "No such file or directory: 'nowhere/5.png'; the data must stay"),
    ],
)
def test_a_file_that_fails_in_a_loader_process_is_named_in_one_line(failure, named, workers, capfd):
    with pytest.raises(SystemExit) as end:
        read(failure, workers)
    said = capfd.readouterr().err.splitlines()
    assert end.value.code == 2 and len(said) == 1 and named in said[0] and "Traceback" not in said[0]


def test_a_loader_process_that_is_killed_is_one_line_with_a_remedy(capfd):
    with pytest.raises(SystemExit) as end:
        read(a_kill, 2)
    said = capfd.readouterr().err.splitlines()
    assert end.value.code == 2 and len(said) == 1
    assert "error: --workers 2: DataLoader worker" in said[0] and said[0].endswith("try fewer, or --workers 0")


def test_loader_processes_that_cannot_be_started_are_one_line_with_a_remedy(capfd, monkeypatch):
    def refuse(process):
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(multiprocessing.Process, "start", refuse)
    with pytest.raises(SystemExit) as end:
        read(a_kill, 2)
    (line,) = capfd.readouterr().err.splitlines()
    assert end.value.code == 2
    assert line.endswith("error: --workers 2: Resource temporarily unavailable; try fewer, or --workers 0")


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("bug", "kind"), [(a_bug, IndexError), (a_bug_in_torch, RuntimeError)])
def test_a_bug_in_a_loader_process_keeps_its_traceback(bug, kind, workers):
    with pytest.raises(kind, match="expects|out of range" if workers == 0 else f"in {bug.__name__}"):
        read(bug, workers)


def test_loader_processes_end_without_a_word_of_their_own():
    """In a process that ends after the error, as PyTorch ends the loader processes when Python exits."""
    code = "import test_workers as t; t.read(t.a_bad_file, 2)"
    for _ in range(2):
        ended = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT / "tests",
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert ended.returncode == 2 and len(ended.stderr.splitlines()) == 1, ended.stderr

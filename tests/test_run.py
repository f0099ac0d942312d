"""common/run.py, cli.py and pictures.py: what is written comes back, what cannot be used is refused in one line."""

import errno
import json
import os
import signal
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import refused
from PIL import Image

from common import cli, pictures
from common.cli import InputError
from common.pictures import save
from common.run import FORMAT, Run, arguments, load_checkpoint, new_folder, result_folders, trained

CPU = torch.device("cpu")


def write(path: Path, **content) -> Path:
    torch.save({"paper": "a_paper", "format": FORMAT, **content}, path)
    return path


# ---- Checkpoints ---------------------------------------------------------------------------------------------------


def test_a_checkpoint_comes_back_and_what_does_not_fit_is_one_line(tmp_path):
    """What is no checkpoint at all: test_bad_input.py."""
    args = {"amp": "off", "data": None, "best": float("inf")}
    path = write(tmp_path / "best.pt", model=torch.nn.Linear(2, 3).state_dict(), args=args)
    loaded, again = load_checkpoint(path, "a_paper"), load_checkpoint(path, "a_paper")
    assert loaded["args"] == args
    assert f"{path}: holds no 'log'" in refused(lambda: loaded["log"])
    model, _, _, amp = trained(torch.nn.Linear(2, 3), loaded, "cpu")
    assert torch.equal(model.weight, again["model"]["weight"]) and not model.training and not amp
    assert f"{path}: its model does not fit this code" in refused(trained, torch.nn.Linear(2, 4), again, "cpu")


# ---- Writing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "number", "remedy"), [("fsync", errno.ENOSPC, "free some space"), ("replace", errno.EACCES, "use another")]
)
def test_a_failed_write_leaves_the_old_file_and_no_other(step, number, remedy, tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    save(path, b"old")

    def failing(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, step, failing)
    message = refused(save, path, b"new")
    assert str(path) in message and os.strerror(number) in message and remedy in message
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["last.pt"]


def test_a_signal_waits_until_the_file_is_whole(tmp_path):
    def write(file):
        file.write(b"first half, ")
        signal.raise_signal(signal.SIGTERM)
        file.write(b"second half")

    with pytest.raises(SystemExit) as end:
        cli.run(lambda: save(tmp_path / "last.pt", write))
    assert end.value.code == 143 and os.listdir(tmp_path) == ["last.pt"]
    assert (tmp_path / "last.pt").read_bytes() == b"first half, second half"


def test_json_and_pictures(tmp_path):
    value = {"a": float("nan"), "b": [1.5, float("inf"), (np.float64("nan"), 2)], "c": {"d": None, "e": "nan"}}
    pictures.write_json(tmp_path / "r.json", value)
    expected = {"a": None, "b": [1.5, None, [None, 2]], "c": {"d": None, "e": "nan"}}
    assert json.loads((tmp_path / "r.json").read_text(), parse_constant=pytest.fail) == expected
    palette, label = np.array([(0, 0, 0), (200, 30, 30), (0, 0, 250)], np.uint8), np.array([[0, 1], [2, 1]], np.uint8)
    pictures.save_label(tmp_path / "label.png", label, palette)
    image = Image.open(tmp_path / "label.png")  # the ids, and the colours to look at
    assert np.array_equal(image, label) and np.array_equal(image.convert("RGB"), palette[label])
    painted = pictures.overlay(np.full((2, 2, 3), 100, np.uint8), label, palette, 0.5)
    assert painted[0, 0].tolist() == [100] * 3 and painted[0, 1].tolist() == [150, 65, 65]
    pictures.save_grid(tmp_path / "grid.png", [[np.ones((700, 700), bool), None, np.zeros((9, 9, 3), np.uint8)]])
    colours = dict(map(reversed, Image.open(tmp_path / "grid.png").convert("L").getcolors()))
    assert colours[0] > 150**2 * 0.8 and colours[255] > 2 * colours[0]  # a black picture; a white one, and the page


# ---- Arguments -----------------------------------------------------------------------------------------------------


def test_a_resumed_run_has_its_own_arguments(tmp_path, monkeypatch):
    def parse(*words, **options):
        monkeypatch.setattr(sys, "argv", ["train.py", *map(str, words)])
        parser = cli.Parser("doc")
        parser.add_argument("--lr", type=float, default=1e-3)
        parser.add_argument("--epochs", type=int, default=80)
        parser.add_argument("--data", type=cli.path, nargs="+")
        return arguments(parser, "a_paper", **options)

    saved = {"lr": 0.5, "epochs": 3, "data": [str(tmp_path)], "seed": 7, "amp": "off"}  # without --limit, as of old
    path = write(tmp_path / "last.pt", args=saved, optimizer={})
    args, checkpoint = parse("--resume", path, "--epochs", 9)
    assert (args.lr, args.epochs, args.data, args.seed) == (0.5, 9, [str(tmp_path)], 7) and checkpoint["args"] == saved
    args, _ = parse("--resume", path, "--lr", 0.5, "--data", "/y", free=("data",))
    assert args.data == [os.path.abspath("/y")]
    for flag, value, words in (("--lr", 0.1, "differs from 0.5"), ("--limit", 3, "differs from None"),
                               ("--data", "/y", "differs from")):  # fmt: skip
        assert f"{flag} " in (message := refused(parse, "--resume", path, flag, value)) and words in message
    path = write(tmp_path / "best.pt", args=saved)
    assert "no optimiser to go on with; give the run's last.pt" in refused(parse, "--resume", path)


# ---- A run ---------------------------------------------------------------------------------------------------------


def a_run(tmp_path, saved=None, resume=None):
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    args = Namespace(epochs=2, seed=3, amp="off", out=None, resume=resume, lr=0.1)
    run = Run(
        args, saved, tmp_path / "a_paper", CPU, False, name="plain", parts={"model": model, "optimizer": optimizer},
        split={"train": ["1.jpg:5:0:0"]}, facts={"data": "12 faces"}, keep={"classes": ["hat"]},
        line="epoch {epoch} loss {loss:.2f}", curves=lambda path, log: path.touch(), samples=lambda path: path.touch(),
    )  # fmt: skip
    return run, model


def test_a_run_writes_its_folder_and_says_what_comes_next(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["a_paper/train.py", "--lr", "0.1"])
    run, model = a_run(tmp_path)
    assert load_checkpoint(run.out / "last.pt", "a_paper")["epoch"] == 0  # stopped now, it could go on
    for epoch in run.epochs():
        run.end_epoch({"loss": 0.5 / epoch}, better=epoch == 1)
    run.end()
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "command    a_paper/train.py --lr 0.1" and "data       12 faces" in out
    assert "epoch 1 loss 0.50" in out[4] and out[4].endswith("best") and not out[5].endswith("best")
    assert out[-1] == f"next       python a_paper/eval.py {tmp_path}/a_paper/runs/plain/best.pt"
    last, best = (load_checkpoint(run.out / name, "a_paper") for name in ("last.pt", "best.pt"))
    assert (last["epoch"], best["epoch"]) == (2, 1) and "optimizer" in last and "optimizer" not in best
    assert last["classes"] == ["hat"] and torch.equal(last["model"]["weight"], model.weight)
    lines = (run.out / "log.csv").read_text().splitlines()
    assert lines[0] == "epoch,loss,seconds" and lines[2].startswith("2,0.25,") and last["log"][1]["loss"] == 0.25
    assert {"curves.png", "samples.png"} <= {*os.listdir(run.out)}
    record = json.loads((run.out / "run.json").read_text())
    assert record["starts"][0]["command"] == "a_paper/train.py --lr 0.1" and record["arguments"]["lr"] == 0.1
    resumed, other = a_run(tmp_path, saved=last, resume=run.out / "last.pt")
    assert torch.equal(other.weight, model.weight) and list(resumed.epochs()) == []
    resumed.end()
    assert "already holds epoch 2" in capsys.readouterr().out
    resumed.args.epochs = 9  # it was a rule of train.py that stopped the run
    resumed.end()
    assert "already" not in capsys.readouterr().out
    assert len(json.loads((run.out / "run.json").read_text())["starts"]) == 2


def test_a_log_that_cannot_be_replaced_ends_no_run_and_weights_of_nan_overwrite_nothing(tmp_path, capsys):
    run, model = a_run(tmp_path)
    (run.out / "log.csv").mkdir()
    next(run.epochs())
    run.end_epoch({"loss": 1.0}, better=True)
    assert "log.csv: " in capsys.readouterr().out
    torch.nn.init.constant_(model.weight, torch.nan)
    message = refused(run.end_epoch, {"loss": 1.0}, False)
    assert "last.pt: not overwritten, because model weight has become nan or inf" in message
    assert load_checkpoint(run.out / "last.pt", "a_paper")["epoch"] == 1


def test_folders_of_runs_and_results_are_never_overwritten(tmp_path):
    assert [new_folder(None, tmp_path / "runs", "flip").name for _ in range(3)] == ["flip", "flip-2", "flip-3"]
    out = tmp_path / "a" / "b"
    assert new_folder(out, tmp_path / "runs", "flip") == out and out.is_dir()
    a, b = tmp_path / "a" / "best.pt", tmp_path / "b" / "best.pt"
    assert result_folders([a, b], None, "val") == [tmp_path / "a" / "best-val", tmp_path / "b" / "best-val"]
    assert result_folders([a], tmp_path / "o", "val") == [tmp_path / "o"]
    assert result_folders([a, b], tmp_path / "o", "val") == [tmp_path / "o" / "a-best", tmp_path / "o" / "b-best"]
    assert "same folder" in refused(result_folders, [a, a], None, "val")


# ---- Ends ----------------------------------------------------------------------------------------------------------


NoCompiler = type("NoCompiler", (RuntimeError,), {"__module__": "torch._dynamo.exc"})  # as torch.compile raises it


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (InputError("x.png: is broken;\nremove it"), 2, "error: x.png: is broken; remove it"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried\nmore"), 2, "out of memory; give a smaller --batch-size"),
        (MemoryError(), 2, "out of memory"),
        (PermissionError(errno.EACCES, "Permission denied", "/home/other"), 2, "/home/other: Permission denied; check"),
        (NoCompiler("g++ is\nnot there"), 2, "torch.compile does not work here"),
        (RuntimeError("[gloo] Connection closed by peer [127.0.0.1]:47"), 1, "another process of this job has died"),
    ],
)
def test_an_end_is_one_line(error, code, words, capsys):
    def main():
        raise error

    with pytest.raises(SystemExit) as end:
        cli.run(main)
    (line,) = capsys.readouterr().err.splitlines()
    assert end.value.code == code and words in line


def test_an_error_of_the_program_is_not_hidden():
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        cli.run(lambda: torch.zeros(1, 2) @ torch.zeros(3, 4))

"""common/checkpoint.py and common/cli.py: what is written comes back, what cannot be used is refused in one line."""

import argparse
import csv
import errno
import json
import os
import pickle
import random
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, refused

from common import checkpoint, cli
from common.checkpoint import (
    load_checkpoint,
    new_run_folder,
    rng_state,
    save_checkpoint,
    set_rng_state,
    write_atomically,
    write_log,
    write_run_json,
)
from common.cli import InputError

CPU = torch.device("cpu")


def a_checkpoint():
    return {
        "paper": "a_paper", "model": {"weight": torch.arange(6.0).reshape(2, 3)}, "epoch": 3, "best": float("inf"),
        "args": {"lr": 1e-3, "data": None}, "classes": ["nose", "hat"], "log": [{"epoch": 1, "loss": 0.5}],
        "rng": rng_state(CPU),
    }  # fmt: skip


# ---- Checkpoints ---------------------------------------------------------------------------------------------------


def test_json_holds_null_for_what_is_no_number(tmp_path):
    value = {"a": float("nan"), "b": [1.5, float("inf"), (np.float64("nan"), 2)], "c": {"d": None, "e": "nan"}}
    checkpoint.write_json(tmp_path / "r.json", value)
    text = (tmp_path / "r.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {
        "a": None,
        "b": [1.5, None, [None, 2]],
        "c": {"d": None, "e": "nan"},
    }


@pytest.mark.parametrize("error", [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...\nmore lines"), MemoryError(),
])  # fmt: skip
def test_out_of_memory_is_one_line_with_a_remedy(capsys, error):
    def main():
        raise error

    with pytest.raises(SystemExit) as end:
        cli.run(main)
    said = capsys.readouterr().err
    assert end.value.code == 2 and said.count("\n") == 1 and "smaller --batch-size or --size" in said


def test_a_checkpoint_comes_back_whole(tmp_path):
    saved = a_checkpoint()
    save_checkpoint(tmp_path / "last.pt", saved)
    loaded = load_checkpoint(tmp_path / "last.pt", "a_paper")
    assert torch.equal(loaded["model"].pop("weight"), saved["model"].pop("weight"))
    assert torch.equal(loaded["rng"].pop("torch"), saved["rng"].pop("torch"))
    assert loaded == saved
    assert os.listdir(tmp_path) == ["last.pt"]


def test_a_checkpoint_of_an_optimizer_and_a_scheduler_comes_back(tmp_path):
    layer = torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.01)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    plateau.step(1.0)
    state = {"paper": "p", "optimizer": optimizer.state_dict(), "plateau": plateau.state_dict()}
    save_checkpoint(tmp_path / "last.pt", state)
    loaded = load_checkpoint(tmp_path / "last.pt", "p")
    assert loaded["plateau"] == state["plateau"]
    assert torch.equal(loaded["optimizer"]["state"][0]["exp_avg"], state["optimizer"]["state"][0]["exp_avg"])


def test_a_new_checkpoint_replaces_the_old_one(tmp_path):
    for epoch in (1, 2):
        save_checkpoint(tmp_path / "last.pt", {"paper": "p", "epoch": epoch})
    assert load_checkpoint(tmp_path / "last.pt", "p")["epoch"] == 2


@pytest.mark.parametrize("content", [{"paper": "other_paper"}, {"model": {}}, [1, 2], torch.zeros(3)])
def test_a_checkpoint_of_something_else_is_refused(tmp_path, content):
    path = tmp_path / "best.pt"
    torch.save(content, path)
    message = refused(load_checkpoint, path, "a_paper")
    assert str(path) in message and "a_paper" in message
    if isinstance(content, dict) and "paper" in content:
        assert "other_paper" in message


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("part", ["model", "encoder", "optimizer"])
def test_a_checkpoint_with_nan_or_inf_is_neither_written_nor_read(tmp_path, part, wrong):
    path = tmp_path / "last.pt"
    save_checkpoint(path, a_checkpoint())  # whose best score, inf, is no weight
    before = path.read_bytes()
    broken = a_checkpoint() | {part: {"state": {0: [torch.zeros(2), torch.tensor([1.0, wrong])]}}}
    message = refused(save_checkpoint, path, broken)
    assert f"{path}: not overwritten, because {part} state 0 1 has become nan or inf" in message
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["last.pt"]
    torch.save(broken, path)
    assert f"{path}: its {part} state 0 1 holds nan or inf" in refused(load_checkpoint, path, "a_paper")


def test_asking_a_checkpoint_for_what_it_lacks_names_the_file(tmp_path):
    save_checkpoint(tmp_path / "last.pt", {"paper": "a_paper"})
    loaded = load_checkpoint(tmp_path / "last.pt", "a_paper")
    assert loaded.get("epoch") is None and "epoch" not in loaded
    assert f"{tmp_path / 'last.pt'}: holds no 'epoch'" in refused(lambda: loaded["epoch"])


def test_a_missing_checkpoint_is_refused(tmp_path):
    assert str(tmp_path / "no.pt") in refused(load_checkpoint, tmp_path / "no.pt", "a_paper")
    assert str(tmp_path) in refused(load_checkpoint, tmp_path, "a_paper")  # a folder


@pytest.mark.parametrize("keep", [0, 1, 3, 100, 0.5, 0.9, 0.999])
def test_a_truncated_checkpoint_is_refused(tmp_path, keep):
    path = tmp_path / "last.pt"
    save_checkpoint(path, a_checkpoint())
    data = path.read_bytes()
    path.write_bytes(data[: keep if isinstance(keep, int) else int(keep * len(data))])
    assert str(path) in refused(load_checkpoint, path, "a_paper")


@pytest.mark.parametrize("data", [
    b"epoch,loss\n1,0.5\n", b"\x89PNG\r\n\x1a\n", b"\x80", b"\x80\x02.", b"PK\x03\x04", b"ab" * 99,
])  # fmt: skip
def test_a_file_of_another_kind_is_refused(tmp_path, data):
    path = tmp_path / "last.pt"
    path.write_bytes(data)
    assert str(path) in refused(load_checkpoint, path, "a_paper")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_random_bytes_are_refused(tmp_path):
    path, rng = tmp_path / "last.pt", np.random.default_rng(0)
    for i in range(150):
        path.write_bytes((b"\x80\x02" if i % 2 else b"") + rng.bytes(40))
        assert str(path) in refused(load_checkpoint, path, "a_paper")


class Malice:
    """Pickled, it would make the folder `marker` when it is read."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path):
    path, marker = tmp_path / "last.pt", tmp_path / "marker"
    torch.save({"paper": "a_paper", "extra": Malice(marker)}, path)
    assert str(path) in refused(load_checkpoint, path, "a_paper")
    assert not marker.exists()
    pickle.loads(pickle.dumps(Malice(marker)))  # the trap is a working one
    assert marker.exists()


# ---- Writing -------------------------------------------------------------------------------------------------------


def test_write_atomically_replaces(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, b"old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, step):
    path = tmp_path / "last.pt"
    write_atomically(path, b"old")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, step, full)
    message = refused(write_atomically, path, b"new")
    assert str(path) in message and os.strerror(errno.ENOSPC) in message
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["last.pt"]


def test_a_checkpoint_is_on_disk_before_it_takes_the_name(tmp_path, monkeypatch):
    order, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (order.append("fsync"), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append("replace"), replace(a, b)))
    save_checkpoint(tmp_path / "last.pt", {"paper": "p"})
    assert order == ["fsync", "replace"]


def test_writing_where_there_is_no_folder_is_refused(tmp_path):
    assert str(tmp_path / "no" / "x") in refused(write_atomically, tmp_path / "no" / "x", b"")


def test_writing_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    assert str(tmp_path / "file" / "x") in refused(write_atomically, tmp_path / "file" / "x", b"")


# ---- Generators ----------------------------------------------------------------------------------------------------


def draw():
    return [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(2).tolist(),
            torch.randn(3).tolist()]  # fmt: skip


def test_rng_state_restores_the_three_streams(tmp_path):
    random.gauss(0, 1)
    np.random.randn()  # both keep a second number for the next call
    save_checkpoint(tmp_path / "x.pt", {"paper": "p", "rng": rng_state(CPU)})
    expected = draw()
    assert draw() != expected
    set_rng_state(load_checkpoint(tmp_path / "x.pt", "p")["rng"], CPU)
    assert draw() == expected


# ---- The run folder ------------------------------------------------------------------------------------------------


def test_run_folders_are_numbered(tmp_path):
    names = [new_run_folder(None, tmp_path / "runs", "flip").name for _ in range(3)]
    assert names == ["flip", "flip-2", "flip-3"]
    assert new_run_folder(None, tmp_path / "runs", "none").name == "none"
    assert new_run_folder(None, tmp_path / "runs", "flip", generated=True).name == "flip-generated"
    assert sorted(os.listdir(tmp_path / "runs")) == ["flip", "flip-2", "flip-3", "flip-generated", "none"]


def test_a_given_run_folder_is_made_and_taken(tmp_path):
    out = tmp_path / "a" / "b"
    assert new_run_folder(out, tmp_path / "runs", "flip") == out
    assert out.is_dir() and not (tmp_path / "runs").exists()
    assert new_run_folder(out, tmp_path / "runs", "flip") == out  # a run that never finished an epoch


def test_a_run_folder_with_a_run_in_it_is_refused(tmp_path):
    (tmp_path / "last.pt").write_text("")
    message = refused(new_run_folder, tmp_path, tmp_path / "runs", "flip")
    assert str(tmp_path) in message and "--resume" in message and "--out" in message
    assert os.listdir(tmp_path) == ["last.pt"]


@pytest.mark.parametrize("left", ["best.pt", "pretrain.pt", "log.csv"])
def test_a_run_folder_whose_last_checkpoint_was_removed_is_refused(left, tmp_path):
    (tmp_path / left).write_text("epoch")
    message = refused(new_run_folder, tmp_path, tmp_path / "runs", "flip")
    assert message == f"{tmp_path} already holds a run's {left}; give another --out"
    assert (tmp_path / left).read_text() == "epoch"


def test_what_is_no_checkpoint_is_said_in_whole_words(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff" + bytes(99))
    message = refused(load_checkpoint, tmp_path / "photo.jpg", "a_paper")
    assert message.endswith("loaded safely (Weights only load failed); use another file")


def test_only_a_full_disk_is_told_to_free_some_space(tmp_path, monkeypatch):
    def failing(number):
        def fsync(descriptor):
            raise OSError(number, os.strerror(number))

        return fsync

    space = "free some space or use another folder"
    for number, remedy in ((errno.ENOSPC, space), (errno.EACCES, "use another folder")):
        monkeypatch.setattr(os, "fsync", failing(number))
        message = refused(write_atomically, tmp_path / "a", b"x")
        assert message.endswith(f"{os.strerror(number)}; nothing was overwritten; {remedy}")


def test_a_file_as_run_folder_is_refused(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    assert str(file) in refused(new_run_folder, file, tmp_path, "flip")
    assert str(file / "x") in refused(new_run_folder, file / "x", tmp_path, "flip")
    assert str(file) in refused(new_run_folder, None, file, "flip")


def test_write_log(tmp_path):
    rows = [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25}]
    write_log(tmp_path / "log.csv", rows[:1])
    write_log(tmp_path / "log.csv", rows)
    assert (tmp_path / "log.csv").read_bytes() == b"epoch,loss\n1,0.5\n2,0.25\n"
    with open(tmp_path / "log.csv", newline="") as file:
        assert [float(row["loss"]) for row in csv.DictReader(file)] == [0.5, 0.25]


def test_run_json_holds_the_arguments_the_facts_and_the_environment(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "--seed", "1"])
    args = {"data": Path("faces"), "seed": 1, "limit": None}
    write_run_json(tmp_path / "run.json", args, weights="random", split=[3])
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["command"] == "train.py --seed 1"
    assert record["arguments"] == {"data": "faces", "seed": 1, "limit": None}
    assert (record["weights"], record["split"]) == ("random", [3])
    assert record["environment"]["torch"] == torch.__version__
    commit = record["environment"]["git_commit"]
    assert commit is None or len(commit) == 40


def test_run_json_keeps_every_start_of_a_run_and_outlives_damage(tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    for command in ("first", "second", "third"):
        monkeypatch.setattr(sys, "argv", [command])
        write_run_json(path, {}, device="cpu")
    record = json.loads(path.read_text())
    assert record["command"] == "third" and [start["command"] for start in record["earlier"]] == ["first", "second"]
    assert all(set(start) == {"command", "device", "environment"} for start in record["earlier"])
    no_list = '{"command": "a", "device": "b", "environment": {}, "earlier": 3}'
    for damage in ('{"command": "fir', "[]", "7", "{}", no_list):
        path.write_text(damage)
        write_run_json(path, {}, device="cpu")
        record = json.loads(path.read_text())
        assert record["command"] == "third" and "earlier" not in record


def test_only_drafts_of_our_own_are_removed_from_a_run_folder(tmp_path):
    (tmp_path / ".last.pt.4242.tmp").touch()
    (tmp_path / ".notes.tmp").touch()
    (tmp_path / ".mine.1.tmp").mkdir()
    new_run_folder(tmp_path, tmp_path, "run")
    assert {path.name for path in tmp_path.iterdir()} == {".notes.tmp", ".mine.1.tmp", "log.csv"}


# ---- Command line --------------------------------------------------------------------------------------------------


def a_parser():
    parser = cli.Parser("doc")
    parser.add_argument("--lr", type=cli.number(float, 0, above=True), default=1e-3)
    parser.add_argument("--epochs", type=cli.number(int, 1), default=80)
    parser.add_argument("--batch-size", type=cli.number(int, 2), default=4)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--resume", type=Path)
    parser.add_argument("--deterministic", action="store_true")
    return parser


SAVED = {"lr": 0.01, "epochs": 5, "batch_size": 8, "data": "faces", "deterministic": False}


def resumed(*argv):
    argv = ["--resume", "runs/last.pt", *argv]
    args = a_parser().parse_args(argv)
    cli.resume_arguments(args, cli.given_arguments(a_parser(), argv), dict(SAVED), may_change={"epochs"})
    return args


def test_given_arguments_are_those_on_the_command_line():
    assert cli.given_arguments(a_parser(), []) == set()
    given = cli.given_arguments(a_parser(), ["--batch-size", "4", "--lr=0.001", "--deterministic"])
    assert given == {"batch_size", "lr", "deterministic"}  # also where the value is the default


def test_a_resumed_run_has_the_arguments_of_the_checkpoint():
    args = vars(resumed())
    assert {name: args[name] for name in SAVED} == SAVED
    assert args["resume"] == Path("runs/last.pt")


def test_what_may_change_can_be_given_anew():
    assert resumed("--epochs", "9").epochs == 9


def test_flags_of_the_machine_can_be_taken_back():
    def parser():
        cli.add_run_arguments(made := cli.Parser("doc"))
        return made

    argv = ["--resume", "last.pt", "--no-compile", "--no-sync-batch-norm"]
    args = parser().parse_args(argv)
    saved = {"compile": True, "sync_batch_norm": True, "deterministic": True}
    cli.resume_arguments(args, cli.given_arguments(parser(), argv), saved, {"compile", "sync_batch_norm"})
    assert (args.compile, args.sync_batch_norm, args.deterministic) == (False, False, True)


def test_repeating_the_same_value_is_no_contradiction():
    args = resumed("--lr", "0.01", "--data", "faces", "--batch-size", "8")
    assert (args.lr, args.batch_size) == (0.01, 8)


@pytest.mark.parametrize(
    "argv, flag, value",
    [
        (("--lr", "0.001"), "--lr", "0.001"),  # the default, but given
        (("--batch-size", "4"), "--batch-size", "4"),
        (("--data", "other"), "--data", "other"),
        (("--deterministic",), "--deterministic", "True"),
    ],
)
def test_a_contradicting_flag_is_refused(argv, flag, value):
    message = refused(resumed, *argv)
    assert f"{flag} {value}" in message and "runs/last.pt" in message
    saved = SAVED[flag[2:].replace("-", "_")]
    assert str(saved) in message


@pytest.mark.parametrize("kind, low, high, above, text", [
    (int, 1, 10, False, "0"), (int, 1, 10, False, "11"), (int, 1, 10, False, "1.5"), (int, 1, 10, False, "x"),
    (int, 1, 10, False, ""), (int, 1, 10, False, "nan"), (float, 0, 1, True, "0"), (float, 0, 1, True, "-1"),
    (float, 0, 1, False, "1.0001"), (float, 0, 1, False, "nan"), (float, 0, float("inf"), True, "nan"),
    (float, 0, 1, False, "inf"), (float, 0, 1, False, "-inf"),
])  # fmt: skip
def test_a_number_out_of_bounds_is_refused(kind, low, high, above, text):
    with pytest.raises(argparse.ArgumentTypeError) as error:
        cli.number(kind, low, high, above=above)(text)
    assert text in str(error.value)


@pytest.mark.parametrize("kind, low, high, above, text, value", [
    (int, 1, 10, False, "1", 1), (int, 1, 10, False, "10", 10), (int, 0, float("inf"), False, "123456", 123456),
    (float, 0, 1, False, "0", 0.0), (float, 0, 1, True, "1", 1.0), (float, 0, 1, True, "1e-30", 1e-30),
])  # fmt: skip
def test_a_number_within_bounds_is_taken(kind, low, high, above, text, value):
    parsed = cli.number(kind, low, high, above=above)(text)
    assert parsed == value and type(parsed) is kind


@pytest.mark.parametrize("argv", [
    ["--epochs", "0"], ["--lr", "nan"], ["--batch-size", "1"], ["--nonsense"], ["--epoch", "3"],
])  # fmt: skip
def test_a_bad_command_line_ends_with_one_line_and_code_2(argv, capsys):
    with pytest.raises(SystemExit) as end:
        a_parser().parse_args(argv)
    assert end.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and argv[0] in lines[0]


def test_bad_input_ends_with_one_line_and_code_2(capsys):
    def main():
        raise InputError("x.png: is\nbroken; remove it")

    with pytest.raises(SystemExit) as end:
        cli.run(main)
    assert end.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].endswith("error: x.png: is broken; remove it")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_with_one_line_that_says_how_to_go_on(number, code, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["folder/train.py"])

    def main():
        cli.go_on_with(Path("my runs/last.pt"))
        os.kill(os.getpid(), number)
        time.sleep(5)
        raise AssertionError("the signal did not stop it")

    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as end:
        cli.run(main)
    assert end.value.code == code and signal.getsignal(number) == before
    said = capsys.readouterr().err.split("\n")
    assert said == ["", "train.py: stopped; go on with: python folder/train.py --resume 'my runs/last.pt'", ""]


def test_a_signal_waits_until_the_file_is_whole(tmp_path):
    def write(file):
        file.write(b"first half, ")
        os.kill(os.getpid(), signal.SIGTERM)
        file.write(b"second half")

    with pytest.raises(SystemExit):
        cli.run(lambda: checkpoint.write_atomically(tmp_path / "last.pt", write))
    assert (tmp_path / "last.pt").read_bytes() == b"first half, second half"
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


def test_a_path_that_may_not_be_read_is_one_line(capsys):
    def main():
        raise PermissionError(errno.EACCES, "Permission denied", "/home/other/faces")

    with pytest.raises(SystemExit) as end:
        cli.run(main)
    (line,) = capsys.readouterr().err.splitlines()
    assert end.value.code == 2 and "error: /home/other/faces: Permission denied; check the path" in line


@pytest.mark.parametrize(
    ("lines", "end", "code"),
    [
        ("[print('line', i) for i in range(100_000)]", "", 141),
        ("[print('line', 0, flush=True), sleep(1), print('line', 1)]", "", 141),  # the second is still in the buffer
        ("[print('line', 0, flush=True), sleep(1), print('line', 1), exit(0)]", "", 0),  # as after --help
        ("[print('line', 0, flush=True), sleep(1), print('line', 1), fail()]", "-c: error: bad file\n", 2),
    ],
)
def test_a_reader_that_has_seen_enough_ends_a_script_quietly(lines, end, code):
    code_ = "from common import cli; from time import sleep\ndef fail(): raise cli.InputError('bad file')\n"
    code_ += f"cli.run(lambda: {lines})"
    command = f"{shlex.quote(sys.executable)} -c {shlex.quote(code_)} | head -1; exit ${{PIPESTATUS[0]}}"
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, env=buffered, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("line 0\n", end, code)


def test_an_error_of_the_program_is_not_hidden():
    def main():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cli.run(main)

"""The numbers in the READMEs are those of the committed results, and README's commands name files that exist."""

import importlib
import json
import os
import re
import shlex
import statistics
import subprocess
import sys

import front_picture
import numpy as np
import pytest
import report
import walk
from conftest import ROOT

from common import cli

READMES = [ROOT / "README.md", *sorted(ROOT.glob("[a-z]*/README.md")), ROOT / "tests" / "benchmarks" / "README.md"]


@pytest.mark.parametrize("folder", report.TABLES)
def test_the_tables_of_a_readme_are_those_of_its_results(folder):
    """`python tests/report.py` would change nothing."""
    text = (ROOT / folder / "README.md").read_text(encoding="utf-8")
    assert report.render(folder, text) == text


def test_a_result_without_a_score_is_no_missing_run(monkeypatch):
    """A run that is not there yet leaves its table empty; a broken file of results must not."""
    whole = report.read_results("nu_deeplabv3plus/results")
    monkeypatch.setattr(report, "read_results", lambda folder: report.Results())
    text = (ROOT / "nu_deeplabv3plus" / "README.md").read_text(encoding="utf-8")
    assert "not measured yet" in report.render("nu_deeplabv3plus", text)
    del whole["none"]["results"]["iou_18"]
    found = {"nu_deeplabv3plus/results": whole}
    monkeypatch.setattr(report, "read_results", lambda folder: found.get(folder, report.Results()))
    with pytest.raises(KeyError):
        report.render("nu_deeplabv3plus", text)


def test_a_commands_paths_and_machine_flags_are_left_out():
    command = "/home/me/repo/folder/train.py --data '/my data/faces' --epochs 3 --cache /tmp/c --out /tmp/o --seed 1"
    expected = "python folder/train.py --data PATH --epochs 3 --out folder/runs/o --seed 1"
    assert report.clean_command(command) == expected
    command = "folder/pretrain.py --data /d/a --photos /d/b /d/c --size 64"
    assert report.clean_command(command) == "python folder/pretrain.py --data PATH --photos MORE_PHOTOS --size 64"


def test_a_run_and_its_evaluation_become_a_result(tmp_path):
    """The command is the one that the run was started with, not that of a resumption."""
    record = {"command": "nu/train.py --resume x", "arguments": {"seed": 3}, "environment": {"torch": "2.6"}}
    record["earlier"] = [{"command": "/a/nu/train.py --data /d --lr 1"}, {"command": "/a/nu/train.py --resume x"}]
    (tmp_path / "run.json").write_text(json.dumps(record))
    (tmp_path / "log.csv").write_text("epoch,loss,seconds\n1,0.5,60\n2,0.25,30\n3,,33\n")
    (tmp_path / "best").mkdir()
    for name, score in (("results", 0.7), ("results-bgr", 0.1)):
        (tmp_path / "best" / f"{name}.json").write_text(json.dumps({"iou": score, "checkpoint": "/home/me/a/best.pt"}))
    result = report.collect(tmp_path, tmp_path / "best", "faces", "CPU")
    assert result["command"] == "python nu/train.py --data PATH --lr 1"
    assert (result["seed"], result["epochs"], result["minutes"]) == (3, 3, 2.0)
    assert result["seconds_per_epoch_median"] == 33 and [row["loss"] for row in result["log"]] == [0.5, 0.25, None]
    assert result["results"] == {"iou": 0.7, "checkpoint": "a/best.pt"} and result["results_bgr"]["iou"] == 0.1


def test_times_and_epochs_of_a_result_are_those_of_its_log():
    for path in ROOT.glob("*/results/**/*.json"):
        record = json.loads(path.read_text())
        if "log" in record:
            seconds = [row["seconds"] for row in record["log"]]
            assert record["epochs"] == len(seconds) == record["log"][-1]["epoch"], path
            assert record["minutes"] == round(sum(seconds) / 60, 1), path
            assert record["seconds_per_epoch_median"] == statistics.median(seconds), path


def test_results_hold_no_paths_of_a_machine():
    for path in ROOT.glob("*/results/**/*.json"):
        assert not re.search(r'["\s(]/\w', path.read_text()), path


def test_paths_are_shortened_inside_a_sentence_too():
    words = "backbone of /home/me/runs/skin/best.pt (epoch 2), new heads"
    assert report._without_paths({"weights": words}) == {"weights": "backbone of skin/best.pt (epoch 2), new heads"}
    assert report._without_paths(["/a/b/c", "1/2", "a/b"]) == ["b/c", "1/2", "a/b"]


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.parent.name)
def test_the_scripts_and_links_of_a_readme_exist(readme):
    text = readme.read_text(encoding="utf-8")
    for script in re.findall(r"(?:python|torchrun) (\w+/\w+\.py)", text):
        assert (ROOT / script).is_file(), script
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (readme.parent / link).exists(), link


def test_the_front_picture_takes_its_panels_from_the_figures():
    columns = {"nu_deeplabv3plus": 3, "hair_transfer": 3, "lrn_headtorso": 8, "mut1ny_fairness": 4, "masked_ssl": 3}
    for folder, (_, row, parts) in front_picture.COLUMNS.items():
        grid = front_picture.panels(ROOT / folder / "figures" / "generated.png")
        assert row < len(grid) <= 5 and {len(panels) for panels in grid} == {columns[folder]}, folder
        shapes = np.array([panel.shape for panels in grid for panel in panels])
        assert np.ptp(shapes, axis=0).max() <= 3 and shapes.min(0)[2] == 3 and max(parts) < columns[folder]


class Parsed(Exception):
    """The command line was understood."""


def commands(text: str) -> list[str]:
    """The commands of a text that start one of our scripts, braces written out as a shell does."""
    text = text.replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines()] + re.findall(r"`(python [^`]*)`", text.replace("\n", " "))
    expanded = []
    for line in lines:
        if not re.match(r"(python|torchrun) .*\w+/\w+\.py", line):
            continue
        command = re.split(r" # |   +", line)[0]
        choice = re.search(r"(\S*)\{([^}]*)\}(\S*)", command)
        if choice:
            before, names, after = choice.groups()
            command = command.replace(choice[0], " ".join(f"{before}{name}{after}" for name in names.split(",")))
        expanded.append(command)
    return expanded


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.parent.name)
def test_the_commands_of_a_readme_are_ones_that_the_scripts_take(readme, monkeypatch, capsys):
    def parse(parse_args):
        def wrapped(*arguments):
            parse_args(*arguments)
            raise Parsed

        return wrapped

    for name in ("parse_args", "parse_known_args"):
        monkeypatch.setattr(cli.Parser, name, parse(getattr(cli.Parser, name)))
    for command in commands(readme.read_text(encoding="utf-8")):
        words = shlex.split(command)
        script = next(i for i, word in enumerate(words) if word.endswith(".py"))
        if words[script].startswith("tests/") or re.search(r"\$|\.\.\.", command):
            continue
        module = importlib.import_module(words[script].removesuffix(".py").replace("/", "."))
        monkeypatch.setattr(sys, "argv", words[script:])
        try:
            module.main()
        except Parsed:
            continue
        except SystemExit:
            pytest.fail(f"{command}: {capsys.readouterr().err}")


# With PyTorch imported once, each script starts as python starts it, in a process of its own.
START_ALL = """
import os, runpy, sys
import torch
scripts = sys.argv[1:]
for script in scripts:
    pid = os.fork()
    if not pid:
        sys.argv, sys.path[0] = [script, "--help"], os.path.dirname(script)
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as end:
            late = {"matplotlib", "scipy.ndimage", "scipy.spatial", "torchvision"} & {*sys.modules}
            print(f"{script} ends with {end.code}, imported {sorted(late)}", flush=True)
        os._exit(0)
    os.waitpid(pid, 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_every_script_starts_from_any_folder(tmp_path):
    """By its path from elsewhere; of the slow packages --help imports torch alone."""
    scripts = walk.scripts(ROOT)
    assert {ROOT / paper / f"{name}.py" for paper in walk.PAPERS for name in ("dataset", "train", "eval")} <= {*scripts}
    command = [sys.executable, "-c", START_ALL, *scripts]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and not done.stderr, done.stderr
    for script in scripts:
        assert f"usage: {script.name}" in done.stdout
        assert f"{script} ends with 0, imported []\n" in done.stdout, done.stdout
    assert not list(tmp_path.iterdir())

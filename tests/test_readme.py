"""The numbers in the READMEs are those of the committed results, and all commands are ones that the scripts take."""

import ast
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import report
import walk
from conftest import ROOT

from common import cli

PAGES = [page for folder in report.FOLDERS for page in report.pages(folder)]
PAGES.append(ROOT / "tests" / "benchmarks" / "README.md")


def name(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


@pytest.mark.parametrize("folder", report.FOLDERS)
def test_the_tables_of_a_readme_are_those_of_its_results(folder):
    """`python tests/report.py` would change nothing, and every table stands somewhere."""
    found = set()
    for page in report.pages(folder):
        text = page.read_text(encoding="utf-8")
        assert report.render(folder, text) == text, page
        found |= set(re.findall(r"<!-- table: ([\w ]+) -->", text))
    assert found == set(importlib.import_module(report.FOLDERS[folder]).TABLES)


def test_times_of_a_result_are_those_of_its_log_and_its_paths_no_machines():
    for path in ROOT.glob("*/results/**/*.json"):
        text = path.read_text()
        assert not re.search(r'["\s(]/\w', text), path
        record = json.loads(text)
        if "log" in record:
            assert record == record | report.times(record["log"]), path
            assert record["epochs"] == record["log"][-1]["epoch"], path


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_the_links_of_a_page_lead_somewhere_and_it_is_short(page):
    text = page.read_text(encoding="utf-8")
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (page.parent / link).exists(), link
    titles = [line.lstrip("# ").lower() for line in text.splitlines() if line.startswith("#")]
    anchors = {re.sub(r"[^\w -]", "", title).replace(" ", "-") for title in titles}
    assert {*re.findall(r"\]\(#([^)]+)\)", text)} <= anchors
    if page.name == "README.md" and page.parent.name != "benchmarks":
        assert text.count("\n") <= (150 if page.parent == ROOT else 120)


# ---- Commands ------------------------------------------------------------------------------------------------------


class Parsed(Exception):
    """The command line was understood."""


def commands(text: str) -> list[str]:
    """The commands of a text that start one of our scripts."""
    text = text.replace("\\\n", " ")
    lines = [part.strip() for line in text.splitlines() for part in line.split("&&")]
    lines += re.findall(r"(?<!`)`(python [^`]*)`", text.replace("\n", " "))
    return [re.split(r" # |   +", line)[0] for line in lines if re.match(r"(python|torchrun) .*\w+/\w+\.py", line)]


@pytest.mark.parametrize("page", [*PAGES, ROOT / "results", *walk.scripts(ROOT)], ids=name)
def test_the_commands_of_a_page_are_ones_that_the_scripts_take(page, monkeypatch, capsys):
    """And those of the committed results, and of the head of each script."""

    def ending(parse_args):
        def parse(*arguments):
            parse_args(*arguments)
            raise Parsed

        return parse

    for name in ("parse_args", "parse_intermixed_args"):
        monkeypatch.setattr(cli.Parser, name, ending(getattr(cli.Parser, name)))
    if page.name == "results":
        found = [json.loads(path.read_text())["command"] for path in ROOT.glob("*/results/**/*.json")]
    else:
        found = commands(page.read_text(encoding="utf-8"))
    assert found or page.name == "NOTES.md"
    for command in found:
        words = shlex.split(command)
        script = next(i for i, word in enumerate(words) if word.endswith(".py"))
        if re.search(r"\$|\.\.\.|FOLDER", command):
            continue
        assert (ROOT / words[script]).is_file(), command
        if words[script].startswith("tests/"):
            continue
        module = importlib.import_module(words[script].removesuffix(".py").replace("/", "."))
        monkeypatch.setattr(sys, "argv", words[script:])
        if words[script] == "masked_ssl/label_fractions.py":  # hands on to train.py what it does not know
            monkeypatch.setattr(sys, "argv", ["train.py", *module.parse_args()[1]])
            module = importlib.import_module("masked_ssl.train")
        try:
            module.main()
        except Parsed:
            continue
        except SystemExit:
            pytest.fail(f"{command}: {capsys.readouterr().err}")


def test_the_notebook_of_the_readme_parses():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    notebook = re.search(r"<!-- colab -->\n```python\n(.*?)```", text, re.DOTALL)[1].splitlines()
    assert [line[0] for line in notebook] == ["!", "%", "!", "f"]
    ast.parse(notebook[-1])
    assert "python nu_deeplabv3plus/train.py --weights none --epochs 3" in notebook[2]
    assert "nu_deeplabv3plus/runs/none-generated/samples.png" in notebook[3]


# With PyTorch imported once, each script starts as python starts it, in a process of its own.
START_ALL = """
import os, runpy, sys
import torch
for script in sys.argv[1:]:
    if os.fork():
        assert os.wait()[1] == 0, script
        continue
    sys.argv, sys.path[0] = [script, "--help"], os.path.dirname(script)
    runpy.run_path(script, run_name="__main__")
    sys.exit(f"{script} has not ended")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_every_script_starts_beside_common_alone_from_any_folder(tmp_path):
    scripts = [tmp_path / script.parent.name / script.relative_to(ROOT) for script in walk.scripts(ROOT)]
    for paper in walk.PAPERS:
        walk.copy_alone(ROOT, paper, tmp_path / paper)
        assert {tmp_path / paper / paper / name for name in ("dataset.py", "train.py", "eval.py")} <= {*scripts}
    (tmp_path / "elsewhere").mkdir()
    command = [sys.executable, "-c", START_ALL, *scripts]
    done = subprocess.run(command, cwd=tmp_path / "elsewhere", capture_output=True, text=True, check=False)
    assert done.returncode == 0 and not done.stderr and done.stdout.count("usage: ") == len(scripts), done.stderr
    assert not list((tmp_path / "elsewhere").iterdir())

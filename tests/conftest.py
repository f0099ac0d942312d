"""What the script tests share: running a script as a user would, and small data laid out like the real thing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from two_cores import pytest_runtestloop  # noqa: F401 (a hook)

from common import cli, pictures
from common.cli import InputError
from common.faces import write_celebamask

ROOT = Path(__file__).resolve().parents[1]
torch.set_num_threads(1)  # as in the subprocesses: the order of sums, and so the last bits, depend on it


@pytest.fixture(scope="session")
def faces(tmp_path_factory) -> Path:
    """Twelve generated faces of 64 px in CelebAMask-HQ's layout. Shared: tests that change files copy it first."""
    return write_celebamask(tmp_path_factory.mktemp("data") / "faces", n=12, size=64)


@pytest.fixture
def call(capsys, monkeypatch):
    """call(module, "--flag", value) runs module.main() as its script would, in this process and so in far less time."""

    def run(module, *args) -> subprocess.CompletedProcess:
        monkeypatch.setattr(sys, "argv", [module.__file__, *map(str, args)])
        capsys.readouterr()
        code = 0
        try:
            cli.run(module.main)
        except SystemExit as stop:
            code = stop.code
        return subprocess.CompletedProcess(sys.argv, code, *capsys.readouterr())

    return run


def leave_out_pictures(setattr) -> None:
    """Figures take most of a tiny run's time: make them empty files. `setattr`: a MonkeyPatch's."""
    for drawing in ("save_figure", "save_grid", "save_curves"):
        setattr(pictures, drawing, lambda path, *args, **kwargs: path.touch())


@pytest.fixture
def real_pictures():
    """Asked for by the tests that look at what is drawn, where no_pictures is used by all others."""


@pytest.fixture
def no_pictures(request, monkeypatch):
    if "real_pictures" not in request.fixturenames:
        leave_out_pictures(monkeypatch.setattr)


def succeed(result: subprocess.CompletedProcess) -> str:
    """What a script printed, after checking that it went well."""
    assert result.returncode == 0, result.stderr + result.stdout
    return result.stdout


def refused(call, *arguments) -> str:
    """The message of the InputError that the call raises; it must be one line."""
    with pytest.raises(InputError) as error:
        call(*arguments)
    message = str(error.value)
    assert "\n" not in message and message.strip()
    return message


def one_line_error(result: subprocess.CompletedProcess) -> str:
    """The script's error, after checking that it is one line, exit code 2 and no traceback."""
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert result.returncode == 2, result.stderr + result.stdout
    assert len(lines) == 1 and "error:" in lines[0], result.stderr
    return lines[0]


class Malice:
    """Pickled, it would make the folder `marker` when it is read."""

    def __init__(self, marker: Path):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)

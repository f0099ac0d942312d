"""Checkpoints and the run folder: last.pt, best.pt, log.csv, curves.png, run.json.

Every file is written whole to a temporary name in the same folder, flushed to disk and moved into place, so that a
killed process or a full disk leaves the previous version. Checkpoints are plain dicts of tensors and primitives.
"""

import contextlib
import csv
import errno
import io
import json
import math
import os
import platform
import random
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from common.cli import InputError, hold_signals, jsonable

DRAFTS = ".*.[0-9]*.tmp"  # .NAME.PROCESS.tmp, of a file that is being written


def write_atomically(path: Path, data: bytes | Callable[[BinaryIO], object]) -> None:
    """Replace `path` by `data` or by what data(file) writes; raises InputError, leaving the old file, if it cannot.

    Ctrl-C and SIGTERM wait until the file is whole.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with hold_signals():
            with open(temporary, "wb") as file:
                if callable(data):
                    data(file)
                else:
                    file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as RuntimeError
        with contextlib.suppress(OSError):
            temporary.unlink()
        reason = getattr(error, "strerror", None) or str(error).split("\n")[0][:100]
        full = getattr(error, "errno", errno.ENOSPC) in (errno.ENOSPC, errno.EDQUOT)
        remedy = "free some space or use another folder" if full else "use another folder"
        raise InputError(f"{path}: {reason}; nothing was overwritten; {remedy}") from None


def write_json(path: Path, value: dict) -> None:
    """`value` as JSON, written whole or not at all; nan and inf, which JSON does not have, as null."""
    write_atomically(path, (json.dumps(_null_for_nan(value), indent=2, allow_nan=False) + "\n").encode())


def _null_for_nan(value: object) -> object:
    if isinstance(value, dict):
        return {key: _null_for_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_null_for_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def make_folder(folder: Path, flag: str = "--out") -> Path:
    """`folder`, created with its parents; raises InputError if it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{flag} {folder}: {error.strerror}; choose a folder that can be written") from None
    return folder


def save_checkpoint(path: Path, checkpoint: dict) -> None:
    """Write a dict of tensors and primitives; the file at `path` is the old or the new one, never a part of one.

    Raises InputError, leaving the old file, for weights that are nan or inf: nobody could go on with them.
    """
    if name := first_not_finite(checkpoint):
        raise InputError(
            f"{path}: not overwritten, because {name} has become nan or inf; start anew with a lower --lr or --amp off"
        )
    write_atomically(path, lambda file: torch.save(checkpoint, file))


def load_checkpoint(path: Path, paper: str) -> dict:
    """The checkpoint at `path` on the CPU; raises InputError unless it is one of `paper` (the folder's name).

    Loaded with weights_only=True: a file with anything but tensors and primitives in it is refused, not run.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint; give the last.pt or best.pt of a run folder")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises a dozen kinds for broken files
        reason = str(error).strip().split("\n")[0].split(". ")[0][:100] or type(error).__name__
        raise InputError(f"{path}: not a checkpoint that can be loaded safely ({reason}); use another file") from None
    found = checkpoint.get("paper") if isinstance(checkpoint, dict) else None
    if found != paper:
        raise InputError(
            f"{path}: a checkpoint of {found or 'something else'}, not of {paper}; use a file from {paper}/runs"
        )
    if name := first_not_finite(checkpoint):
        raise InputError(f"{path}: its {name} holds nan or inf; use an earlier checkpoint")
    if isinstance(checkpoint.get("args"), dict):
        checkpoint["args"] = Checkpoint(path, checkpoint["args"])
    return Checkpoint(path, checkpoint)


class Checkpoint(dict):
    """A checkpoint's dict. Asking for what it lacks, as a file of an older version may, raises InputError."""

    def __init__(self, path: Path, content: dict):
        super().__init__(content)
        self.path = path

    def __missing__(self, key: str):
        raise InputError(f"{self.path}: holds no {key!r}; use a checkpoint that this code has written")


def first_not_finite(part: object, name: str = "") -> str:
    """The name of the first tensor in a checkpoint, model or optimiser, that holds nan or inf; "" if there is none."""
    if isinstance(part, torch.Tensor):
        return name if part.is_floating_point() and not part.isfinite().all() else ""
    inner = part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list | tuple) else ()
    return next(filter(None, (first_not_finite(x, f"{name} {key}".lstrip()) for key, x in inner)), "")


def load_to_resume(path: Path, paper: str) -> dict:
    """The checkpoint of --resume; raises InputError if no run can go on from it, or if it is not the run's last one."""
    checkpoint = load_checkpoint(path, paper)
    check_resumable(path, checkpoint)
    return checkpoint


def check_resumable(path: Path, checkpoint: dict) -> None:
    """Raise InputError unless a run can go on from it: the run's last.pt, with its optimiser."""
    last = path.with_name("last.pt")
    if path.name != "last.pt" and last.exists():
        raise InputError(f"--resume {path}: would overwrite the later epochs of {last}; resume that one")
    if "optimizer" not in checkpoint:
        raise InputError(f"--resume {path}: holds no optimiser to go on with; give the run's last.pt")


def restore(path: Path, load: Callable[[], object]) -> None:
    """Call load(), which fills models and optimisers from the checkpoint of `path`; InputError if it does not fit."""
    try:
        load()
    except (KeyError, RuntimeError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:150]
        raise InputError(f"{path}: does not fit this code ({reason}); use a checkpoint that it has written") from None


def rng_state(device: torch.device) -> dict:
    """The states of Python's, NumPy's and PyTorch's generators, as tensors and primitives."""
    name, keys, position, has_gauss, gauss = np.random.get_state()
    state = {
        "python": random.getstate(),
        "numpy": [name, keys.tolist(), position, has_gauss, gauss],
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    if device.type == "mps":
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_rng_state(state: dict, device: torch.device) -> None:
    """Put the generators into the states of rng_state()."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    np.random.set_state(tuple(state["numpy"]))
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
    if device.type == "mps" and "mps" in state:
        torch.mps.set_rng_state(state["mps"])


# ---- The run folder ------------------------------------------------------------------------------------------------


def resumed_run_folder(last: Path, log: list[dict]) -> Path:
    """The folder of a run that goes on, without the drafts of a killed process and with the whole log so far."""
    _remove_drafts(last.parent)
    write_log(last.parent / "log.csv", log)
    return last.parent


def _remove_drafts(folder: Path) -> None:
    for draft in folder.glob(DRAFTS):
        with contextlib.suppress(OSError):
            draft.unlink()


def new_run_folder(out: Path | None, runs: Path, name: str, generated: bool = False) -> Path:
    """`out`, or the first free of runs/name, runs/name-2, ...; raises InputError if `out` already holds a run
    or what is left of one.

    A run on generated faces is called name-generated, so that it does not take the name of one on real photos.
    """
    name += "-generated" * generated
    folder, number = out or runs / name, 2
    if out is None:
        make_folder(runs)
    while out is None:
        try:
            folder.mkdir()
            break
        except FileExistsError:  # of an earlier run, or of one that starts at this moment
            folder, number = runs / f"{name}-{number}", number + 1
        except OSError as error:
            raise InputError(f"{folder}: {error.strerror}; give --out a folder that can be written") from None
    if (folder / "last.pt").exists():
        raise InputError(
            f"{folder} already holds a run; go on with --resume {folder / 'last.pt'} or give another --out"
        )
    for name in ("best.pt", "pretrain.pt", "log.csv"):  # last.pt, which is the largest, may have been removed
        if (folder / name).is_file() and (folder / name).stat().st_size:
            raise InputError(f"{folder} already holds a run's {name}; give another --out")
    write_atomically(make_folder(folder) / "log.csv", b"")
    _remove_drafts(folder)  # of a process that was killed before it had a last.pt
    return folder


def write_log(path: Path, rows: list[dict]) -> None:
    """All epochs so far as CSV, header first. The rows live in the checkpoint, so a resumed log has none twice."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    if rows:
        writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())


def write_run_json(path: Path, args: dict, **facts: object) -> None:
    """The command, its arguments and the environment, beside `facts` that the script knows (weights, split).

    A resumed run keeps the commands and environments that it was started with before under "earlier".
    """
    commit = None
    try:
        git = ["git", "rev-parse", "HEAD"]
        commit = subprocess.run(
            git, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        ).stdout.strip()
    except OSError:
        pass  # no git on this machine
    environment = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "git_commit": commit or None,
    }
    arguments = {name: jsonable(value) for name, value in args.items()}
    record = {"command": shlex.join(sys.argv), "arguments": arguments, **facts, "environment": environment}
    if path.exists():  # resumed: what started the run before stays on record
        with contextlib.suppress(ValueError, KeyError, TypeError):  # damaged by somebody: the run goes on all the same
            before = json.loads(path.read_text())
            start = {key: before[key] for key in ("command", "device", "environment")}
            record["earlier"] = [*before.get("earlier", []), start]
    write_json(path, record)

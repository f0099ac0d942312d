"""A training run: its arguments, its folder, its checkpoints. A helper, not a Trainer: the loop stays in train.py.

    args, saved = arguments(parser, "nu_deeplabv3plus", free=("data",))     a resumed run has its own
    run = Run(args, saved, HERE, device, amp, name="none", parts={"model": model, "optimizer": optimizer}, ...)
    for epoch in run.epochs():
        ...
        run.end_epoch({"loss": loss, "val_loss": val_loss}, better=True)
    run.end()

Checkpoints are plain dicts of tensors and primitives, written whole or not at all (pictures.save).
"""

import os
import platform
import shlex
import subprocess
import sys
import time
from argparse import BooleanOptionalAction, Namespace
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from common.cli import InputError, Parser, Stop, add_machine_arguments, number
from common.device import leave, memory_format, pick_amp, pick_device, seed_epoch, world
from common.pictures import make_folder, save, write_csv, write_json
from common.weights import first_not_finite, load_safely

FORMAT = 2  # of checkpoints: counts up when older ones can no longer be read
NOT_SAVED = ("cache", "out", "resume")  # arguments of this machine and this start, not of the run

# ---- Checkpoints ---------------------------------------------------------------------------------------------------


class Checkpoint(dict):
    """A checkpoint's content. Asking for what it lacks raises InputError, which names the file."""

    path: Path

    def __missing__(self, key: str):
        raise InputError(f"{self.path}: holds no {key!r}; use a checkpoint that this code has written")

    def data(self, given: str | list[str] | None = None) -> str | list[str] | None:
        """--data, else what the run had; raises InputError if it had a folder that is no longer there."""
        was = self["args"]["data"]
        if given or not was:
            return given
        for folder in [was] if isinstance(was, str) else was:
            if not Path(folder).exists():
                raise InputError(f"{folder}: is gone, where {self.path} had its data; give --data where they are now")
        return was


def load_checkpoint(path: Path, paper: str) -> Checkpoint:
    """The checkpoint at `path` on the CPU; raises InputError unless it is one of `paper` (the folder's name)."""
    content = load_safely(path, "give the last.pt or best.pt of a run folder")
    found = content.get("paper") if isinstance(content, dict) else None
    if found != paper:
        found = f"of {found}" if found else "of something else"
        raise InputError(f"{path}: a checkpoint {found}, not of {paper}; use a file from {paper}/runs")
    if content.get("format") != FORMAT:
        raise InputError(f"{path}: was written by another version of this code; train again, or use that version")
    checkpoint = Checkpoint(content)
    checkpoint.path = path
    return checkpoint


def restore(checkpoint: Checkpoint, **parts: object) -> None:
    """Fill models and optimisers, each under its name in the checkpoint; raises InputError if one does not fit."""
    for name, part in parts.items():
        try:
            part.load_state_dict(checkpoint[name])
        except (KeyError, RuntimeError, ValueError, TypeError) as error:
            why = " ".join(str(error).split())[:150]
            raise InputError(f"{checkpoint.path}: its {name} does not fit this code ({why}); train again") from None


class Trained(NamedTuple):
    """A checkpoint's network, on the device and ready to evaluate."""

    model: nn.Module
    checkpoint: Checkpoint
    device: torch.device
    amp: bool


def trained(model: nn.Module, checkpoint: Checkpoint, device: str = "auto", amp: str | None = None) -> Trained:
    """`model` with the checkpoint's weights; `amp` as --amp, None: as it was trained. InputError if they do not fit."""
    restore(checkpoint, model=model)
    del checkpoint["model"]  # hundreds of megabytes, which the model has now
    device = pick_device(device)
    amp = pick_amp(amp or checkpoint["args"]["amp"], device)
    model.to(device, memory_format=memory_format(device, amp, training=False)).eval()
    return Trained(model, checkpoint, device, amp)


# ---- Arguments -----------------------------------------------------------------------------------------------------


def arguments(
    parser: Parser,
    paper: str,
    *,
    free: tuple[str, ...] = (),
    limit: int | None = None,
    limit_help: str = "",
    seed: int = 0,
    seed_help: str = "",
) -> tuple[Namespace, Checkpoint | None]:
    """Add a run's own arguments, parse, and with --resume fill in those of the checkpoint, which is also returned.

    free: what may be given anew when a run is resumed, beside --epochs, --device and --compile. Another flag that
    differs from the checkpoint's raises InputError: it would silently not be the run that is resumed. `limit`, `seed`:
    the defaults of --limit (None: all) and --seed, `limit_help`, `seed_help`: where they come from. Paths that a
    checkpoint shall keep are of the argparse type cli.path.
    """
    add = add_machine_arguments(parser, amp="auto").add_argument
    add("--limit", type=number(int, 1), default=limit, metavar="N",
        help=f"use only the first N images{limit_help} (default: {limit or 'all'})")  # fmt: skip
    add("--seed", type=number(int, 0, 2**63 - 1), default=seed, metavar="N",
        help=f"seeds everything (default: {seed}{seed_help})")  # fmt: skip
    add("--compile", action=BooleanOptionalAction, default=False,
        help="torch.compile the network: minutes at first, for CUDA")  # fmt: skip
    add("--out", type=Path, metavar="DIR", help="run folder (default: a new one in the folder's runs/)")
    add("--resume", type=Path, metavar="PATH", help="go on from this last.pt, with its arguments")
    args, saved = parser.parse_args(), None
    if args.resume:
        if args.out:
            parser.error(f"--out {args.out}: a resumed run goes on in the folder of {args.resume}; leave --out out")
        saved = load_checkpoint(args.resume, paper)
        if "optimizer" not in saved:
            raise InputError(f"--resume {args.resume}: holds no optimiser to go on with; give the run's last.pt")
        parser.set_defaults(**saved["args"])
        args = parser.parse_args()
        if args.data == saved["args"]["data"]:
            saved.data()  # raises InputError if they have moved
        for name in vars(args).keys() - {"epochs", "device", "compile", *free, *NOT_SAVED}:
            value = saved["args"].get(name, parser.get_default(name))
            if getattr(args, name) != value:
                flag = "--" + name.replace("_", "-")
                raise InputError(
                    f"{flag} {getattr(args, name)} differs from {value} in {args.resume}; leave {flag} out to go on "
                    "with that run, or start a new one without --resume"
                )
    return args, saved


# ---- The run -------------------------------------------------------------------------------------------------------


class Run:
    """A run and its folder: last.pt, best.pt, log.csv, curves.png, samples.png, run.json; printed first and last lines.

    name: of the folder in HERE/runs where --out names none. parts: what last.pt holds, by name, anything with a
    state_dict; best.pt goes without the "optimizer". split: part of the data -> identities of its pictures (data.py),
    which a resumed run must find again. facts: label -> text, the first lines. keep: what else a checkpoint holds,
    primitives. line: the format of an epoch's printed line. curves(path, log) and samples(path) draw. best: the name of
    best.pt. Raises InputError if the folder cannot be used, or holds a run already.
    """

    def __init__(
        self,
        args: Namespace,
        saved: Checkpoint | None,
        here: Path,
        device: torch.device,
        amp: bool,
        *,
        name: str,
        parts: dict[str, object],
        split: dict[str, list[str]],
        facts: dict[str, str],
        keep: dict[str, object],
        line: str,
        curves: Callable[[Path, list[dict]], None],
        samples: Callable[[Path], None],
        best: str = "best.pt",
    ):
        self.args, self.device, self.amp, self.parts, self.line, self.best = args, device, amp, parts, line, best
        self.curves, self.samples, self.log = curves, samples, []
        self.first = world()[0] == 0
        self.saved_args = {key: value for key, value in vars(args).items() if key not in NOT_SAVED}
        starts = [*(saved["starts"] if saved else []), this_start()]
        self.content = {"paper": here.name, "format": FORMAT, "args": self.saved_args, "split": split, "starts": starts}
        self.content |= keep
        if saved:
            changed = next((part for part in split if saved["split"].get(part) != split[part]), None)
            if changed:
                raise InputError(
                    f"the {changed} pictures, or their masks, are not those that {args.resume} was trained on; "
                    "give the folders as they were"
                )
            restore(saved, **parts)
            self.log = saved["log"]
        if self.first:
            self.out = args.resume.parent if saved else new_folder(args.out, here / "runs", name)
            on = f"{device}, {'bf16 autocast' if amp else 'float32'}, {world()[1]} process(es)"
            for label, text in {"command": shlex.join(sys.argv), "device": on, **facts, "out": self.out}.items():
                self.say(label, text)
            write_json(self.out / "run.json", {"starts": starts, "arguments": self.saved_args, **facts, "split": split})
            if not saved:
                self._save("last.pt")  # a run stopped in its first epoch resumes from here
            Stop.hint = f"; go on with: python {shlex.join([sys.argv[0], '--resume', str(self.out / 'last.pt')])}"

    def say(self, label: str, text: object) -> None:
        """Print a line, in the first process alone."""
        if self.first:
            print(f"{label:10s} {text}", flush=True)

    def epochs(self) -> Iterator[int]:
        """The epochs that are left, each with PyTorch's generator seeded by run, epoch and process alone."""
        if len(self.log) >= self.args.epochs:
            self.say("done", f"{self.args.resume} already holds epoch {len(self.log)}; give a larger --epochs")
        for epoch in range(len(self.log) + 1, self.args.epochs + 1):
            self.started = time.perf_counter()
            seed_epoch(self.args.seed, epoch)
            yield epoch

    def end_epoch(self, row: dict[str, object], better: bool) -> None:
        """Log and print `row`, save last.pt and, if `better`, the model as best.pt; draw curves.png and samples.png."""
        seconds = round(time.perf_counter() - self.started, 1)
        self.log.append({"epoch": len(self.log) + 1, **row, "seconds": seconds})
        if not self.first:
            return
        if better:
            self._save(self.best)
        self._save("last.pt")
        print(self.line.format(**self.log[-1]), f" {seconds:.0f} s", " best" if better else "", flush=True)
        try:
            write_csv(self.out / "log.csv", [list(self.log[0]), *(list(row.values()) for row in self.log)])
            self.curves(self.out / "curves.png", self.log)
            if better:
                self.samples(self.out / "samples.png")
        except InputError as error:  # it is open elsewhere, say: not worth a run
            self.say("warning", error)

    def end(self, *command: str) -> None:
        """Say where the picture is and which command comes next (default: eval.py of best.pt); leave torchrun."""
        if self.first:
            command = command or ("eval.py", str(self.out / self.best))
            script = str(Path(sys.argv[0]).with_name(command[0]))
            self.say("look at", f"{self.out / 'samples.png'}, {self.out / 'curves.png'}")
            self.say("next", f"python {shlex.join([script, *command[1:]])}")
        leave()

    def _save(self, name: str) -> None:
        """Raises InputError, leaving the old file, for weights that are nan or inf: nobody could go on with them."""
        parts = {part: x.state_dict() for part, x in self.parts.items() if name == "last.pt" or part != "optimizer"}
        content = {**self.content, "epoch": len(self.log), "log": self.log, **parts}
        if bad := first_not_finite(content):
            why = f"{bad} has become nan or inf; start anew with a lower --lr or --amp off"
            raise InputError(f"{self.out / name}: not overwritten, because {why}")
        save(self.out / name, lambda file: torch.save(content, file))


def this_start() -> dict[str, object]:
    """The command, and what it runs on."""
    commit = ""
    with suppress(OSError):  # no git on this machine
        git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
        commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "command": shlex.join(sys.argv),
        "commit": commit or None,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": f"Python {platform.python_version()}, torch {torch.__version__}",
        "processes": world()[1],
    }


def new_folder(out: Path | None, runs: Path, name: str) -> Path:
    """`out`, or the first free of runs/name, runs/name-2, ...; raises InputError if `out` holds a run already."""
    if out:
        held = [file for file in ("last.pt", "best.pt", "pretrain.pt", "log.csv") if (out / file).exists()]
        if held:
            remedy = f"go on with --resume {out / 'last.pt'} or " if "last.pt" in held else ""
            raise InputError(f"{out} already holds a run's {held[0]}; {remedy}give another --out")
        return make_folder(out)
    make_folder(runs)
    number = 1
    while True:
        folder = runs / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir()
            return folder
        except FileExistsError:  # of an earlier run, or of one that starts at this moment
            number += 1
        except OSError as error:
            raise InputError(f"{folder}: {error.strerror}; give --out a folder that can be written") from None


def result_folders(checkpoints: list[Path], out: Path | None, name: str) -> list[Path]:
    """Where the results of each checkpoint go: CHECKPOINT-NAME beside it, as best-val, or in `out`, where several get a
    folder each. Raises InputError if two are the same."""
    folders = [out or path.parent / f"{path.stem}-{name}" for path in checkpoints]
    if out and len(checkpoints) > 1:
        folders = [out / f"{path.resolve().parent.name}-{path.stem}" for path in checkpoints]
    twice = [str(path) for path, folder in zip(checkpoints, folders, strict=True) if folders.count(folder) > 1]
    if twice:
        raise InputError(f"{' and '.join(twice)}: would write to the same folder; evaluate them one by one")
    return folders

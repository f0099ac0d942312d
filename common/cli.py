"""What the command lines share: the arguments of a run, resuming with the same ones, one-line errors, and signals."""

import argparse
import contextlib
import io
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn


class InputError(Exception):
    """Bad input. The message names the file or flag, the value and the remedy; exit code 2.

    It is one line, whatever is quoted in it: the header of a table may hold a line break.
    """

    def __init__(self, message: str):
        super().__init__(" ".join(message.splitlines()))


class Parser(argparse.ArgumentParser):
    """argparse with the module's docstring as the head of --help, and errors of a single line."""

    def __init__(self, doc: str):
        super().__init__(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """One line and exit code 2."""
        self.exit(2, f"{Path(sys.argv[0]).name}: error: {message} (--help lists the flags)\n")


def number(kind: type, low: float, high: float = float("inf"), *, above: bool = False) -> Callable[[str], float]:
    """An argparse type: `kind` (int or float) with low <= value <= high, or low < value where `above`."""

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not {'a whole' if kind is int else 'a'} number") from None
        if not (low < value if above else low <= value) or not value <= high or value == float("inf"):  # also for nan
            limit = f" and at most {high:g}" if high != float("inf") else ""
            raise argparse.ArgumentTypeError(f"{text} must be {'above' if above else 'at least'} {low:g}{limit}")
        return value

    return parse


def add_machine_arguments(
    parser: argparse.ArgumentParser, *, workers: bool = True, amp: str | None = None
) -> argparse._ArgumentGroup:
    """--workers, --device, --amp: the same in every script that runs a network; `workers` where it reads a data set.

    `amp`: the default of --amp; None means what the checkpoint was trained with.
    """
    group = parser.add_argument_group("run and machine (ours, unless it says so)")
    if workers:
        group.add_argument(
            "--workers", type=number(int, 0), default=0, metavar="N", help="loader processes (default 0)"
        )
    group.add_argument("--device", choices=["auto", "cuda", "mps", "cpu"], default="auto", help="auto: CUDA, MPS, CPU")
    group.add_argument(
        "--amp",
        choices=["auto", "bf16", "off"],
        default=amp,
        help="bf16 autocast; auto: where the hardware computes bf16 natively, else off "
        f"(default: {amp or 'as trained'})",
    )
    return group


def add_run_arguments(
    parser: argparse.ArgumentParser,
    *,
    batch_norm: bool = True,
    limit: int | None = None,
    limit_help: str = "",
    seed: int = 0,
    seed_help: str = "",
) -> argparse._ArgumentGroup:
    """The arguments of a training run that do not come from a paper: the same in every folder's train.py.

    `batch_norm`: whether the network has any; `limit`, `seed`: the defaults of --limit (None: all images) and --seed;
    `limit_help`, `seed_help`: where these come from, or of what the images are the first.
    """
    group = add_machine_arguments(parser, amp="auto")
    help = f"use only the first N images{limit_help} (default: {limit or 'all'})"
    group.add_argument("--limit", type=number(int, 1), default=limit, metavar="N", help=help)
    help = f"seeds everything (default: {seed}{seed_help})"
    group.add_argument("--seed", type=number(int, 0, 2**63 - 1), default=seed, metavar="N", help=help)
    group.add_argument("--deterministic", action="store_true", help="deterministic kernels, slower on CUDA")
    yes_or_no = argparse.BooleanOptionalAction  # --no-compile: what a saved run had can be taken back
    help = "torch.compile the network: minutes at first, for CUDA"
    group.add_argument("--compile", action=yes_or_no, default=False, help=help)
    if batch_norm:
        help = "under torchrun, statistics of the global batch; CUDA only"
        group.add_argument("--sync-batch-norm", action=yes_or_no, default=False, help=help)
    group.add_argument("--out", type=Path, metavar="DIR", help="run folder (default: a new one in the folder's runs/)")
    group.add_argument("--resume", type=Path, metavar="PATH", help="go on from this last.pt, with its arguments")
    return group


def given_arguments(parser: argparse.ArgumentParser, argv: list[str] | None = None) -> set[str]:
    """The names of the arguments that stand on the command line, as against those that have their default."""
    sentinel = object()
    blank = argparse.Namespace(**{action.dest: sentinel for action in parser._actions if action.dest != "help"})
    return {name for name, value in vars(parser.parse_args(argv, blank)).items() if value is not sentinel}


def resume_arguments(args: argparse.Namespace, given: set[str], saved: dict, may_change: set[str]) -> None:
    """Fill `args` from the checkpoint's arguments, in place.

    `may_change` (epochs, device, ...) may be given anew. Any other flag on the command line that differs from the
    checkpoint's value raises InputError: it would silently not be the run that is resumed.
    """
    for name, value in saved.items():
        if name in given and name in may_change:
            continue
        if name in given and jsonable(getattr(args, name)) != value:
            flag = "--" + name.replace("_", "-")
            raise InputError(
                f"{flag} {getattr(args, name)} differs from {value} in {args.resume}; leave {flag} out to go on with "
                "that run, or start a new one without --resume"
            )
        setattr(args, name, value)


def jsonable(value: object) -> object:
    """Paths as text; everything else as it is (arguments are numbers, text, lists and None)."""
    return str(value) if isinstance(value, Path) else value


# ---- Running a script, and stopping it ----------------------------------------------------------------------------


class Terminated(KeyboardInterrupt):
    """SIGTERM, raised where the main thread stands."""


OUT_OF_MEMORY = ("out of memory", "can't allocate memory")  # CUDA's and MPS's words, and the CPU's
LOST_PROCESS = ("closed by peer", "reset by peer", "remote process exited")  # gloo's words, and NCCL's


class _Stop:
    """What run() knows of signals: how many hold_signals() are open, the signal that waits for them, how to go on."""

    held, waiting, hint = 0, None, ""


def _on_signal(number: int, frame: FrameType | None = None) -> None:
    if _Stop.held:
        _Stop.waiting = number
    else:
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt


@contextlib.contextmanager
def hold_signals() -> Iterator[None]:
    """Within it, Ctrl-C and SIGTERM wait: a file is being written."""
    _Stop.held += 1
    try:
        yield
    finally:
        _Stop.held -= 1
        if _Stop.waiting and not _Stop.held:
            number, _Stop.waiting = _Stop.waiting, None
            _on_signal(number)


def go_on_with(last: Path) -> None:
    """Tell run() which checkpoint an interrupted training can be resumed from."""
    _Stop.hint = f"; go on with: python {shlex.join([sys.argv[0], '--resume', str(last)])}"


def run(main: Callable[[], None]) -> None:
    """Call main(). Bad input, a path that may not be read, and memory that does not suffice become one line and exit
    code 2; Ctrl-C and SIGTERM one line and 130 and 143; a reader that has gone, as in `| head`, 141 and no line.

    One line and exit code 1: another process of torchrun has died, whose own lines say why.
    """
    _Stop.hint = ""
    before = {number: signal.signal(number, _on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # the name of a file may be no text
    try:
        main()
        sys.stdout.flush()  # that a reader has gone may show only now
    except InputError as error:
        print(f"{Path(sys.argv[0]).name}: error: {error}", file=sys.stderr)
        sys.exit(2)
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, MemoryError) or any(sign in str(error) for sign in OUT_OF_MEMORY):
            remedy = "give a smaller --batch-size or --size where the script has them, or --device cpu"
            print(f"{Path(sys.argv[0]).name}: error: out of memory; {remedy}{_Stop.hint}", file=sys.stderr)
            sys.exit(2)
        if not any(sign in str(error) for sign in LOST_PROCESS):
            raise
        print(f"{Path(sys.argv[0]).name}: error: another process of this job has died{_Stop.hint}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:  # `| head` has seen enough
        sys.exit(141)
    except OSError as error:
        if not error.filename:
            raise
        problem = f"{error.filename}: {error.strerror}; check the path and its permissions"
        print(f"{Path(sys.argv[0]).name}: error: {problem}{_Stop.hint}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt as stop:
        print(f"\n{Path(sys.argv[0]).name}: stopped{_Stop.hint}", file=sys.stderr)
        sys.exit(143 if isinstance(stop, Terminated) else 130)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        try:
            sys.stdout.flush()
        except BrokenPipeError:  # what is still to be written goes nowhere, and Python's own end says nothing of it
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

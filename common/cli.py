"""What the command lines share: argparse with one-line errors, the machine's arguments, Ctrl-C, exit codes."""

import argparse
import contextlib
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn


class InputError(Exception):
    """Bad input. The message is one line and names the file or flag, the value and the remedy; exit code 2."""

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


def path(text: str) -> str:
    """An argparse type: the whole path as text, so that a checkpoint can keep it and any folder finds it again."""
    return os.path.abspath(text)  # a link keeps its name


def add_machine_arguments(parser: Parser, amp: str | None = None) -> argparse._ArgumentGroup:
    """--device and --amp, in every script that runs a network. `amp`: its default, None: as trained."""
    group = parser.add_argument_group("run and machine (ours, unless it says so)")
    group.add_argument("--device", choices=["auto", "cuda", "mps", "cpu"], default="auto", help="auto: CUDA, MPS, CPU")
    help = f"bf16 autocast; auto: where the hardware computes bf16 natively (default: {amp or 'as trained'})"
    group.add_argument("--amp", choices=["auto", "bf16", "off"], default=amp, help=help)
    return group


# ---- Running a script, and stopping it ----------------------------------------------------------------------------

# the words of CUDA and MPS, of MPS, and of a CPU under Linux, macOS and Windows
OUT_OF_MEMORY = ("out of memory", "Invalid buffer size", "can't allocate memory", "not enough memory")
COMPILERS = ("torch._dynamo", "torch._inductor")  # modules of their errors
LOST_PROCESS = ("closed by peer", "reset by peer", "remote process exited")  # gloo's words, and NCCL's


class Stop:
    """What run() knows of signals: how many hold_signals() are open, the one that waits for them, how to go on."""

    held, waiting, hint = 0, None, ""


def _on_signal(number: int, frame: object = None) -> None:
    Stop.waiting = number
    if not Stop.held:
        raise KeyboardInterrupt


@contextlib.contextmanager
def hold_signals() -> Iterator[None]:
    """Within it, Ctrl-C and SIGTERM wait: a file is being written."""
    Stop.held += 1
    try:
        yield
    finally:
        Stop.held -= 1
    if Stop.waiting and not Stop.held:
        raise KeyboardInterrupt


def run(main: Callable[[], None]) -> None:
    """Call main(). Bad input, an unreadable path, too little memory, no compiler for --compile: one line, exit code 2;
    Ctrl-C and SIGTERM: one line, 130 and 143; a reader that has gone, as in `| head`: 141; a lost process of torchrun:
    one line and 1."""
    Stop.waiting, Stop.hint = None, ""
    signal.signal(signal.SIGINT, _on_signal)
    signal.signal(signal.SIGTERM, _on_signal)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # the name of a file may be no text
    try:
        main()
        sys.stdout.flush()  # that a reader has gone may show only now
    except InputError as error:
        _end(2, f"error: {error}")
    except KeyboardInterrupt:
        number, Stop.waiting = Stop.waiting or signal.SIGINT, None
        _end(128 + number, f"stopped{Stop.hint}")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still to be written goes nowhere
        sys.exit(141)
    except (RuntimeError, MemoryError) as error:
        if out_of_memory(error):
            remedy = "give a smaller --batch-size or --size where the script has them, or --device cpu"
            _end(2, f"error: out of memory; {remedy}{Stop.hint}")
        if type(error).__module__.startswith(COMPILERS):
            why = next(filter(None, str(error).splitlines()), "")[:150]
            hint = f"{Stop.hint} --no-compile" if Stop.hint else ""
            _end(2, f"error: torch.compile does not work here ({why}); leave it out with --no-compile{hint}")
        if not any(words in str(error) for words in LOST_PROCESS):
            raise
        _end(1, f"error: another process of this job has died, its own lines say why{Stop.hint}")
    except OSError as error:
        if not error.filename:
            raise
        _end(2, f"error: {error.filename}: {error.strerror}; check the path and its permissions{Stop.hint}")


def out_of_memory(error: Exception) -> bool:
    """Whether Python, NumPy or PyTorch, on any device, has found no more memory."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in OUT_OF_MEMORY)


def _end(code: int, message: str) -> NoReturn:
    print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr)
    sys.exit(code)

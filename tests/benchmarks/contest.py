"""Contenders in processes of their own, run in turns: what every part of the benchmark measures with."""

import contextlib
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple


class Row(NamedTuple):
    """A line of the table: ours against theirs, the smaller the better."""

    part: str
    what: str
    peer: str
    unit: str
    ours: float
    theirs: float
    repeats: int  # of each side; the median of them counts
    difference: float | None = None  # largest, between the values that both sides compute
    machine: str = ""

    @property
    def ratio(self) -> float:
        return self.theirs / self.ours if self.ours > 0 else float("nan")


class Contender:
    """A fresh process that prepares a thing once and then does it, timed, whenever it is told to.

    prepare(*args) -> a function without arguments; it must be importable. Raises RuntimeError with the other side's
    message where it fails, ImportError where a package is missing there.
    """

    def __init__(self, prepare: Callable, *args):
        methods = multiprocessing.get_all_start_methods()  # a fork server imports PyTorch once for all
        context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, prepare, args), daemon=True)
        self.process.start()
        theirs.close()
        self._answer()

    def run(self) -> float:
        """Seconds of one more run."""
        self.pipe.send("run")
        return self._answer()

    def stop(self) -> float:
        """End the process -> the most memory that it had in use above what it had before `prepare`, in MB."""
        self.pipe.send("stop")
        peak = self._answer()
        self.process.join()
        return peak

    def _answer(self) -> float:
        try:
            kind, value = self.pipe.recv()
        except EOFError:
            self.process.join()
            raise RuntimeError(f"the process ended with exit code {self.process.exitcode}") from None
        if kind == "missing":
            raise ImportError(value)
        if kind == "error":
            raise RuntimeError(value)
        return value


def _serve(pipe: Connection, prepare: Callable, args: tuple) -> None:
    before = peak_mb()
    try:
        action = prepare(*args)
        pipe.send(("ready", 0.0))
        while pipe.recv() == "run":
            pipe.send(("seconds", timed(action)))
        pipe.send(("peak", peak_mb() - before))
    except ImportError as error:
        pipe.send(("missing", str(error)))
    except Exception as error:
        pipe.send(("error", f"{type(error).__name__}: {error}"))


def timed(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def in_turns(runs: dict[str, Callable[[], float]], rounds: int, budget: float) -> dict[str, list[float]]:
    """Call all of `runs` (each returns its seconds) in turns, `rounds` times after a first one that is not counted.

    Stops after the round in which `budget` seconds are used up, but not before three that count, or one if that takes
    four times as long.
    """
    seconds = {name: [] for name in runs}
    started = time.perf_counter()
    for number in range(rounds + 1):
        for name, run in runs.items():
            seconds[name].append(run())
        used = time.perf_counter() - started
        if used > budget and (number >= 3 or (number and used > 4 * budget)):
            break
    return {name: found[1:] for name, found in seconds.items()}


@contextlib.contextmanager
def contest(preparations: dict[str, tuple]) -> Iterator[dict[str, Contender]]:
    """name -> (prepare, *args), as running Contenders; they end with the block, whatever happens in it.

    A peer that is not installed is named and left out.
    """
    contenders = {}
    try:
        for name, (prepare, *args) in preparations.items():
            try:
                contenders[name] = Contender(prepare, *args)
            except ImportError as error:
                print(f"left out: {name} ({error})", flush=True)
        yield contenders
    finally:
        for contender in contenders.values():
            contender.process.terminate()
            contender.process.join()


def compare(part: str, what: str, unit: str, ours: list[float], theirs: dict[str, list[float]], **more) -> list[Row]:
    """Rows of the medians: ours against each of theirs."""
    return [
        Row(part, what, peer, unit, statistics.median(ours), statistics.median(values), len(values), **more)
        for peer, values in theirs.items()
    ]


def peak_mb() -> float:
    """The most memory that this process has had in use, in MB.

    Linux's VmHWM rather than ru_maxrss, which a started process inherits from the one that started it.
    """
    status = Path("/proc/self/status")
    if status.exists():
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) / 1024
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024


def machine() -> str:
    """The processor and what of its matrix units matters here, in words."""
    name, flags = platform.processor() or platform.machine(), set()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        fields = dict(line.split(":", 1) for line in cpuinfo.read_text().splitlines() if ":" in line)
        fields = {key.strip(): value.strip() for key, value in fields.items()}
        name, flags = fields.get("model name", name), set(fields.get("flags", "").split())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    bf16 = "AVX512-BF16" if "avx512_bf16" in flags else "no AVX512-BF16"
    return f"{name}, {cores} cores, {bf16}, {'AMX' if 'amx_bf16' in flags else 'no AMX'}"

"""Contenders in processes of their own, run in turns: what every part of the benchmark measures with."""

import contextlib
import multiprocessing
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

Seconds = dict[str, list[float]]  # of each run, by who ran


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


def timed(action: Callable[[], object]) -> float:
    """Seconds of one call."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def in_turns(runs: dict[str, Callable[[], float]], rounds: int, budget: float) -> Seconds:
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


def compare(part: str, what: str, unit: str, found: Seconds, differences: dict[str, float] | None = None) -> list[Row]:
    """Rows of the medians: `ours` against each of the others, seconds as milliseconds where `unit` is ms."""
    factor = 1000 if unit == "ms" else 1
    median = {who: factor * statistics.median(values) for who, values in found.items()}
    return [
        Row(part, what, who, unit, median["ours"], median[who], len(found[who]), (differences or {}).get(who))
        for who in found
        if who != "ours"
    ]


# ---- Processes ------------------------------------------------------------------------------------------------------


def _prepare(prepare: Callable, args: tuple) -> None:
    global _action, _before
    _before = peak_mb()
    _action = prepare(*args)


def _run() -> float:
    return timed(_action)


def _peak() -> float:
    return peak_mb() - _before


def contest(preparations: dict[str, tuple], rounds: int, budget: float) -> tuple[Seconds, Seconds]:
    """name -> (prepare, *args): each prepares once, in a fresh process of its own, and then runs when it is its turn.

    prepare(*args) -> a function without arguments; it must be importable, and what it raises is raised here. Returns
    the seconds of the runs, and the most memory that each process had in use above what it had before `prepare`, in MB.
    A peer that is not installed is named and left out.
    """
    context = multiprocessing.get_context("spawn")
    with contextlib.ExitStack() as stack:
        processes = {}
        for name, (prepare, *args) in preparations.items():
            process = stack.enter_context(ProcessPoolExecutor(1, context))
            try:
                process.submit(_prepare, prepare, args).result()
                processes[name] = process
            except ImportError as error:
                print(f"left out: {name} ({error})", flush=True)
        runs = {name: lambda process=process: process.submit(_run).result() for name, process in processes.items()}
        seconds = in_turns(runs, rounds, budget)
        return seconds, {name: [process.submit(_peak).result()] for name, process in processes.items()}


# ---- The machine ----------------------------------------------------------------------------------------------------


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
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    model, units = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE), set(text.split())
    name = model[1] if model else platform.processor() or platform.machine()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    bf16 = "AVX512-BF16" if "avx512_bf16" in units else "no AVX512-BF16"
    return f"{name}, {cores} cores, {bf16}, {'AMX' if 'amx_bf16' in units else 'no AMX'}"

"""The tests of a whole run in two processes, for nearly half of the time on two cores; conftest.py plugs it in.

Each process takes the next file that nobody has taken. One is forked, and its reports are shown when the other is done.
With a few files, with -x, --pdb or on Windows pytest runs as usual.
"""

import itertools
import json
import multiprocessing
import os
import tempfile
from collections.abc import Iterator

import pytest

FEWEST = 8  # files


def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """pytest's hook: run session.items; None leaves that to pytest."""
    files = [list(items) for _, items in itertools.groupby(session.items, key=lambda item: item.path)]
    option = session.config.option
    if len(files) < FEWEST or option.collectonly or option.usepdb or option.maxfail or not hasattr(os, "fork"):
        return None
    fork = multiprocessing.get_context("fork")
    taken, told = fork.Value("i", 0), tempfile.TemporaryFile("w+")

    def items() -> Iterator[pytest.Item]:
        while True:
            with taken.get_lock():
                k, taken.value = taken.value, taken.value + 1
            if k >= len(files):
                return
            yield from files[k]

    def run() -> None:
        for item, following in itertools.pairwise(itertools.chain(items(), [None])):
            session.config.hook.pytest_runtest_protocol(item=item, nextitem=following)

    def run_and_keep() -> None:
        plugins = session.config.pluginmanager
        plugins.unregister(name="terminalreporter")
        plugins.getplugin("capturemanager").stop_global_capturing()  # its files are the other process' too
        plugins.getplugin("capturemanager").start_global_capturing()
        plugins.register(Keeper())
        run()

    class Keeper:
        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            data = session.config.hook.pytest_report_to_serializable(config=session.config, report=report)
            print(json.dumps(data, default=str), file=told, flush=True)

    other = fork.Process(target=run_and_keep)
    other.start()
    run()
    other.join()
    told.seek(0)
    for line in told:
        report = session.config.hook.pytest_report_from_serializable(config=session.config, data=json.loads(line))
        session.config.hook.pytest_runtest_logreport(report=report)
    if other.exitcode:
        raise pytest.exit.Exception(f"the second process of the tests ended with {other.exitcode}", 1)
    return True

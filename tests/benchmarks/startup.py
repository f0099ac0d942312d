"""How long a script takes to answer --help, and a warm start to its first training step."""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.contest import Row

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = [p for p in sorted(ROOT.glob("*/*.py")) if p.parent.name != "tests" and "cli.run(main" in p.read_text()]
HELP, FIRST_STEP = 2.0, 10.0  # seconds: the targets
# run a script up to the end of its first training step
UNTIL_FIRST_STEP = (
    "import os, runpy, sys; from torch.optim.optimizer import register_optimizer_step_post_hook as hook; "
    "hook(lambda *_: os._exit(0)); sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
)
TRAIN = {  # the bare command of each folder, in float32 or bf16 as it chooses
    "nu_deeplabv3plus": ["--weights", "none"],
    "hair_transfer": [],
    "lrn_headtorso": [],
    "mut1ny_fairness": ["--weights", "none"],
    "masked_ssl": ["--weights", "none"],
}


def seconds_of(command: list[str]) -> float:
    """Wall time of a command; raises RuntimeError with its last line if it fails."""
    started = time.perf_counter()
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)}: {result.stderr.strip().splitlines()[-1:]}")
    return time.perf_counter() - started


def startup(quick: bool) -> Iterator[Row]:
    """Rows of seconds, against the target."""
    repeats = 1 if quick else 2
    for script in SCRIPTS[:1] if quick else SCRIPTS:
        found = [seconds_of([sys.executable, str(script), "--help"]) for _ in range(repeats + 1)][1:]
        what = f"{script.relative_to(ROOT).as_posix()} --help"
        yield Row("start-up", what, "target", "s", statistics.median(found), HELP, repeats)
    for folder, args in list(TRAIN.items())[: 1 if quick else None]:
        with tempfile.TemporaryDirectory() as out:
            found = []
            for i in range(repeats + 1):  # the first paints and decodes what the others find
                command = [sys.executable, "-c", UNTIL_FIRST_STEP, str(ROOT / folder / "train.py"), *args]
                found.append(seconds_of([*command, "--out", f"{out}/{i}"]))
        what = f"{folder}/train.py, warm, to the end of the first step"
        yield Row("start-up", what, "target", "s", statistics.median(found[1:]), FIRST_STEP, repeats)

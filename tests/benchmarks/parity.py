"""bf16 against float32 on real photos: the same seeds trained in both, and their final scores side by side.

    python tests/benchmarks/parity.py --data PATH             prints the commands, one a line
    python tests/benchmarks/parity.py --data PATH --run       runs those that have no evaluation yet, then the table
    python tests/benchmarks/parity.py --data PATH --run --only nu_deeplabv3plus --seeds 0 1 2 3 4 5 6 7
    python tests/benchmarks/parity.py --table                 the table of what there is

PATH is CelebAMask-HQ's folder, which every folder can train on. Runs lie in runs/FOLDER/PRECISION-SEED here; one that
was stopped goes on from its last.pt. Parity holds where the means of the two precisions are no further apart than the
seeds of float32 are among themselves; parity.csv here says so for each folder, and keeps the lines of folders without
runs. On a CPU without bf16 instructions the bf16 runs go through emulated_bf16.py, which is as fast as float32 there.
"""

import argparse
import csv
import itertools
import json
import shlex
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from benchmarks.contest import machine

from common.device import pick_amp, pick_device
from common.pictures import print_table, write_csv

HERE = Path(__file__).resolve().parent
PRECISIONS = {"float32": "off", "bf16": "bf16"}
SEEDS = (0, 1, 2)


class Training(NamedTuple):
    arguments: str  # short of the paper's epochs and size: six runs of each are needed
    scores: tuple[str, ...]  # of results.json; the first decides


TRAININGS = {
    "nu_deeplabv3plus": Training("--weights none --size 64 --limit 160 --epochs 12", ("iou_18", "loss")),
    "hair_transfer": Training("--weights none --size 64 --limit 100 --lr 1e-3 --epochs 6", ("iou", "loss")),
    "lrn_headtorso": Training("--size 64 --n-train 120 --n-test 48 --epochs 10", ("jaccard", "hausdorff")),
    "mut1ny_fairness": Training(
        "--model pspnet --truncated --target labels --weights none --size 64 --limit 160 --epochs 8",
        ("class_iou", "loss"),
    ),
    "masked_ssl": Training("--weights none --size 64 --limit 100 --epochs 8 --min-steps 0 --lr 1e-2", ("miou", "f1")),
}


def native_bf16() -> bool:
    """Whether this machine computes bf16; where not, it is emulated."""
    return pick_amp("auto", pick_device())


def run_of(folder: str, precision: str, seed: int) -> Path:
    return HERE / "runs" / folder / f"{precision}-{seed}"


def commands(folder: str, data: str, precision: str, seed: int) -> list[list[str]]:
    """Training (gone on with if it was stopped) and evaluation of its last epoch."""
    run = run_of(folder, precision, seed)
    python, last = [sys.executable], str(run / "last.pt")
    if PRECISIONS[precision] == "bf16" and not native_bf16():
        python.append(str(HERE / "emulated_bf16.py"))
    script = [*python, str(ROOT / folder / "train.py")]
    fresh = [*script, "--data", data, *shlex.split(TRAININGS[folder].arguments), "--seed", str(seed)]
    train = [*fresh, "--amp", PRECISIONS[precision], "--out", str(run)]
    if (run / "last.pt").exists():
        train = [*script, "--resume", last]
    return [train, [*python, str(ROOT / folder / "eval.py"), last, "--out", str(run / "evaluation")]]


def results_of(folder: str, precision: str, seed: int) -> dict | None:
    """The scores of a run, None if it was not evaluated: results.json, which some folders write for several runs."""
    path = run_of(folder, precision, seed) / "evaluation" / "results.json"
    return _holding(TRAININGS[folder].scores[0], json.loads(path.read_text())) if path.exists() else None


def _holding(key: str, value: object) -> dict | None:
    """The first dict with the key, `value` or one inside it."""
    if isinstance(value, dict) and key in value:
        return value
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next(filter(None, (_holding(key, x) for x in inner)), None)


def verdict(float32: list[float], bf16: list[float]) -> str:
    """Whether the means are no further apart than the lowest and the highest of the float32 seeds."""
    if len(float32) < 2 or not bf16:
        return "too few runs"
    gap, spread = abs(statistics.mean(bf16) - statistics.mean(float32)), max(float32) - min(float32)
    return "within the spread" if gap <= spread else "BEYOND the spread"


def table(seeds: Sequence[int] = SEEDS) -> list[list[str]]:
    """A line a folder and score: means and seeds of both precisions, bf16 - float32 in the mean and seed by seed.

    The mean gap has its standard error over the seeds, which are pairs.
    """
    means = [f"{precision}, mean (seeds)" for precision in PRECISIONS]
    rows = [["folder", "score", *means, "gap ± standard error (seeds)", "verdict", "machine"]]
    where = machine() if native_bf16() else f"{machine()}, bf16 emulated"
    for folder, training in TRAININGS.items():
        for score in training.scores:
            pairs = [[results_of(folder, precision, seed) for precision in PRECISIONS] for seed in seeds]
            pairs = [[result[score] for result in pair] for pair in pairs if all(pair)]
            if not pairs:
                continue
            float32, bf16 = map(list, zip(*pairs, strict=True))
            cells = [f"{statistics.mean(v):.4f} ({', '.join(f'{x:.4f}' for x in v)})" for v in (float32, bf16)]
            gaps = [b - a for a, b in pairs]
            error = f" ± {statistics.stdev(gaps) / len(gaps) ** 0.5:.4f}" if len(gaps) > 1 else ""
            cells.append(f"{statistics.mean(gaps):+.4f}{error} ({', '.join(f'{x:+.4f}' for x in gaps)})")
            rows.append([folder, score, *cells, verdict(float32, bf16), where])
    return rows


def with_older(lines: list[list[str]], path: Path) -> list[list[str]]:
    """The table with those lines of the CSV of the same columns whose folder and machine it does not have."""
    if not path.exists():
        return lines
    with open(path, newline="", encoding="utf-8") as file:
        header, *older = csv.reader(file)
    measured = {(line[0], line[-1]) for line in lines[1:]}
    if header == lines[0]:
        lines = lines + [line for line in older if (line[0], line[-1]) not in measured]
    return [lines[0], *sorted(lines[1:], key=lambda line: (line[-1], list(TRAININGS).index(line[0])))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", metavar="PATH", help="CelebAMask-HQ's folder")
    parser.add_argument("--run", action="store_true", help="run the commands instead of printing them")
    parser.add_argument("--only", nargs="+", choices=TRAININGS, default=list(TRAININGS))
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS, metavar="N", help="default: 0 1 2")
    parser.add_argument("--table", action="store_true", help="only the table of what there is")
    args = parser.parse_args()
    if not args.table and not args.data:
        parser.error("give --data PATH, or --table")
    # all folders at one seed first: a stopped night is still a comparison
    for seed, folder, precision in itertools.product(() if args.table else args.seeds, args.only, PRECISIONS):
        if results_of(folder, precision, seed):
            continue
        for command in commands(folder, args.data, precision, seed):
            print(shlex.join(command), flush=True)
            if args.run:
                subprocess.run(command, check=True)
    if args.table or args.run:
        lines = table(args.seeds)
        print_table(lines, left=2)
        if len(lines) > 1:
            write_csv(HERE / "parity.csv", with_older(lines, HERE / "parity.csv"))


if __name__ == "__main__":
    main()

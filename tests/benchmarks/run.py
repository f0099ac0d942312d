"""Speed and memory beside the peers, into results.csv here.

    pip install -r tests/benchmarks/requirements.txt        the peers, beside the project's own requirements
    python tests/benchmarks/run.py                          about 40 minutes on two cores without bf16
    python tests/benchmarks/run.py --only training          one part; other parts' and machines' rows in the CSV stay
    python tests/benchmarks/run.py --only loading --data CelebAMask-HQ      on real faces instead of generated ones
    python tests/benchmarks/run.py --quick --csv try.csv    tiny sizes: shows that everything runs, measures nothing
    python tests/benchmarks/readme.py                       the tables of README.md anew, from results.csv

Rows are written as they are measured, so a run that is stopped leaves what it has. Nothing here passes or fails.
"""

import argparse
import csv
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1])]

from benchmarks.contest import Row, machine

from common.pictures import write_csv

HERE = Path(__file__).resolve().parent
PARTS = {  # part -> the module that measures it, and its rows' parts: memory is measured in the same processes
    "startup": ("startup", ("start-up",)),
    "training": ("networks", ("training", "memory")),
    "inference": ("networks", ("inference", "inference memory")),
    "optimisations": ("networks", ("optimisations",)),
    "loading": ("loading", ("loading",)),
    "metrics": ("metrics", ("metrics",)),
}


def read_rows(path: Path) -> list[Row]:
    """The rows of a CSV that write_rows() wrote; none if there is no such file."""
    if not path.exists():
        return []
    kinds = {"ours": float, "theirs": float, "repeats": int, "difference": lambda text: float(text) if text else None}
    with open(path, newline="") as file:
        lines = list(csv.DictReader(file))
    return [Row(**{name: kinds.get(name, str)(line[name]) for name in Row._fields}) for line in lines]


def write_rows(path: Path, rows: list[Row]) -> None:
    """Rows as a CSV, with their ratios."""
    lines = [[*Row._fields, "ratio"]]
    for row in rows:
        numbers = {"ours": f"{row.ours:.6g}", "theirs": f"{row.theirs:.6g}"}
        difference = "" if row.difference is None else f"{row.difference:.3g}"
        lines.append([*row._replace(**numbers, difference=difference), f"{row.ratio:.3f}"])
    write_csv(path, lines)


def measure(part: str, quick: bool, data: Path | None) -> Iterator[Row]:
    """The rows of a part, one by one. Parts are imported when they are measured, with all that they need."""
    of_part = getattr(import_module(f"benchmarks.{PARTS[part][0]}"), part)
    return of_part(quick, data) if part == "loading" else of_part(quick)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to measure (default: all)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that everything runs")
    parser.add_argument("--data", type=Path, metavar="PATH", help="CelebAMask-HQ's folder, for loading")
    parser.add_argument("--csv", type=Path, default=HERE / "results.csv", metavar="FILE", help="default: here")
    args = parser.parse_args()
    if args.quick and args.csv.resolve() == HERE / "results.csv":
        parser.error("--quick measures nothing; give --csv FILE, so that results.csv stays what it is")
    here, started = machine(), time.perf_counter()
    for part in args.only:
        before = [row for row in read_rows(args.csv) if row.part not in PARTS[part][1] or row.machine != here]
        rows = []
        for row in measure(part, args.quick, args.data):
            rows.append(row._replace(machine=here))
            seconds = time.perf_counter() - started
            print(f"{seconds:6.0f} s  {row.part}: {row.what}; {row.peer}: {row.ratio:.2f}", flush=True)
            write_rows(args.csv, before + rows)


if __name__ == "__main__":
    main()

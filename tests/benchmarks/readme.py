"""Write the tables of README.md here anew from results.csv, scale.csv and parity.csv.

    python tests/benchmarks/readme.py

Each stands between <!-- table: NAME --> and <!-- /table -->; test_benchmarks.py fails where one is not what this script
writes. Nobody types a table.
"""

import csv
import math
import re
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1])]

from benchmarks.contest import Row
from benchmarks.run import read_rows

HERE = Path(__file__).resolve().parent
NOT_YET = "*not measured yet*"
NETWORKS = ("training", "memory", "inference", "inference memory")


def mean_ratio(rows: list[Row]) -> float:
    """Geometric mean."""
    return math.exp(sum(math.log(row.ratio) for row in rows) / len(rows))


def number(x: float) -> str:
    return f"{x:.0f}" if x >= 100 else f"{x:.3g}"


def part_table(rows: list[Row], part: str) -> list[list[str]]:
    """One line a row of `part`, machine by machine; of networks also geometric means, of --help the slowest alone."""
    rows = [row for row in rows if row.part == part]
    if not rows:
        return []
    with_difference = any(row.difference is not None for row in rows)
    header = ["what", "against", f"ours, {rows[0].unit}", f"theirs, {rows[0].unit}", "ratio", "runs"]
    lines = [header + ["largest difference"] * with_difference]
    machines = dict.fromkeys(row.machine for row in rows)
    for machine in machines:
        chosen = _slowest_help([row for row in rows if row.machine == machine])
        if len(machines) > 1:
            lines.append([f"**{machine}**", *[""] * (len(lines[0]) - 1)])
        for row in chosen:
            cells = [row.what, row.peer, number(row.ours), number(row.theirs), f"{row.ratio:.2f}", str(row.repeats)]
            difference = "" if row.difference is None else f"{row.difference:.1g}"
            lines.append(cells + [difference] * with_difference)
        if part in NETWORKS:
            own = [row for row in chosen if row.peer.startswith("our network")]
            others = [row for row in chosen if row not in own and "another network" not in row.peer]
            for title, mean_of in (("the peers", others), ("our networks, run as theirs", own)):
                if mean_of:
                    mean = f"**{mean_ratio(mean_of):.2f}**"
                    lines.append(["**geometric mean**", f"**{title}**", "", "", mean, ""])
    return lines


def _slowest_help(rows: list[Row]) -> list[Row]:
    """The rows, those of the scripts' --help become one: the slowest; the CSV has them all."""
    helps = [row for row in rows if row.what.endswith("--help")]
    if not helps:
        return rows
    slowest = max(helps, key=lambda row: row.ours)
    what = f"{slowest.what}, the slowest of {len(helps)} scripts"
    return [slowest._replace(what=what), *(row for row in rows if row not in helps)]


def csv_table(path: Path) -> str:
    """A CSV as it is, its column `machine` in a line above."""
    if not path.exists():
        return NOT_YET
    with open(path, newline="") as file:
        rows = list(csv.reader(file))
    column = rows[0].index("machine")
    machines = sorted({row[column] for row in rows[1:]})
    table = markdown([row[:column] + row[column + 1 :] for row in rows])
    return f"{'; '.join(machines)}:\n\n{table}"


def markdown(lines: list[list[str]]) -> str:
    if not lines:
        return NOT_YET
    return "\n".join("| " + " | ".join(line) + " |" for line in [lines[0], ["---"] * len(lines[0]), *lines[1:]])


def render(text: str, folder: Path = HERE) -> str:
    """README's text with its tables from the CSV files of `folder`."""
    rows = read_rows(folder / "results.csv")
    machines = sorted({row.machine for row in rows})
    parts = (*NETWORKS, "optimisations", "loading", "metrics", "start-up")
    tables = {part: markdown(part_table(rows, part)) for part in parts}
    tables |= {name: csv_table(folder / f"{name}.csv") for name in ("scale", "parity")}
    tables["machine"] = "; ".join(machines) or NOT_YET
    for name, table in tables.items():
        mark = rf"(<!-- table: {name} -->\n).*?(<!-- /table -->)"
        if not re.search(mark, text, flags=re.DOTALL):
            raise SystemExit(f"README.md: has no place for the table {name!r}: <!-- table: {name} -->")
        text = re.sub(mark, lambda found, table=table: f"{found[1]}{table}\n{found[2]}", text, flags=re.DOTALL)
    return text


if __name__ == "__main__":
    readme = HERE / "README.md"
    readme.write_text(render(readme.read_text(encoding="utf-8")), encoding="utf-8")

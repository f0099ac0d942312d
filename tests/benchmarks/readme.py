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
from report import markdown

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
    differences = any(row.difference is not None for row in rows)
    header = ["what", "against", f"ours, {rows[0].unit}", f"theirs, {rows[0].unit}", "ratio", "runs"]
    lines = [header + ["largest difference"] * differences]
    machines = dict.fromkeys(row.machine for row in rows)
    for machine in machines:
        chosen = _slowest_help([row for row in rows if row.machine == machine])
        if len(machines) > 1:
            lines.append([f"**{machine}**", *[""] * (len(lines[0]) - 1)])
        for row in chosen:
            cells = [row.what, row.peer, number(row.ours), number(row.theirs), f"{row.ratio:.2f}", str(row.repeats)]
            lines.append(cells + ["" if row.difference is None else f"{row.difference:.1g}"] * differences)
        if part in NETWORKS:
            own = [row for row in chosen if row.peer.startswith("our network")]
            others = [row for row in chosen if row not in own and "another network" not in row.peer]
            for title, mean_of in (("the peers", others), ("our networks, run as theirs", own)):
                if mean_of:
                    lines.append(["**geometric mean**", f"**{title}**", "", "", f"**{mean_ratio(mean_of):.2f}**", ""])
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
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    column = rows[0].index("machine")
    machines = sorted({row[column] for row in rows[1:]})
    return f"{'; '.join(machines)}:\n\n{markdown([row[:column] + row[column + 1 :] for row in rows])}"


def render(text: str, folder: Path = HERE) -> str:
    """README's text with its tables from the CSV files of `folder`."""
    rows = read_rows(folder / "results.csv")
    tables = {"machine": "; ".join(sorted({row.machine for row in rows})) or NOT_YET}
    tables |= {name: csv_table(folder / f"{name}.csv") for name in ("scale", "parity")}
    for part in (*NETWORKS, "optimisations", "loading", "metrics", "start-up"):
        lines = part_table(rows, part)
        tables[part] = markdown(lines) if lines else NOT_YET

    def table(found: re.Match) -> str:
        return f"{found[1]}{tables[found[2]]}\n{found[3]}"

    return re.sub(r"(<!-- table: ([\w -]+) -->\n).*?(<!-- /table -->)", table, text, flags=re.DOTALL)


if __name__ == "__main__":
    readme = HERE / "README.md"
    readme.write_text(render(readme.read_text(encoding="utf-8")), encoding="utf-8")

"""The measured numbers of the READMEs: from a run folder to results/NAME.json, and from there into the tables.

    python tests/report.py collect nu_deeplabv3plus/runs/flip nu_deeplabv3plus/results/flip.json \\
        --data "798 faces, split 638/160" --device "CPU, 2 cores, bf16"
    python tests/report.py              write the tables between <!-- table: NAME --> and <!-- /table --> anew

Nobody types a table: test_readme.py fails where those of README.md and NOTES.md are not what this script writes.
"""

import argparse
import csv
import importlib
import json
import re
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
FOLDERS = {  # folder -> the module of its tables here; "." is the repository's own README
    ".": "tables_front",
    "nu_deeplabv3plus": "tables_nu",
    "hair_transfer": "tables_hair",
    "lrn_headtorso": "tables_lrn",
    "mut1ny_fairness": "tables_mut1ny",
    "masked_ssl": "tables_ssl",
}
Rows = list[list[str]]
Results = dict[str, dict]  # of a folder, by the file's path in results/ without suffix


# ---- From a run to a file of results -------------------------------------------------------------------------------


def collect(run: Path) -> dict:
    """What a README may say of a run: command, seed, versions, minutes, its evaluation if any, its log."""
    record = json.loads((run / "run.json").read_text())
    with open(run / "log.csv") as file:
        log = [{name: _number(text) for name, text in row.items()} for row in csv.DictReader(file)]
    # results.json, and results-bgr.json where a script evaluated a second way
    found = [*run.glob("best-test/results*.json")] or run.glob("best-val/results*.json")
    evaluated = {path.stem.replace("-", "_"): json.loads(path.read_text()) for path in found}
    return {
        # the first start's, without what changes no result
        "command": "python " + re.sub(r" --(cache|resume|device) ('.*?'|\S+)", "", record["starts"][0]["command"]),
        "seed": record["arguments"]["seed"],
        "versions": record["starts"][0]["versions"],
        **times(log),
        **evaluated,
        "log": log,
    }


def times(log: list[dict]) -> dict:
    """What a log says of a run's length."""
    seconds, minutes = statistics.median(row["seconds"] for row in log), sum(row["seconds"] for row in log) / 60
    return {"epochs": len(log), "seconds_per_epoch_median": seconds, "minutes": round(minutes, 1)}


def _number(text: str) -> float | int | str | None:
    try:
        return int(text) if re.fullmatch(r"-?\d+", text) else float(f"{float(text):.5g}")
    except ValueError:
        return text or None


def without_paths(text: str) -> str:
    """JSON with absolute paths, in a sentence too, shortened to their last two parts."""
    return re.sub(r'(?<=["\s(])/\w[^\s,:;()"]*', lambda found: "/".join(Path(found[0]).parts[-2:]), text)


# ---- From files of results to tables -------------------------------------------------------------------------------


def read_results(folder: str) -> Results:
    root = ROOT / folder / "results"
    paths = sorted(root.rglob("*.json"))
    return {path.relative_to(root).with_suffix("").as_posix(): json.loads(path.read_text()) for path in paths}


def markdown(rows: Rows) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [rows[0], ["---"] * len(rows[0]), *rows[1:]])


def try_it(run: dict, words: str) -> Rows:
    """What a command on generated faces should give; words: a format of its last epoch's scores."""
    last = words.format(**run["log"][-1])
    return [[f"after epoch {run['epochs']}", "minutes", "on"], [last, f"{run['minutes']:.0f}", run["device"]]]


def on_real_photos(results: Results) -> dict[str, dict]:
    """The trainings but for those on generated faces."""
    return {name: run for name, run in results.items() if not name.startswith("generated/") and "log" in run}


def length(run: dict) -> list[str]:
    """Seconds an epoch and minutes."""
    return [f"{run['seconds_per_epoch_median']:.0f}", f"{run['minutes']:.0f}"]


def tested_runs(runs: dict[str, dict], score: str, title: str) -> Rows:
    """Which epoch of each run was scored, its losses and scores on test and training faces, and the time."""
    rows = [["run", "best epoch", "loss, test", "training", f"{title}, test", "training", "s per epoch", "min"]]
    for name, run in runs.items():
        found, best = run["results"], run["log"][run["results"]["epoch"] - 1]
        scores = f"{found['loss']:.4f}", f"{best['loss']:.4f}", f"{found[score]:.3f}", f"{best[score]:.3f}"
        rows.append([f"`{name}`", f"{found['epoch']} of {run['epochs']}", *scores, *length(run)])
    return rows


def render(folder: str, text: str) -> str:
    """The text of a README.md or NOTES.md with its tables written anew from the results."""
    tables = importlib.import_module(FOLDERS[folder]).TABLES
    results = {name: read_results(name) for name in FOLDERS} if folder == "." else read_results(folder)

    def table(found: re.Match) -> str:
        return f"{found[1]}{markdown(tables[found[2]](results))}\n{found[3]}"

    return re.sub(r"(<!-- table: ([\w ]+) -->\n).*?(<!-- /table -->)", table, text, flags=re.DOTALL)


def pages(folder: str) -> list[Path]:
    """README.md and, if there is one, NOTES.md."""
    return [path for name in ("README.md", "NOTES.md") if (path := ROOT / folder / name).is_file()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_subparsers(dest="action").add_parser("collect", help="results/NAME.json of a run, a JSON or a CSV")
    add.add_argument("run", type=Path, help="a run folder, or a JSON or CSV file")
    add.add_argument("out", type=Path)
    add.add_argument("--data", required=True, help="the data and its split in words")
    add.add_argument("--device", required=True, help="the machine in words")
    add.add_argument("--command", help="of a JSON or CSV file: what wrote it")
    add.add_argument("--minutes", type=float, help="of such a file: how long that took")
    args = parser.parse_args()
    if args.action == "collect":
        record = {"data": args.data, "device": args.device}
        if args.run.is_dir():
            record |= collect(args.run)
        else:
            text = args.run.read_text()
            found = json.loads(text) if args.run.suffix == ".json" else list(csv.reader(text.splitlines()))
            record |= {"command": args.command, "minutes": args.minutes, "results": found}
        args.out.write_text(without_paths(json.dumps(record, indent=1)) + "\n")
        return
    for folder in FOLDERS:
        for page in pages(folder):
            page.write_text(render(folder, page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()

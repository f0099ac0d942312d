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
import shlex
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
OF_THE_MACHINE = ("--cache", "--resume", "--device")  # flags that do not change a result
Rows = list[list[str]]
Results = dict[str, dict]  # of a folder, by the file's path in results/ without suffix


# ---- From a run to a file of results -------------------------------------------------------------------------------


def collect(run: Path, evaluation: Path | None, data: str, device: str) -> dict:
    """What a README may say of a run: command, data, seed, device, minutes, its log, its evaluation if any."""
    record = json.loads((run / "run.json").read_text())
    with open(run / "log.csv") as file:
        log = [{name: _number(text) for name, text in row.items()} for row in csv.DictReader(file)]
    # results.json, and results-bgr.json where a script evaluated a second way
    found = evaluation.glob("results*.json") if evaluation else ()
    evaluated = {path.stem.replace("-", "_"): json.loads(path.read_text()) for path in found}
    return {
        "command": clean_command(record["starts"][0]["command"]),  # not that of a resumption
        "data": data,
        "seed": record["arguments"]["seed"],
        "device": device,
        "versions": record["starts"][0]["versions"],
        **times(log),
        **_without_paths(evaluated),
        "log": log,
    }


def times(log: list[dict]) -> dict:
    """What a log says of a run's length."""
    seconds = [row["seconds"] for row in log]
    median, minutes = statistics.median(seconds), round(sum(seconds) / 60, 1)
    return {"epochs": len(log), "seconds_per_epoch_median": median, "minutes": minutes}


def clean_command(command: str) -> str:
    """A run's command without what concerns the machine."""
    words, kept = iter(shlex.split(command)), []
    for word in words:
        if word in OF_THE_MACHINE:
            next(words)
        else:
            kept.append(_without_paths(word))
    return shlex.join(["python", *kept])


def _number(text: str) -> float | int | str | None:
    try:
        value = float(text)
    except ValueError:
        return text or None
    return int(value) if re.fullmatch(r"-?\d+", text) else float(f"{value:.5g}")


def _without_paths(value):
    """The same with absolute paths, in a sentence too, shortened to their last two parts."""
    if isinstance(value, dict):
        return {_without_paths(k): _without_paths(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_without_paths(v) for v in value]
    if isinstance(value, str):
        return re.sub(r"(?<!\S)/[^\s,:;()]+", lambda found: "/".join(Path(found[0]).parts[-2:]), value)
    return value


# ---- From files of results to tables -------------------------------------------------------------------------------


def read_results(folder: str) -> Results:
    root = ROOT / folder / "results"
    found = {path.relative_to(root).with_suffix("").as_posix(): path for path in sorted(root.rglob("*.json"))}
    return {name: json.loads(path.read_text()) for name, path in found.items()}


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
    whole = {name: read_results(name) for name in FOLDERS if name != "."}
    results = whole if folder == "." else whole[folder]

    def table(found: re.Match) -> str:
        return f"{found[1]}{markdown(tables[found[2]](results))}\n{found[3]}"

    return re.sub(r"(<!-- table: ([\w ]+) -->\n).*?(<!-- /table -->)", table, text, flags=re.DOTALL)


def pages(folder: str) -> list[Path]:
    """README.md and, if there is one, NOTES.md."""
    return [path for name in ("README.md", "NOTES.md") if (path := ROOT / folder / name).is_file()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command")
    add = commands.add_parser("collect", help="write results/NAME.json from a run folder, a JSON or a CSV file")
    add.add_argument("run", type=Path)
    add.add_argument("out", type=Path)
    add.add_argument("--evaluation", type=Path, help="eval.py's folder (default: best-test, else best-val)")
    add.add_argument("--data", required=True, help="the data and its split in words")
    add.add_argument("--device", required=True, help="the machine in words")
    add.add_argument("--command", dest="typed", help="of a JSON or CSV file: what wrote it")
    add.add_argument("--minutes", type=float, help="of such a file: how long that took")
    args = parser.parse_args()
    if args.command == "collect":
        if args.run.is_file():
            text = args.run.read_text()
            found = json.loads(text) if args.run.suffix == ".json" else list(csv.reader(text.splitlines()))
            record = {"command": args.typed, "data": args.data, "device": args.device, "minutes": args.minutes}
            record["results"] = _without_paths(found)
        else:
            folders = [args.run / name for name in ("best-test", "best-val") if (args.run / name).is_dir()]
            record = collect(args.run, args.evaluation or next(iter(folders), None), args.data, args.device)
        args.out.write_text(json.dumps(record, indent=1) + "\n")
        return
    for folder in FOLDERS:
        for page in pages(folder):
            page.write_text(render(folder, page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()

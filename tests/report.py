"""The measured numbers of the READMEs: from a run folder to results/NAME.json, and from there into the tables.

    python tests/report.py collect nu_deeplabv3plus/runs/flip nu_deeplabv3plus/results/flip.json \\
        --data "798 faces, split 638/160" --device "CPU, 2 cores, bf16"
    python tests/report.py              write the tables between <!-- table: NAME --> and <!-- /table --> anew

Nobody types a measured number: test_readme.py fails where a README's tables are not what this script writes.
"""

import argparse
import csv
import json
import re
import shlex
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from nu_deeplabv3plus.eval import NOT_IN_PAPER_MEAN, TABLE_1  # noqa: E402

OF_THE_MACHINE = ("--out", "--cache", "--workers", "--resume")  # flags that do not change a result
Rows = list[list[str]]  # a header and rows of cells


def collect(run: Path, evaluation: Path, data: str, device: str) -> dict:
    """What a README may say of a run: command, data, seed, device, minutes, its evaluation and its log."""
    record = json.loads((run / "run.json").read_text())
    with open(run / "log.csv") as file:
        log = [{name: _number(text) for name, text in row.items()} for row in csv.DictReader(file)]
    seconds = [row["seconds"] for row in log]
    results = json.loads((evaluation / "results.json").read_text())
    return {
        "command": clean_command(record["command"]),
        "data": data,
        "seed": record["arguments"]["seed"],
        "device": device,
        "torch": record["environment"]["torch"],
        "epochs": len(log),
        "seconds_per_epoch_median": statistics.median(seconds),
        "minutes": round(sum(seconds) / 60, 1),
        "results": _without_paths(results),
        "log": log,
    }


def clean_command(command: str) -> str:
    """A run's command as a reader would type it: PATH for the data, nothing that only concerns the machine."""
    words = shlex.split(command)
    script = "/".join(Path(words[0]).parts[-2:])
    kept, values = [], iter(words[1:])
    for word in values:
        if word in OF_THE_MACHINE:
            next(values)
        elif word.startswith("/"):
            kept.append("PATH" if kept[-1] in ("--data", "PATH") else "/".join(Path(word).parts[-2:]))
        else:
            kept.append(word)
    return shlex.join(["python", script, *kept])


def _number(text: str) -> float | int | str | None:
    try:
        value = float(text)
    except ValueError:
        return text or None
    return int(value) if re.fullmatch(r"-?\d+", text) else float(f"{value:.5g}")


def _without_paths(value):
    """The same with absolute paths shortened to their last two parts."""
    if isinstance(value, dict):
        return {_without_paths(k): _without_paths(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_without_paths(v) for v in value]
    if isinstance(value, str) and value.startswith("/"):
        return "/".join(Path(value).parts[-2:])
    return value


# ---- Tables: each takes the folder's results, by file name ---------------------------------------------------------


def best(run: dict) -> dict:
    """The log's row of the epoch that was evaluated."""
    return next(row for row in run["log"] if row["epoch"] == run["results"]["epoch"])


def iou(run: dict, part: str) -> str:
    value = run["results"]["per_class"][part]["iou"]
    return "absent" if value is None else f"{value:.4f}"


def nu_parts(results: dict[str, dict]) -> Rows:
    names = ("none", "flip", "flip-swap")
    rows = [["part", "paper, 3,200 images", *(f"`--augment {name}`" for name in names)]]
    for part, (paper, *_) in TABLE_1.items():
        printed = "about 0" if part == "hat" else f"{paper:.4f}"
        rows.append([part, printed, *(iou(results[name], part) for name in names)])
    for title, key, parts in (
        ("mean, 18 parts", "iou_18", list(TABLE_1)),
        ("mean, 16 parts (the paper's mean)", "iou_16", [part for part in TABLE_1 if part not in NOT_IN_PAPER_MEAN]),
    ):
        paper = statistics.mean(TABLE_1[part][0] for part in parts)
        rows.append([title, f"{paper:.4f}", *(f"{results[name]['results'][key]:.4f}" for name in names)])
    for title, sided in (("mean, the six left and right parts", True), ("mean, the other twelve parts", False)):
        parts = [part for part in TABLE_1 if (part[:2] in ("l_", "r_") and part != "l_lip") == sided]
        means = [
            statistics.mean(results[name]["results"]["per_class"][part]["iou"] for part in parts) for name in names
        ]
        paper = statistics.mean(TABLE_1[part][0] for part in parts)
        rows.append([title, f"{paper:.4f}", *(f"{mean:.4f}" for mean in means)])
    return rows


def nu_runs(results: dict[str, dict]) -> Rows:
    rows = [["run", "best epoch", "dice loss, validation", "training", "IoU, mean over batches", "s per epoch", "min"]]
    for name, run in results.items():
        scores = run["results"]
        rows.append([
            f"`{name}`",
            f"{scores['epoch']} of {run['epochs']}",
            f"{scores['loss']:.4f}",
            f"{best(run)['loss']:.4f}",
            f"{scores['iou_mean_over_batches']:.4f}",
            f"{run['seconds_per_epoch_median']:.0f}",
            f"{run['minutes']:.0f}",
        ])  # fmt: skip
    return rows


TABLES: dict[str, dict[str, Callable[[dict[str, dict]], Rows]]] = {
    "nu_deeplabv3plus": {"parts": nu_parts, "runs": nu_runs},
}


def markdown(rows: Rows) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [rows[0], ["---"] * len(rows[0]), *rows[1:]])


def render(folder: str, text: str) -> str:
    """A README's text with its tables written anew from folder/results/*.json."""
    results = {path.stem: json.loads(path.read_text()) for path in sorted((ROOT / folder / "results").glob("*.json"))}
    for name, table in TABLES[folder].items():
        mark = rf"(<!-- table: {name} -->\n).*?(<!-- /table -->)"
        if not re.search(mark, text, flags=re.S):
            raise SystemExit(f"{folder}/README.md: has no place for the table {name!r}: <!-- table: {name} -->")
        rows = markdown(table(results))
        text = re.sub(mark, lambda found, rows=rows: found[1] + rows + "\n" + found[2], text, flags=re.S)
    return text


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command")
    collecting = commands.add_parser("collect", help="write results/NAME.json from a run folder")
    collecting.add_argument("run", type=Path)
    collecting.add_argument("out", type=Path)
    collecting.add_argument("--evaluation", type=Path, help="eval.py's folder (default: best-val or best-test)")
    collecting.add_argument("--data", required=True, help="the data and its split in words")
    collecting.add_argument("--device", required=True, help="the machine in words")
    args = parser.parse_args()
    if args.command == "collect":
        found = [args.run / name for name in ("best-val", "best-test") if (args.run / name).is_dir()]
        record = collect(args.run, args.evaluation or found[0], args.data, args.device)
        args.out.parent.mkdir(exist_ok=True)
        args.out.write_text(json.dumps(record, indent=1) + "\n")
        return
    for folder in TABLES:
        readme = ROOT / folder / "README.md"
        readme.write_text(render(folder, readme.read_text()))


if __name__ == "__main__":
    main()

"""Does the pretraining help, and how much with how many labels? Baseline against pretrained, over fractions and seeds.

    python masked_ssl/label_fractions.py                                    a try on generated faces
    python masked_ssl/label_fractions.py --data LaPa --pretrained masked_ssl/runs/pretrain/pretrain.pt
    python masked_ssl/label_fractions.py --data LaPa --epochs 40 --min-steps 4000 --encoder-lr 5e-5

Every further flag is train.py's and holds for all runs. Each run is one of train.py, tested with eval.py after its last
epoch, so that no labels but the fraction's decide anything; the mIoU at the epoch that is best on the validation set
stands beside it in results.json. Started again with the same flags, it leaves finished runs alone and goes on with one
that was stopped. Writes results.json, table.csv and figure3.png to --out, and keeps the checkpoints of the first seed.

The baseline starts from what the pretraining itself started from, ImageNet's weights or random ones; it has the same
seed, labels and order. Another --pretrained with the same --out is compared with the baseline that is there.
"""

import csv
import hashlib
import json
import subprocess
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import scipy

from common import cli, pictures
from common.cli import InputError, number
from masked_ssl.dataset import CACHE
from masked_ssl.eval import MEANS
from masked_ssl.recipe import load_pretraining, newest_pretraining
from masked_ssl.splits import HERE, PAPER_FRACTIONS, locate

GENERATED_FRACTIONS = (0.05, 0.25, 1.0)  # ours: of 160 generated faces
OURS = ("--fraction", "--seed", "--weights", "--out", "--resume")  # train.py's flags that are set here


# fmt: off
def parse_args() -> tuple[Namespace, list[str]]:
    """The arguments, and train.py's further flags as they were typed."""
    parser = cli.Parser(__doc__)
    add = parser.add_argument_group("what to compare (figure 3)").add_argument
    add("--pretrained", type=Path, metavar="FILE",
        help="pretrain.pt of a run of pretrain.py (default: the newest in runs/)")
    add("--fractions", type=number(float, 0, 1, above=True), nargs="+", metavar="X",
        help="of the labels (default 0.002 0.005 0.01 0.1 1, the first two: figure 3; on generated faces 0.05 0.25 1)")
    add("--seeds", type=number(int, 0), nargs="+", default=[0, 1, 2], metavar="N",
        help="each draws other labels, another order and another random start (default 0 1 2: ours)")
    add("--out", type=Path, default=HERE / "runs" / "fractions", metavar="DIR", help="default: runs/fractions here")
    add = parser.add_argument_group("of every run, as in train.py").add_argument
    add("--data", type=cli.path, metavar="PATH", help="LaPa's or CelebAMask-HQ's folder")
    add("--cache", type=Path, default=CACHE, metavar="DIR", help="decoded pictures (default: data/cache here)")
    add("--device", default="auto", help="auto, cuda, mps or cpu")
    args, rest = parser.parse_known_args()
    for flag in OURS:
        if any(word == flag or word.startswith(flag + "=") for word in rest):
            parser.error(f"{flag} is set by this script for each run; leave it out")
    return args, rest
# fmt: on


# ---- Runs ----------------------------------------------------------------------------------------------------------


def start(script: str, *flags: str) -> None:
    """Run a script of this folder as its command line would; ends with its exit code if it fails."""
    code = subprocess.run([sys.executable, str(HERE / script), *flags], check=False).returncode
    if code:
        sys.exit(code)


def run_one(folder: Path, flags: list[str], machine: list[str], keep: bool) -> dict:
    """results.json of one run, which is made, or gone on with, if it is not there; and what its log says. `machine`:
    the flags that a resumed run and eval.py need too."""
    results = folder / "last-test" / "results.json"
    if not results.is_file():
        if (folder / "last.pt").is_file():
            start("train.py", "--resume", str(folder / "last.pt"), *machine)
        else:
            start("train.py", *flags, *machine, "--out", str(folder))
        start("eval.py", str(folder / "last.pt"), *machine)
    if not keep:
        for name in ("last.pt", "best.pt"):
            (folder / name).unlink(missing_ok=True)
    with open(folder / "log.csv") as file:
        log = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    best = max(log, key=lambda row: row["val_miou"])
    return json.loads(results.read_text()) | {"log": log, "miou_at_best_val": best["test_miou"]}


# ---- The table, figure 3 -------------------------------------------------------------------------------------------


def table(runs: dict, methods: list[str], fractions: list[float], seeds: list[int]) -> list[list[str]]:
    """A header and, for each fraction and score, mean +- standard deviation over the seeds of both methods, the
    baseline first, and the gain, taken seed by seed, with its 95 % interval."""
    rows = [["fraction", "labels", "score, %", *methods, "gain, 95 % interval"]]
    for fraction in fractions:
        of_seeds = [runs[methods[0], fraction, seed] for seed in seeds]
        labels = sorted({run["labels"] for run in of_seeds})  # LaPa's sources are of different sizes
        necklace = {"neck_l": "F1 of neck_l"} if "neck_l" in of_seeds[0]["per_class"] else {}  # is it learned at all?
        for key, title in (MEANS | necklace).items():
            before, after = ([score(runs[m, fraction, seed], key) for seed in seeds] for m in methods)
            cells = mean_and_std(before), mean_and_std(after), mean_and_interval(np.subtract(after, before))
            rows.append([f"{fraction:g}", "-".join(map(str, dict.fromkeys([labels[0], labels[-1]]))), title, *cells])
    return rows


def score(run: dict, key: str) -> float:
    """A mean of results.json, or the F1 of a class, in %; nan if the class is in neither truth nor prediction."""
    value = run[key] if key in run else run["per_class"][key]["f1"]
    return float("nan") if value is None else value


def mean_and_std(values: Sequence[float], digits: int = 2) -> str:
    """Mean +- sample standard deviation."""
    return f"{np.mean(values):.{digits}f}" + (f" +- {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else "")


def mean_and_interval(values: Sequence[float], digits: int = 2) -> str:
    """Mean, signed, +- half of its 95 % interval by Student's t: what other seeds may bring."""
    mean, n = f"{np.mean(values):+.{digits}f}", len(values)
    if n == 1:
        return mean
    return f"{mean} +- {scipy.special.stdtrit(n - 1, 0.975) * np.std(values, ddof=1) / n**0.5:.{digits}f}"


def draw_figure_3(path: Path, runs: dict, methods: list[str], fractions: list[float], seeds: list[int]) -> None:
    """Training loss and test mIoU over the epochs, for each fraction: thin lines are seeds, thick ones their means."""
    figure, axes = pictures.subplots(2, len(fractions), figsize=(3.4 * len(fractions) + 0.6, 6))
    for column, fraction in zip(axes.T, fractions, strict=True):
        for axis, name, title in zip(column, ("loss", "test_miou"), ("training loss", "test mIoU, %"), strict=True):
            for k, method in enumerate(methods):
                curves = [[row[name] for row in runs[method, fraction, seed]["log"]] for seed in seeds]
                epochs = range(1, len(curves[0]) + 1)
                look = {"color": f"C{k}", "marker": "." if len(epochs) < 10 else None}
                axis.plot(epochs, np.transpose(curves), alpha=0.3, linewidth=0.8, **look)
                axis.plot(epochs, np.mean(curves, axis=0), label=pictures.plain(method), **look)
            axis.set_title(f"{100 * fraction:g} % of the labels: {title}", fontsize=9)
            axis.grid(alpha=0.3)
            axis.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        column[1].set_xlabel("epoch")
    axes[0, 0].legend()
    pictures.save_figure(path, figure)


def main() -> None:
    args, rest = parse_args()
    data = locate(args.data)
    fractions = sorted(set(args.fractions or (GENERATED_FRACTIONS if data.generated else PAPER_FRACTIONS)))
    seeds = sorted(set(args.seeds))

    # the baseline, and the pretraining
    path, skipped = (args.pretrained, "") if args.pretrained else newest_pretraining(data)
    if path is None:
        where = f"{HERE.name}/runs{skipped}"
        raise InputError(f"no pretrain.pt of this data in {where}; run pretrain.py, or give --pretrained FILE")
    saved, pretraining = load_pretraining(path), path.resolve().parent.name
    origin = saved["start"]  # random, imagenet or a file
    methods = {Path(origin).stem: "none" if origin == "random" else origin, pretraining: str(path.resolve())}
    if len(methods) == 1:
        raise InputError(f"{path}: its folder has the name of the baseline, {pretraining}; rename the folder")

    # what all runs have in common: a folder of runs is gone on with if it has the same, else numbers would be mixed
    out = pictures.make_folder(args.out)
    who = [face.identity for faces in data.parts.values() for face in faces]
    faces = f"{len(who)} faces, {hashlib.sha256(' '.join(who).encode()).hexdigest()[:12]}"
    made = f"{saved['epoch']} epochs, loss {saved['log'][-1]['loss']:.6f}"
    settings = {"flags": " ".join(rest), "data": faces, pretraining: made}
    path, before = out / "settings.json", {}
    if path.is_file() and any(out.glob("*-seed*")):  # no run: train.py has refused the flags
        before = json.loads(path.read_text())
    for name, value in settings.items():
        was = before.get(name, value)
        if was != value:
            raise InputError(f"{out}: its runs have {name} {was}, not {value}; give another --out")
    pictures.write_json(path, before | settings)
    print("where this is stopped, the same command goes on", flush=True)

    # runs
    machine = ["--device", args.device, "--cache", str(args.cache)]
    shared = [*rest, *(["--data", args.data] if args.data else [])]
    runs, total = {}, len(methods) * len(fractions) * len(seeds)
    for fraction in fractions:
        for seed in seeds:
            for method, weights in methods.items():
                folder = out / f"{method}-{fraction:g}-seed{seed}"
                print(f"\n== {len(runs) + 1} of {total}: {folder}", flush=True)
                flags = [*shared, "--fraction", str(fraction), "--seed", str(seed), "--weights", weights]
                runs[method, fraction, seed] = run_one(folder, flags, machine, keep=seed == seeds[0])
                print(f"test mIoU {runs[method, fraction, seed]['miou']:.2f}", flush=True)

    # results
    rows = table(runs, list(methods), fractions, seeds)
    print()
    pictures.print_table(rows, left=3)
    pictures.write_csv(out / "table.csv", rows)
    kept = ("labels", *MEANS, "miou_at_best_val", "weights", "data", "per_class", "log")
    found = [{"method": m, "fraction": f, "seed": s} | {k: run[k] for k in kept} for (m, f, s), run in runs.items()]
    whole = {"methods": methods, "seeds": seeds, "settings": settings, "runs": found}
    pictures.write_json(out / "results.json", whole)
    draw_figure_3(out / "figure3.png", runs, list(methods), fractions, seeds)
    print(f"results.json, table.csv, figure3.png -> {out}")


if __name__ == "__main__":
    cli.run(main)

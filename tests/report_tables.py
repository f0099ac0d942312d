"""The tables of the READMEs: each function takes a folder's results by file name and gives a header and rows of cells.

report.py writes them into the READMEs; where a script prints the same table, its own function makes it.
"""

import statistics
from collections.abc import Callable

from report_front import Rows, front
from report_generated import generated

from hair_transfer import eval as hair
from lrn_headtorso import eval as lrn
from lrn_headtorso.phases import FROZEN
from masked_ssl import label_fractions as ssl
from mut1ny_fairness import eval as mut1ny
from mut1ny_fairness import group_tables
from mut1ny_fairness.group_pictures import HEADLINE
from mut1ny_fairness.scores import positives, share_in_labels
from nu_deeplabv3plus import eval as nu


class NotMeasured(Exception):
    """A table needs a run that has no results yet."""


class Results(dict):
    """A folder's results by file name; asking for one that is not there raises NotMeasured."""

    def __missing__(self, name: str):
        raise NotMeasured(name)


def best(run: dict) -> dict:
    """The log's row of the epoch that was evaluated."""
    return next(row for row in run["log"] if row["epoch"] == run["results"]["epoch"])


def epoch_of(run: dict) -> str:
    return f"{run['results']['epoch']} of {run['epochs']}"


def times(run: dict) -> tuple[str, str]:
    """Seconds of an epoch (median) and minutes of the run."""
    return f"{run['seconds_per_epoch_median']:.0f}", f"{run['minutes']:.0f}"


def origin(run: dict) -> tuple[str, str]:
    """The data of a run with their split, and its seed."""
    return run["data"], str(run["seed"])


def iou(run: dict, part: str) -> str:
    value = run["results"]["per_class"][part]["iou"]
    return "absent" if value is None else f"{value:.4f}"


def nu_parts(results: dict[str, dict]) -> Rows:
    names = ("none", "flip", "flip-swap")
    rows = [["part", "paper, 3,200 images", *(f"`--augment {name}`" for name in names)]]
    for part, (paper, *_) in nu.TABLE_1.items():
        printed = "about 0" if part == "hat" else f"{paper:.4f}"
        rows.append([part, printed, *(iou(results[name], part) for name in names)])
    for title, key, parts in (
        ("mean, 18 parts", "iou_18", list(nu.TABLE_1)),
        ("mean, 16 parts (the paper's mean)", "iou_16", [p for p in nu.TABLE_1 if p not in nu.NOT_IN_PAPER_MEAN]),
    ):
        paper = statistics.mean(nu.TABLE_1[part][0] for part in parts)
        rows.append([title, f"{paper:.4f}", *(f"{results[name]['results'][key]:.4f}" for name in names)])
    for title, sided in (("mean, the six left and right parts", True), ("mean, the other twelve parts", False)):
        parts = [part for part in nu.TABLE_1 if (part[:2] in ("l_", "r_") and part != "l_lip") == sided]
        means = [
            statistics.mean(results[name]["results"]["per_class"][part]["iou"] for part in parts) for name in names
        ]
        paper = statistics.mean(nu.TABLE_1[part][0] for part in parts)
        rows.append([title, f"{paper:.4f}", *(f"{mean:.4f}" for mean in means)])
    return rows


def nu_runs(results: dict[str, dict]) -> Rows:
    rows = [["run", "best epoch", "dice loss, val", "training", "IoU, pooled", "over batches", "s per epoch", "min"]]
    rows[0] += ORIGIN
    for name, run in results.items():
        scores = run["results"]
        losses = f"{scores['loss']:.4f}", f"{best(run)['loss']:.4f}"
        ious = f"{scores['iou_18']:.4f}", f"{scores['iou_mean_over_batches']:.4f}"
        rows.append([f"`{name}`", epoch_of(run), *losses, *ious, *times(run), *origin(run)])
    return rows


def hair_scores(results: dict[str, dict]) -> Rows:
    """Both starts, a control and a baseline beside the paper's AUROC as printed and, in brackets, corrected."""
    titles = {"from random weights": "random", "from the skin's network": "from-skin"}
    titles |= {"random weights at 1e-4": "random-1e-4", hair.MEAN_MASK: "mean-mask"}
    table = hair.table({title: results[name]["results"] for title, name in titles.items()})
    return [row[:-2] + row[:-3:-1] for row in table]  # the paper's random run first, as ours


def hair_epochs(results: dict[str, dict]) -> Rows:
    """Figures 4 and 5 in numbers: the test faces' loss, IoU and AUROC after each epoch."""
    runs = {"random": "random", "from skin": "from-skin", "random at 1e-4": "random-1e-4"}
    rows = [["epoch", *(f"{score}, {start}" for start in runs for score in ("loss", "IoU", "AUROC"))]]
    logs = [results[name]["log"] for name in runs.values()]
    for epoch in range(max(map(len, logs))):
        row = [str(epoch + 1)]
        for log in logs:
            scores = ("test_loss", "test_iou", "test_auroc")
            row += [f"{log[epoch][s]:.4f}" for s in scores] if epoch < len(log) else [""] * len(scores)
        rows.append(row)
    return rows


def hair_runs(results: dict[str, dict]) -> Rows:
    rows = [["run", "best epoch", "loss, test", "training", "IoU, test", "training", "s per epoch", "min"]]
    rows[0] += ORIGIN
    for name, run in results.items():
        if "log" not in run:  # the mean mask
            continue
        losses = f"{run['results']['loss']:.4f}", f"{best(run)['loss']:.4f}"
        ious = f"{run['results']['iou']:.4f}", f"{best(run)['iou']:.4f}"
        rows.append([f"`{name}`", epoch_of(run), *losses, *ious, *times(run), *origin(run)])
    return rows


def lrn_table_1(results: dict[str, dict]) -> Rows:
    """The paper's rows, then ours, in the order of the files' names."""
    shares = [f"{share} %" for share in lrn.SHARES]
    last = f"val Jaccard %, last {LRN_LAST} epochs"
    rows = [["run", "Jaccard %", "Hausdorff px", *shares, "empty", "best epoch", last, "s per epoch", "min"]]
    rows[0] += ORIGIN
    for name, scores in lrn.TABLE_1.items():
        rows.append([f"{name}, the paper", *(f"{mean:.2f} ± {std:.2f}" for mean, std in scores), *[""] * 10])
    if not results:
        raise NotMeasured
    for name, run in results.items():
        (scores,) = run["results"].values()  # by the run folder's name
        shares = [f"{100 * scores[share]:.2f}" for share in lrn.SHARES]
        jaccard = f"{100 * scores['jaccard']:.2f} ± {100 * scores['jaccard_std']:.2f}"
        hausdorff = f"{scores['hausdorff']:.2f} ± {scores['hausdorff_std']:.2f}"
        empty = f"{scores['empty_predicted']} of {scores['n']}"
        minutes = f"{run['minutes']:.0f}"
        epochs = lrn_epochs(run, scores["epoch"])
        rows.append([f"`{name}`", jaccard, hausdorff, *shares, empty, *epochs, minutes, *origin(run)])
    return rows


def lrn_epochs(run: dict, scored: int) -> tuple[str, str, str]:
    """The epoch that was scored, the validation Jaccard of the last ones, and the seconds of one (median) by phase."""
    log = run["log"]
    frozen = ", encoder frozen" if log[scored - 1]["phase"] == FROZEN else ""
    last = [100 * row["val_jaccard"] for row in log[-LRN_LAST:]]
    phases = dict.fromkeys(row["phase"] for row in log)
    seconds = [statistics.median(row["seconds"] for row in log if row["phase"] == phase) for phase in phases]
    moving = f"{statistics.mean(last):.1f} ± {statistics.pstdev(last):.1f}"
    return f"{scored} of {len(log)}{frozen}", moving, " and ".join(f"{median:.0f}" for median in seconds)


def lrn_differences(results: dict[str, dict]) -> Rows:
    """Two runs on the same test pictures, one by one: mean difference and its 95 % interval, 1.96 s / sqrt(n)."""
    rows = [["", "minus", "Jaccard, points", "better in", "Hausdorff, px", "better in", "missed", "holes", "added"]]
    for first, second in LRN_PAIRS:
        if first not in results or second not in results:
            continue
        (a,), (b,) = (results[name]["results"].values() for name in (first, second))
        row = [f"`{first}`", f"`{second}`"]
        for score, better in (("jaccard", 1), ("hausdorff", -1), ("missed", None), ("holes", None), ("added", None)):
            factor = 1 if score == "hausdorff" else 100
            differences = [factor * (a["pictures"][n][score] - b["pictures"][n][score]) for n in a["pictures"]]
            half = 1.96 * statistics.stdev(differences) / len(differences) ** 0.5
            row.append(f"{statistics.mean(differences):+.2f} ± {half:.2f}")
            if better:
                row.append(f"{sum(better * d > 0 for d in differences)} of {len(differences)}")
        rows.append(row)
    return rows


MUT1NY_RUNS = ("deeplabv3-rgb", "pspnet-rgb", "deeplabv3-labels", "pspnet-labels")


def mut1ny_scores(results: dict[str, dict]) -> Rows:
    """The final scores of both networks and targets, beside the paper's; what F1 is without a network."""
    runs = [results[name]["results"] for name in MUT1NY_RUNS]
    support = [scores["support"] for scores in runs[0]["per_class"].values()]
    return mut1ny.final_table({run["title"]: run | positives(share_in_labels(support)) for run in runs})


def mut1ny_classes(results: dict[str, dict]) -> Rows:
    """IoU of each class, and how many pixels of the test set it has."""
    rows = [["class", *(results[name]["results"]["title"] for name in MUT1NY_RUNS), "share of the pixels"]]
    by_class = [results[name]["results"]["per_class"] for name in MUT1NY_RUNS]
    pixels = sum(scores["support"] for scores in by_class[0].values())
    for name, scores in by_class[0].items():
        share = f"{100 * scores['support'] / pixels:.2f} %"
        rows.append([name, *("absent" if c[name]["iou"] is None else f"{c[name]['iou']:.4f}" for c in by_class), share])
    return rows


def mut1ny_turquoise(results: dict[str, dict]) -> Rows:
    """What the hair's pixels are taken for when the outputs are read in either order of the channels."""
    rows = [["run", "read as RGB: hair", "ears", "read as BGR: hair", "ears"]]
    for name in MUT1NY_RUNS:
        row = [results[name]["results"]["title"]]
        for scores in (results[name]["results"], results[name]["results_bgr"]):
            hair_as = scores["confusion"][mut1ny.CLASSES.index("hair")]
            row += [f"{100 * hair_as[mut1ny.CLASSES.index(c)] / sum(hair_as):.1f} %" for c in ("hair", "ears")]
        rows.append(row)
    return rows


def mut1ny_runs(results: dict[str, dict]) -> Rows:
    rows = [["run", "best epoch", "loss, test", "training", "class IoU, test", "training", "s per epoch", "min"]]
    rows[0] += ORIGIN
    for name in MUT1NY_RUNS:
        run = results[name]
        losses = f"{run['results']['loss']:.4f}", f"{best(run)['loss']:.4f}"
        ious = f"{run['results']['class_iou']:.4f}", f"{best(run)['class_iou']:.4f}"
        rows.append([f"`{name}`", epoch_of(run), *losses, *ious, *times(run), *origin(run)])
    return rows


def mut1ny_groups(results: dict[str, dict]) -> Rows:
    """Mean IoU per image of each group, with the interval over people, for every fairness-*.json."""
    rows = [["by", "group", "people"]]
    titles = []
    for name, record in results.items():
        if not name.startswith("fairness-"):
            continue
        found = record["results"]
        titles = titles or [title for title in found["models"]]
        for g, group in enumerate(found["groups"]):
            scores = [found["models"][title]["scores"][HEADLINE] for title in found["models"]]
            cells = [group_tables.with_interval(*(_nan(s[k][g]) for k in ("value", "low", "high"))) for s in scores]
            rows.append([" and ".join(found["by"]), group["name"], str(group["people"]), *cells, group["note"]])
    rows[0] += [*titles, ""]
    return rows


def mut1ny_gaps(results: dict[str, dict]) -> Rows:
    """The gap between best and worst ranked group, and how large it is by chance."""
    rows = [["by", "model", "best", "worst", "gap", "p", "by chance (median)", "equity-scaled"]]
    for name, record in results.items():
        for title, model in record["results"]["models"].items() if name.startswith("fairness-") else ():
            if HEADLINE in model["gaps"]:
                gap = model["gaps"][HEADLINE]
                numbers = group_tables.with_interval(gap["gap"], gap["gap_low"], gap["gap_high"]), f"{gap['p']:.3f}"
                more = f"{gap['null_median']:.3f}", f"{gap['equity_scaled']:.3f}"
                ends = gap["best"] or "none", gap["worst"] or "none"
                rows.append([" and ".join(record["results"]["by"]), title, *ends, *numbers, *more])
    return rows


def mut1ny_power(results: dict[str, dict]) -> Rows:
    """What `fairness.py --simulate` found, for some of its gaps."""
    header, *lines = results["simulate"]["results"]
    shown = [0, 1, *(header.index(f"finds {gap}") for gap in ("0.02", "0.06", "0.10", "0.20"))]
    rows = [[cell.replace("finds", "finds a gap of") for cell in header], *lines]
    return [[row[i].replace("%", " %") for i in shown] for row in rows]


def ssl_fractions(results: dict[str, dict]) -> Rows:
    """Baseline and pretrained for each fraction of the labels: mean +- standard deviation over seeds, and the gain."""
    found = results["fractions"]["results"]
    runs = {(run["method"], run["fraction"], run["seed"]): run for run in found["runs"]}
    fractions = sorted({fraction for _, fraction, _ in runs})
    header, *rows = ssl.table(runs, list(found["methods"]), fractions, found["seeds"])
    where = "0.002, the paper (LaPa, 512 px; without step 1: ImageNet's weights)"
    paper = [where, "36", "mIoU", "69.39", "74.41", "+5.02"]
    return [header, paper, *([cell.replace("+-", "±") for cell in row] for row in rows)]


def ssl_pretraining(results: dict[str, dict]) -> Rows:
    """Step 1: what the reconstruction came to."""
    log = results["pretrain"]["log"]
    lines = [[str(row["epoch"]), f"{row['loss']:.3f}", f"{row['hidden_error']:.3f}"] for row in log]
    return [["epoch", "loss", "error where hidden"], *lines]


def ssl_rates(results: dict[str, dict]) -> Rows:
    """Test mIoU with 32 labels and seed 0, without and with step 1, at several learning rates; and another region."""
    rows = [["learning rate, FP decoder", "encoder", "without step 1", "with", "with, `--region whole`, 4 epochs"]]
    whole = results["train-whole"]["log"][-1]["test_miou"]
    for name, decoder, encoder in (
        ("rates-1e-4", "1e-4", "1e-4"),
        ("rates-1e-3", "1e-3", "1e-3"),
        ("fractions", "1e-2", "1e-3"),
    ):
        found = results[name]["results"]
        runs = {(run["method"], run["fraction"], run["seed"]): run for run in found["runs"]}
        scores = [f"{100 * runs[method, 0.05, 0]['miou']:.2f}" for method in found["methods"]]
        rows.append([decoder, encoder, *scores, f"{whole:.2f}" if name == "fractions" else ""])
    return rows


def ssl_classes(results: dict[str, dict]) -> Rows:
    """F1 of each class without and with the pretraining, for each fraction of the labels: means over the seeds."""
    found = results["fractions"]["results"]
    methods = list(found["methods"])[:2]
    fractions = sorted({run["fraction"] for run in found["runs"]})
    support = {name: row["support"] for name, row in found["runs"][0]["per_class"].items()}
    rows = [["class", "pixels", *(f"{100 * fraction:g} % of the labels" for fraction in fractions)]]
    for name, pixels in support.items():
        f1 = {}
        for run in found["runs"]:
            f1.setdefault((run["fraction"], run["method"]), []).append(100 * ssl.score(run, name))
        cells = [" / ".join(f"{statistics.mean(f1[fraction, m]):.1f}" for m in methods) for fraction in fractions]
        rows.append([name, f"{100 * pixels / sum(support.values()):.2f} %", *cells])
    return rows


def _nan(value: float | None) -> float:
    return float("nan") if value is None else value


ORIGIN = ["data, split", "seed"]
LRN_LAST = 16  # epochs: the best before a plateau, and its 15
LRN_PAIRS = (
    ("headtorso-lrn", "headtorso-unet"),
    ("celebamask-lrn", "celebamask-unet"),
    ("headtorso-lrn-pretrained", "headtorso-lrn"),
    ("headtorso-unet-pretrained", "headtorso-unet"),
    ("headtorso-lrn-pretrained", "headtorso-unet-pretrained"),
    ("headtorso-lrn", "headtorso-lrn-64"),  # twice the size
    ("headtorso-lrn-64-backgrounds", "headtorso-lrn-64"),
    ("headtorso-lrn-64-reduction", "headtorso-lrn-64"),
)


TABLES: dict[str, dict[str, Callable[[dict[str, dict]], Rows]]] = {
    ".": {"front": front},
    "nu_deeplabv3plus": {"generated": generated, "parts": nu_parts, "runs": nu_runs},
    "hair_transfer": {"generated": generated, "scores": hair_scores, "epochs": hair_epochs, "runs": hair_runs},
    "lrn_headtorso": {"generated": generated, "table 1": lrn_table_1, "differences": lrn_differences},
    "mut1ny_fairness": {
        "generated": generated,
        "scores": mut1ny_scores,
        "classes": mut1ny_classes,
        "turquoise": mut1ny_turquoise,
        "runs": mut1ny_runs,
        "groups": mut1ny_groups,
        "gaps": mut1ny_gaps,
        "power": mut1ny_power,
    },
    "masked_ssl": {
        "generated": generated,
        "pretraining": ssl_pretraining,
        "fractions": ssl_fractions,
        "classes": ssl_classes,
        "rates": ssl_rates,
    },
}

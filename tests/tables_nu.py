"""The tables of nu_deeplabv3plus/README.md and NOTES.md: each takes the results by name and gives rows of cells."""

import statistics

from report import Results, Rows, length, on_real_photos, try_it

from nu_deeplabv3plus.eval import IN_PAPER_MEAN, TABLE_1

RUNS = ("none", "flip", "flip-swap")
SIDED = [part for part in TABLE_1 if part[:2] in ("l_", "r_") and part != "l_lip"]
MEANS = {
    "all 18 parts": list(TABLE_1),
    "the 16 of the paper's mean": [part for part, kept in zip(TABLE_1, IN_PAPER_MEAN, strict=True) if kept],
    "the six left and right ones": SIDED,
    "the other twelve": [part for part in TABLE_1 if part not in SIDED],
}


def means(results: Results) -> Rows:
    """Mean IoU over groups of parts: the paper's table 1 beside our three runs."""
    rows = [["mean IoU of", "paper", *(f"`{name}`" for name in RUNS)]]
    for title, parts in MEANS.items():
        by_part = [results[name]["results"]["per_class"] for name in RUNS]
        ours = [statistics.mean(scores[part]["iou"] or 0 for part in parts) for scores in by_part]
        paper = statistics.mean(TABLE_1[part][0] for part in parts)
        rows.append([title, *(f"{value:.3f}" for value in (paper, *ours))])
    return rows


def parts(results: Results) -> Rows:
    """Table 1: IoU of each part."""
    rows = [["part", "paper", *(f"`{name}`" for name in RUNS)]]
    for part, (paper, *_) in TABLE_1.items():
        ours = [results[name]["results"]["per_class"][part]["iou"] for name in RUNS]
        printed = "about 0" if part == "hat" else f"{paper:.3f}"
        rows.append([part, printed, *("absent" if iou is None else f"{iou:.3f}" for iou in ours)])
    return rows


def runs(results: Results) -> Rows:
    """All runs on real photos: which epoch was scored, its losses and scores, and the time."""
    rows = [["run", "best epoch", "val loss", "training", "IoU, pooled", "over batches", "s per epoch", "min"]]
    for name, run in on_real_photos(results).items():
        scores, best = run["results"], run["log"][run["results"]["epoch"] - 1]
        values = scores["loss"], best["loss"], scores["iou_18"], scores["iou_mean_over_batches"]
        cells = [f"{scores['epoch']} of {run['epochs']}", *(f"{value:.3f}" for value in values), *length(run)]
        rows.append([f"`{name}`", *cells])
    return rows


TABLES = {
    "try it": lambda results: try_it(results["generated/none"], "val IoU {val_iou:.2f} (pooled {val_pooled_iou:.2f})"),
    "means": means,
    "parts": parts,
    "runs": runs,
}

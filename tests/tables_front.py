"""README.md's table: one number of each paper beside ours."""

import statistics
from collections.abc import Callable

from report import Results, Rows
from tables_lrn import scores_of


def ssl_gain(run: dict) -> str:
    """What step 1 adds to the mIoU with 5 % of the labels, mean over the seeds."""
    of: dict[str, list[float]] = {}
    for one in run["results"]["runs"]:
        if one["fraction"] == 0.05:
            of.setdefault(one["method"], []).append(one["miou"])
    baseline, pretrained = (statistics.mean(of[name]) for name in list(run["results"]["methods"])[:2])
    return f"+{pretrained - baseline:.1f}"


def lrn_jaccard(run: dict) -> str:
    return f"{scores_of(run)['jaccard']:.1f} %"


def of(score: str) -> Callable[[dict], str]:
    return lambda run: f"{run['results'][score]:.3f}"[1:]


# folder -> the score, the paper's, ours of which results, measured on what
FRONT: dict[str, tuple[str, str, str, Callable[[dict], str], str]] = {
    "nu_deeplabv3plus": ("mean IoU, 18 parts", ".647", "none", of("iou_18"), "798 faces"),
    "hair_transfer": ("AUROC, random start", ".968", "random", of("batch_auroc"), "967 faces"),
    "lrn_headtorso": ("Jaccard index, LRN", "91.7 %", "celebamask-lrn", lrn_jaccard, "298 faces"),
    "mut1ny_fairness": ("F1 of colours, DeepLabV3", ".755", "deeplabv3-rgb", of("f1"), "798 faces"),
    "masked_ssl": ("mIoU gained by step 1", "+5.0", "fractions", ssl_gain, "32 labels"),
}


def front(results: dict[str, Results]) -> Rows:
    """One row a folder, one number a cell; results: of all folders."""
    rows = [["folder", "score", "paper", "ours", "on", "min"]]
    for folder, (score, paper, name, ours, on) in FRONT.items():
        run = results[folder][name]
        rows.append([f"`{folder}`", score, paper, ours(run), on, f"{run['minutes']:.0f}"])
    return rows


TABLES = {"front": front}

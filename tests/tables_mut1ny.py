"""The tables of mut1ny_fairness/README.md and NOTES.md: each takes the results by name and gives rows of cells."""

import numpy as np
from report import Results, Rows, tested_runs, try_it

from mut1ny_fairness import eval as mut1ny
from mut1ny_fairness.group_stats import HEADLINE
from mut1ny_fairness.group_tables import with_interval
from mut1ny_fairness.palette import CLASSES
from mut1ny_fairness.scores import FINAL, POSITIVES

RUNS = ("deeplabv3-rgb", "pspnet-rgb", "deeplabv3-labels", "pspnet-labels")
CUT = ("cut-rgb", "cut-ours")  # PSPNet with --truncated, by the paper's recipe and by --recipe ours
BY = ("gender", "group")
TRIED = "test F1 {test_f1:.2f}, IoU of the 11 classes {test_class_iou:.2f}"


def scores(results: Results) -> Rows:
    """F1 by the paper's count beside the paper's, and the mean IoU of the classes."""
    rows = [["score", *(f"paper, {model}" for model in FINAL), *(f"`{name}`" for name in RUNS)]]
    found = [results[name]["results"] for name in RUNS]
    paper = [f"{final['f1']:.3f}" for final in FINAL.values()]
    rows.append(["F1 of the colour channels", *paper, *(f"{run['f1']:.3f}" for run in found)])
    rows.append(["mean IoU of the classes", "", "", *(f"{run['class_iou']:.3f}" for run in found)])
    return rows


def recipes(results: Results) -> Rows:
    """The same network by the paper's recipe and by ours: on its own test faces, and on London's people."""
    found = [results[name]["results"] for name in CUT]
    london = models(results, "group")
    overall = [london[run["title"]]["gaps"][HEADLINE]["overall"] for run in found]
    return [
        ["PSPNet cut after `layer2`", "the paper's recipe", "`--recipe ours`"],
        ["F1 of the colour channels", *(f"{run['f1']:.3f}" for run in found)],
        ["mean IoU of the classes", *(f"{run['class_iou']:.3f}" for run in found)],
        ["London: mean IoU of eyes, eyebrows, lips", *(f"{iou:.3f}" for iou in overall)],
    ]


def all_scores(results: Results) -> Rows:
    """The final scores of all runs, beside the paper's; what F1 is without a network."""
    runs = [results[name]["results"] for name in (*RUNS, *CUT)]
    shared = {name: runs[-1][name] for name in POSITIVES}  # of the labels, which are the same
    return mut1ny.final_table({run["title"]: run | shared for run in runs})


def classes(results: Results) -> Rows:
    """IoU of each class, and how many pixels of the test set it has."""
    rows = [["class", *(results[name]["results"]["title"] for name in (*RUNS, *CUT)), "share of the pixels"]]
    by_class = [results[name]["results"]["per_class"] for name in (*RUNS, *CUT)]
    pixels = sum(scores["support"] for scores in by_class[0].values())
    for name, scores in by_class[0].items():
        share = f"{100 * scores['support'] / pixels:.2f} %"
        rows.append([name, *("absent" if c[name]["iou"] is None else f"{c[name]['iou']:.3f}" for c in by_class), share])
    return rows


def turquoise(results: Results) -> Rows:
    """What the hair's pixels are taken for when the outputs are read in either order of the channels."""
    rows = [["run", "read as RGB: hair", "ears", "read as BGR: hair", "ears"]]
    for name in RUNS:
        row = [f"`{name}`"]
        for found in (results[name]["results"], results[name]["results_bgr"]):
            hair_as = found["confusion"][CLASSES.index("hair")]
            row += [f"{100 * hair_as[CLASSES.index(c)] / sum(hair_as):.0f} %" for c in ("hair", "ears")]
        rows.append(row)
    return rows


def models(results: Results, by: str) -> dict[str, dict]:
    """fairness.py's results of all models, compared over the column `by`."""
    return {title: model for name in (f"fairness-{by}", f"fairness-cut-{by}")
            for title, model in results[name]["results"]["models"].items()}  # fmt: skip


def groups(results: Results) -> Rows:
    """Mean IoU per image of each group, with the interval over people."""
    rows = [["by", "group", "people", *models(results, "group"), ""]]
    for by in BY:
        for g, group in enumerate(results[f"fairness-{by}"]["results"]["groups"]):
            scores = [model["scores"][HEADLINE] for model in models(results, by).values()]
            intervals = np.array([[s[key][g] for key in ("value", "low", "high")] for s in scores], float)  # None: nan
            cells = [with_interval(*interval) for interval in intervals]
            rows.append([by, group["name"], str(group["people"]), *cells, group["note"]])
    return rows


def gaps(results: Results) -> Rows:
    """The gap between best and worst ranked group, and how large it is by chance."""
    rows = [["by", "model", "best", "worst", "gap", "p", "by chance (median)"]]
    for by in BY:
        for title, model in models(results, by).items():
            gap = model["gaps"][HEADLINE]
            size = with_interval(gap["gap"], gap["gap_low"], gap["gap_high"])
            numbers = size, f"{gap['p']:.4f}", f"{gap['null_median']:.3f}"
            rows.append([by, title, gap["best"], gap["worst"], *numbers])
    return rows


def power(results: Results) -> Rows:
    """What `fairness.py --simulate` found, for some of its gaps."""
    header, *lines = results["simulate"]["results"]
    shown = [0, 1, *(header.index(f"finds {gap}") for gap in ("0.02", "0.06", "0.10", "0.20"))]
    rows = [[cell.replace("finds", "finds a gap of") for cell in header], *lines]
    return [[row[i].replace("%", " %") for i in shown] for row in rows]


TABLES = {
    "try it": lambda results: try_it(results["generated/try"], TRIED),
    "scores": scores,
    "recipes": recipes,
    "all scores": all_scores,
    "classes": classes,
    "turquoise": turquoise,
    "groups": groups,
    "gaps": gaps,
    "power": power,
    "runs": lambda results: tested_runs({name: results[name] for name in (*RUNS, *CUT)}, "class_iou", "class IoU"),
}

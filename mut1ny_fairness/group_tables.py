"""The tables of fairness.py, printed and as CSV, and fairness.json, which holds all their numbers."""

from argparse import Namespace
from pathlib import Path

import numpy as np

from common.checkpoint import write_json
from common.cli import InputError
from common.tables import write_csv
from mut1ny_fairness import group_stats
from mut1ny_fairness.group_stats import CLASS_SCORES, SCORES
from mut1ny_fairness.groups import Groups
from mut1ny_fairness.palette import CLASSES

OF_LABELS = ("scores.csv", "gaps.csv", "differences.csv", "scores.png", "null.png", "fairness.json")
NAMES = {  # SCORES -> the tables'
    "iou_image": "mean IoU per image", "f1_image": "mean F1 per image", "iou_pooled": "mean IoU, pooled",
    "f1_pooled": "mean F1, pooled",
}  # fmt: skip


def with_interval(value: float, low: float, high: float) -> str:
    """`0.812 [0.780, 0.840]`; `0.812` where there is no interval, `absent` for nan."""
    if np.isnan(value):
        return "absent"
    return f"{value:.3f}" if np.isnan(low) else f"{value:.3f} [{low:.3f}, {high:.3f}]"


def score_table(groups: Groups, results: dict[str, dict], classes: list[int]) -> list[list[str]]:
    """One row per model and group: people, images, every score and every class' IoU and F1, each with its interval."""
    header = ["model", "group", "people", "images", *NAMES.values()]
    header += [f"{title.removeprefix('mean ')}, {CLASSES[c]}" for title in NAMES.values() for c in classes] + ["note"]
    rows = [header]
    for title, result in results.items():
        bounds = {name: group_stats.interval(values) for name, values in result["resampled"].items()}
        for g, name in enumerate(groups.names):
            cells = [with_interval(result["observed"][s][g], *(b[g] for b in bounds[s])) for s in SCORES]
            for s in CLASS_SCORES:
                observed, (low, high) = result["observed"][s][g], bounds[s]
                cells += [with_interval(observed[k], low[g, k], high[g, k]) for k in range(len(classes))]
            rows.append([title, name, str(groups.people[g]), str(groups.images[g]), *cells, groups.note(g)])
    return rows


def gap_table(results: dict[str, dict]) -> list[list[str]]:
    """One row per model and score: the best and the worst group, their gap, its p and null, the overall scores."""
    columns = ["best group", "worst group", "gap", "p", "gap by chance (median)", "ranked groups together",
               "equity-scaled"]  # fmt: skip
    rows = [["model", "score", *columns]]
    for title, result in results.items():
        for score, g in result["gaps"].items():
            gap = with_interval(g["gap"], g["gap_low"], g["gap_high"])
            rows.append([title, NAMES[score], g["best"] or "none", g["worst"] or "none", gap, f"{g['p']:.4f}",
                         f"{g['null_median']:.3f}", f"{g['overall']:.3f}", f"{g['equity_scaled']:.3f}"])  # fmt: skip
    return rows


def differences(results: dict[str, dict]) -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """The first model's scores minus each other's, on the same resamples: other -> score -> value, low, high (G)."""
    first, *others = results
    a, found = results[first], {}
    for other in others:
        b, found[other] = results[other], {}
        for score in SCORES:
            low, high = group_stats.interval(a["resampled"][score] - b["resampled"][score])
            found[other][score] = {"value": a["observed"][score] - b["observed"][score], "low": low, "high": high}
    return found


def difference_table(groups: Groups, results: dict[str, dict]) -> list[list[str]]:
    """One row per other model and group: differences() with their intervals."""
    first = next(iter(results))
    rows = [["first", "minus", "group", "people", *NAMES.values(), "note"]]
    for other, of in differences(results).items():
        for g, name in enumerate(groups.names):
            cells = [with_interval(*(of[score][k][g] for k in ("value", "low", "high"))) for score in SCORES]
            rows.append([first, other, name, str(groups.people[g]), *cells, groups.note(g)])
    return rows


def remove_earlier(out: Path) -> None:
    """Remove what an earlier run of fairness.py has made of labels: not every run writes all of it."""
    for name in OF_LABELS:
        try:
            (out / name).unlink(missing_ok=True)
        except OSError as error:
            raise InputError(f"--out {out}: {name} cannot be removed ({error.strerror}); give another --out") from None


def write_results(
    out: Path, groups: Groups, results: dict[str, dict], classes: list[int], left_out: list[str], args: Namespace
) -> None:
    """scores.csv, gaps.csv, differences.csv (two or more models) and fairness.json, which holds all their numbers.

    left_out: names of scored classes that are not in the means.
    """
    write_csv(out / "scores.csv", score_table(groups, results, classes))
    write_csv(out / "gaps.csv", gap_table(results))
    if len(results) > 1:
        write_csv(out / "differences.csv", difference_table(groups, results))

    def as_lists(of: dict[str, dict[str, np.ndarray]]) -> dict:
        return {score: {k: values.tolist() for k, values in row.items()} for score, row in of.items()}

    models = {}
    for title, result in results.items():
        bounds = {name: group_stats.interval(values) for name, values in result["resampled"].items()}
        scores = {s: {"value": result["observed"][s], "low": low, "high": high} for s, (low, high) in bounds.items()}
        models[title] = {
            "scores": as_lists(scores),
            "gaps": {s: {k: v for k, v in g.items() if k != "null"} for s, g in result["gaps"].items()},
        }
    facts = {"checkpoints": list(map(str, args.checkpoints)), "by": args.by, "classes": [CLASSES[c] for c in classes]}
    facts |= {"left_out_of_means": left_out, "bootstrap": args.bootstrap, "permutations": args.permutations}
    facts |= {"seed": args.seed, "crop": args.crop}
    listing = zip(groups.names, groups.people, groups.images, groups.ranked.tolist(), strict=True)
    rows = [{"name": n, "people": p, "images": i, "ranked": r, "note": groups.note(g)}
            for g, (n, p, i, r) in enumerate(listing)]  # fmt: skip
    minus = {other: as_lists(of) for other, of in differences(results).items()}
    write_json(out / "fairness.json", facts | {"groups": rows, "models": models, "first_minus": minus})

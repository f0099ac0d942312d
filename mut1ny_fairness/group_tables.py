"""The tables of fairness.py, printed and as CSV, and fairness.json, which holds all their numbers."""

import numpy as np

from mut1ny_fairness.group_stats import CLASS_SCORES, SCORES, first_minus
from mut1ny_fairness.groups import Groups
from mut1ny_fairness.palette import CLASSES

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
    of_classes = [f"{title.removeprefix('mean ')}, {CLASSES[c]}" for title in NAMES.values() for c in classes]
    rows = [["model", "group", "people", "images", *NAMES.values(), *of_classes, "note"]]
    for title, result in results.items():
        for g, name in enumerate(groups.names):
            found = {s: [values[g] for values in of.values()] for s, of in result["scores"].items()}
            cells = [with_interval(*found[s]) for s in SCORES]
            cells += [with_interval(*of_class) for s in CLASS_SCORES for of_class in zip(*found[s], strict=True)]
            rows.append([title, name, str(groups.people[g]), str(groups.images[g]), *cells, groups.note(g)])
    return rows


def gap_table(results: dict[str, dict]) -> list[list[str]]:
    """One row per model and score: the best and the worst group, their gap, its p and null, the overall scores."""
    rows = [["model", "score", "best group", "worst group", "gap", "p", "gap by chance (median)",
             "ranked groups together", "equity-scaled"]]  # fmt: skip
    for title, result in results.items():
        for score, g in result["gaps"].items():
            gap = with_interval(g["gap"], g["gap_low"], g["gap_high"])
            rows.append([title, NAMES[score], g["best"], g["worst"], gap, f"{g['p']:.4f}",
                         f"{g['null_median']:.3f}", f"{g['overall']:.3f}", f"{g['equity_scaled']:.3f}"])  # fmt: skip
    return rows


def difference_table(groups: Groups, results: dict[str, dict]) -> list[list[str]]:
    """One row per other model and group: the first model's scores minus the other's, with their intervals."""
    rows = [["first", "minus", "group", "people", *NAMES.values(), "note"]]
    first = next(iter(results))
    for other, scores in first_minus(results).items():
        for g, name in enumerate(groups.names):
            cells = [with_interval(*(values[g] for values in scores[s].values())) for s in SCORES]
            rows.append([first, other, name, str(groups.people[g]), *cells, groups.note(g)])
    return rows


def all_numbers(groups: Groups, results: dict[str, dict]) -> dict:
    """What fairness.json holds of them: all but the resamples and the nulls."""

    def as_lists(value: object) -> object:
        if isinstance(value, dict):
            return {key: as_lists(inner) for key, inner in value.items() if key not in ("resampled", "null")}
        return value.tolist() if isinstance(value, np.ndarray) else value

    listing = enumerate(zip(groups.names, groups.people, groups.images, groups.ranked.tolist(), strict=True))
    rows = [{"name": n, "people": p, "images": i, "ranked": r, "note": groups.note(g)} for g, (n, p, i, r) in listing]
    return {"groups": rows, "models": as_lists(results), "first_minus": as_lists(first_minus(results))}

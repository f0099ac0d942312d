"""The tables of lrn_headtorso/README.md and NOTES.md: each takes the results by name and gives rows of cells."""

import statistics

from report import Results, Rows, on_real_photos, try_it

from lrn_headtorso.eval import FROZEN, SHARES, TABLE_1

LAST = 16  # epochs: the best before a plateau, and its 15
PAIRS = (
    ("headtorso-lrn", "headtorso-unet"),
    ("headtorso-lrn-vgg", "headtorso-unet-vgg"),
    ("headtorso-lrn-vgg", "headtorso-lrn"),
    ("headtorso-unet-vgg", "headtorso-unet"),
    ("celebamask-lrn", "celebamask-unet"),
    ("celebamask-lrn-vgg", "celebamask-unet-vgg"),
    ("celebamask-lrn-vgg", "celebamask-lrn"),
    ("celebamask-unet-vgg", "celebamask-unet"),
    ("celebamask-lrn-vgg-224", "celebamask-lrn-224"),
    ("celebamask-lrn-224", "celebamask-lrn"),  # the paper's size
    ("celebamask-lrn-vgg-224", "celebamask-lrn-vgg"),
    ("headtorso-lrn-pretrained", "headtorso-lrn"),
    ("headtorso-unet-pretrained", "headtorso-unet"),
    ("headtorso-lrn-pretrained", "headtorso-unet-pretrained"),
    ("headtorso-lrn", "headtorso-lrn-64"),  # twice the size
    ("headtorso-lrn-64-backgrounds", "headtorso-lrn-64"),
    ("headtorso-lrn-64-reduction", "headtorso-lrn-64"),
)


def scores_of(run: dict) -> dict:
    (scores,) = run["results"].values()  # by the run folder's name
    return scores


def seeds_of(results: Results, name: str) -> list[dict]:
    """The scores of a run and of the same with seeds 1 and 2, where they were trained."""
    names = (name, f"{name}-seed1", f"{name}-seed2")
    return [scores_of(results[name]) for name in names if name in results]


def mean_std(scores: dict, name: str) -> str:
    return f"{scores[name]:.1f} ± {scores[f'{name}_std']:.1f}"


def table_1(results: Results) -> Rows:
    """Table 1: the paper's four rows, and ours where they were trained: each number its mean over the seeds."""
    rows = [["", "paper: Jaccard %", "Hausdorff px", "portraits: Jaccard %", "Hausdorff px", "any framing: %", "px"]]
    for name, paper in TABLE_1.items():
        cells = [f"{mean:.1f} ± {std:.1f}" for mean, std in paper]
        for data in ("celebamask", "headtorso"):
            seeds = seeds_of(results, f"{data}-{name.lower()}")
            for score in ("jaccard", "hausdorff"):
                means = [statistics.mean(seed[key] for seed in seeds) for key in (score, f"{score}_std") if seeds]
                cells.append(" ± ".join(f"{mean:.1f}" for mean in means))
        rows.append([name, *cells])
    return rows


def runs(results: Results) -> Rows:
    """All runs on real photos."""
    titles = [f"{share} %" for share in SHARES]
    rows = [["run", "Jaccard %", "Hausdorff px", *titles, "best epoch", "last epochs", "min"]]
    for name, run in on_real_photos(results).items():
        scores, log = scores_of(run), run["log"]
        frozen = ", frozen" if log[scores["epoch"] - 1]["phase"] == FROZEN else ""
        last = [row["val_jaccard"] for row in log[-LAST:]]
        cells = [mean_std(scores, "jaccard"), mean_std(scores, "hausdorff"), *(f"{scores[s]:.1f}" for s in SHARES)]
        moving = f"{statistics.mean(last):.1f} ± {statistics.pstdev(last):.1f}"
        cells += [f"{scores['epoch']} of {len(log)}{frozen}", moving, f"{run['minutes']:.0f}"]
        rows.append([f"`{name}`", *cells])
    return rows


def differences(results: Results) -> Rows:
    """Two runs on the same test pictures, one by one: mean difference and its 95 % interval, 1.96 s / sqrt(n), of each
    picture's mean over the seeds that both were trained with; then the mean difference of each seed."""
    rows = [["", "minus", "Jaccard, points", "better in", "by seed", "Hausdorff, px", "better in", "by seed"]]
    for pair in PAIRS:
        seeds = list(zip(*(seeds_of(results, name) for name in pair), strict=False))
        row = [f"`{name}`" for name in pair]
        for score, better in (("jaccard", 1), ("hausdorff", -1)):
            found = [
                statistics.mean(a["pictures"][name][score] - b["pictures"][name][score] for a, b in seeds)
                for name in seeds[0][0]["pictures"]
            ]
            half = 1.96 * statistics.stdev(found) / len(found) ** 0.5
            ahead = sum(better * difference > 0 for difference in found)
            each = ", ".join(f"{a[score] - b[score]:+.1f}" for a, b in seeds if len(seeds) > 1)
            row += [f"{statistics.mean(found):+.1f} ± {half:.1f}", f"{ahead} of {len(found)}", each]
        rows.append(row)
    return rows


TABLES = {
    "try it": lambda results: try_it(results["generated/try"], "val Jaccard {val_jaccard:.0f} %"),
    "table 1": table_1,
    "runs": runs,
    "differences": differences,
}

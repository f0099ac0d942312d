"""The tables of lrn_headtorso/README.md and NOTES.md: each takes the results by name and gives rows of cells."""

import statistics

from report import Results, Rows, on_real_photos, try_it

from lrn_headtorso.eval import FROZEN, SHARES, TABLE_1

OURS = {"LRN": "lrn", "LRN-VGG": "lrn-vgg", "UNET": "unet", "UNET-VGG": "unet-vgg"}  # row -> our runs on both data sets
SEEDS = ("", "-seed1", "-seed2")  # how their names end
LAST = 16  # epochs: the best before a plateau, and its 15
PAIRS = (
    ("headtorso-lrn", "headtorso-unet"),
    ("headtorso-lrn-pretrained", "headtorso-lrn"),
    ("headtorso-unet-pretrained", "headtorso-unet"),
    ("headtorso-lrn-pretrained", "headtorso-unet-pretrained"),
    ("headtorso-lrn", "headtorso-lrn-64"),  # twice the size
    ("headtorso-lrn-64-backgrounds", "headtorso-lrn-64"),
    ("headtorso-lrn-64-reduction", "headtorso-lrn-64"),
)
QUESTIONS = (("LRN", "UNET"), ("LRN-VGG", "UNET-VGG"), ("LRN-VGG", "LRN"), ("UNET-VGG", "UNET"))  # the paper's two


def scores_of(run: dict) -> dict:
    (scores,) = run["results"].values()  # by the run folder's name
    return scores


def mean_std(scores: dict, name: str) -> str:
    return f"{scores[name]:.1f} ± {scores[f'{name}_std']:.1f}"


def trainings(results: Results, data: str, row: str) -> list[dict]:
    """The scores of a row of table 1 on a data set, one a seed."""
    names = [f"{data}-{OURS[row]}{seed}" for seed in SEEDS]
    return [scores_of(results[name]) for name in names if name in results]


def table_1(results: Results) -> Rows:
    """Table 1: the paper's four rows, and ours where they were trained; over several seeds the mean of each number."""
    rows = [["", "paper: Jaccard %", "Hausdorff px", "portraits: Jaccard %", "Hausdorff px", "any framing: %", "px"]]
    for name, paper in TABLE_1.items():
        cells = [f"{mean:.1f} ± {std:.1f}" for mean, std in paper]
        for data in ("celebamask", "headtorso"):
            seeds = trainings(results, data, name)
            for score in ("jaccard", "hausdorff"):
                mean, std = (statistics.mean(found[key] for found in seeds) for key in (score, f"{score}_std"))
                cells.append(f"{mean:.1f} ± {std:.1f}")
        rows.append([name, *cells])
    return rows


def seeds(results: Results) -> Rows:
    """The rows of table 1 on portraits, seed by seed, with the deviation between the seeds."""
    rows = [["", "Jaccard % of seeds 0, 1, 2", "mean ± deviation", "Hausdorff px of seeds 0, 1, 2", "mean ± deviation"]]
    for name in TABLE_1:
        cells = [name]
        for score in ("jaccard", "hausdorff"):
            found = [scores[score] for scores in trainings(results, "celebamask", name)]
            deviation = f" ± {statistics.stdev(found):.1f}" if len(found) > 1 else ""
            cells += [", ".join(f"{value:.1f}" for value in found), f"{statistics.mean(found):.1f}{deviation}"]
        rows.append(cells)
    return rows


def questions(results: Results) -> Rows:
    """Two rows of table 1 on the same 48 portraits: their difference seed by seed, and of each picture's mean over the
    seeds with a 95 % interval."""
    rows = [["", "minus", "Jaccard, points", "of each seed", "better in", "Hausdorff, px", "of each seed", "better in"]]
    for first, second in QUESTIONS:
        a, b = (trainings(results, "celebamask", name) for name in (first, second))
        row = [first, second]
        for score, better in (("jaccard", 1), ("hausdorff", -1)):
            means = [{n: statistics.mean(s["pictures"][n][score] for s in side) for n in side[0]["pictures"]}
                     for side in (a, b)]  # fmt: skip
            each = ", ".join(f"{x[score] - y[score]:+.1f}" for x, y in zip(a, b, strict=False))
            mean, half, ahead = paired([means[0][name] - means[1][name] for name in means[0]], better)
            row += [f"{mean:+.1f} ± {half:.1f}", each, ahead]
        rows.append(row)
    return rows


def paired(differences: list[float], better: int) -> tuple[float, float, str]:
    """Of two sides on the same pictures: mean difference, 95 % interval (1.96 s / sqrt(n)), how often one is ahead."""
    half = 1.96 * statistics.stdev(differences) / len(differences) ** 0.5
    ahead = sum(better * difference > 0 for difference in differences)
    return statistics.mean(differences), half, f"{ahead} of {len(differences)}"


def runs(results: Results) -> Rows:
    """All runs on real photos."""
    shares = [f"{share} %" for share in SHARES]
    rows = [["run", "Jaccard %", "Hausdorff px", *shares, "best epoch", "last epochs", "min"]]
    for name, run in on_real_photos(results).items():
        scores, log = scores_of(run), run["log"]
        frozen = ", frozen" if log[scores["epoch"] - 1]["phase"] == FROZEN else ""
        last = [row["val_jaccard"] for row in log[-LAST:]]
        measures = [mean_std(scores, score) for score in ("jaccard", "hausdorff")]
        shares = [f"{scores[share]:.1f}" for share in SHARES]
        moving = f"{statistics.mean(last):.1f} ± {statistics.pstdev(last):.1f}"
        epoch = f"{scores['epoch']} of {len(log)}{frozen}"
        rows.append([f"`{name}`", *measures, *shares, epoch, moving, f"{run['minutes']:.0f}"])
    return rows


def differences(results: Results) -> Rows:
    """Two runs on the same test pictures, one by one."""
    rows = [["", "minus", "Jaccard, points", "better in", "Hausdorff, px", "better in"]]
    for first, second in PAIRS:
        a, b = scores_of(results[first]), scores_of(results[second])
        row = [f"`{first}`", f"`{second}`"]
        for score, better in (("jaccard", 1), ("hausdorff", -1)):
            found = [a["pictures"][name][score] - b["pictures"][name][score] for name in a["pictures"]]
            mean, half, ahead = paired(found, better)
            row += [f"{mean:+.1f} ± {half:.1f}", ahead]
        rows.append(row)
    return rows


TABLES = {
    "try it": lambda results: try_it(results["generated/try"], "val Jaccard {val_jaccard:.0f} %"),
    "table 1": table_1,
    "seeds": seeds,
    "questions": questions,
    "runs": runs,
    "differences": differences,
}

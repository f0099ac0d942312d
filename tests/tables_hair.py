"""The tables of hair_transfer/README.md and NOTES.md: each takes the results by name and gives rows of cells."""

import itertools

from report import Results, Rows, on_real_photos, tested_runs, try_it

from hair_transfer import eval as hair

SHORT = {"batch_auroc": "AUROC, mean over batches", "iou": "IoU at 0.5", "boundary_f1": "boundary F1, 3 px"}
OURS = {  # a column's title -> its file and which of the evaluations there
    **{f"`{name}`": (name, "results") for name in ("random", "from-skin", "random-1e-4", "random-ours")},
    "`random-ours`, mirror": ("random-ours", "results_mirror"),
    "`mean-mask`": ("mean-mask", "results"),
}


def scores(results: Results) -> Rows:
    """The paper's AUROC, and ours with what the paper does not measure."""
    rows = [["score", "paper, random", "paper, pretrained", *OURS]]
    for score, title in SHORT.items():
        paper = [f"{hair.PAPER_AUROC[name]:.3f}" if score == "batch_auroc" else "" for name in ("random", "pretrained")]
        rows.append([title, *paper, *(f"{results[name][key][score]:.3f}" for name, key in OURS.values())])
    return rows


def all_scores(results: Results) -> Rows:
    """Every score of every run; the paper's AUROC as printed and, in brackets, corrected."""
    table = hair.table({title: results[name][key] for title, (name, key) in OURS.items()})
    return [[cell.replace("paper, ", "paper: ") for cell in row] for row in table]


def epochs(results: Results) -> Rows:
    """Figures 4 and 5 in numbers: the test faces' loss, IoU and AUROC after each epoch."""
    runs, shown = ("random", "from-skin", "random-1e-4"), ("loss", "IoU", "AUROC")
    rows = [["epoch", *(f"{score}, `{run}`" for run in runs for score in shown)]]
    for epoch, found in enumerate(itertools.zip_longest(*(results[run]["log"] for run in runs)), 1):
        cells = (f"{row[f'test_{score.lower()}']:.3f}" if row else "" for row in found for score in shown)
        rows.append([str(epoch), *cells])
    return rows


TABLES = {
    "try it": lambda results: try_it(results["generated/try"], "test IoU {test_iou:.2f}, AUROC {test_auroc:.2f}"),
    "scores": scores,
    "all scores": all_scores,
    "epochs": epochs,
    "runs": lambda results: tested_runs(on_real_photos(results), "iou", "IoU"),
}

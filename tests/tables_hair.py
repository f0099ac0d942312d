"""The tables of hair_transfer/README.md and NOTES.md: each takes the results by name and gives rows of cells."""

import itertools

from report import Results, Rows, on_real_photos, tested_runs, try_it

from hair_transfer import eval as hair

SHORT = {"batch_auroc": "AUROC, mean over batches", "iou": "IoU at 0.5", "boundary_f1": "boundary F1, 3 px"}
OURS = ("random", "from-skin", "random-1e-4", "mean-mask")
PAPER = {"random": "random", "from-skin": "pretrained"}  # our run -> the paper's


def scores(results: Results) -> Rows:
    """The paper's AUROC, and ours with what the paper does not measure."""
    rows = [["score", "paper, random", "paper, pretrained", *(f"`{name}`" for name in OURS)]]
    for score, title in SHORT.items():
        paper = [f"{hair.PAPER_AUROC[name]:.3f}" if score == "batch_auroc" else "" for name in PAPER.values()]
        rows.append([title, *paper, *(f"{results[name]['results'][score]:.3f}" for name in OURS)])
    return rows


def all_scores(results: Results) -> Rows:
    """Every score of every run; the paper's AUROC as printed and, in brackets, corrected."""
    table = hair.table({f"`{name}`": results[name]["results"] for name in OURS})
    return [[cell.replace("paper, ", "paper: ") for cell in row] for row in table]


def epochs(results: Results) -> Rows:
    """Figures 4 and 5 in numbers: the test faces' loss, IoU and AUROC after each epoch."""
    runs = ("random", "from-skin", "random-1e-4")
    rows = [["epoch", *(f"{score}, `{run}`" for run in runs for score in ("loss", "IoU", "AUROC"))]]
    logs = [results[name]["log"] for name in runs]
    for epoch, found in enumerate(itertools.zip_longest(*logs), 1):
        names = ("test_loss", "test_iou", "test_auroc")
        rows.append([str(epoch), *(f"{row[name]:.3f}" if row else "" for row in found for name in names)])
    return rows


TABLES = {
    "try it": lambda results: try_it(results["generated/try"], "test IoU {test_iou:.2f}, AUROC {test_auroc:.2f}"),
    "scores": scores,
    "all scores": all_scores,
    "epochs": epochs,
    "runs": lambda results: tested_runs(on_real_photos(results), "iou", "IoU"),
}

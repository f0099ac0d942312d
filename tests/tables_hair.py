"""The tables of hair_transfer/README.md and NOTES.md: each takes the results by name and gives rows of cells."""

from report import Results, Rows

from hair_transfer import eval as hair

SHORT = {"batch_auroc": "AUROC, mean over batches", "iou": "IoU at 0.5", "boundary_f1": "boundary F1, 3 px"}
OURS = ("random", "from-skin", "random-1e-4", "mean-mask")
PAPER = {"random": "random", "from-skin": "pretrained"}  # our run -> the paper's


def try_it(results: Results) -> Rows:
    """What the commands on generated faces should give."""
    run = results["generated/try"]
    last = "test IoU {test_iou:.2f}, AUROC {test_auroc:.2f}".format(**run["log"][-1])
    return [[f"after epoch {run['epochs']}", "minutes", "on"], [last, f"{run['minutes']:.0f}", run["device"]]]


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
    for epoch in range(max(map(len, logs))):
        row = [str(epoch + 1)]
        for log in logs:
            found = ("test_loss", "test_iou", "test_auroc")
            row += [f"{log[epoch][name]:.3f}" for name in found] if epoch < len(log) else [""] * len(found)
        rows.append(row)
    return rows


def runs(results: Results) -> Rows:
    """All runs on real photos: which epoch was scored, its losses and scores, and the time."""
    rows = [["run", "best epoch", "loss, test", "training", "IoU, test", "training", "s per epoch", "min"]]
    for name, run in results.items():
        if name.startswith("generated/") or "log" not in run:  # the mean mask
            continue
        scores, best = run["results"], run["log"][run["results"]["epoch"] - 1]
        losses = f"{scores['loss']:.4f}", f"{best['loss']:.4f}"
        ious = f"{scores['iou']:.3f}", f"{best['iou']:.3f}"
        times = f"{run['seconds_per_epoch_median']:.0f}", f"{run['minutes']:.0f}"
        rows.append([f"`{name}`", f"{scores['epoch']} of {run['epochs']}", *losses, *ious, *times])
    return rows


TABLES = {"try it": try_it, "scores": scores, "all scores": all_scores, "epochs": epochs, "runs": runs}

"""The tables of masked_ssl/README.md and NOTES.md: each takes the results by name and gives rows of cells."""

import statistics

from report import Results, Rows

from masked_ssl import label_fractions as ssl

Runs = dict[tuple[str, float, int], dict]  # method, fraction of the labels, seed -> scores


def runs_of(found: dict) -> tuple[Runs, list[str], list[float], list[int]]:
    """The runs of label_fractions.py; its methods, without step 1 first, fractions and seeds."""
    runs = {(run["method"], run["fraction"], run["seed"]): run for run in found["results"]["runs"]}
    return runs, list(found["results"]["methods"]), sorted({key[1] for key in runs}), found["results"]["seeds"]


def try_it(results: Results) -> Rows:
    """What the bare commands on generated faces should give."""
    rows = [["step", "at the end", "minutes", "on"]]
    words = {"pretrain": "error where hidden {hidden_error:.2f}", "train": "test mIoU {test_miou:.0f} %"}
    for step, (name, scores) in enumerate(words.items(), 1):
        run = results[f"generated/{name}"]
        rows.append([str(step), scores.format(**run["log"][-1]), f"{run['minutes']:.0f}", run["device"]])
    return rows


def gain(results: Results) -> Rows:
    """mIoU without and with step 1 for each fraction of the labels, mean ± standard deviation over the seeds, and the
    gain, seed by seed, with its 95 % interval."""
    runs, methods, shares, seeds = runs_of(results["fractions"])
    rows = [["", "labels", "without step 1", "with", "gain in points, 95 % interval"]]
    rows.append(["paper, LaPa", "36 (0.2 %)", "69.4", "74.4", "+5.0"])
    for fraction in shares:
        before, after = ([runs[method, fraction, seed]["miou"] for seed in seeds] for method in methods)
        cells = ssl.mean_and_std(before, 1), ssl.mean_and_std(after, 1)
        cells += (ssl.mean_and_interval([b - a for a, b in zip(before, after, strict=True)], 1),)
        labels = runs[methods[0], fraction, seeds[0]]["labels"]
        rows.append(["ours", f"{labels} ({100 * fraction:g} %)", *(cell.replace("+-", "±") for cell in cells)])
    return rows


def fractions(results: Results) -> Rows:
    """All scores of all fractions, as label_fractions.py prints them."""
    return [[cell.replace("+-", "±") for cell in row] for row in ssl.table(*runs_of(results["fractions"]))]


def pretraining(results: Results) -> Rows:
    """Step 1: what the reconstruction came to."""
    log = results["pretrain"]["log"]
    lines = [[str(row["epoch"]), f"{row['loss']:.3f}", f"{row['hidden_error']:.3f}"] for row in log]
    return [["epoch", "loss", "error where hidden"], *lines]


def rates(results: Results) -> Rows:
    """Test mIoU with 32 labels and seed 0, without and with step 1, at several learning rates; and another region."""
    rows = [["learning rate, FP decoder", "encoder", "without step 1", "with", "with, `--region whole`, 4 epochs"]]
    whole = results["train-whole"]["log"][-1]["test_miou"]
    trained = {"rates-1e-4": ("1e-4", "1e-4"), "rates-1e-3": ("1e-3", "1e-3"), "fractions": ("1e-2", "1e-3")}
    for name, (decoder, encoder) in trained.items():
        runs, methods, _, _ = runs_of(results[name])
        scores = [f"{runs[method, 0.05, 0]['miou']:.1f}" for method in methods]
        rows.append([decoder, encoder, *scores, f"{whole:.1f}" if name == "fractions" else ""])
    return rows


def classes(results: Results) -> Rows:
    """F1 of each class without and with the pretraining, for each fraction of the labels: means over the seeds."""
    runs, methods, shares, seeds = runs_of(results["fractions"])
    support = {name: row["support"] for name, row in runs[methods[0], shares[0], seeds[0]]["per_class"].items()}
    rows = [["class", "pixels", *(f"{100 * fraction:g} % of the labels" for fraction in shares)]]
    for name, pixels in support.items():
        cells = []
        for fraction in shares:
            means = (statistics.mean(ssl.score(runs[m, fraction, seed], name) for seed in seeds) for m in methods)
            cells.append(" / ".join(f"{mean:.1f}" for mean in means))
        rows.append([name, f"{100 * pixels / sum(support.values()):.2f} %", *cells])
    return rows


TABLES = {
    "try it": try_it,
    "gain": gain,
    "fractions": fractions,
    "classes": classes,
    "rates": rates,
    "pretraining": pretraining,
}

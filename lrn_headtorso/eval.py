"""Table 1 and figure 2: Jaccard index and Hausdorff distance on the test pictures, for any number of runs at once.

    python lrn_headtorso/eval.py lrn_headtorso/runs/lrn/best.pt
    python lrn_headtorso/eval.py lrn_headtorso/runs/*/best.pt                    the paper's rows and ours
    python lrn_headtorso/eval.py best.pt --data OTHER --split all                on other pictures

Writes results.json, table1.csv, figure2.png and, for each LRN, maps-RUN.png (its six maps) to best-test/ beside the
first checkpoint (with --data FOLDER --split all to best-all-FOLDER/) or to --out. Both measures are taken for each
picture and averaged, at the network's own size: Jaccard in per cent, distances in pixels of a 224 px picture.
"""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import scipy
import torch
from torch import nn

from common import cli, pictures
from common.cli import InputError
from common.data import among, check_finite, find, in_order, progress
from common.device import autocast, sum_over_processes
from common.metrics import hausdorff, jaccard
from common.run import Checkpoint, Trained, load_checkpoint, trained
from lrn_headtorso import dataset
from lrn_headtorso.dataset import HERE, PERSON_FROM, SIZE, HeadTorso, normalize
from lrn_headtorso.losses import summed_bce
from lrn_headtorso.model import FOUND_ABOVE, LRN, UNet
from lrn_headtorso.pairs import list_pairs

# Table 1 as printed: Jaccard index in % and Hausdorff distance in px, mean and standard deviation
TABLE_1 = {
    "LRN": ((91.67, 5.63), (32.84, 23.05)),
    "LRN-VGG": ((92.73, 5.24), (26.28, 20.07)),
    "UNET": ((89.25, 7.19), (35.18, 19.63)),
    "UNET-VGG": ((87.98, 7.53), (44.00, 16.75)),
}
FROZEN, EVERYTHING = "frozen encoder", "everything"  # the phases of Sec. 2.3
FIGURE_ROWS = 5  # of figure 2
SHARES = ("missed", "holes", "added")  # % of the person, ours
SCORES = ("loss", "jaccard", "hausdorff", *SHARES, "empty_predicted", "empty_true")  # of each picture


def score(predicted: np.ndarray, true: np.ndarray) -> tuple[float, ...]:
    """Two H x W bool masks -> SCORES without the loss.

    missed: share of the person that is left out; holes: the part of it that the predicted mask surrounds, the patches
    of Sec. 4; added: pixels too many, as a share of the person's; all 0 without a person. If one mask is empty, Jaccard
    is 0 and the distance the picture's diagonal; if both are, 100 % and 0 (common/metrics.py).
    """
    person = max(1, int(true.sum()))
    missed, added = true & ~predicted, predicted & ~true
    return (
        100 * jaccard(predicted, true),  # Eq. (1)
        hausdorff(predicted, true) * SIZE / max(true.shape),  # Eq. (2)
        100 * float(missed.sum() / person),
        100 * float((missed & scipy.ndimage.binary_fill_holes(predicted)).sum() / person),
        100 * float(added.sum() / person) if true.any() else 0.0,
        float(not predicted.any()),
        float(not true.any()),
    )


@torch.inference_mode()
def evaluate(
    model: nn.Module, data: HeadTorso, batch_size: int, device: torch.device, amp: bool
) -> dict[str, np.ndarray]:
    """SCORES -> one number for each picture of the set, in its order, whichever process of torchrun saw it."""
    model.eval()
    batches = in_order(len(data), batch_size)
    scores, losses = torch.zeros(len(data), len(SCORES)), []
    for batch in progress(batches, "evaluating"):
        images, alphas = data.batch(batch, device)
        with autocast(device, amp):
            maps = model(normalize(images))
        loss = summed_bce(maps, alphas)
        losses.append(loss.mean())
        found, true = (maps[-1][:, 0] > FOUND_ABOVE).cpu().numpy(), (alphas[:, 0] >= PERSON_FROM).cpu().numpy()
        measured = [score(p, t) for p, t in zip(found, true, strict=True)]
        scores[batch] = torch.cat([loss.cpu()[:, None], torch.tensor(measured)], dim=1)
    check_finite(losses, batches, data.names, "evaluation")
    return dict(zip(SCORES, sum_over_processes(scores.to(device)).cpu().numpy().T, strict=True))


def summarize(scores: dict[str, np.ndarray]) -> dict[str, float | int]:
    """evaluate()'s result -> means, the standard deviations that table 1 has, and counts of empty masks."""
    summary = {"n": len(scores["loss"]), "loss": float(scores["loss"].mean())}
    for name in ("jaccard", "hausdorff"):
        summary |= {name: float(scores[name].mean()), f"{name}_std": float(scores[name].std())}
    summary |= {name: float(scores[name].mean()) for name in SHARES}
    return summary | {name: int(scores[name].sum()) for name in ("empty_predicted", "empty_true")}


def make_model(args: dict) -> LRN | UNet:
    """The network that `args` (of train.py) ask for."""
    return LRN(channel_reduction=args["channel_reduction"]) if args["model"] == "lrn" else UNet()


def load(path: str | Path, device: str = "auto", amp: str | None = None) -> Trained:
    """The network of a checkpoint, ready to use; raises InputError if it is not one of this folder."""
    checkpoint = load_checkpoint(Path(path), HERE.name)
    return trained(make_model(checkpoint["args"]), checkpoint, device, amp)


def method(checkpoint: Checkpoint) -> str:
    """The run's name in table 1, such as LRN-VGG; what the paper did not do is added in words."""
    args, start = checkpoint["args"], checkpoint["start"]
    vgg = start != "random" and not checkpoint["seen"]  # a run's encoder has seen pictures of ours, a VGG-16's file not
    name = ("LRN" if args["model"] == "lrn" else "UNET") + ("-VGG" if vgg else "")
    extras = {
        f"encoder of {start}": start not in ("random", "imagenet"),
        "frozen encoder": checkpoint["log"] and checkpoint["log"][-1]["phase"] == FROZEN,
        "channel reduction": args["channel_reduction"],
        f"{args['size']} px": args["size"] != SIZE,
        "backgrounds": args["backgrounds"],
    }
    said = ", ".join(words for words, holds in extras.items() if holds)
    return name + (f" ({said})" if said else "")


# ---- Table 1, figure 2, the six maps -------------------------------------------------------------------------------


def table(results: dict[str, dict]) -> list[list[str]]:
    """Table 1: the paper's rows, then ours by the runs' names, with the shares of the person."""
    rows = [["method", "run", "Jaccard %", "Hausdorff px", *(f"{share} %" for share in SHARES), "empty", "n"]]
    for name, ((j, j_std), (h, h_std)) in TABLE_1.items():
        rows.append([name, "the paper", f"{j:.2f} +- {j_std:.2f}", f"{h:.2f} +- {h_std:.2f}", *[""] * 4, "48"])
    for label, r in results.items():
        measures = [f"{r[name]:.2f} +- {r[f'{name}_std']:.2f}" for name in ("jaccard", "hausdorff")]
        shares = [f"{r[share]:.2f}" for share in SHARES]
        rows.append([r["method"], label, *measures, *shares, str(r["empty_predicted"]), str(r["n"])])
    return rows


@torch.inference_mode()
def predict_maps(
    model: nn.Module, data: HeadTorso, chosen: list[int], device: torch.device, amp: bool
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """The chosen pictures -> photos N x H x W x 3 and alphas N x H x W uint8, and the maps, N x h x w in [0, 1]."""
    model.eval()
    images, alphas = data.batch(chosen, device)
    with autocast(device, amp):
        maps = model(normalize(images))
    return images.permute(0, 2, 3, 1).cpu().numpy(), alphas[:, 0].cpu().numpy(), [p[:, 0].cpu().numpy() for p in maps]


def draw_predictions(path: Path, columns: dict[str, np.ndarray], row_titles: list[str] | None = None) -> None:
    """Figure 2: photo, truth, and the mask of each network: title -> N x H x W x 3 uint8 or N x H x W bool."""
    titles = [title.replace(" (", "\n(").replace(" of ", " of\n").replace(", ", ",\n") for title in columns]
    rows = [list(row) for row in zip(*columns.values(), strict=True)]
    pictures.save_grid(path, rows, column_titles=titles, row_titles=row_titles)


def draw(results: dict[str, dict], predicted: dict[str, tuple], names: list[str], out: Path) -> None:
    """figure2.png, and maps-RUN.png with the six maps of each LRN. predicted: label of a run -> predict_maps() of the
    pictures with these names."""
    columns = {}
    for label, (photos, alphas, maps) in predicted.items():
        if not columns:
            columns = {"photo": photos, "true": alphas >= PERSON_FROM}
        name = results[label]["method"]
        columns[f"{name} ({label})" if name in columns else name] = maps[-1] > FOUND_ABOVE
        if len(maps) > 1:
            titles = ["photo", "true", *(f"{p.shape[-1]} x {p.shape[-2]}" for p in maps)]
            grey = [(p * 255).astype(np.uint8) for p in maps]
            rows = [list(row) for row in zip(photos, alphas, *grey, strict=True)]
            file = f"maps-{re.sub('[/:]', '-', label)}.png"  # the label may be a path
            pictures.save_grid(out / file, rows, column_titles=titles)
    draw_predictions(out / "figure2.png", columns, names)


def main() -> None:
    parser = cli.Parser(__doc__)
    add = parser.add_argument_group("what to evaluate").add_argument
    add("checkpoints", nargs="+", type=Path, metavar="CHECKPOINT", help="best.pt or last.pt of a run")
    add("--data", metavar="PATH", help="photos/ and cutouts/, or CelebAMask-HQ (default: the checkpoint's)")
    add("--split", choices=["test", "val", "all"], default="test",
        help="test: the checkpoint's 48 (Sec. 3); val: those of its plateau rule; all: every picture, those it was "
             "trained on too")  # fmt: skip
    add("--out", type=Path, metavar="DIR", help="default: best-test beside best.pt, or best-all-FOLDER")
    add("--cache", type=Path, default=dataset.CACHE, metavar="DIR", help="decoded pictures (default: data/cache here)")
    cli.add_machine_arguments(parser)
    args = parser.parse_args()
    first = args.checkpoints[0]
    results, predicted, tested = {}, {}, []  # tested: the first one's pictures
    for path in args.checkpoints:
        network = load(path, args.device, args.amp)
        checkpoint, machine = network.checkpoint, (network.device, network.amp)
        folder, source, _ = dataset.locate(checkpoint.data(args.data))
        pairs, _ = list_pairs(folder)
        if args.split != "all":
            pairs = find(checkpoint["split"][args.split], pairs, source)
        who = [pair.identity for pair in pairs]
        tested = tested or who
        if who != tested:
            why = f"its {args.split} pictures are not those of {first}"
            raise InputError(f"{path}: {why}; evaluate them apart, or give --data and --split all")
        data = dataset.load(pairs, checkpoint["args"]["size"], args.cache)
        scores = evaluate(network.model, data, checkpoint["args"]["batch_size"], *machine)
        label = path.resolve().parent.name + ("" if path.stem == "best" else f"-{path.stem}")
        label = path.as_posix() if label in results else label
        facts = {"method": method(checkpoint), "epoch": checkpoint["epoch"], "weights": checkpoint["weights"]}
        by_picture = {pair.name: {s: float(scores[s][i]) for s in SCORES} for i, pair in enumerate(pairs)}
        results[label] = facts | {"data": source, "split": args.split, **summarize(scores), "pictures": by_picture}
        chosen = np.random.default_rng(0).permutation(len(pairs))[:FIGURE_ROWS].tolist()  # the same for all runs
        predicted[label] = predict_maps(network.model, data, chosen, *machine)
        print(f"{path}, epoch {checkpoint['epoch']}, weights {checkpoint['weights']}", flush=True)
        if seen := len(among(who, [*checkpoint["split"]["train"], *checkpoint["seen"]])):
            print(f"{path}: WAS TRAINED ON {seen} OF THESE {len(pairs)} PICTURES")
    name = f"all-{Path(args.data).resolve().name}" if args.data and args.split == "all" else args.split
    out = pictures.make_folder(args.out or first.parent / f"{first.stem}-{name}")

    print(f"{source}, split {args.split}, {len(pairs)} pictures")
    pictures.print_table(table(results), left=2)
    pictures.write_csv(out / "table1.csv", table(results))
    pictures.write_json(out / "results.json", results)
    draw(results, predicted, [pairs[i].name for i in chosen], out)
    print(f"results.json, table1.csv, figure2.png, for an LRN maps-*.png -> {out}")


if __name__ == "__main__":
    cli.run(main)

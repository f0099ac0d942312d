"""Table 1 and figure 2: Jaccard index and Hausdorff distance on the test pictures, for any number of runs at once.

    python lrn_headtorso/eval.py lrn_headtorso/runs/lrn/best.pt
    python lrn_headtorso/eval.py lrn_headtorso/runs/*/best.pt                    the paper's rows and ours
    python lrn_headtorso/eval.py best.pt --worst                                 figure 2 of the worst
    python lrn_headtorso/eval.py best.pt --data OTHER --split all                on other pictures

Writes results.json, table1.csv, figure2.png and, for each LRN, maps-RUN.png (its six maps) to best-test/ beside the
first checkpoint (with --data FOLDER --split all to best-all-FOLDER/) or to --out. Both measures are taken for each
picture and averaged, at the network's own size: Jaccard in per cent, distances in pixels of a 224 px picture.
"""

import re
import sys
from argparse import Namespace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import scipy
import torch
from torch import nn

from common import cli, pictures
from common.cli import InputError
from common.data import check_finite, count_seen, find, in_order, progress
from common.device import autocast, sum_over_processes
from common.metrics import hausdorff, jaccard
from common.run import Checkpoint, Trained, load_checkpoint, trained
from lrn_headtorso import dataset
from lrn_headtorso.dataset import HERE, PERSON_FROM, SIZE, HeadTorso, normalize
from lrn_headtorso.losses import summed_bce
from lrn_headtorso.model import FOUND_ABOVE, LRN, UNet
from lrn_headtorso.pairs import Pair, list_pairs

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

    missed: share of the person that is left out; holes: of it what the prediction surrounds, the patches that the paper
    sees in the U-Net's; added: pixels too many, as a share of the person's. If one mask is empty, Jaccard is 0 and the
    distance the picture's diagonal; if both are, 100 % and 0 (common/metrics.py). Shares of an empty truth are 0.
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


# ---- Checkpoints and data ------------------------------------------------------------------------------------------


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
    extras = [f"encoder of {start}"] if start not in ("random", "imagenet") else []
    frozen = checkpoint["log"] and checkpoint["log"][-1]["phase"] == FROZEN
    extras += ["frozen encoder"] if frozen else []
    extras += ["channel reduction"] if args["channel_reduction"] else []
    extras += [f"{args['size']} px"] if args["size"] != SIZE else []
    extras += ["backgrounds"] if args["backgrounds"] else []
    extras += ["no augmentation"] if args["augment"] == "none" else []
    return name + (f" ({', '.join(extras)})" if extras else "")


def select(args: Namespace, checkpoint: Checkpoint) -> tuple[HeadTorso, list[Pair], str]:
    """The pictures to evaluate on, the checkpoint's data and split unless told otherwise, and their folder in words."""
    saved = checkpoint["args"]
    folder, source, _ = dataset.locate(args.data or saved["data"])
    pairs, _ = list_pairs(folder)
    if args.split != "all":
        pairs = [pairs[i] for i in find(checkpoint["split"][args.split], [pair.identity for pair in pairs], source)]
    arrays = dataset.load(pairs, saved["size"], args.cache)
    return HeadTorso(arrays, [pair.photo.name for pair in pairs]), pairs, source


# ---- Table 1, figure 2, the six maps -------------------------------------------------------------------------------


def table(runs: dict[str, tuple[str, dict]]) -> list[list[str]]:
    """Table 1: the paper's rows, then ours (label -> method, summary), with the shares of the person."""
    rows = [["method", "run", "Jaccard %", "Hausdorff px", *(f"{share} %" for share in SHARES), "empty", "n"]]
    for name, ((j, j_std), (h, h_std)) in TABLE_1.items():
        rows.append([name, "the paper", f"{j:.2f} +- {j_std:.2f}", f"{h:.2f} +- {h_std:.2f}", *[""] * 4, "48"])
    for label, (name, s) in runs.items():
        measures = [f"{s[m]:.2f} +- {s[f'{m}_std']:.2f}" for m in ("jaccard", "hausdorff")]
        shares = [f"{s[share]:.2f}" for share in SHARES]
        rows.append([name, label, *measures, *shares, str(s["empty_predicted"]), str(s["n"])])
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


def draw_predictions(path: Path, columns: dict[str, list[np.ndarray]], row_titles: list[str] | None = None) -> None:
    """Figure 2: photo, truth, and the mask of each network: title -> N pictures, H x W x 3 or H x W uint8."""
    rows = [list(row) for row in zip(*columns.values(), strict=True)]
    titles = [title.replace(" (", "\n(").replace(", ", ",\n") for title in columns]
    pictures.save_grid(path, rows, column_titles=titles, row_titles=row_titles)


def draw_maps(path: Path, photos: np.ndarray, alphas: np.ndarray, maps: list[np.ndarray]) -> None:
    """The maps of an LRN, coarse to fine, as grey values: how a contour is refined. Shapes as of predict_maps()."""
    grey = [(p * 255).astype(np.uint8) for p in maps]
    rows = [list(row) for row in zip(photos, alphas, *grey, strict=True)]
    titles = ["photo", "truth", *(f"{p.shape[-1]} x {p.shape[-2]}" for p in maps)]
    pictures.save_grid(path, rows, column_titles=titles)


def parse_args() -> Namespace:
    """The arguments."""
    parser = cli.Parser(__doc__)
    add = parser.add_argument_group("what to evaluate").add_argument
    add("checkpoints", nargs="+", type=Path, metavar="CHECKPOINT", help="best.pt or last.pt of a run")
    add("--data", metavar="PATH", help="photos/ and cutouts/, or CelebAMask-HQ (default: the checkpoint's)")
    add("--split", choices=["test", "val", "all"], default="test",
        help="test: the checkpoint's 48 (Sec. 3); val: those of its plateau rule; all: every picture, those it was "
             "trained on too")  # fmt: skip
    add("--worst", action="store_true", help="draw the pictures with the first checkpoint's lowest Jaccard index")
    add("--out", type=Path, metavar="DIR", help="default: best-test beside best.pt, or best-all-FOLDER")
    add("--cache", type=Path, default=dataset.CACHE, metavar="DIR", help="decoded pictures (default: data/cache here)")
    cli.add_machine_arguments(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    runs: dict[str, tuple[Trained, HeadTorso, dict[str, np.ndarray]]] = {}
    tested = None
    for path in args.checkpoints:
        network = load(path, args.device, args.amp)
        checkpoint = network.checkpoint
        data, pairs, source = select(args, checkpoint)
        who = [pair.identity for pair in pairs]
        if tested not in (None, who):
            raise InputError(f"{path}: its {args.split} pictures are not those of {args.checkpoints[0]}; evaluate them "
                             "apart, or give --data and --split all")  # fmt: skip
        tested = who
        label = path.resolve().parent.name + ("" if path.stem == "best" else f"-{path.stem}")
        label = str(path) if label in runs else label
        scores = evaluate(network.model, data, checkpoint["args"]["batch_size"], network.device, network.amp)
        runs[label] = network, data, scores
        print(f"{path}, epoch {checkpoint['epoch']}, weights {checkpoint['weights']}", flush=True)
        if known := count_seen(who, [*checkpoint["split"]["train"], *checkpoint["seen"]]):
            print(f"{path}: WAS TRAINED ON {known} OF THESE {len(pairs)} PICTURES")
    name = f"all-{Path(args.data).resolve().name}" if args.data and args.split == "all" else args.split
    out = pictures.make_folder(args.out or args.checkpoints[0].parent / f"{args.checkpoints[0].stem}-{name}")

    methods = {label: method(network.checkpoint) for label, (network, *_) in runs.items()}
    summaries = {label: summarize(scores) for label, (*_, scores) in runs.items()}
    rows = table({label: (methods[label], summaries[label]) for label in runs})
    print(f"{source}, split {args.split}, {len(pairs)} pictures")
    pictures.print_table(rows, left=2)
    for label, (*_, scores) in runs.items():
        lost = (scores["empty_true"] == 0) & (scores["empty_predicted"] == 1)
        if lost.any():
            print(f"{label}: found nobody in {lost.sum()} pictures with a person; each counts as Jaccard 0 and the "
                  f"picture's diagonal, {np.hypot(SIZE, SIZE):.1f} px")  # fmt: skip
    if without := next(iter(summaries.values()))["empty_true"]:
        print(f"{without} picture(s) without a person: 100 % and 0 px if nobody is found, else 0 and the diagonal")
    pictures.write_csv(out / "table1.csv", rows)
    results = {}
    for label, (network, _, scores) in runs.items():
        facts = {fact: network.checkpoint[fact] for fact in ("epoch", "weights")}
        facts = {"method": methods[label], **facts, "data": source, "split": args.split, **summaries[label]}
        by_picture = {pair.name: {s: float(scores[s][i]) for s in SCORES} for i, pair in enumerate(pairs)}
        results[label] = facts | {"pictures": by_picture}
    pictures.write_json(out / "results.json", results)
    draw(args.worst, out, runs, methods)
    print(f"results.json, table1.csv, figure2.png, for an LRN maps-*.png -> {out}")


def draw(worst: bool, out: Path, runs: dict, methods: dict[str, str]) -> None:
    """Figure 2, and the six maps of each LRN: of five pictures at random, or of the first run's worst."""
    label, (network, data, scores) = next(iter(runs.items()))
    chosen = np.random.default_rng(network.checkpoint["args"]["seed"]).permutation(len(data))[:FIGURE_ROWS].tolist()
    if worst:
        chosen = np.argsort(scores["jaccard"], kind="stable")[:FIGURE_ROWS].tolist()
        for i in chosen:
            j, h = scores["jaccard"][i], scores["hausdorff"][i]
            print(f"worst of {label}: {data.names[i]}  Jaccard {j:.2f} %  Hausdorff {h:.2f} px")
    columns = {}
    for name, (run, pictures_of, _) in runs.items():
        photos, alphas, maps = predict_maps(run.model, pictures_of, chosen, run.device, run.amp)
        columns |= {} if columns else {"photo": list(photos), "truth": list(alphas >= PERSON_FROM)}
        title = methods[name] if methods[name] not in columns else f"{methods[name]} ({name})"
        columns[title] = list(maps[-1] > FOUND_ABOVE)
        if len(maps) > 1:
            file_name = re.sub(r"[^\w.-]", "-", name)  # the name may be a path
            draw_maps(out / f"maps-{file_name}.png", photos, alphas, maps)
    titles = [f"{methods[label].split(' (')[0]}\n{scores['jaccard'][i]:.1f} %" for i in chosen]
    draw_predictions(out / "figure2.png", columns, titles)


if __name__ == "__main__":
    cli.run(main)

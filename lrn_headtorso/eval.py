"""Table 1 and figure 2: Jaccard index and Hausdorff distance on the test pictures, for any number of runs at once.

    python lrn_headtorso/eval.py lrn_headtorso/runs/lrn/best.pt
    python lrn_headtorso/eval.py lrn_headtorso/runs/*/best.pt                    the paper's rows and ours
    python lrn_headtorso/eval.py best.pt --worst                                 figure 2 of the worst
    python lrn_headtorso/eval.py best.pt --data OTHER --split all                on other pictures

Writes results.json, table1.csv, figure2.png and, for each LRN, maps-RUN.png (its six maps) to best-test/ beside the
first checkpoint (with --data FOLDER --split all to best-all-FOLDER/) or to --out. Both measures are taken for each
picture and averaged, at the network's own size; distances are scaled to pixels of a 224 px picture.
"""

import re
import sys
from argparse import Namespace
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import scipy
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from common import cli, pictures
from common.cache import count_seen, fingerprint
from common.checkpoint import make_folder, write_json
from common.cli import InputError
from common.data import EvalBatches, check_finite, loader
from common.device import autocast, for_inference, pick_amp, pick_device, to_device
from common.distributed import sum_over_processes, world
from common.metrics import hausdorff, jaccard
from common.tables import print_table, write_csv
from lrn_headtorso import dataset
from lrn_headtorso.checkpoints import load_model, method
from lrn_headtorso.dataset import PERSON_FROM, HeadTorso, normalize
from lrn_headtorso.model import FOUND_ABOVE, LRN, UNet

# Table 1 as printed: Jaccard index in % and Hausdorff distance in px, mean and standard deviation
TABLE_1 = {
    "LRN": ((91.67, 5.63), (32.84, 23.05)),
    "LRN-VGG": ((92.73, 5.24), (26.28, 20.07)),
    "UNET": ((89.25, 7.19), (35.18, 19.63)),
    "UNET-VGG": ((87.98, 7.53), (44.00, 16.75)),
}
FIGURE_ROWS = 5  # of figure 2
SHARES = ("missed", "holes", "added")  # of the person, ours
SCORES = ("loss", "jaccard", "hausdorff", *SHARES, "empty_predicted", "empty_true")  # of each picture


def summed_bce(maps: list[Tensor], alphas: Tensor) -> Tensor:
    """Maps B x 1 x h x w in [0, 1], coarse to fine, and alphas B x 1 x H x W uint8 -> the loss of each picture, B.

    Binary cross-entropy, averaged over the pixels of each map and summed over the maps (Sec. 2.3). The truth is brought
    to each map's size by averaging areas and stays soft (ours: the paper does not say).
    """
    truth = alphas.float() / 255
    loss = torch.zeros(len(truth), device=truth.device)
    for p in maps:
        y, p = F.interpolate(truth, size=p.shape[-2:], mode="area"), p.float()
        # PyTorch's stops at nan with its own error: here the loss becomes nan, and check_finite() names the images
        loss = loss + F.binary_cross_entropy(p.nan_to_num(0.5), y, reduction="none").mean((1, 2, 3))
        loss = loss + 0 * p.mean((1, 2, 3))
    return loss


def score(predicted: np.ndarray, true: np.ndarray) -> tuple[float, ...]:
    """Two H x W bool masks -> SCORES without the loss.

    missed: share of the person that is left out; holes: of it what the prediction surrounds, the patches that the paper
    sees in the U-Net's; added: pixels too many, as a share of the person's. If one mask is empty, Jaccard is 0 and the
    distance the picture's diagonal; if both are, 1 and 0 (common/metrics.py). Shares of an empty truth are 0.
    """
    size = max(1, int(true.sum()))
    return (
        jaccard(predicted, true),  # Eq. (1)
        hausdorff(predicted, true) * dataset.SIZE / max(true.shape),  # Eq. (2)
        float((true & ~predicted).sum() / size),
        float((true & ~predicted & scipy.ndimage.binary_fill_holes(predicted)).sum() / size),
        float((predicted & ~true).sum() / size) if true.any() else 0.0,
        float(not predicted.any()),
        float(not true.any()),
    )


@torch.inference_mode()
def evaluate(model: nn.Module, batches: DataLoader, device: torch.device, amp: bool) -> dict[str, np.ndarray]:
    """SCORES -> one number for each picture of the set, in its order, whichever process of torchrun saw it."""
    model = for_inference(model, amp)
    scores, losses = torch.zeros(len(batches.dataset), len(SCORES)), []
    bar = tqdm(batches, "evaluating", leave=False, disable=None if world()[0] == 0 else True, unit="batch")
    for chosen, (images, alphas) in zip(list(batches.sampler), bar, strict=True):
        alphas = to_device(alphas, device)
        with autocast(device, amp):
            maps = model(normalize(images, device))
        loss = summed_bce(maps, alphas)
        losses.append(loss.mean())
        found, true = (maps[-1][:, 0] > FOUND_ABOVE).cpu().numpy(), (alphas[:, 0] >= PERSON_FROM).cpu().numpy()
        measured = [score(p, t) for p, t in zip(found, true, strict=True)]
        scores[chosen] = torch.cat([loss.cpu()[:, None], torch.tensor(measured)], dim=1)
    check_finite(losses, batches, "evaluation")
    return dict(zip(SCORES, sum_over_processes(scores.to(device)).cpu().numpy().T, strict=True))


def summarize(scores: dict[str, np.ndarray]) -> dict[str, float | int]:
    """evaluate()'s result -> means, the standard deviations that table 1 has, and counts of empty masks."""
    summary = {"n": len(scores["loss"]), "loss": float(scores["loss"].mean())}
    for name in ("jaccard", "hausdorff"):
        summary |= {name: float(scores[name].mean()), f"{name}_std": float(scores[name].std())}
    summary |= {name: float(scores[name].mean()) for name in SHARES}
    return summary | {name: int(scores[name].sum()) for name in ("empty_predicted", "empty_true")}


# ---- The runs side by side ------------------------------------------------------------------------------------------


class Run(NamedTuple):
    """A checkpoint with the pictures that it is evaluated on, and what came out."""

    label: str  # of the run folder
    method: str
    model: LRN | UNet
    checkpoint: dict
    amp: bool
    data: HeadTorso
    scores: dict[str, np.ndarray]


def select(
    data: Path | None, split: str, checkpoint: dict, path: Path, cache: Path
) -> tuple[HeadTorso, list[dataset.Pair], Path, str]:
    """The pictures to evaluate on, the checkpoint's data and split unless told otherwise.

    -> the data set, its pictures, their folder, and where they come from in words.
    """
    args = checkpoint["args"]
    folder, source, _ = dataset.locate(data or (args["data"] and Path(args["data"])))
    pairs = {pair.name: pair for pair in dataset.list_pairs(folder).pairs}
    names = list(pairs) if split == "all" else checkpoint["split"][split]
    chosen = [pairs[name] for name in names if name in pairs]
    if split != "all" and fingerprint(dataset.files(chosen)) != checkpoint["fingerprint"][split]:
        raise InputError(
            f"{folder}: its pictures are not those of the {split} split of {path}; give --data the folder that it was "
            "trained on, or --split all for other pictures"
        )
    arrays = dataset.load(chosen, args["size"], cache)
    return HeadTorso(arrays, [pair.photo.name for pair in chosen]), chosen, folder, source


# ---- Table 1, figure 2, the six maps -------------------------------------------------------------------------------


def table(runs: dict[str, tuple[str, dict]]) -> list[list[str]]:
    """Table 1: the paper's rows, then ours (label -> method, summary), with the shares of the person."""
    rows = [["method", "run", "Jaccard %", "Hausdorff px", *(f"{share} %" for share in SHARES), "empty", "n"]]
    for name, ((j, j_std), (h, h_std)) in TABLE_1.items():
        rows.append([name, "the paper", f"{j:.2f} +- {j_std:.2f}", f"{h:.2f} +- {h_std:.2f}", *[""] * 4, "48"])
    for label, (name, s) in runs.items():
        jaccard_ = f"{100 * s['jaccard']:.2f} +- {100 * s['jaccard_std']:.2f}"
        hausdorff_ = f"{s['hausdorff']:.2f} +- {s['hausdorff_std']:.2f}"
        shares = [f"{100 * s[share]:.2f}" for share in SHARES]
        rows.append([name, label, jaccard_, hausdorff_, *shares, str(s["empty_predicted"]), str(s["n"])])
    return rows


@torch.inference_mode()
def predict_maps(
    model: nn.Module, data: HeadTorso, chosen: list[int], device: torch.device, amp: bool
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """The chosen pictures -> photos N x H x W x 3 and alphas N x H x W uint8, and the maps, N x h x w in [0, 1]."""
    model.eval()
    images, alphas = data[chosen]
    with autocast(device, amp):
        maps = model(normalize(images, device))
    return images.permute(0, 2, 3, 1).numpy(), alphas[:, 0].numpy(), [p[:, 0].cpu().numpy() for p in maps]


def draw_predictions(path: Path, columns: dict[str, list[np.ndarray]], row_titles: list[str] | None = None) -> None:
    """Figure 2: photo, truth, and the mask of each network: title -> N pictures, H x W x 3 or H x W uint8."""
    rows = [list(row) for row in zip(*columns.values(), strict=True)]
    titles = [title.replace(" (", "\n(").replace(", ", ",\n") for title in columns]
    pictures.save_grid(path, rows, column_titles=titles, row_titles=row_titles)


def draw_maps(path: Path, photos: np.ndarray, alphas: np.ndarray, maps: list[np.ndarray]) -> None:
    """The maps of an LRN, coarse to fine, as grey values: how a contour is refined.

    photos: N x H x W x 3 uint8; alphas: N x H x W uint8; maps: each N x h x w float in 0..1.
    """
    grey = [(p * 255).astype(np.uint8) for p in maps]
    rows = [list(row) for row in zip(photos, alphas, *grey, strict=True)]
    titles = ["photo", "truth", *(f"{p.shape[-1]} x {p.shape[-2]}" for p in maps)]
    pictures.save_grid(path, rows, column_titles=titles)


# fmt: off
def parse_args(argv: list[str] | None = None) -> Namespace:
    """The arguments."""
    parser = cli.Parser(__doc__)
    add = parser.add_argument_group("what to evaluate").add_argument
    add("checkpoints", nargs="+", type=Path, metavar="CHECKPOINT", help="best.pt or last.pt of a run")
    add("--data", type=Path, metavar="PATH", help="photos/ and cutouts/, or CelebAMask-HQ (default: the checkpoint's)")
    add("--split", choices=["test", "val", "all"], default="test",
        help="test: the checkpoint's 48 (Sec. 3); val: those of its plateau rule; all: every picture, "
             "those it was trained on too")
    add("--worst", action="store_true",
        help="figure 2 and the six maps of the pictures with the first checkpoint's lowest Jaccard index")
    add("--out", type=Path, metavar="DIR", help="default: best-test beside best.pt, or best-all-FOLDER")
    add("--cache", type=Path, default=dataset.CACHE, metavar="DIR", help="decoded pictures (default: data/cache here)")
    cli.add_machine_arguments(parser)
    return parser.parse_args(argv)
# fmt: on


def main() -> None:
    args = parse_args()
    device = pick_device(args.device)
    runs, first_tested = {}, None
    for path in args.checkpoints:
        model, checkpoint = load_model(path, device)
        amp = pick_amp(args.amp or checkpoint["args"]["amp"], device)
        data, pairs, folder, source = select(args.data, args.split, checkpoint, path, args.cache)
        names = [pair.name for pair in pairs]
        tested = names, fingerprint(dataset.files(pairs))
        if first_tested not in (None, tested):
            raise InputError(
                f"{path}: its {args.split} pictures are not those of {args.checkpoints[0]}; evaluate them apart, or "
                "give --data and --split all"
            )
        first_tested = tested
        batches = loader(data, EvalBatches(len(data), checkpoint["args"]["batch_size"]), args.workers)
        label = path.resolve().parent.name + ("" if path.stem == "best" else f"-{path.stem}")
        if label in runs:
            label = str(path)
        runs[label] = Run(
            label, method(checkpoint), model, checkpoint, amp, data, evaluate(model, batches, device, amp)
        )
        print(f"{path}, epoch {checkpoint['epoch']}, weights {checkpoint['weights']}", flush=True)
        if known := count_seen([pair.photo for pair in pairs], checkpoint.get("trained_on", ())):
            print(f"{path}: WAS TRAINED ON {known} OF THESE {len(pairs)} PICTURES")
    name = f"all-{args.data.resolve().name}" if args.data and args.split == "all" else args.split
    out = make_folder(args.out or args.checkpoints[0].parent / f"{args.checkpoints[0].stem}-{name}")

    summaries = {label: summarize(run.scores) for label, run in runs.items()}
    rows = table({label: (run.method, summaries[label]) for label, run in runs.items()})
    print(f"{source}, split {args.split}, {len(names)} pictures")
    print_table(rows, left=2)
    diagonal = f"the diagonal, {np.hypot(dataset.SIZE, dataset.SIZE):.1f} px"
    for label, run in runs.items():
        present, found = (run.scores[name] == 0 for name in ("empty_true", "empty_predicted"))
        if (present & ~found).any():
            print(
                f"{label}: found nobody in {(present & ~found).sum()} of {present.sum()} pictures with a person; each "
                f"counts as Jaccard 0 and a distance of {diagonal}"
            )
    without = next(iter(summaries.values()))["empty_true"]
    if without:
        print(f"{without} picture(s) without a person: Jaccard 1 and 0 px if nobody is found, else 0 and {diagonal}")
    write_csv(out / "table1.csv", rows)
    results = {
        label: {
            "method": run.method,
            "epoch": run.checkpoint["epoch"],
            "weights": run.checkpoint["weights"],
            "data": folder.name,
            "split": args.split,
            **summaries[label],
            "pictures": {name: {s: float(run.scores[s][i]) for s in SCORES} for i, name in enumerate(names)},
        }
        for label, run in runs.items()
    }
    write_json(out / "results.json", results)

    first = next(iter(runs.values()))
    if args.worst:
        chosen = np.argsort(first.scores["jaccard"], kind="stable")[:FIGURE_ROWS].tolist()
        for i in chosen:
            j, h = first.scores["jaccard"][i], first.scores["hausdorff"][i]
            print(f"worst of {first.label}: {first.data.name(i)}  Jaccard {100 * j:.2f} %  Hausdorff {h:.2f} px")
    else:
        chosen = np.random.default_rng(first.checkpoint["args"]["seed"]).permutation(len(names))[:FIGURE_ROWS].tolist()
    columns = {}
    for run in runs.values():
        photos, alphas, maps = predict_maps(run.model, run.data, chosen, device, run.amp)
        columns |= {} if columns else {"photo": list(photos), "truth": list(alphas >= PERSON_FROM)}
        title = run.method if run.method not in columns else f"{run.method} ({run.label})"
        columns[title] = list(maps[-1] > FOUND_ABOVE)
        if len(maps) > 1:
            file_name = re.sub(r"[^\w.-]", "-", run.label)  # the label may be a path
            draw_maps(out / f"maps-{file_name}.png", photos, alphas, maps)
    name = first.method.split(" (")[0]
    titles = [f"{name}\n{100 * first.scores['jaccard'][i]:.1f} %" for i in chosen]
    draw_predictions(out / "figure2.png", columns, titles)
    maps = ", maps-*.png" if any(run.model.__class__ is LRN for run in runs.values()) else ""
    print(f"results.json, table1.csv, figure2.png{maps} -> {out}")


if __name__ == "__main__":
    cli.run(main)

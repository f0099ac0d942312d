"""The paper's AUROC and figure 3, with what else tells two hair masks apart: F1, IoU, edges, error maps.

    python hair_transfer/eval.py hair_transfer/runs/random/best.pt
    python hair_transfer/eval.py hair_transfer/runs/random/best.pt hair_transfer/runs/pretrained/best.pt    as figure 3
    python hair_transfer/eval.py best.pt --error-map                          also where it is wrong
    python hair_transfer/eval.py best.pt --mean-mask                          also a baseline that looks at no photo
    python hair_transfer/eval.py best.pt --data OTHER_FACES --split all       on other faces of CelebAMask-HQ's layout
    python hair_transfer/eval.py best.pt --pairs FOLDER                       on FOLDER/photos and FOLDER/masks

Writes results.json to best-test/ beside each checkpoint (with --data FOLDER --split all best-all-FOLDER/, with --pairs
best-pairs-FOLDER/) and table.csv, figure3.png, errors.png and mean-mask/ to the first one's; with --out all below that
folder. Pixels are pooled: counted over the whole set, divided once. The paper's AUROC is, it seems, a mean over batches
as its template's is; ours of that kind stands apart.
"""

import contextlib
import math
import sys
from argparse import Namespace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from common import cli, pictures
from common.cache import count_seen, fingerprint
from common.checkpoint import load_checkpoint, make_folder, restore, write_json
from common.cli import InputError
from common.data import EvalBatches, check_finite, loader
from common.device import autocast, for_inference, pick_amp, pick_device, to_device
from common.distributed import world
from common.tables import print_table, write_csv
from hair_transfer import dataset
from hair_transfer.dataset import HairMasks, normalize
from hair_transfer.model import DeepLabV3
from hair_transfer.scores import BAND, Tally

PAPER = Path(__file__).resolve().parent.name
# Sec. IV, as printed: the best AUROC over the test set. The template puts a zero before the scores of its batches and
# then takes the mean: for 600 images in batches of 6 that is 100/101 of the true mean over batches.
PAPER_AUROC = {"pretrained": 0.981631, "random": 0.968331}
PAPER_BATCHES = 100
ROWS = {  # results.json's name -> the table's
    "auroc": "AUROC, all pixels",
    "batch_auroc": "AUROC, mean over batches",
    "f1_01": "F1 at 0.1",
    "f1_05": "F1 at 0.5",
    "iou": "IoU at 0.5",
    "precision": "precision at 0.5",
    "recall": "recall at 0.5",
    "boundary_f1": f"boundary F1 at 0.5, {BAND} px",
    "loss": "mean squared error",
}
MEAN_MASK = "mean training mask"  # its column
ERRORS = {"found": (70, 160, 90), "missed": (250, 200, 40), "too much": (220, 40, 60)}


@torch.inference_mode()
def evaluate(model: nn.Module, batches: DataLoader, device: torch.device, amp: bool) -> dict[str, float]:
    """The scores of `model` over a set (see Tally); under torchrun each image is seen by one process, once."""
    model = for_inference(model, amp)
    tally = Tally(device)
    for images, masks in tqdm(
        batches, "evaluating", leave=False, disable=None if world()[0] == 0 else True, unit="batch"
    ):
        masks = to_device(masks, device)
        with autocast(device, amp):
            logits = model(normalize(images, device))
        output = model.activate(logits)
        tally.add(logits, output, masks, F.mse_loss(output, masks.float()))
    check_finite(tally.losses, batches, "evaluation")
    return tally.scores()


@torch.inference_mode()
def predict_faces(
    model: nn.Module, data: HairMasks, chosen: list[int], device: torch.device, amp: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The chosen faces -> photos N x H x W x 3 uint8, true masks N x H x W bool, outputs N x H x W float32 in 0..1."""
    model = for_inference(model, amp)
    images, masks = data[chosen]
    with autocast(device, amp):
        logits = model(normalize(images, device))
    output = model.activate(logits).clamp(0, 1)  # tanh's can be negative
    return images.permute(0, 2, 3, 1).numpy(), masks[:, 0].numpy().astype(bool), output[:, 0].cpu().numpy()


class MeanMask(nn.Module):
    """A baseline in a network's place: images B x 3 x H x W -> to each the same output, the mean of some faces' masks.

    It looks at no photo; a network that scores no more has learned where hair lies in a picture, not what it is.
    """

    def __init__(self, data: HairMasks):
        super().__init__()
        mean = np.unpackbits(data.arrays["masks"], axis=-1).mean(0, dtype=np.float32)
        self.mean = nn.Parameter(torch.from_numpy(mean)[None, None], requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.mean.expand(len(x), -1, -1, -1)

    def activate(self, logits: Tensor) -> Tensor:
        """They are shares of faces already."""
        return logits


def choose_faces(n: int, seed: int) -> list[int]:
    """Four faces at random (fewer if there are fewer): the rows of figure 3."""
    return np.random.default_rng(seed).permutation(n)[:4].tolist()


# ---- Checkpoints and data ------------------------------------------------------------------------------------------


def load_model(path: Path, device: torch.device) -> tuple[DeepLabV3, dict]:
    """The network of a checkpoint, ready to evaluate, and the checkpoint."""
    checkpoint = load_checkpoint(path, PAPER)
    args = checkpoint["args"]
    model = DeepLabV3(output=args["output"], aux=args["aux"] > 0)
    restore(path, lambda: model.load_state_dict(checkpoint["model"]))
    return model.to(device).eval(), checkpoint


def select(args: Namespace, checkpoint: dict, path: Path) -> tuple[HairMasks, str]:
    """The faces to evaluate on, the checkpoint's test split unless told otherwise, and where they come from."""
    saved = checkpoint["args"]
    if args.pairs:
        return HairMasks(dataset.list_pairs(args.pairs), saved["size"], args.cache), f"{args.pairs}, pairs"
    if args.split == "all":
        folders, source = dataset.locate(args.data or saved["data"])
        faces = dataset.list_faces(folders, saved["part"])
        return HairMasks(faces, saved["size"], args.cache), source
    return half("test", args.data, args.cache, checkpoint, path)


def half(side: str, data: list[Path] | None, cache: Path, checkpoint: dict, path: Path) -> tuple[HairMasks, str]:
    """The faces that the checkpoint's run trained or tested on (side: train, test), and where they come from."""
    saved = checkpoint["args"]
    folders, source = dataset.locate(data or saved["data"])
    keys = {tuple(key) for key in checkpoint["split"][side]}
    faces = [face for face in dataset.list_faces(folders, saved["part"]) if tuple(face.key) in keys]
    if fingerprint(dataset.files(faces)) != checkpoint["fingerprint"][side]:
        raise InputError(
            f"{source}: its faces or masks are not those of the {side} split of {path}; give --data the folders that "
            "it was trained on, in the same order, or --split all for other faces"
        )
    return HairMasks(faces, saved["size"], cache), source


def training_faces(args: Namespace, checkpoint: dict, path: Path) -> HairMasks:
    """The faces that the checkpoint's run was trained on, where they were then, or in --data."""
    if args.data and args.split == "all":  # others, or the same in another place
        with contextlib.suppress(InputError):
            return half("train", args.data, args.cache, checkpoint, path)[0]
    try:
        return half("train", None if args.split == "all" else args.data, args.cache, checkpoint, path)[0]
    except InputError as error:
        raise InputError(f"--mean-mask needs the faces that {path} was trained on: {error}") from None


def check_comparable(paths: list[Path], checkpoints: list[dict], sets: list[HairMasks]) -> None:
    """Raise InputError unless all segment the same part, at the same size, of the same faces."""
    facts = [
        (saved["args"]["part"], saved["args"]["size"], fingerprint(dataset.files(data.faces)))
        for saved, data in zip(checkpoints, sets, strict=True)
    ]
    for path, other in zip(paths, facts, strict=True):
        for what, first, this in zip(("part", "size", "set of faces or masks"), facts[0], other, strict=True):
            if this != first:
                raise InputError(
                    f"{path}: another {what} than {paths[0]} ({this} and {first}), so they cannot stand side by side; "
                    "evaluate them apart, or both with --data or --pairs on faces that neither was trained on"
                )


# ---- The table -----------------------------------------------------------------------------------------------------


def table(results: dict[str, dict]) -> list[list[str]]:
    """A header and one row per score: each checkpoint's, then the paper's two, as printed and corrected, if of hair."""
    of_hair = {r["part"] for r in results.values()} == {"hair"}
    rows = [["score", *results, *(f"paper, {init}" for init in PAPER_AUROC)]]
    for name, title in ROWS.items():
        ours = [r[name] for r in results.values()]
        theirs = ["" for _ in PAPER_AUROC]
        if name == "batch_auroc" and of_hair:
            without_zero = (PAPER_BATCHES + 1) / PAPER_BATCHES
            theirs = [f"{value:.6f} ({value * without_zero:.6f})" for value in PAPER_AUROC.values()]
        rows.append([title, *("none" if math.isnan(value) else f"{value:.6f}" for value in ours), *theirs])
    return rows


# ---- Pictures ------------------------------------------------------------------------------------------------------


def grey(output: np.ndarray) -> np.ndarray:
    """H x W float in 0..1 -> H x W uint8, black to white."""
    return (255 * output).round().astype(np.uint8)


def draw_figure_3(path: Path, names: list[str], photos: np.ndarray, outputs: tuple[np.ndarray, ...]) -> None:
    """The photo in the middle, the output of the first model on its left, those of the others on its right.

    photos: N x H x W x 3 uint8; outputs: of each model N x H x W float in 0..1.
    """
    rows = [[grey(left), photo, *map(grey, right)] for photo, left, *right in zip(photos, *outputs, strict=True)]
    pictures.save_grid(path, rows, column_titles=[names[0], "photo", *names[1:]], cell=2.2)


def draw_errors(
    path: Path, names: list[str], photos: np.ndarray, masks: np.ndarray, outputs: tuple[np.ndarray, ...]
) -> None:
    """Each face once per model: what it found of the mask, what it missed, what it took for hair (at 0.5).

    photos: N x H x W x 3 uint8; masks: N x H x W bool; outputs: of each model N x H x W float in 0..1.
    """
    palette = np.array([(0, 0, 0), *ERRORS.values()], np.uint8)
    columns = []
    for output in outputs:
        found = output > 0.5
        labels = 1 * (masks & found) + 2 * (masks & ~found) + 3 * (~masks & found)
        columns.append([pictures.overlay(*face, palette, 0.7) for face in zip(photos, labels, strict=True)])
    rows = [[photo, *painted] for photo, *painted in zip(photos, *columns, strict=True)]
    legend = {name: np.array(color) for name, color in ERRORS.items()}
    pictures.save_grid(path, rows, column_titles=["photo", *names], legend=legend, cell=2.2)


# fmt: off
def parse_args(argv: list[str] | None = None) -> Namespace:
    """The arguments."""
    parser = cli.Parser(__doc__)
    add = parser.add_argument_group("what to evaluate").add_argument
    add("checkpoints", nargs="+", type=Path, metavar="CHECKPOINT", help="best.pt or last.pt of a run")
    add("--data", type=Path, nargs="+", metavar="PATH", help="CelebAMask-HQ folders (default: the checkpoint's)")
    add("--split", choices=["test", "val", "all"],
        help="test: the checkpoint's 600 (Sec. II); val: the same, for the paper has no third part; "
             "all: every face, those it was trained on too")
    add("--pairs", type=Path, metavar="DIR",
        help="evaluate on DIR/photos/NAME.jpg and DIR/masks/NAME.png instead, the square in the middle of each")
    add("--error-map", action="store_true", help="also draw errors.png: found, missed, too much")
    add("--mean-mask", action="store_true",
        help="also score a baseline that gives every face the mean mask of the first checkpoint's training faces")
    add("--out", type=Path, metavar="DIR", help="default: CHECKPOINT-SPLIT beside it, as best-test or best-all-FOLDER")
    add("--cache", type=Path, default=dataset.CACHE, metavar="DIR", help="decoded faces (default: data/cache here)")
    cli.add_machine_arguments(parser)
    args = parser.parse_args(argv)
    if args.pairs and (args.data or args.split):
        parser.error(f"--pairs and {'--data' if args.data else '--split'}: give one of the two")
    args.split = args.split or "test"
    return args
# fmt: on


def main() -> None:
    args = parse_args()
    device = pick_device(args.device)
    split = "pairs" if args.pairs else "all" if args.split == "all" else "test"
    other = args.pairs or (args.data[0] if args.data and split == "all" else None)
    name = f"{split}-{other.resolve().name}" if other else split
    outs = [args.out or path.parent / f"{path.stem}-{name}" for path in args.checkpoints]
    if len(outs) > 1 and args.out:
        outs = [args.out / f"{path.resolve().parent.name}-{path.stem}" for path in args.checkpoints]
    twice = [str(path) for path, out in zip(args.checkpoints, outs, strict=True) if outs.count(out) > 1]
    if twice:
        raise InputError(f"{' and '.join(twice)}: would write to the same folder; evaluate them one by one")
    loaded = [load_model(path, device) for path in args.checkpoints]
    checkpoints = [checkpoint for _, checkpoint in loaded]
    selected = [select(args, *pair) for pair in zip(checkpoints, args.checkpoints, strict=True)]
    check_comparable(args.checkpoints, checkpoints, [data for data, _ in selected])
    data, source = selected[0]
    first = checkpoints[0]["args"]
    part, size, batch_size = (first[name] for name in ("part", "size", "batch_size"))
    candidates = {}  # name -> folder, network, amp, what results.json says of it
    for path, out, (model, checkpoint) in zip(args.checkpoints, outs, loaded, strict=True):
        amp = pick_amp(args.amp or checkpoint["args"]["amp"], device)
        name = f"{path.resolve().parent.name}/{path.stem}"
        name = str(path) if name in candidates else name
        facts = {"checkpoint": str(path), **{fact: checkpoint[fact] for fact in ("epoch", "weights")}}
        candidates[name] = out, model, amp, facts
        print(f"{name}: epoch {checkpoint['epoch']}, {size} px, from {checkpoint['weights']}")
        if (trained := checkpoint["args"]["batch_size"]) != batch_size:
            print(f"{name}: was trained in batches of {trained}, is evaluated in the first one's of {batch_size}")
        if known := count_seen([face.photo for face in data.faces], checkpoint.get("trained_on", ())):
            print(f"{name}: WAS TRAINED ON {known} OF THESE {len(data)} FACES")
    out = args.out or outs[0]
    if args.mean_mask:
        trained_on = training_faces(args, checkpoints[0], args.checkpoints[0])
        facts = {"weights": f"mean mask of the {len(trained_on)} training faces of {args.checkpoints[0]}"}
        candidates[MEAN_MASK] = out / "mean-mask", MeanMask(trained_on).to(device), False, facts
        print(f"{MEAN_MASK}: of {len(trained_on)} faces")

    chosen, results, drawn = choose_faces(len(data), first["seed"]), {}, []
    for name, (folder, model, amp, facts) in candidates.items():
        make_folder(folder)
        batches = loader(data, EvalBatches(len(data), batch_size), args.workers)
        facts |= {"part": part, "size": size, "data": source, "split": split, "n": len(data), "batch_size": batch_size}
        results[name] = facts | evaluate(model, batches, device, amp)
        by_class = {score: results[name][score] for score in ("iou", "precision", "recall")}
        by_class["f1"] = results[name]["f1_05"]
        write_json(folder / "results.json", results[name] | {"per_class": {part: by_class}})
        drawn.append(predict_faces(model, data, chosen, device, amp))
    error = max(result["auroc_error"] for name, result in results.items() if name != MEAN_MASK)  # whose ties are ties
    print(f"{source}, split {split}, {len(data)} faces in batches of {batch_size}\n")
    print_table(table(results))
    if not math.isnan(error):
        print(f"\nAUROC over all pixels: off by {error:.0e} at most.", end="")
    if part == "hair":
        print("\nIn brackets: what the paper's AUROC stands for if its code averaged in a zero with the batches, as\n"
              "its template does. The paper prints no other score.", end="")  # fmt: skip
    (photos, *_), (masks, *_), outputs = zip(*drawn, strict=True)
    write_csv(out / "table.csv", table(results))
    draw_figure_3(out / "figure3.png", list(results), photos, outputs)
    if not args.mean_mask:  # an earlier evaluation's, of other faces perhaps
        (out / "mean-mask" / "results.json").unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            (out / "mean-mask").rmdir()
    (out / "errors.png").unlink(missing_ok=True)
    if args.error_map:
        draw_errors(out / "errors.png", list(results), photos, masks, outputs)
    print(f"\nresults.json -> {', '.join(str(folder) for folder, *_ in candidates.values())}")
    print(f"table.csv, figure3.png{', errors.png' if args.error_map else ''} -> {out}")


if __name__ == "__main__":
    cli.run(main)

"""The paper's AUROC and figure 3, with what else tells two hair masks apart: F1, IoU, edges, error maps.

    python hair_transfer/eval.py hair_transfer/runs/random/best.pt
    python hair_transfer/eval.py hair_transfer/runs/random/best.pt hair_transfer/runs/coco/best.pt    as figure 3
    python hair_transfer/eval.py best.pt --error-map --mean-mask              its errors; a baseline that sees no photo
    python hair_transfer/eval.py best.pt --mirror                             averaged with the mirrored photo's output
    python hair_transfer/eval.py best.pt --data OTHER_FACES --split all       on other faces of CelebAMask-HQ's layout
    python hair_transfer/eval.py best.pt --pairs FOLDER                       on FOLDER/photos and FOLDER/masks

Writes results.json (with --mirror also results-mirror.json) to best-test/ beside each checkpoint (with --data FOLDER
--split all best-all-FOLDER/, with --pairs best-pairs-FOLDER/) and table.csv, figure3.png, errors.png and mean-mask/ to
the first one's; with --out all below that folder. Pixels are pooled: counted over the whole set, divided once. The
paper's AUROC seems to be a mean over batches.
"""

import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from torch import Tensor, nn

from common import cli, pictures
from common.celebamask import FaceFiles
from common.cli import InputError
from common.data import among, check_finite, find, in_order, progress
from common.device import autocast, to_device
from common.run import Checkpoint, Trained, load_checkpoint, result_folders, trained
from hair_transfer import dataset
from hair_transfer.dataset import HERE, HairMasks, normalize
from hair_transfer.model import DeepLabV3
from hair_transfer.scores import BAND, Tally

# Sec. IV, as printed: the best AUROC over the test set. The template puts a zero before the scores of its batches and
# then takes the mean: for 600 images in batches of 6 that is 100/101 of the true mean over batches.
PAPER_AUROC, WITHOUT_ZERO = {"pretrained": 0.981631, "random": 0.968331}, 101 / 100
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
ERRORS = {"found": (70, 160, 90), "missed": (250, 200, 40), "too much": (220, 40, 60)}


@torch.inference_mode()
def evaluate(model: nn.Module, faces: HairMasks, batch_size: int, device: torch.device, amp: bool) -> dict[str, float]:
    """The scores of `model` over a set (see Tally); under torchrun each image is seen by one process, once."""
    model.eval()
    batches, tally = in_order(len(faces), batch_size), Tally(device)
    for batch in progress(batches, "evaluating"):
        images, masks = faces.batch(batch)
        masks = to_device(masks, device)
        with autocast(device, amp):
            logits = model(normalize(images, device))
        tally.add(logits, model.activate(logits), masks)
    check_finite(tally.losses, batches, faces.names, "evaluation")
    return tally.scores()


class MeanMask(nn.Module):
    """A baseline that looks at no photo: every face gets the mean of some faces' masks as its output.

    A network that scores no more has learned where hair lies in a picture, not what it is.
    """

    def __init__(self, faces: HairMasks):
        super().__init__()
        mean = np.unpackbits(faces.arrays["masks"], axis=-1).mean(0, dtype=np.float32)
        self.register_buffer("mean", torch.from_numpy(mean)[None, None])

    def forward(self, x: Tensor) -> Tensor:
        return self.mean.expand(len(x), -1, -1, -1)

    def activate(self, logits: Tensor) -> Tensor:
        return logits  # they are shares of faces already


class Mirrored(nn.Module):
    """The mean of a network's logits for a photo and, turned back, for its mirror image (ours)."""

    def __init__(self, network: DeepLabV3):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return (self.network(x) + self.network(x.flip(-1)).flip(-1)) / 2

    def activate(self, logits: Tensor) -> Tensor:
        return self.network.activate(logits)


def load(path: str | Path, device: str = "auto", amp: str | None = None) -> Trained:
    """The network of a checkpoint, ready to use; raises InputError if it is not one of this folder."""
    checkpoint = load_checkpoint(Path(path), HERE.name)
    args = checkpoint["args"]
    return trained(DeepLabV3(output=args["output"]), checkpoint, device, amp)


def faces_of(side: str, data: list[str] | None, checkpoint: Checkpoint) -> tuple[list[FaceFiles], str]:
    """The faces that the checkpoint's run trained or tested on (side: train, test, or all of the folders), and where
    they come from: `data`, or where they were then."""
    folders, source = dataset.locate(checkpoint.data(data))
    faces = dataset.list_faces(folders, checkpoint["args"]["part"])
    if side != "all":
        faces = find(checkpoint["split"][side], faces, source)
    return faces, source


def table(results: dict[str, dict]) -> list[list[str]]:
    """A header and one row per score: each checkpoint's, then the paper's two AUROC, as printed and corrected."""
    rows = [["score", *results, *(f"paper, {start}" for start in PAPER_AUROC)]]
    for name, title in ROWS.items():
        ours = ["none" if math.isnan(result[name]) else f"{result[name]:.6f}" for result in results.values()]
        theirs = [f"{value:.6f} ({value * WITHOUT_ZERO:.6f})" for value in PAPER_AUROC.values()]
        rows.append([title, *ours, *(theirs if name == "batch_auroc" else ["", ""])])
    return rows


@torch.inference_mode()
def predict_faces(
    model: nn.Module, faces: HairMasks, chosen: list[int], device: torch.device, amp: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The chosen faces -> photos N x H x W x 3 uint8, true masks N x H x W bool, outputs N x H x W float32 in 0..1."""
    model.eval()
    images, masks = faces.batch(chosen)
    with autocast(device, amp):
        logits = model(normalize(images, device))
    output = model.activate(logits).clamp(0, 1)  # tanh's can be negative
    return images.permute(0, 2, 3, 1).numpy(), masks[:, 0].numpy().astype(bool), output[:, 0].cpu().numpy()


def choose_faces(n: int, seed: int) -> list[int]:
    """Four faces at random (fewer if there are fewer): the rows of figure 3."""
    return np.random.default_rng(seed).permutation(n)[:4].tolist()


def grey(output: np.ndarray) -> np.ndarray:
    """H x W float in 0..1 -> H x W uint8, black to white."""
    return (255 * output).round().astype(np.uint8)


def draw_figure_3(path: Path, names: list[str], photos: np.ndarray, outputs: list[np.ndarray]) -> None:
    """The photo in the middle, the output of the first model (N x H x W in 0..1) on its left, of the others right."""
    rows = [[grey(left), photo, *map(grey, right)] for photo, left, *right in zip(photos, *outputs, strict=True)]
    pictures.save_grid(path, rows, column_titles=[names[0], "photo", *names[1:]], cell=2.2)


def draw_errors(path: Path, names: list[str], photos: np.ndarray, masks: np.ndarray, outputs: list[np.ndarray]) -> None:
    """Each face once per model: what it found of the mask (N x H x W bool), missed, and took for hair (at 0.5)."""
    palette = np.array([(0, 0, 0), *ERRORS.values()], np.uint8)
    rows = [[photo] for photo in photos]
    for found in (output > 0.5 for output in outputs):
        labels = 1 * (masks & found) + 2 * (masks & ~found) + 3 * (~masks & found)
        for row, label in zip(rows, labels, strict=True):
            row.append(pictures.overlay(row[0], label, palette, 0.7))
    pictures.save_grid(path, rows, column_titles=["photo", *names], legend=ERRORS, cell=2.2)


def main() -> None:
    parser = cli.Parser(__doc__)
    add = parser.add_argument_group("what to evaluate").add_argument
    add("checkpoints", nargs="+", type=Path, metavar="CHECKPOINT", help="best.pt or last.pt of a run")
    add("--data", nargs="+", metavar="PATH", help="CelebAMask-HQ folders (default: the checkpoint's)")
    add("--split", choices=["test", "all"],
        help="test: the faces that its run tested on (600: Sec. II; the default); all: every face")  # fmt: skip
    add("--pairs", type=Path, metavar="DIR", help="DIR/photos/NAME.jpg and DIR/masks/NAME.png instead, cut to squares")
    add("--error-map", action="store_true", help="also draw errors.png: found, missed, too much")
    add("--mirror", action="store_true", help="also score each network averaged with its output of the mirrored photo")
    add("--mean-mask", action="store_true",
        help="also score the mean mask of the first checkpoint's training faces, a baseline")  # fmt: skip
    add("--out", type=Path, metavar="DIR", help="default: CHECKPOINT-SPLIT beside it, as best-test or best-all-FOLDER")
    add("--cache", type=Path, default=dataset.CACHE, metavar="DIR", help="decoded faces (default: data/cache here)")
    cli.add_machine_arguments(parser)
    args = parser.parse_args()
    if args.pairs and (args.data or args.split):
        parser.error(f"--pairs and {'--data' if args.data else '--split'}: give one of the two")
    split = "pairs" if args.pairs else args.split or "test"
    others = [args.pairs] if args.pairs else args.data if args.data and split == "all" else []
    outs = result_folders(args.checkpoints, args.out, "-".join([split, *(Path(p).resolve().name for p in others)]))

    candidates, who = {}, None  # name -> file, network, what results.json says of it; whom the first is tested on
    for path, out in zip(args.checkpoints, outs, strict=True):
        network = load(path, args.device, args.amp)
        saved = network.checkpoint
        if args.pairs:
            faces, source = dataset.list_pairs(args.pairs), f"{args.pairs}, pairs"
        else:
            faces, source = faces_of(split, args.data, saved)
        tested = [face.identity for face in faces]
        if not candidates:
            first, who = saved, tested
        if tested != who or any(saved["args"][flag] != first["args"][flag] for flag in ("part", "size")):
            raise InputError(
                f"{path}: has another --part or --size, or other faces, than {args.checkpoints[0]}; evaluate them apart"
            )
        name = f"{path.resolve().parent.name}/{path.stem}"
        name = str(path) if name in candidates else name
        about = {"checkpoint": str(path)} | {key: saved[key] for key in ("epoch", "weights")}
        candidates[name] = out / "results.json", network, about
        if args.mirror:
            if (part := first["args"]["part"]) in dataset.ONE_SIDED:
                raise InputError(f"--mirror: {path} finds {part}, which is on one side; leave it out")
            both = network._replace(model=Mirrored(network.model))
            candidates[f"{name}, mirror"] = out / "results-mirror.json", both, about | {"mirror": True}
        print(f"{name}: trained to epoch {saved['epoch']} from {saved['weights']}")
        if seen := len(among(tested, saved["split"]["train"] + saved["seen"])):
            print(f"{name}: WAS TRAINED ON {seen} OF THESE {len(faces)} FACES")
    out, size, batch_size = args.out or outs[0], first["args"]["size"], first["args"]["batch_size"]
    if args.mean_mask:
        where = args.data if split == "test" else None  # --data of other faces has none that it was trained on
        train = HairMasks(faces_of("train", where, first)[0], size, args.cache)
        network = network._replace(model=MeanMask(train).to(network.device), amp=False)
        about = {"weights": f"mean mask of the {len(train)} training faces of {args.checkpoints[0]}"}
        candidates["mean training mask"] = out / "mean-mask" / "results.json", network, about

    data = HairMasks(faces, size, args.cache)
    print(f"{source}, split {split}, {len(data)} faces at {size} px, all in batches of {batch_size}\n")
    facts = {"part": first["args"]["part"], "size": size, "batch_size": batch_size}
    facts |= {"data": source, "split": split, "n": len(data)}
    results, drawn, chosen = {}, [], choose_faces(len(data), first["args"]["seed"])
    for name, (path, (model, _, device, amp), about) in candidates.items():
        results[name] = about | facts | evaluate(model, data, batch_size, device, amp)
        pictures.make_folder(path.parent)
        pictures.write_json(path, results[name])
        drawn.append(predict_faces(model, data, chosen, device, amp))
    pictures.print_table(table(results))
    print("\nThe paper's AUROC is of hair; in brackets, what it stands for if its code averaged in a zero with the\n"
          "batches, as its template does.")  # fmt: skip
    pictures.write_csv(out / "table.csv", table(results))
    (photos, *_), (masks, *_), outputs = zip(*drawn, strict=True)
    draw_figure_3(out / "figure3.png", list(results), photos, outputs)
    if args.error_map:
        draw_errors(out / "errors.png", list(results), photos, masks, outputs)
    print(f"scores -> {', '.join(str(path) for path, *_ in candidates.values())}")
    print(f"table.csv, figure3.png{', errors.png' if args.error_map else ''} -> {out}")


if __name__ == "__main__":
    cli.run(main)

"""The paper's AUROC and figure 3, with what else tells two hair masks apart: F1, IoU, edges, error maps.

    python hair_transfer/eval.py hair_transfer/runs/random/best.pt
    python hair_transfer/eval.py hair_transfer/runs/random/best.pt hair_transfer/runs/pretrained/best.pt    as figure 3
    python hair_transfer/eval.py best.pt --error-map                          also where it is wrong
    python hair_transfer/eval.py best.pt --data OTHER_FACES --split all       on other faces of CelebAMask-HQ's layout
    python hair_transfer/eval.py best.pt --pairs FOLDER                       on FOLDER/photos and FOLDER/masks

Writes results.json beside each checkpoint and table.csv, figure3.png, errors.png beside the first, or all to --out.
Pixels are pooled: counted over the whole set, divided once. The paper's AUROC is a mean over batches; it stands apart.
"""

import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from common import cli, pictures
from common.cache import fingerprint
from common.checkpoint import load_checkpoint, make_folder, restore, write_json
from common.cli import InputError
from common.data import EvalBatches, check_finite, loader
from common.device import autocast, pick_amp, pick_device, to_device
from common.distributed import sum_over_processes, world
from common.metrics import multilabel_counts, scores_from_counts
from common.tables import print_table, write_csv
from hair_transfer import dataset
from hair_transfer.dataset import HairMasks, normalize
from hair_transfer.model import DeepLabV3

PAPER = Path(__file__).resolve().parent.name
THRESHOLDS = (0.1, 0.5)  # 0.1: the public template that the paper follows; 0.5: everybody else
RANK_BITS = 20  # the AUROC sorts logits into 2^20 bins of equal width in float32's own (logarithmic) steps
BAND = 3  # pixels by which an edge may be off (ours)
# Sec. IV, as printed: the best AUROC over the test set. The template puts a zero before the scores of its batches and
# then takes the mean: for 600 images in batches of 6 that is 100/101 of the true mean over batches.
PAPER_AUROC = {"pretrained": 0.981631, "random": 0.968331}
PAPER_BATCHES = 100
ROWS = {  # results.json's name -> the table's
    "auroc": "AUROC, all pixels",
    "batch_auroc": "AUROC, mean over batches",
    "template_auroc": "AUROC, as the template averages",
    "f1_01": "F1 at 0.1",
    "f1_05": "F1 at 0.5",
    "iou": "IoU at 0.5",
    "precision": "precision at 0.5",
    "recall": "recall at 0.5",
    "boundary_f1": f"boundary F1 at 0.5, {BAND} px",
    "loss": "mean squared error",
}
ERRORS = {"found": (70, 160, 90), "missed": (250, 200, 40), "too much": (220, 40, 60)}


# ---- AUROC in one pass ---------------------------------------------------------------------------------------------


def rank_histogram(scores: Tensor, truth: Tensor) -> Tensor:
    """Scores (float32) and 0/1 truth of one shape -> 2 x 2^20 int64: how many of the 0s and of the 1s fall in each bin.

    A bin is the leading 20 bits of a score, so bins are in the order of the scores. All pixels of a training set do not
    fit into memory to be sorted; histograms do, and those of several processes add up.
    """
    bits = scores.detach().float().contiguous().view(torch.int32).flatten()
    ordered = torch.where(bits >= 0, bits, -(bits & 0x7FFFFFFF))  # integers in the order of the floats
    bins = 2**RANK_BITS
    index = (ordered >> (32 - RANK_BITS)) + bins // 2 + bins * truth.flatten().int()
    counts = torch.zeros(2 * bins, dtype=torch.int32, device=scores.device)
    return counts.scatter_add_(0, index.long(), torch.ones_like(index)).view(2, bins).long()


def rank_sums(histogram: Tensor) -> Tensor:
    """2 x bins -> 4 int64: twice the pairs (0, 1) in the right order, pairs within one bin, number of 1s, of 0s."""
    zeros, ones = histogram
    below = zeros.cumsum(0) - zeros
    return torch.stack([(ones * (2 * below + zeros)).sum(), (ones * zeros).sum(), ones.sum(), zeros.sum()])


def auroc_from_sums(sums: list[int]) -> tuple[float, float]:
    """AUROC, and how far off it can be: pairs within a bin count half, as ties do; nan if there is one class."""
    twice_right, same_bin, ones, zeros = sums
    if not ones or not zeros:
        return math.nan, math.nan
    return twice_right / (2 * ones * zeros), same_bin / (2 * ones * zeros)


# ---- Edges ---------------------------------------------------------------------------------------------------------


def edge(mask: Tensor) -> Tensor:
    """B x 1 x H x W bool -> the same: pixels of the mask with a neighbour beside, above or below that is not.

    The picture's frame is no edge: hair that the frame cuts off goes on behind it.
    """
    m = F.pad(mask.float(), (1, 1, 1, 1), mode="replicate")
    sideways = torch.minimum(m[..., 1:-1, :-2], m[..., 1:-1, 2:])
    upright = torch.minimum(m[..., :-2, 1:-1], m[..., 2:, 1:-1])
    return mask & (torch.minimum(sideways, upright) == 0)


def within(mask: Tensor, radius: int) -> Tensor:
    """B x 1 x H x W bool -> the same: pixels that lie at most `radius` pixels from one of the mask."""
    steps = torch.arange(-radius, radius + 1, device=mask.device)
    disc = (steps[:, None] ** 2 + steps**2 <= radius**2).float()
    return F.conv2d(mask.float(), disc[None, None], padding=radius) > 0.5


def edge_counts(prediction: Tensor, truth: Tensor) -> Tensor:
    """-> 4 int64: predicted edge pixels near a true one, all predicted; true ones near a predicted one, all true."""
    predicted, true = edge(prediction), edge(truth)
    near_true, near_predicted = within(true, BAND), within(predicted, BAND)
    return torch.stack([(predicted & near_true).sum(), predicted.sum(), (true & near_predicted).sum(), true.sum()])


def edge_f1(counts: list[int]) -> float:
    """nan without any edge, 0 if only one side has one."""
    precise, predicted, recalled, true = counts
    if not predicted or not true:
        return 0.0 if predicted or true else math.nan
    precision, recall = precise / predicted, recalled / true
    return 2 * precision * recall / (precision + recall) if precise and recalled else 0.0


# ---- A pass over a set ---------------------------------------------------------------------------------------------


class Tally:
    """What training and evaluation count, batch by batch, on the device and without waiting for it."""

    def __init__(self, device: torch.device):
        self.histogram = torch.zeros(2, 2**RANK_BITS, dtype=torch.int64, device=device)
        self.counts = torch.zeros(len(THRESHOLDS), 4, dtype=torch.int64, device=device)
        self.edges = torch.zeros(4, dtype=torch.int64, device=device)
        self.losses, self.sizes, self.batch_sums = [], [], []

    @torch.no_grad()
    def add(self, logits: Tensor, output: Tensor, masks: Tensor, loss: Tensor) -> None:
        """B x 1 x H x W logits, their output, the 0/1 masks, and the batch's mean squared error."""
        truth = masks.bool()
        histogram = rank_histogram(logits, truth)
        self.histogram += histogram
        self.batch_sums.append(rank_sums(histogram))
        above = torch.cat([output > threshold for threshold in THRESHOLDS], dim=1)
        self.counts += multilabel_counts(above, truth.expand_as(above))
        self.edges += edge_counts(above[:, 1:], truth)
        self.losses.append(loss.detach())
        self.sizes.append(len(masks))

    def scores(self) -> dict[str, float]:
        """Names to numbers, over all processes of torchrun; nan for what the set cannot tell."""
        auroc, error = auroc_from_sums(rank_sums(sum_over_processes(self.histogram)).tolist())
        by_batch = torch.stack(self.batch_sums).tolist() if self.batch_sums else []
        aurocs = [auroc_from_sums(sums)[0] for sums in by_batch if all(sums[2:])]
        losses = [loss.item() * size for loss, size in zip(self.losses, self.sizes, strict=True)]
        sums = [sum(losses), sum(self.sizes), sum(aurocs), len(aurocs)]
        sums = torch.tensor(sums, dtype=torch.float32, device=self.edges.device)  # of ints in a process without batches
        loss, n, batch_auroc, batches = sum_over_processes(sums).tolist()
        at = scores_from_counts(sum_over_processes(self.counts))
        return {
            "loss": loss / n,
            "auroc": auroc,
            "auroc_error": error,
            "batch_auroc": batch_auroc / batches if batches else math.nan,
            "template_auroc": batch_auroc / (batches + 1) if batches else math.nan,
            "batches": int(batches),  # those with both classes: the others have no AUROC
            "f1_01": float(at["f1"][0]),
            "f1_05": float(at["f1"][1]),
            "iou": float(at["iou"][1]),
            "precision": float(at["precision"][1]),
            "recall": float(at["recall"][1]),
            "boundary_f1": edge_f1(sum_over_processes(self.edges).tolist()),
        }


@torch.inference_mode()
def evaluate(model: nn.Module, batches: DataLoader, device: torch.device, amp: bool) -> dict[str, float]:
    """The scores of `model` over a set (see Tally); under torchrun each image is seen by one process, once."""
    model.eval()
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
    model.eval()
    images, masks = data[chosen]
    with autocast(device, amp):
        logits = model(normalize(images, device))
    output = model.activate(logits).clamp(0, 1)  # tanh's can be negative
    return images.permute(0, 2, 3, 1).numpy(), masks[:, 0].numpy().astype(bool), output[:, 0].cpu().numpy()


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
    return model.to(device, memory_format=torch.channels_last).eval(), checkpoint


def select(args, checkpoint: dict, path: Path) -> tuple[HairMasks, str]:
    """The faces to evaluate on, the checkpoint's test split unless told otherwise, and where they come from."""
    saved = checkpoint["args"]
    if args.pairs:
        return HairMasks(dataset.list_pairs(args.pairs), saved["size"], args.cache), f"{args.pairs}, pairs"
    folders, source = dataset.locate(args.data or saved["data"])
    faces = dataset.list_faces(folders, saved["part"])
    if args.split == "all":
        return HairMasks(faces[: saved["limit"] if args.data is None else None], saved["size"], args.cache), source
    keys = {tuple(key) for key in checkpoint["split"]["test"]}
    faces = [face for face in faces if tuple(face.key) in keys]
    if fingerprint(face.photo for face in faces) != checkpoint["fingerprint"]["test"]:
        raise InputError(
            f"{source}: its faces are not those of the test split of {path}; give --data the folders that it was "
            "trained on, in the same order, or --split all for other faces"
        )
    return HairMasks(faces, saved["size"], args.cache), source


def check_comparable(path: Path, checkpoint: dict, first_path: Path, first: dict, split: str) -> None:
    """Raise InputError unless two checkpoints can stand side by side: the same part, tested on the same faces."""
    if checkpoint["args"]["part"] != first["args"]["part"]:
        raise InputError(f"{path} segments {checkpoint['args']['part']}, {first_path} {first['args']['part']}")
    if split == "test" and checkpoint["fingerprint"]["test"] != first["fingerprint"]["test"]:
        raise InputError(
            f"{path} and {first_path} have other test faces; evaluate them apart, or both with --data or --pairs on "
            "faces that neither was trained on"
        )


# ---- The table -----------------------------------------------------------------------------------------------------


def table(results: dict[str, dict]) -> list[list[str]]:
    """A header and one row per score: each checkpoint's, then the paper's two, as printed and corrected."""
    rows = [["score", *results, *(f"paper, {init}" for init in PAPER_AUROC)]]
    for name, title in ROWS.items():
        ours = [r[name] for r in results.values()]
        theirs = ["" for _ in PAPER_AUROC]
        if name == "template_auroc":
            theirs = [f"{value:.6f}" for value in PAPER_AUROC.values()]
        elif name == "batch_auroc":
            theirs = [f"({value * (PAPER_BATCHES + 1) / PAPER_BATCHES:.6f})" for value in PAPER_AUROC.values()]
        rows.append([title, *("none" if math.isnan(value) else f"{value:.6f}" for value in ours), *theirs])
    return rows


def write_results(path: Path, result: dict, part: str) -> None:
    """results.json: names to numbers (null for nan), and the same by class for the one class there is."""
    numbers = {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in result.items()}
    by_class = {name: numbers[name] for name in ("iou", "precision", "recall")} | {"f1": numbers["f1_05"]}
    write_json(path, numbers | {"per_class": {part: by_class}})


# ---- Pictures ------------------------------------------------------------------------------------------------------


def grey(output: np.ndarray) -> np.ndarray:
    """H x W float in 0..1 -> H x W uint8, black to white."""
    return (255 * output).round().astype(np.uint8)


def draw_figure_3(path: Path, names: list[str], photos: np.ndarray, outputs: list[np.ndarray]) -> None:
    """The photo in the middle, the output of the first model on its left, those of the others on its right."""
    rows = [[grey(left), photo, *map(grey, right)] for photo, left, *right in zip(photos, *outputs, strict=True)]
    pictures.save_grid(path, rows, column_titles=[names[0], "photo", *names[1:]], cell=2.2)


def draw_errors(path: Path, names: list[str], photos: list[np.ndarray], masks: list[np.ndarray], outputs: list) -> None:
    """Each face once per model: what it found of the mask, what it missed, what it took for hair (at 0.5)."""
    palette = np.array([(0, 0, 0), *ERRORS.values()], np.uint8)
    columns = []
    for photo, true, output in zip(photos, masks, outputs, strict=True):
        predicted = output > 0.5
        label = 1 * (true & predicted) + 2 * (true & ~predicted) + 3 * (~true & predicted)
        columns.append([pictures.overlay(p, face, palette, 0.7) for p, face in zip(photo, label, strict=True)])
    rows = [[photo, *painted] for photo, *painted in zip(photos[0], *columns, strict=True)]
    legend = {name: np.array(color) for name, color in ERRORS.items()}
    pictures.save_grid(path, rows, column_titles=["photo", *names], legend=legend, cell=2.2)


# fmt: off
def parse_args(argv=None):
    parser = cli.Parser(__doc__)
    add = parser.add_argument
    add("checkpoints", nargs="+", type=Path, metavar="CHECKPOINT", help="best.pt or last.pt of a run")
    add("--data", type=Path, nargs="+", metavar="PATH", help="CelebAMask-HQ folders (default: the checkpoint's)")
    add("--split", choices=["test", "val", "all"], default="test",
        help="test: the checkpoint's 600 (Sec. II); val: the same, for the paper has no third part; all: every face")
    add("--pairs", type=Path, metavar="DIR",
        help="evaluate on DIR/photos/NAME.jpg and DIR/masks/NAME.png instead, the square in the middle of each")
    add("--error-map", action="store_true", help="also draw errors.png: found, missed, too much")
    add("--out", type=Path, metavar="DIR", help="default: best-test beside best.pt")
    add("--cache", type=Path, default=dataset.CACHE, metavar="DIR", help="decoded faces (default: data/cache here)")
    cli.add_machine_arguments(parser)
    args = parser.parse_args(argv)
    if args.pairs and args.data:
        parser.error("--pairs and --data: give one of the two")
    return args
# fmt: on


def main():
    args = parse_args()
    device = pick_device(args.device)
    split = "pairs" if args.pairs else "all" if args.split == "all" else "test"
    outs = [args.out or path.parent / f"{path.stem}-{split}" for path in args.checkpoints]
    if len(outs) > 1 and args.out:
        outs = [args.out / f"{path.resolve().parent.name}-{path.stem}" for path in args.checkpoints]
    if len(set(outs)) < len(outs):
        raise InputError(
            f"--out {args.out}: two of the checkpoints have the same run and file name; evaluate them one by one"
        )
    first, results, drawn = None, {}, []
    for path, out in zip(args.checkpoints, outs, strict=True):
        model, checkpoint = load_model(path, device)
        amp = pick_amp(args.amp or checkpoint["args"]["amp"], device)
        first = first or checkpoint
        check_comparable(path, checkpoint, args.checkpoints[0], first, split)
        data, source = select(args, checkpoint, path)
        make_folder(out)
        batches = loader(data, EvalBatches(len(data), checkpoint["args"]["batch_size"]), args.workers)
        name = f"{path.resolve().parent.name}/{path.stem}"
        name = str(path) if name in results else name
        results[name] = {
            "checkpoint": str(path),
            "epoch": checkpoint["epoch"],
            "weights": checkpoint["weights"],
            "part": checkpoint["args"]["part"],
            "size": checkpoint["args"]["size"],
            "data": source,
            "split": split,
            "n": len(data),
            **evaluate(model, batches, device, amp),
        }
        write_results(out / "results.json", results[name], checkpoint["args"]["part"])
        print(f"{name}: epoch {checkpoint['epoch']}, {checkpoint['args']['size']} px, from {checkpoint['weights']}")
        drawn.append(predict_faces(model, data, choose_faces(len(data), first["args"]["seed"]), device, amp))
    out = args.out or outs[0]
    error = max(result["auroc_error"] for result in results.values())
    print(f"{source}, split {split}, {len(data)} faces\n")
    print_table(table(results))
    print(f"\nAUROC over all pixels: off by {error:.0e} at most. In brackets: the paper's AUROC without the zero that\n"
          "the template averages in. The paper prints no other score.")  # fmt: skip
    photos, masks, outputs = zip(*drawn, strict=True)
    write_csv(out / "table.csv", table(results))
    draw_figure_3(out / "figure3.png", list(results), photos[0], list(outputs))
    if args.error_map:
        draw_errors(out / "errors.png", list(results), list(photos), list(masks), list(outputs))
    print(f"results.json, table.csv, figure3.png{', errors.png' if args.error_map else ''} -> {out}")


if __name__ == "__main__":
    cli.run(main)

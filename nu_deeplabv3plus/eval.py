"""Table 1 and figures 6-8: IoU, precision, recall and F1 of each part on the validation set, and pictures of the masks.

    python nu_deeplabv3plus/eval.py nu_deeplabv3plus/runs/none/best.pt
    python nu_deeplabv3plus/eval.py nu_deeplabv3plus/runs/{none,flip,flip-swap}/best.pt          side by side
    python nu_deeplabv3plus/eval.py best.pt --data OTHER_FACES --split all                        on other faces

Writes results.json, table1.csv and figure6.png to figure8.png to best-val/ beside best.pt (with --data FOLDER --split
all to best-all-FOLDER/), or to --out, where several checkpoints get a folder each and comparison.csv. Scores are
pooled: pixels are counted over the whole set and divided once. "mean over batches" is the paper's running score.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from common import cli, pictures
from common.cache import count_seen, fingerprint
from common.checkpoint import load_checkpoint, make_folder, restore, write_json
from common.cli import InputError
from common.data import EvalBatches, check_finite, loader
from common.device import autocast, for_inference, pick_amp, pick_device, to_device
from common.distributed import sum_over_processes, world
from common.losses import dice_loss
from common.metrics import batch_convention, mean_of_present, multilabel_counts, scores_from_counts
from common.tables import print_table, write_csv
from nu_deeplabv3plus import dataset
from nu_deeplabv3plus.dataset import LEGEND, PALETTE, PARTS, FaceParts, merge_masks
from nu_deeplabv3plus.model import DeepLabV3Plus

PAPER = Path(__file__).resolve().parent.name
METRICS = ("iou", "precision", "recall", "f1")
# Table 1 as printed, with its three wrong names put right (README); the paper has "about 0" for hat
TABLE_1 = {
    "skin": (0.9304, 0.9667, 0.9612, 0.9639), "nose": (0.8578, 0.9128, 0.9344, 0.9234),
    "eye_g": (0.7455, 0.9080, 0.8063, 0.8541), "l_eye": (0.7530, 0.8636, 0.8547, 0.8591),
    "r_eye": (0.7482, 0.8640, 0.8481, 0.8559), "l_brow": (0.6814, 0.7955, 0.8262, 0.8105),
    "r_brow": (0.6739, 0.7841, 0.8273, 0.8051), "l_ear": (0.6803, 0.8315, 0.7890, 0.8097),
    "r_ear": (0.6646, 0.8109, 0.7865, 0.7985), "mouth": (0.7456, 0.8673, 0.8415, 0.8542),
    "u_lip": (0.6937, 0.8129, 0.8254, 0.8191), "l_lip": (0.7585, 0.8597, 0.8656, 0.8626),
    "hair": (0.8665, 0.9274, 0.9295, 0.9284), "hat": (0.0, 0.0, 0.0, 0.0),
    "ear_r": (0.3522, 0.6528, 0.4333, 0.5209), "neck_l": (0.0327, 0.4979, 0.0338, 0.0633),
    "neck": (0.7785, 0.8849, 0.8661, 0.8754), "cloth": (0.6780, 0.8667, 0.7569, 0.8081),
}  # fmt: skip
PAPER_MEAN = (0.7255, 0.8654, 0.8134, 0.8386)  # IoU: mean of the 16 rows without hat and necklace; the others are not
NOT_IN_PAPER_MEAN = ("hat", "neck_l")
IN_PAPER_MEAN = np.array([part not in NOT_IN_PAPER_MEAN for part in PARTS])


def scale(images: Tensor, device: torch.device) -> Tensor:
    """B x 3 x H x W uint8 -> float32 in [0, 1] on the device, and nothing more (Sec. 3.2): no mean, no deviation."""
    return to_device(images, device).contiguous().float() / 255


@torch.inference_mode()
def evaluate(model: nn.Module, batches: DataLoader, device: torch.device, amp: bool) -> dict[str, float | Tensor]:
    """Loss and scores of `model` over a set.

    loss, iou, f1: the paper's convention, a mean over batches. counts: 18 x 4 int64 (TP, FP, FN, TN), pooled over the
    set; summed over the processes of torchrun, each of which sees every image of its batches once.
    """
    model = for_inference(model, amp)
    losses, counts = [], [torch.zeros(0, len(PARTS), 4, dtype=torch.int64, device=device)]
    for images, masks in tqdm(
        batches, "evaluating", leave=False, disable=None if world()[0] == 0 else True, unit="batch"
    ):
        masks = to_device(masks, device)
        with autocast(device, amp):
            logits = model(scale(images, device))
        losses.append(dice_loss(logits, masks))
        counts.append(multilabel_counts(logits > 0, masks)[None])  # sigmoid > 0.5
    check_finite(losses, batches, "validation")
    counts = torch.cat(counts)  # batches 18 4; the empty first one is there because a process may have no batch
    iou, f1 = batch_convention(counts)
    n, loss = torch.tensor(float(len(losses)), device=device), sum(losses, torch.zeros((), device=device))
    n, loss, iou, f1 = sum_over_processes(torch.stack([n, loss, iou.sum(), f1.sum()])).tolist()
    return {"loss": loss / n, "iou": iou / n, "f1": f1 / n, "counts": sum_over_processes(counts.sum(0)).cpu()}


def summarize(result: dict) -> dict:
    """evaluate()'s result -> results.json: names to numbers, per_class, and means over 18, present and 16 parts."""
    scores = scores_from_counts(result["counts"])
    summary = {"loss": result["loss"], "iou_mean_over_batches": result["iou"], "f1_mean_over_batches": result["f1"]}
    for metric in METRICS:
        for name, rows in (("18", slice(None)), ("present", scores["support"] > 0), ("16", IN_PAPER_MEAN)):
            mean, left_out = mean_of_present(scores[metric][rows])
            summary[f"{metric}_{name}"] = None if np.isnan(mean) else mean
            if name != "present":
                summary[f"{metric}_{name}_left_out"] = left_out
    summary["parts_present"] = int((scores["support"] > 0).sum())
    summary["per_class"] = {
        part: {m: None if np.isnan(scores[m][c]) else float(scores[m][c]) for m in METRICS}
        | {"support": int(scores["support"][c])}
        for c, part in enumerate(PARTS)
    }
    return summary


def cell(score: float | None) -> str:
    """A score with four decimals, or that its part is absent from the set."""
    return "absent" if score is None else f"{score:.4f}"


def table(summary: dict) -> list[list[str]]:
    """Table 1: a header and rows of part, ours x 4, support in pixels, the paper's x 4."""
    rows = [["part", *METRICS, "support", *(f"paper {m}" for m in METRICS)]]
    for part in PARTS:
        ours = summary["per_class"][part]
        numbers = [cell(ours[m]) for m in METRICS]
        rows.append([part, *numbers, str(ours["support"]), *(f"{x:.4f}" for x in TABLE_1[part])])
    paper = np.array(list(TABLE_1.values()))
    present = f"mean, {summary['parts_present']} present parts"
    for name, suffix, theirs in (
        ("mean, 18 parts", "18", paper.mean(0)),
        (present, "present", []),
        ("mean, 16 parts", "16", paper[IN_PAPER_MEAN].mean(0)),
    ):
        numbers = [cell(summary[f"{m}_{suffix}"]) for m in METRICS]
        absent = summary.get(f"iou_{suffix}_left_out")
        name = f"{name}, {absent} absent" if absent else name
        rows.append([name, *numbers, "", *(f"{x:.4f}" for x in theirs)] + [""] * (len(METRICS) - len(theirs)))
    rows.append(["mean as printed", *[""] * 5, *(f"{x:.4f}" for x in PAPER_MEAN)])
    return rows


def load_model(path: Path, device: torch.device) -> tuple[DeepLabV3Plus, dict]:
    """The network of a checkpoint, ready to evaluate, and the checkpoint."""
    checkpoint = load_checkpoint(path, PAPER)
    model = DeepLabV3Plus(num_classes=len(PARTS))
    restore(path, lambda: model.load_state_dict(checkpoint["model"]))
    return model.to(device).eval(), checkpoint


def select(
    data: Path | None, split: str, checkpoint: dict, path: Path, cache: Path
) -> tuple[FaceParts, str, Path, str]:
    """The faces to evaluate on (the checkpoint's unless told otherwise), their fingerprint, folder and its name."""
    args = checkpoint["args"]
    folder, source = dataset.locate(data or (args["data"] and Path(args["data"])))
    limit = args["limit"] if split == "val" else None  # the split was drawn from the first faces
    arrays, faces = dataset.load(folder, args["size"], cache, limit)
    if split == "all":
        if known := count_seen([face.photo for face in faces], checkpoint.get("trained_on", ())):
            source += f" (THE NETWORK WAS TRAINED ON {known} OF ITS {len(faces)} FACES)"
        return FaceParts(arrays, list(range(len(faces))), faces), fingerprint(dataset.files(faces)), folder, source
    ids = set(checkpoint["split"]["val"])
    positions = [i for i, face in enumerate(faces) if face.id in ids]
    seen = fingerprint(dataset.files([faces[i] for i in positions]))
    if seen != checkpoint["fingerprint"]["val"]:
        raise InputError(
            f"{folder}: its faces or masks are not those of the validation split of {path}; give --data the folder "
            "that it was trained on, or --split all for other faces"
        )
    return FaceParts(arrays, positions, faces), seen, folder, source


@torch.inference_mode()
def predict_faces(
    model: nn.Module, data: FaceParts, chosen: list[int], device: torch.device, amp: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The chosen faces -> photos N x H x W x 3 uint8, true and predicted masks N x 18 x H x W bool."""
    model = for_inference(model, amp)
    images, masks = data[chosen]
    with autocast(device, amp):
        predicted = (model(scale(images, device)) > 0).cpu().numpy()
    return images.permute(0, 2, 3, 1).numpy(), masks.numpy().astype(bool), predicted


def choose_faces(n: int, seed: int) -> list[int]:
    """Five faces at random: one each for figures 6 and 7, three for figure 8 (fewer if there are fewer)."""
    return np.random.default_rng(seed).permutation(n)[:5].tolist()


def draw_masks(path: Path, name: str, photo: np.ndarray, true: np.ndarray, predicted: np.ndarray) -> None:
    """Figures 6 and 7: the 18 masks of a face one by one, the true ones above the predicted.

    photo: H x W x 3 uint8; true, predicted: 18 x H x W bool.
    """
    rows, titles = [], []
    for first in (0, 9):
        half = slice(first, first + 9)
        rows += [[photo if first == 0 else None, *true[half]], [None, *predicted[half]]]
        titles += [[name, *PARTS[half]], ["", *(f"predicted {part}" for part in PARTS[half])]]
    pictures.save_grid(path, rows, titles=titles, cell=1.1)


def draw_overlays(path: Path, photos: np.ndarray, true: np.ndarray, predicted: np.ndarray) -> None:
    """Figure 8: faces with all their parts together, true and predicted.

    photos: N x H x W x 3 uint8; true, predicted: N x 18 x H x W bool.
    """
    rows = []
    for photo, *masks in zip(photos, true, predicted, strict=True):
        labels = [merge_masks(parts) for parts in masks]
        rows.append([photo, *(pictures.overlay(photo, label, PALETTE) for label in labels)])
    pictures.save_grid(path, rows, column_titles=["photo", "true", "predicted"], legend=LEGEND, cell=2)


# fmt: off
def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The arguments."""
    parser = cli.Parser(__doc__)
    add = parser.add_argument_group("what to evaluate").add_argument
    add("checkpoints", nargs="+", type=Path, metavar="CHECKPOINT", help="best.pt or last.pt of a run")
    add("--data", type=Path, metavar="PATH", help="CelebAMask-HQ folder (default: the checkpoint's)")
    add("--split", choices=["val", "test", "all"], default="val",
        help="val: the checkpoint's 20 %% (Sec. 3.2); test: the same, for the paper has no third part; all: every "
             "face of the folder, those that it was trained on too")
    add("--out", type=Path, metavar="DIR", help="default: CHECKPOINT-SPLIT beside it, as best-val or best-all-FOLDER")
    add("--cache", type=Path, default=dataset.CACHE, metavar="DIR", help="decoded faces (default: data/cache here)")
    cli.add_machine_arguments(parser)
    return parser.parse_args(argv)
# fmt: on


def main() -> None:
    args = parse_args()
    device = pick_device(args.device)
    split = "all" if args.split == "all" else "val"
    name = f"all-{args.data.resolve().name}" if args.data and split == "all" else split
    outs = [args.out or path.parent / f"{path.stem}-{name}" for path in args.checkpoints]
    if len(outs) > 1 and args.out:
        outs = [args.out / f"{path.resolve().parent.name}-{path.stem}" for path in args.checkpoints]
    twice = [str(path) for path, out in zip(args.checkpoints, outs, strict=True) if outs.count(out) > 1]
    if twice:
        raise InputError(f"{' and '.join(twice)}: would write to the same folder; evaluate them one by one")
    loaded = [load_model(path, device) for path in args.checkpoints]
    selected = [
        select(args.data, split, checkpoint, path, args.cache)
        for path, (_, checkpoint) in zip(args.checkpoints, loaded, strict=True)
    ]
    facts = [
        (checkpoint["args"]["size"], seen) for (_, checkpoint), (_, seen, *_) in zip(loaded, selected, strict=True)
    ]
    for path, of_path in zip(args.checkpoints, facts, strict=True):
        if of_path != facts[0]:
            raise InputError(
                f"{path}: has another --size, or other {split} faces or masks, than {args.checkpoints[0]}, and cannot "
                "stand beside it; evaluate them apart"
            )
    summaries = {}
    for path, out, (model, checkpoint), (data, _, folder, source) in zip(
        args.checkpoints, outs, loaded, selected, strict=True
    ):
        amp = pick_amp(args.amp or checkpoint["args"]["amp"], device)
        make_folder(out)
        batches = loader(data, EvalBatches(len(data), checkpoint["args"]["batch_size"]), args.workers)
        summary = {
            "checkpoint": str(path),
            "epoch": checkpoint["epoch"],
            "weights": checkpoint["weights"],
            "data": folder.name,
            "split": split,
            "n": len(data),
        }
        summary |= summarize(evaluate(model, batches, device, amp))
        print(f"\n{path}, epoch {checkpoint['epoch']}, weights {checkpoint['weights']}")
        print(f"{source}, split {split}, {len(data)} faces")
        print_table(table(summary))
        running = summary["iou_mean_over_batches"]
        print(f"dice loss {summary['loss']:.4f}, IoU as a mean over batches {running:.4f} -> {out}", flush=True)
        write_csv(out / "table1.csv", table(summary))
        write_json(out / "results.json", summary)
        chosen = choose_faces(len(data), checkpoint["args"]["seed"])
        photos, true, predicted = predict_faces(model, data, chosen, device, amp)
        for i, face in enumerate(chosen[:2]):
            draw_masks(out / f"figure{6 + i}.png", data.name(face), photos[i], true[i], predicted[i])
        draw_overlays(out / "figure8.png", photos[-3:], true[-3:], predicted[-3:])
        summaries[str(path)] = summary
    if len(summaries) > 1:
        print("\nIoU side by side")
        rows = [["part", *summaries]]
        for part in PARTS:
            rows.append([part, *(cell(s["per_class"][part]["iou"]) for s in summaries.values())])
        for suffix in ("18", "present", "16"):
            rows.append([f"mean, {suffix}", *(cell(s[f"iou_{suffix}"]) for s in summaries.values())])
        print_table(rows)
        if args.out:
            write_csv(args.out / "comparison.csv", rows)


if __name__ == "__main__":
    cli.run(main)

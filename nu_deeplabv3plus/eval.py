"""Table 1 and figures 6-8: IoU, precision, recall and F1 of each part on the validation set, and pictures of the masks.

    python nu_deeplabv3plus/eval.py nu_deeplabv3plus/runs/none/best.pt
    python nu_deeplabv3plus/eval.py nu_deeplabv3plus/runs/{none,flip,flip-swap}/best.pt          side by side
    python nu_deeplabv3plus/eval.py best.pt --data OTHER_FACES --split all                        on other faces

Writes results.json, table1.csv and figure6.png to figure8.png to best-val/ beside best.pt (with --data FOLDER --split
all to best-all-FOLDER/), or to --out, where several checkpoints get a folder each. Scores are pooled: pixels are
counted over the whole set and divided once. "mean over batches" is the paper's running score.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from torch import Tensor, nn

from common import cli, pictures
from common.celebamask import NAMES, PARTS, list_celebamask
from common.cli import InputError
from common.data import among, check_finite, find, in_order, progress
from common.device import autocast, sum_over_processes, to_device
from common.losses import dice_loss
from common.metrics import batch_convention, mean_of_present, multilabel_counts, scores_from_counts
from common.run import Trained, load_checkpoint, result_folders, trained
from nu_deeplabv3plus import dataset
from nu_deeplabv3plus.dataset import HERE, LEGEND, PALETTE, FaceParts, merge_masks
from nu_deeplabv3plus.model import DeepLabV3Plus

METRICS = ("iou", "precision", "recall", "f1")
# Table 1 as printed, with its three wrong names put right (NOTES.md); the paper has "about 0" for hat
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
IN_PAPER_MEAN = np.array([part not in ("hat", "neck_l") for part in PARTS])


def scale(images: Tensor, device: torch.device) -> Tensor:
    """B x 3 x H x W uint8 -> float32 in [0, 1] on the device, and nothing more (Sec. 3.2): no mean, no deviation."""
    return to_device(images, device).contiguous().float() / 255


@torch.inference_mode()
def evaluate(model: nn.Module, faces: FaceParts, batch_size: int, device: torch.device, amp: bool) -> dict:
    """loss, iou, f1: means over batches, as the paper's; counts 18 x 4 int64 (TP, FP, FN, TN) pooled over the set."""
    model.eval()
    batches = in_order(len(faces), batch_size)
    losses, counts = [], [torch.zeros(0, len(PARTS), 4, dtype=torch.int64, device=device)]
    for batch in progress(batches, "evaluating"):
        images, masks = faces.batch(batch)
        masks = to_device(masks, device)
        with autocast(device, amp):
            logits = model(scale(images, device))
        losses.append(dice_loss(logits, masks))
        counts.append(multilabel_counts(logits > 0, masks)[None])  # sigmoid > 0.5
    check_finite(losses, batches, faces.names, "validation")
    counts = torch.cat(counts)  # batches 18 4; the empty first one is there because a process may have no batch
    iou, f1 = batch_convention(counts)
    n, loss = torch.tensor(float(len(losses)), device=device), sum(losses, torch.zeros((), device=device))
    n, loss, iou, f1 = sum_over_processes(torch.stack([n, loss, iou.sum(), f1.sum()])).tolist()
    return {"loss": loss / n, "iou": iou / n, "f1": f1 / n, "counts": sum_over_processes(counts.sum(0)).cpu()}


def pooled_iou(counts: Tensor) -> float:
    """18 x 4 counts -> mean IoU of the parts that the set has or the network found."""
    return mean_of_present(scores_from_counts(counts)["iou"])[0]


def summarize(result: dict) -> dict:
    """evaluate()'s result -> results.json: names to numbers, per_class, and means over 18, present and 16 parts."""
    scores = scores_from_counts(result["counts"])
    summary = {"loss": result["loss"], "iou_mean_over_batches": result["iou"], "f1_mean_over_batches": result["f1"]}
    for metric in METRICS:
        for name, rows in (("18", slice(None)), ("present", scores["support"] > 0), ("16", IN_PAPER_MEAN)):
            summary[f"{metric}_{name}"], summary[f"{metric}_{name}_left_out"] = mean_of_present(scores[metric][rows])
    summary["parts_present"] = int((scores["support"] > 0).sum())
    summary["per_class"] = {
        part: {m: float(scores[m][c]) for m in METRICS} | {"support": int(scores["support"][c])}
        for c, part in enumerate(PARTS)
    }
    return summary


def cell(score: float) -> str:
    """A score with four decimals, or that its part is absent from the set."""
    return "absent" if np.isnan(score) else f"{score:.4f}"


def table(summary: dict) -> list[list[str]]:
    """Table 1: a header and rows of part, ours x 4, support in pixels, the paper's x 4."""
    rows = [["part", *METRICS, "support", *(f"paper {m}" for m in METRICS)]]
    for part, paper in TABLE_1.items():
        ours = summary["per_class"][part]
        rows.append([part, *(cell(ours[m]) for m in METRICS), str(ours["support"]), *map(cell, paper)])
    paper = np.array(list(TABLE_1.values()))
    for n, theirs in (("18", paper.mean(0)), ("16", paper[IN_PAPER_MEAN].mean(0))):
        absent = summary[f"iou_{n}_left_out"]
        name = f"mean, {n} parts" + (f", {absent} absent" if absent else "")
        rows.append([name, *(cell(summary[f"{m}_{n}"]) for m in METRICS), "", *map(cell, theirs)])
    rows.append(["mean as printed", *[""] * 5, *map(cell, PAPER_MEAN)])
    return rows


def load(path: str | Path, device: str = "auto", amp: str | None = None) -> Trained:
    """The network of a checkpoint, ready to use; raises InputError if it is not one of this folder."""
    return trained(DeepLabV3Plus(num_classes=len(PARTS)), load_checkpoint(Path(path), HERE.name), device, amp)


@torch.inference_mode()
def predict_faces(
    model: nn.Module, faces: FaceParts, chosen: list[int], device: torch.device, amp: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The chosen faces -> photos N x H x W x 3 uint8, true and predicted masks N x 18 x H x W bool."""
    model.eval()
    images, masks = faces.batch(chosen)
    with autocast(device, amp):
        predicted = (model(scale(images, device)) > 0).cpu().numpy()
    return images.permute(0, 2, 3, 1).numpy(), masks.numpy().astype(bool), predicted


def choose_faces(n: int, seed: int) -> list[int]:
    """Five faces at random: one each for figures 6 and 7, three for figure 8 (fewer if there are fewer)."""
    return np.random.default_rng(seed).permutation(n)[:5].tolist()


def draw_masks(path: Path, name: str, photo: np.ndarray, true: np.ndarray, predicted: np.ndarray) -> None:
    """Figures 6 and 7: the 18 masks of a face one by one, the true ones above the predicted (18 x H x W bool)."""
    rows, titles = [], []
    for half in (slice(0, 9), slice(9, 18)):
        rows += [[photo if half.start == 0 else None, *true[half]], [None, *predicted[half]]]
        titles += [[name, *list(NAMES.values())[half]], ["", *["predicted"] * 9]]
    pictures.save_grid(path, rows, titles=titles, cell=1.1)


def draw_overlays(path: Path, photos: np.ndarray, true: np.ndarray, predicted: np.ndarray) -> None:
    """Figure 8: N faces with all their parts together, true and predicted (N x 18 x H x W bool)."""
    faces = zip(photos, true, predicted, strict=True)
    rows = [[face, *(pictures.overlay(face, merge_masks(m), PALETTE) for m in masks)] for face, *masks in faces]
    pictures.save_grid(path, rows, column_titles=["photo", "true", "predicted"], legend=LEGEND, cell=2)


def main() -> None:
    parser = cli.Parser(__doc__)
    add = parser.add_argument_group("what to evaluate").add_argument
    add("checkpoints", nargs="+", type=Path, metavar="CHECKPOINT", help="best.pt or last.pt of a run")
    add("--data", metavar="PATH", help="CelebAMask-HQ folder (default: the checkpoint's)")
    add("--split", choices=["val", "all"], default="val", help="val: the run's 20 %% (Sec. 3.2); all: every face")
    add("--out", type=Path, metavar="DIR", help="default: CHECKPOINT-SPLIT beside it, as best-val or best-all-FOLDER")
    add("--cache", type=Path, default=dataset.CACHE, metavar="DIR", help="decoded faces (default: data/cache here)")
    cli.add_machine_arguments(parser)
    args = parser.parse_args()
    name = f"all-{Path(args.data).resolve().name}" if args.data and args.split == "all" else args.split
    outs = result_folders(args.checkpoints, args.out, name)
    summaries, first = {}, None
    for path, out in zip(args.checkpoints, outs, strict=True):
        model, saved, device, amp = load(path, args.device, args.amp)
        folder, source = dataset.locate(saved.data(args.data))
        faces = list_celebamask(folder)
        if args.split == "val":
            faces = find(saved["split"]["val"], faces, source)
        size, who = saved["args"]["size"], [face.identity for face in faces]
        first = first or (size, who)
        if (size, who) != first:
            raise InputError(
                f"{path}: has another --size, or other faces or masks, than {args.checkpoints[0]}; evaluate them apart"
            )
        if seen := len(among(who, saved["split"]["train"])):
            source += f" (THE NETWORK WAS TRAINED ON {seen} OF ITS {len(faces)} FACES)"
        names = [face.photo.name for face in faces]
        data = FaceParts(dataset.load(faces, size, args.cache), list(range(len(faces))), names)
        summary = {"checkpoint": str(path), "epoch": saved["epoch"], "weights": saved["weights"]}
        summary |= {"data": source, "split": args.split, "n": len(data)}
        summary |= summarize(evaluate(model, data, saved["args"]["batch_size"], device, amp))
        print(f"\n{path}, epoch {saved['epoch']}, weights {saved['weights']}")
        print(f"{source}, split {args.split}, {len(data)} faces")
        pictures.print_table(table(summary))
        running = summary["iou_mean_over_batches"]
        print(f"dice loss {summary['loss']:.4f}, IoU as a mean over batches {running:.4f} -> {out}", flush=True)
        pictures.make_folder(out)
        pictures.write_csv(out / "table1.csv", table(summary))
        pictures.write_json(out / "results.json", summary)
        chosen = choose_faces(len(data), saved["args"]["seed"])
        photos, true, predicted = predict_faces(model, data, chosen, device, amp)
        for i, face in enumerate(chosen[:2]):
            draw_masks(out / f"figure{6 + i}.png", names[face], photos[i], true[i], predicted[i])
        draw_overlays(out / "figure8.png", photos[-3:], true[-3:], predicted[-3:])
        summaries[str(path)] = summary
    if len(summaries) > 1:
        print("\nIoU side by side")
        rows = [["part", *summaries]]
        rows += [[part, *(cell(s["per_class"][part]["iou"]) for s in summaries.values())] for part in PARTS]
        rows += [[f"mean, {n} parts", *(cell(s[f"iou_{n}"]) for s in summaries.values())] for n in ("18", "16")]
        pictures.print_table(rows)


if __name__ == "__main__":
    cli.run(main)

"""mIoU, F1 and IoU of each class beside the paper's headline, and figures 4 and 5.

    python masked_ssl/eval.py masked_ssl/runs/pretrained/best.pt
    python masked_ssl/eval.py masked_ssl/runs/{random,pretrained}/last.pt --out both     side by side, as figure 4
    python masked_ssl/eval.py last.pt --data OTHER_FACES --split all                     on other faces

Writes results.json, table.csv, figure4.png and figure5.png (the 16 activation maps) to best-test/ beside each
checkpoint (with --data best-test-FOLDER/), or to --out; several checkpoints get a folder each in --out, and with them
comparison.csv and both networks' figure4.png and figure5.png. Scores are in per cent, of one confusion matrix over all
pixels of the set, at the size that the network was trained at; pixels beyond a photo's edge do not count.
"""

import sys
from argparse import Namespace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from torch import Tensor, nn

from common import cli, pictures
from common.cli import InputError
from common.data import among, find, in_order, progress
from common.device import autocast, sum_over_processes, to_device
from common.metrics import confusion_matrix, counts_from_confusion, mean_of_present, scores_from_counts
from common.run import Checkpoint, Trained, load_checkpoint, result_folders, trained
from masked_ssl import dataset
from masked_ssl.classes import LAYOUTS, legend, palette
from masked_ssl.dataset import IGNORED, FaceLabels, normalize
from masked_ssl.model import Network
from masked_ssl.splits import HERE, locate

PAPER = {  # Abstract, where the baseline is 5.02 lower, and Discussions
    LAYOUTS["lapa"]: "LaPa, 0.2 % of the labels: mIoU 74.41 with pretraining, 69.39 without",
    LAYOUTS["celebamask"]: "necklace 0.00 to 0.01 in three others, poor without pretraining, found with it",
}
MEANS = {"miou": "mIoU", "miou_foreground": "mIoU, foreground", "f1": "mean F1, foreground"}  # results.json's, tables'


@torch.inference_mode()
def evaluate(model: nn.Module, faces: FaceLabels, batch_size: int, device: torch.device, amp: bool) -> Tensor:
    """C x C int64, row = truth: the pixels of a whole set; under torchrun each image is seen by one process, once."""
    model.eval()
    C = model.decoder.out_channels
    matrix = torch.zeros(C, C, dtype=torch.int64, device=device)
    for batch in progress(in_order(len(faces), batch_size), "evaluating"):
        images, labels = faces.batch(batch)
        with autocast(device, amp):
            logits = model(normalize(images, device))
        matrix += confusion_matrix(logits.argmax(1), to_device(labels, device), C)
    return sum_over_processes(matrix).cpu()


def summarize(matrix: Tensor, classes: tuple[str, ...]) -> dict:
    """evaluate()'s matrix -> names to per cent: miou and miou_foreground, f1 (foreground), per_class.

    A class with no pixel in truth and prediction is left out of the means (`absent` counts it); one that is there and
    never found, or found and never there, counts 0.
    """
    scores = scores_from_counts(counts_from_confusion(matrix))
    iou, f1 = 100 * scores["iou"], 100 * scores["f1"]
    miou, absent = mean_of_present(iou)
    return {
        "miou": miou,
        "miou_foreground": mean_of_present(iou[1:])[0],
        "f1": mean_of_present(f1[1:])[0],
        "absent": absent,
        "per_class": {
            name: {"f1": float(f1[c]), "iou": float(iou[c]), "support": int(scores["support"][c])}
            for c, name in enumerate(classes)
        },
    }


def cell(score: float) -> str:
    """A score with two decimals, or that its class is absent."""
    return "absent" if np.isnan(score) else f"{score:.2f}"


def table(summary: dict) -> list[list[str]]:
    """A header and one row per class and mean: F1 and IoU, share of the pixels, all in %."""
    pixels = sum(row["support"] for row in summary["per_class"].values())
    rows = [["class", "F1", "IoU", "pixels, %"]]
    for name, ours in summary["per_class"].items():
        rows.append([name, cell(ours["f1"]), cell(ours["iou"]), f"{100 * ours['support'] / pixels:.3f}"])
    rows.append(["mean, foreground", cell(summary["f1"]), cell(summary["miou_foreground"]), ""])
    rows.append(["mean, all classes", "", cell(summary["miou"]), ""])
    return rows


def compare(summaries: dict[str, dict], classes: tuple[str, ...]) -> list[list[str]]:
    """A header and rows of F1 by class, then the means: one column per checkpoint."""
    rows = [["class", *summaries]]
    rows += [[name, *(cell(s["per_class"][name]["f1"]) for s in summaries.values())] for name in classes]
    means = reversed(MEANS.items())  # F1 first, as above
    return rows + [[title, *(cell(s[key]) for s in summaries.values())] for key, title in means]


# ---- Checkpoints and data ------------------------------------------------------------------------------------------


def load(path: str | Path, device: str = "auto", amp: str | None = None) -> Trained:
    """The network of a checkpoint of step 2, ready to use; raises InputError if it is not one."""
    checkpoint = load_checkpoint(Path(path), HERE.name)
    if checkpoint["stage"] != "finetune":
        raise InputError(f"{path}: a checkpoint of pretrain.py, which has learned no classes; give one of train.py")
    return trained(Network(len(checkpoint["classes"])), checkpoint, device, amp)


def select(args: Namespace, checkpoint: Checkpoint) -> tuple[FaceLabels, list[str], dict]:
    """The faces that a checkpoint is evaluated on, its test split unless told otherwise; their identities; and for
    results.json where they come from, how many of them step 2 has learned from, and how many others step 1 has seen,
    without their labels.

    Raises InputError for val or test faces that step 2 has learned from, and for test faces that step 1 has seen.
    """
    was, path = checkpoint["args"], checkpoint.path
    data = locate(checkpoint.data(args.data), None if args.data or args.split == "all" else was["limit"])
    classes = tuple(checkpoint["classes"])
    if classes != LAYOUTS[data.layout]:
        raise InputError(
            f"{data.folder}: has {data.layout}'s {len(LAYOUTS[data.layout])} classes, {path} was trained on "
            f"{len(classes)} others; give data of that kind"
        )
    faces = [f for part in data.parts.values() for f in part] if args.split == "all" else data.parts[args.split]
    if args.split != "all" and not args.data:
        faces = find(checkpoint["split"][args.split], faces, str(data.folder))
    who = [face.identity for face in faces]
    learned = among(who, checkpoint["split"]["train"])
    seen = among(sorted(set(who) - set(learned)), checkpoint["pool"])
    for known, parts, words in ((learned, ("val", "test"), "was trained on"), (seen, ("test",), "saw in step 1")):
        if known and args.split in parts:
            raise InputError(
                f"{data.folder}: {path} {words} {len(known)} of its {args.split} faces, such as "
                f"{known[0].split(':')[0]}; give --data another folder, or --split all to count them in"
            )
    arrays = dataset.load(faces, was["size"], classes, args.cache, f"{args.split} faces")
    labels = FaceLabels(arrays, [face.photo.name for face in faces], classes)
    words = f"{data.words}, {args.split}, {len(faces)} faces"
    return labels, who, {"data": words, "learned_in_step_2": len(learned), "seen_in_step_1": len(seen)}


# ---- Pictures ------------------------------------------------------------------------------------------------------


def choose_faces(faces: FaceLabels, classes: tuple[str, ...], n: int = 4) -> list[int]:
    """n faces spread over the set; the last ones have most of a necklace, if any has (figure 5's question)."""
    spread = np.linspace(0, len(faces) - 1, min(n, len(faces))).round().astype(int).tolist()
    if "neck_l" in classes:
        necklace = classes.index("neck_l")
        pixels = [(labels == necklace).sum() for labels in faces.arrays["labels"]]
        richest = [int(i) for i in np.argsort(pixels)[::-1][: n // 2] if pixels[i]]
        spread = [i for i in spread if i not in richest][: n - len(richest)] + richest
    return spread


@torch.inference_mode()
def predict_faces(
    model: Network, faces: FaceLabels, chosen: list[int], device: torch.device, amp: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The chosen faces -> photos N H W 3, true and predicted labels N H W (uint8), the encoder's features N 16 H W."""
    model.eval()
    images, labels = faces.batch(chosen)
    with autocast(device, amp):
        features = model.encoder(normalize(images, device))
        predicted = model.decoder(features).argmax(1).byte()
    photos, truth = images.permute(0, 2, 3, 1).numpy(), labels.numpy().copy()
    truth[truth == IGNORED] = 0
    return photos, truth, predicted.cpu().numpy(), features.float().cpu().numpy()


def draw_figure_4(
    path: Path, photos: np.ndarray, truth: np.ndarray, predictions: dict[str, np.ndarray], classes: tuple[str, ...]
) -> None:
    """Photos N H W 3, what each network makes of them and the truth, N H W labels."""
    rows = []
    for i, photo in enumerate(photos):
        labels = [predicted[i] for predicted in predictions.values()] + [truth[i]]
        rows.append([photo, *(pictures.overlay(photo, label, palette(classes), 0.75) for label in labels)])
    titles = ["photo", *predictions, "true"]
    pictures.save_grid(path, rows, column_titles=titles, legend=legend(classes), cell=2)


def draw_figure_5(
    path: Path, photos: np.ndarray, predictions: dict[str, np.ndarray], maps: dict[str, np.ndarray],
    classes: tuple[str, ...],
) -> None:  # fmt: skip
    """The last two faces: of each network its prediction (N H W) and its encoder's 16 channels (N 16 H W).

    Black is 0, where the last ReLU puts what is not activated, and white the largest value of a face's 16 maps.
    """
    rows, titles = [], []
    for i in range(max(0, len(photos) - 2), len(photos)):
        for name in maps:
            grey = (255 * maps[name][i] / max(maps[name][i].max(), 1e-6)).round().astype(np.uint8)
            painted = pictures.overlay(photos[i], predictions[name][i], palette(classes), 0.75)
            rows += [[photos[i], *grey[:8]], [painted, *grey[8:]]]
            titles += [[name, *map(str, range(8))], ["prediction", *map(str, range(8, 16))]]
    pictures.save_grid(path, rows, titles=titles, cell=1.3)


def main() -> None:
    parser = cli.Parser(__doc__)
    add = parser.add_argument_group("what to evaluate").add_argument
    add("checkpoints", nargs="+", type=Path, metavar="CHECKPOINT", help="best.pt or last.pt of runs of train.py")
    add("--data", metavar="PATH", help="LaPa's or CelebAMask-HQ's folder (default: the checkpoint's)")
    add("--split", choices=["test", "val", "all"], default="test",
        help="test: the paper's; all: every face, those it was trained on too")  # fmt: skip
    add("--out", type=Path, metavar="DIR", help="default: best-test beside best.pt, with --data best-test-FOLDER")
    add("--cache", type=Path, default=dataset.CACHE, metavar="DIR", help="decoded pictures (default: data/cache here)")
    cli.add_machine_arguments(parser)
    args = parser.parse_args()
    where = args.split + (f"-{Path(args.data).resolve().name}" if args.data else "")
    outs = result_folders(args.checkpoints, args.out, where)
    networks = [load(path, args.device, args.amp) for path in args.checkpoints]
    selected = [select(args, network.checkpoint) for network in networks]
    first, everybody = networks[0].checkpoint, selected[0][1]
    for network, (_, who, _) in zip(networks, selected, strict=True):
        path, size = network.checkpoint.path, network.checkpoint["args"]["size"]
        if size != first["args"]["size"] or who != everybody:
            raise InputError(f"{path}: has another size, or other faces, than {first.path}; evaluate them apart")
    classes, summaries, drawn, maps = tuple(first["classes"]), {}, {}, {}
    for out, network, (faces, _, facts) in zip(outs, networks, selected, strict=True):
        model, checkpoint, device, amp = network
        path, was = checkpoint.path, checkpoint["args"]
        name = f"{path.resolve().parent.name}/{path.stem}"
        name = str(path) if name in summaries else name
        summary = {"checkpoint": str(path), "epoch": checkpoint["epoch"], "weights": checkpoint["weights"]}
        summary |= {"labels": len(checkpoint["split"]["train"]), "fraction": was["fraction"], "size": was["size"]}
        summary |= facts | summarize(evaluate(model, faces, was["batch_size"], device, amp), classes)
        learned, seen = facts["learned_in_step_2"], facts["seen_in_step_1"]
        known = f"; {learned} OF THEM IT LEARNED FROM" if learned else ""
        known += f"; step 1 has seen {seen} of them, without their labels" if seen else ""
        print(f"\n{path}, epoch {summary['epoch']}, {summary['labels']} labels, {was['size']} px, from "
              f"{summary['weights']}\n{facts['data']}{known}")  # fmt: skip
        pictures.print_table(table(summary))
        pictures.write_csv(pictures.make_folder(out) / "table.csv", table(summary))
        pictures.write_json(out / "results.json", summary)
        chosen = choose_faces(faces, classes)
        photos, truth, drawn[name], maps[name] = predict_faces(model, faces, chosen, device, amp)
        draw_figure_4(out / "figure4.png", photos, truth, {name: drawn[name]}, classes)
        draw_figure_5(out / "figure5.png", photos, drawn, {name: maps[name]}, classes)
        print(f"results.json, table.csv, figure4.png, figure5.png -> {out}", flush=True)
        summaries[name] = summary
    print(f"paper   {PAPER[classes]}")
    if len(summaries) > 1:
        print("\nF1 side by side, %")
        pictures.print_table(compare(summaries, classes))
        if args.out:
            pictures.write_csv(args.out / "comparison.csv", compare(summaries, classes))
            draw_figure_4(args.out / "figure4.png", photos, truth, drawn, classes)
            draw_figure_5(args.out / "figure5.png", photos, drawn, maps, classes)


if __name__ == "__main__":
    cli.run(main)

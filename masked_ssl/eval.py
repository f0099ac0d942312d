"""mIoU, F1 and IoU of each class beside the paper's headline, figures 4 and 5, label and overlay pictures.

    python masked_ssl/eval.py masked_ssl/runs/pretrained/best.pt
    python masked_ssl/eval.py masked_ssl/runs/{random,pretrained}/last.pt --out both     side by side, as figure 4
    python masked_ssl/eval.py last.pt --data OTHER_FACES --split all                     on other faces

Writes results.json, table.csv, figure4.png, figure5.png (the 16 activation maps) and faces/ to best-test/ beside each
checkpoint (with --data best-test-FOLDER/), or to --out; several checkpoints get a folder each in --out, and with them
comparison.csv and both networks' figure4.png and figure5.png. One confusion matrix over all pixels of the set, at the
size that the network was trained at; pixels beyond a photo's edge do not count.
"""

import sys
from argparse import Namespace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from common import cli, pictures
from common.cache import fingerprint
from common.checkpoint import load_checkpoint, make_folder, restore, write_json
from common.cli import InputError
from common.data import EvalBatches, loader
from common.device import autocast, for_inference, pick_amp, pick_device, to_device
from common.distributed import sum_over_processes, world
from common.metrics import confusion_matrix, counts_from_confusion, mean_of_present, scores_from_counts
from common.tables import print_table, write_csv
from masked_ssl import dataset
from masked_ssl.classes import LAYOUTS, palette
from masked_ssl.dataset import IGNORED, FaceLabels, normalize
from masked_ssl.model import Network
from masked_ssl.pool import identity
from masked_ssl.weights import PAPER

# Abstract: mIoU on LaPa's test set with 0.2 % of the labels; the baseline is 5.02 lower
PAPER_HEADLINE = {
    "lapa": "LaPa, 0.2 % of the labels: mIoU 74.41 with pretraining, 69.39 without (Abstract)",
    "celebamask": "necklace 0.00 to 0.01 in three others, poor without pretraining, found with it (Discussions)",
}
# Mean F1 over the foreground of what others print today, with all labels and from other pretraining
BEST_PUBLISHED = {
    "lapa": "mean F1 94.0 (FaRL), 93.0 (SegFace)",
    "celebamask": "mean F1 89.6 (FaRL); hair 96.2 (FaRL), 96.0 (SegFace), 94.5 (DML-CSR)",
}


@torch.inference_mode()
def evaluate(model: nn.Module, batches: DataLoader, device: torch.device, amp: bool, num_classes: int) -> Tensor:
    """C x C int64, row = truth: the pixels of a whole set; under torchrun each image is seen by one process, once."""
    model = for_inference(model, amp)
    matrix = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)
    quiet = None if world()[0] == 0 else True
    for images, labels in tqdm(batches, "evaluating", leave=False, disable=quiet, unit="batch"):
        with autocast(device, amp):
            logits = model(normalize(images, device))
        matrix += confusion_matrix(logits.argmax(1), to_device(labels, device), num_classes)
    return sum_over_processes(matrix).cpu()


def summarize(matrix: Tensor, classes: tuple[str, ...]) -> dict:
    """evaluate()'s matrix -> names to numbers: miou and miou_foreground, f1 (foreground), accuracy, per_class.

    A class with no pixel in truth and prediction is left out of the means (`absent` counts it); one that is there and
    never found, or found and never there, counts 0.
    """
    scores = scores_from_counts(counts_from_confusion(matrix))
    miou, absent = mean_of_present(scores["iou"])
    return {
        "miou": miou,
        "miou_foreground": mean_of_present(scores["iou"][1:])[0],
        "f1": mean_of_present(scores["f1"][1:])[0],
        "accuracy": float(matrix.diagonal().sum() / matrix.sum()),
        "absent": absent,
        "per_class": {
            name: {m: None if np.isnan(scores[m][c]) else float(scores[m][c]) for m in ("f1", "iou")}
            | {"support": int(scores["support"][c])}
            for c, name in enumerate(classes)
        },
    }


def table(summary: dict) -> list[list[str]]:
    """A header and one row per class and mean: F1 and IoU in %, share of the pixels."""
    pixels = sum(row["support"] for row in summary["per_class"].values())
    rows = [["class", "F1", "IoU", "pixels, %"]]
    for name, ours in summary["per_class"].items():
        numbers = ["absent" if ours[m] is None else f"{100 * ours[m]:.2f}" for m in ("f1", "iou")]
        rows.append([name, *numbers, f"{100 * ours['support'] / pixels:.3f}"])
    rows.append(["mean, foreground", *(f"{100 * summary[m]:.2f}" for m in ("f1", "miou_foreground")), ""])
    rows.append(["mean, all classes", "", f"{100 * summary['miou']:.2f}", ""])
    return rows


def compare(summaries: dict[str, dict], classes: tuple[str, ...]) -> list[list[str]]:
    """A header and rows of F1 by class, then the means: one column per checkpoint."""
    rows = [["class", *summaries]]
    for name in classes:
        f1 = [s["per_class"][name]["f1"] for s in summaries.values()]
        rows.append([name, *("absent" if x is None else f"{100 * x:.2f}" for x in f1)])
    for key, title in (("f1", "mean F1, foreground"), ("miou_foreground", "mIoU, foreground"), ("miou", "mIoU")):
        rows.append([title, *(f"{100 * s[key]:.2f}" for s in summaries.values())])
    return rows


# ---- Checkpoints and data ------------------------------------------------------------------------------------------


def load_model(path: Path, device: torch.device) -> tuple[Network, dict]:
    """The network of a checkpoint of step 2, ready to evaluate, and the checkpoint."""
    saved = load_checkpoint(path, PAPER)
    saved.pop("optimizer", None)  # twice the size of the model, and of no use here
    if saved.get("stage") != "finetune":
        raise InputError(f"{path}: a checkpoint of pretrain.py, which has learned no classes; give one of train.py")
    model = Network(len(saved["classes"]))
    restore(path, lambda: model.load_state_dict(saved["model"]))
    return model.to(device).eval(), saved


def select(args: Namespace, saved: dict, path: Path) -> tuple[FaceLabels, str, str, int, int]:
    """The faces to evaluate on (the checkpoint's test split unless told otherwise), where they come from, layout, how
    many of them step 2 has learned from, and how many others step 1 has seen, without their labels.

    Raises InputError for val or test faces that step 2 has learned from, and for test faces that step 1 has seen.
    """
    was = saved["args"]
    if args.data:
        data = dataset.locate(args.data)
    else:
        data = dataset.locate(was["data"] and Path(was["data"]), was["layout"], was["limit"])
    classes = tuple(saved["classes"])
    if classes not in (LAYOUTS[data.layout], LAYOUTS["lapa"]):
        raise InputError(
            f"{data.folder}: has {data.layout}'s {len(LAYOUTS[data.layout])} classes, {path} was trained on "
            f"{len(classes)} others; give data of that kind"
        )
    faces = [f for part in data.parts.values() for f in part] if args.split == "all" else data.parts[args.split]
    keys = [identity(face.photo) for face in faces]
    learned, pool = set(saved["learned"]), set(saved["pool"])
    labelled = [face.photo.name for face, key in zip(faces, keys, strict=True) if key in learned]
    unlabelled = [face.photo.name for face, key in zip(faces, keys, strict=True) if key in pool - learned]
    if args.split in ("val", "test"):
        if args.data is None and fingerprint(dataset.files(faces)) != saved["fingerprint"][args.split]:
            raise InputError(f"{data.folder}: its {args.split} faces are no longer those of {path}; put them back")
        if labelled:
            raise InputError(
                f"{data.folder}: {path} was trained on {len(labelled)} of its {args.split} faces, such as "
                f"{labelled[0]}; give --data another folder, or --split all to count them in"
            )
    if unlabelled and args.split == "test":
        raise InputError(
            f"{data.folder}: step 1 of {path} has seen {len(unlabelled)} of its test photos, such as {unlabelled[0]}; "
            "give --data another folder, or --split all to count them in"
        )
    arrays = dataset.load(faces, was["size"], classes, args.cache, f"{args.split} faces")
    words = f"{data.words}, {args.split}, {len(faces)} faces"
    faces = FaceLabels(arrays, list(range(len(faces))), [face.photo.name for face in faces], classes)
    return faces, words, data.layout, len(labelled), len(unlabelled)


# ---- Pictures ------------------------------------------------------------------------------------------------------


def choose_faces(data: FaceLabels, classes: tuple[str, ...], n: int = 4) -> list[int]:
    """n faces spread over the set; the last ones have most of a necklace, if any has (figure 5's question)."""
    spread = np.linspace(0, len(data) - 1, min(n, len(data))).round().astype(int).tolist()
    if "neck_l" in classes:
        necklace = classes.index("neck_l")
        pixels = [(data.arrays["labels"][i] == necklace).sum() for i in data.positions]
        richest = [int(i) for i in np.argsort(pixels)[::-1][: n // 2] if pixels[i]]
        spread = [i for i in spread if i not in richest][: n - len(richest)] + richest
    return spread


@torch.inference_mode()
def predict_faces(
    model: Network, data: FaceLabels, chosen: list[int], device: torch.device, amp: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The chosen faces -> photos N H W 3, true and predicted labels N H W (uint8), the encoder's features N 16 H W."""
    model = for_inference(model, amp)
    images, labels = data[chosen]
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
    colours = palette(classes)
    rows = []
    for i, photo in enumerate(photos):
        labels = [predicted[i] for predicted in predictions.values()] + [truth[i]]
        rows.append([photo, *(pictures.overlay(photo, label, colours, 0.75) for label in labels)])
    legend = dict(zip(classes[1:], colours[1:], strict=True))
    pictures.save_grid(path, rows, column_titles=["photo", *predictions, "truth"], legend=legend, cell=2)


def draw_figure_5(
    path: Path,
    photos: np.ndarray,
    predictions: dict[str, np.ndarray],
    features: dict[str, np.ndarray],
    classes: tuple[str, ...],
) -> None:
    """Faces N H W 3 and, of each network, its prediction (N H W) and its encoder's 16 channels (N 16 H W).

    Black is 0, where the last ReLU puts what is not activated, and white the largest value of a face's 16 maps.
    """
    rows, titles = [], []
    for i, photo in enumerate(photos):
        for name, maps in features.items():
            grey = (255 * maps[i] / max(maps[i].max(), 1e-6)).round().astype(np.uint8)
            painted = pictures.overlay(photo, predictions[name][i], palette(classes), 0.75)
            rows += [[photo, *grey[:8]], [painted, *grey[8:]]]
            titles += [[name, *map(str, range(8))], ["prediction", *map(str, range(8, 16))]]
    pictures.save_grid(path, rows, titles=titles, cell=1.3)


def write_faces(
    folder: Path,
    data: FaceLabels,
    chosen: list[int],
    photos: np.ndarray,
    predictions: np.ndarray,
    classes: tuple[str, ...],
) -> None:
    """NAME_label.png, class numbers with a palette, and NAME_overlay.png of each chosen face."""
    make_folder(folder)
    for i, photo, label in zip(chosen, photos, predictions, strict=True):
        name = Path(data.name(i)).stem
        pictures.save_label(folder / f"{name}_label.png", label, palette(classes))
        pictures.save_image(folder / f"{name}_overlay.png", pictures.overlay(photo, label, palette(classes)))


# fmt: off
def parse_args(argv: list[str] | None = None) -> Namespace:
    """The arguments."""
    parser = cli.Parser(__doc__)
    add = parser.add_argument_group("what to evaluate").add_argument
    add("checkpoints", nargs="+", type=Path, metavar="CHECKPOINT", help="best.pt or last.pt of runs of train.py")
    add("--data", type=Path, metavar="PATH", help="LaPa's or CelebAMask-HQ's folder (default: the checkpoint's)")
    add("--split", choices=["test", "val", "train", "all"], default="test",
        help="test: the paper's; val, train: the data's other parts; all: every face, those it was trained on too")
    add("--out", type=Path, metavar="DIR", help="default: best-test beside best.pt, with --data best-test-FOLDER")
    add("--cache", type=Path, default=dataset.CACHE, metavar="DIR", help="decoded pictures (default: data/cache here)")
    cli.add_machine_arguments(parser)
    return parser.parse_args(argv)
# fmt: on


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    device = pick_device(args.device)
    where = args.split + (f"-{args.data.resolve().name}" if args.data else "")
    outs = [args.out or path.parent / f"{path.stem}-{where}" for path in args.checkpoints]
    if len(outs) > 1 and args.out:
        outs = [args.out / f"{path.resolve().parent.name}-{path.stem}" for path in args.checkpoints]
    twice = [str(path) for path, out in zip(args.checkpoints, outs, strict=True) if outs.count(out) > 1]
    if twice:
        raise InputError(f"{' and '.join(twice)}: would write to the same folder; evaluate them one by one")
    loaded, selected = [load_model(path, device) for path in args.checkpoints], []
    first, like = tuple(loaded[0][1]["classes"]), None
    for path, (_, saved) in zip(args.checkpoints, loaded, strict=True):
        if (classes := tuple(saved["classes"])) != first:
            raise InputError(f"{path}: has {len(classes)} classes, the others {len(first)}; compare like with like")
        selected.append(select(args, saved, path))
        data, words, *_ = selected[-1]
        facts = saved["args"]["size"], words, data.names
        like = like or facts
        if facts != like:
            raise InputError(
                f"{path}: has another --size, or other {args.split} faces, than {args.checkpoints[0]}, and cannot "
                "stand beside it; evaluate them apart"
            )
    summaries, drawn, maps = {}, {}, {}
    for path, out, (model, saved), (data, words, layout, labelled, unlabelled) in zip(
        args.checkpoints, outs, loaded, selected, strict=True
    ):
        amp = pick_amp(args.amp or saved["args"]["amp"], device)
        make_folder(out)
        batches = loader(data, EvalBatches(len(data), saved["args"]["batch_size"]), args.workers)
        name = f"{path.resolve().parent.name}/{path.stem}"
        name = str(path) if name in summaries else name
        summaries[name] = {
            "checkpoint": str(path),
            "epoch": saved["epoch"],
            "weights": saved["weights"],
            "labels": len(saved["learned"]),
            "fraction": saved["args"]["fraction"],
            "size": saved["args"]["size"],
            "data": words,
            "learned_in_step_2": labelled,
            "seen_in_step_1": unlabelled,
            **summarize(evaluate(model, batches, device, amp, len(first)), first),
        }
        known = f"; {labelled} OF THEM IT LEARNED FROM" if labelled else ""
        known += f"; step 1 has seen {unlabelled} of them, without their labels" if unlabelled else ""
        print(f"\n{path}, epoch {saved['epoch']}, {len(saved['learned'])} labels, {saved['args']['size']} px, from "
              f"{saved['weights']}\n{words}{known}")  # fmt: skip
        print_table(table(summaries[name]))
        write_csv(out / "table.csv", table(summaries[name]))
        write_json(out / "results.json", summaries[name])
        chosen = choose_faces(data, first)
        photos, truth, drawn[name], maps[name] = predict_faces(model, data, chosen, device, amp)
        draw_figure_4(out / "figure4.png", photos, truth, {name: drawn[name]}, first)
        draw_figure_5(out / "figure5.png", photos[-2:], {name: drawn[name][-2:]}, {name: maps[name][-2:]}, first)
        write_faces(out / "faces", data, chosen, photos, drawn[name], first)
        print(f"results.json, table.csv, figure4.png, figure5.png, faces/ -> {out}", flush=True)
    if first == LAYOUTS[layout]:
        print(f"paper            {PAPER_HEADLINE[layout]}")
        print(f"best published   {BEST_PUBLISHED[layout]}; all labels, other networks")
    if len(summaries) > 1:
        rows = compare(summaries, first)
        print("\nF1 side by side, %")
        print_table(rows)
        if args.out:
            write_csv(args.out / "comparison.csv", rows)
            draw_figure_4(args.out / "figure4.png", photos, truth, drawn, first)
            last = ({name: of[-2:] for name, of in both.items()} for both in (drawn, maps))
            draw_figure_5(args.out / "figure5.png", photos[-2:], *last, first)


if __name__ == "__main__":
    cli.run(main)

"""The final scores of both models side by side, beside the paper's; scores per class; what is taken for what.

    python mut1ny_fairness/eval.py mut1ny_fairness/runs/deeplabv3-rgb/best.pt mut1ny_fairness/runs/pspnet-rgb/best.pt
    python mut1ny_fairness/eval.py best.pt --data OTHER_FACES --split all     on other faces
    python mut1ny_fairness/eval.py best.pt --bgr                              why the paper's hair may be turquoise

Writes results.json (with --bgr also results-bgr.json) to best-test/ beside each checkpoint (with --data FOLDER --split
all to best-all-FOLDER/) and final.csv, per_class.csv, confusion.png, samples.png (with --bgr also turquoise.png) to the
first one's, or all below --out. Pixels are pooled: counted over the whole set, divided once.
"""

import math
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
from common.cache import count_seen
from common.checkpoint import load_checkpoint, make_folder, restore, write_json
from common.cli import InputError
from common.data import EvalBatches, check_finite, loader
from common.device import autocast, for_inference, pick_amp, pick_device, to_device
from common.distributed import world
from common.metrics import counts_from_confusion, scores_from_counts
from common.tables import print_table, write_csv
from mut1ny_fairness import dataset
from mut1ny_fairness.dataset import LEGEND, LabelledFaces, normalize
from mut1ny_fairness.deeplabv3 import DeepLabV3
from mut1ny_fairness.palette import (
    CLASSES,
    loss_of,
    outputs_of,
    predicted_channels,
    predicted_classes,
    to_colours,
)
from mut1ny_fairness.pspnet import PSPNet
from mut1ny_fairness.scores import FINAL, POSITIVES, ROWS, Tally, implied_share, positives

PAPER = Path(__file__).resolve().parent.name


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    batches: DataLoader,
    device: torch.device,
    amp: bool,
    target: str,
    bgr: bool = False,
    read_bgr: bool = False,
) -> dict[str, float | Tensor]:
    """The scores of `model` over a set (see Tally); under torchrun each image is seen by one process, once."""
    model = for_inference(model, amp)
    tally = Tally(device, target, bgr, read_bgr)
    for images, labels in tqdm(
        batches, "evaluating", leave=False, disable=None if world()[0] == 0 else True, unit="batch"
    ):
        labels = to_device(labels, device)
        with autocast(device, amp):
            output = model(normalize(images, device))
        tally.add(output, labels, loss_of(output, labels, target, bgr))
    check_finite(tally.losses, batches, "evaluation")
    return tally.scores()


@torch.inference_mode()
def predict(model: nn.Module, images: Tensor, device: torch.device, amp: bool) -> Tensor:
    """uint8 images B x 3 x H x W -> outputs B x 3 (or 11) x H x W, on the device."""
    model.eval()
    with autocast(device, amp):
        return model(normalize(images, device)).float()


def as_picture(output: Tensor) -> np.ndarray:
    """3 x H x W, colours in 0..1 -> H x W x 3 uint8."""
    return (255 * output.clamp(0, 1)).round().byte().permute(1, 2, 0).cpu().numpy()


# ---- Checkpoints and data ------------------------------------------------------------------------------------------


def build_model(args: dict) -> DeepLabV3 | PSPNet:
    """The network that a run's arguments describe, with random weights."""
    outputs, aux = outputs_of(args["target"]), args["aux"] > 0
    if args["model"] == "deeplabv3":
        return DeepLabV3(num_outputs=outputs, aux=aux)
    return PSPNet(num_outputs=outputs, aux=aux, truncated=args["truncated"])


def load_model(path: Path, device: torch.device) -> tuple[nn.Module, dict]:
    """The network of a checkpoint, ready to evaluate, and the checkpoint."""
    checkpoint = load_checkpoint(path, PAPER)
    checkpoint.pop("optimizer", None)  # twice the size of the model, and of no use here
    model = build_model(checkpoint["args"])
    restore(path, lambda: model.load_state_dict(checkpoint["model"]))
    return model.to(device).eval(), checkpoint


def title_of(args: dict) -> str:
    """A run in words: `DeepLabV3, rgb`."""
    name = "DeepLabV3" if args["model"] == "deeplabv3" else "PSPNet, truncated" if args["truncated"] else "PSPNet"
    return f"{name}, {args['target']}{' (labels read as BGR)' if args['bgr'] else ''}"


def titles_of(paths: list[Path], checkpoints: list[dict]) -> list[str]:
    """The runs in words, with their file where two would be called the same."""
    titles = [title_of(checkpoint["args"]) for checkpoint in checkpoints]
    if len(set(titles)) < len(titles):
        titles = [f"{t}, {p.resolve().parent.name}/{p.stem}" for t, p in zip(titles, paths, strict=True)]
    return titles if len(set(titles)) == len(titles) else [str(path) for path in paths]


def select(args: Namespace, checkpoint: dict, path: Path) -> tuple[LabelledFaces, str]:
    """The images to evaluate on, the checkpoint's test split unless told otherwise, and where they come from."""
    saved = checkpoint["args"]
    data = args.data or (saved["data"] and Path(saved["data"]))
    manifest = args.manifest
    if manifest is None and args.data is None and saved["manifest"]:
        manifest = Path(saved["manifest"])
    samples, source = dataset.list_samples(data, manifest)
    if args.split == "all":
        return LabelledFaces(samples, saved["size"], args.cache), source
    keys = set(checkpoint["split"][args.split])
    samples = [sample for sample in samples if sample.key in keys]
    if dataset.fingerprint_of(samples) != checkpoint["fingerprint"][args.split]:
        raise InputError(
            f"{source}: its images or labels are not those of the {args.split} split of {path}; give --data (and "
            "--manifest) as in training, or --split all for other faces"
        )
    return LabelledFaces(samples, saved["size"], args.cache), source


# ---- Tables and pictures -------------------------------------------------------------------------------------------


def final_table(results: dict[str, dict]) -> list[list[str]]:
    """A header and one row per score: each run's, then the paper's two models' on their own test set.

    How many of the paper's channel-pixels were positive follows from its accuracy, precision and recall.
    """
    rows = [["score", *results, *(f"paper, {name}, last epoch" for name in FINAL)]]
    papers = [s | positives(implied_share(s["accuracy"], s["precision"], s["recall"])) for s in FINAL.values()]
    for name, title in (ROWS | POSITIVES).items():
        found = [scores.get(name) for scores in (*results.values(), *papers)]
        rows.append([title, *("" if x is None else "none" if math.isnan(x) else f"{x:.4f}" for x in found)])
    return rows


def per_class(confusion: Tensor) -> dict[str, dict]:
    """11 x 11 -> class -> iou, f1, precision, recall (None if absent) and support."""
    scores = scores_from_counts(counts_from_confusion(confusion))
    return {
        name: {m: None if np.isnan(scores[m][c]) else float(scores[m][c]) for m in ("iou", "f1", "precision", "recall")}
        | {"support": int(scores["support"][c])}
        for c, name in enumerate(CLASSES)
    }


def class_table(results: dict[str, dict]) -> list[list[str]]:
    """A header and one row per class: IoU and F1 of each run, and the class' pixels in the truth."""
    rows = [["class", *(f"{m}, {title}" for m in ("IoU", "F1") for title in results), "pixels"]]
    for name in CLASSES:
        of_class = [result["per_class"][name] for result in results.values()]
        numbers = ["absent" if c[m] is None else f"{c[m]:.4f}" for m in ("iou", "f1") for c in of_class]
        rows.append([name, *numbers, str(of_class[0]["support"])])
    return rows


def draw_confusion(path: Path, confusions: dict[str, Tensor]) -> None:
    """One panel a run: of the pixels of each true class (row), the percentage that is taken for each class."""
    columns, rows = min(2, len(confusions)), -(-len(confusions) // 2)
    size = (5.4 * columns + 0.4, 5.2 * rows)
    figure, axes = pictures.subplots(rows, columns, figsize=size, squeeze=False)
    for axis in axes.flat[len(confusions) :]:
        axis.axis("off")
    for axis, (title, confusion) in zip(axes.flat, confusions.items(), strict=False):
        total = confusion.sum(1, keepdim=True).double()
        share = torch.where(total > 0, 100 * confusion / total.clamp(min=1), torch.nan).numpy()
        axis.imshow(np.nan_to_num(share), cmap="Blues", vmin=0, vmax=100)
        for r, c in np.argwhere(share >= 0.5):
            axis.text(c, r, f"{share[r, c]:.0f}", ha="center", va="center", fontsize=7,
                      color="white" if share[r, c] > 55 else "black")  # fmt: skip
        names = [name if n > 0 else f"{name} (absent)" for name, n in zip(CLASSES, total[:, 0], strict=True)]
        axis.set_xticks(range(len(CLASSES)), CLASSES, rotation=60, ha="right", fontsize=8)
        axis.set_yticks(range(len(CLASSES)), names, fontsize=8)
        axis.set_title(pictures.plain(title), fontsize=9)
        axis.set_xlabel("predicted", fontsize=8)
        axis.set_ylabel("true, % of its pixels", fontsize=8)
    pictures.save_figure(path, figure, dpi=110)


def sample_columns(output: Tensor, target: str, title: str) -> tuple[list[str], list[list[np.ndarray]]]:
    """The titles and columns of pictures that show B outputs: as they are (rgb) and as classes."""
    classes = [to_colours(label) for label in predicted_classes(output, target).cpu().numpy()]
    if target == "labels":
        return [title], [classes]
    return [f"{title}\nas it is", f"{title}\nnearest class"], [[as_picture(x) for x in output], classes]


def draw_turquoise(
    path: Path, photos: list[np.ndarray], truths: list[np.ndarray], outputs: dict[str, tuple[Tensor, str]]
) -> None:
    """Photo, truth, and of each run the output in both channel orders.

    photos, truths: each H x W x 3 uint8; outputs: title -> N x 3 or 11 x H x W float, and "rgb" or "labels".
    """
    titles, columns = ["photo", "label"], [photos, truths]
    for title, (output, target) in outputs.items():
        for order, bgr in (("read as RGB", False), ("read as BGR", True)):
            titles.append(f"{title}\n{order}")
            colours = predicted_channels(output, target)
            columns.append([as_picture(x.flip(0) if bgr else x) for x in colours])
    rows = [list(row) for row in zip(*columns, strict=True)]
    pictures.save_grid(path, rows, column_titles=titles, legend=LEGEND, cell=1.9)


# fmt: off
def parse_args(argv: list[str] | None = None) -> Namespace:
    """The arguments."""
    parser = cli.Parser(__doc__)
    add = parser.add_argument_group("what to evaluate").add_argument
    add("checkpoints", nargs="+", type=Path, metavar="CHECKPOINT", help="best.pt or last.pt of a run")
    add("--data", type=Path, metavar="PATH", help="Mut1ny's or CelebAMask-HQ's folder (default: the checkpoint's)")
    add("--manifest", type=Path, metavar="FILE",
        help="default: the checkpoint's where --data is not given, else manifest.csv in the data folder (written if it "
        "is not there)")
    add("--split", choices=["test", "val", "train", "all"], default="test",
        help="test: the checkpoint's (Sec. III-D; that it is 20 %% is ours); val: the same, for the paper has no third "
        "part; train: the rest; all: every image, those it was trained on too")
    add("--bgr", action="store_true",
        help="also read the outputs in the other channel order, in which yellow hair is turquoise (ours)")
    add("--out", type=Path, metavar="DIR",
        help="default: best-test, or best-all-FOLDER, beside each best.pt; tables and pictures to the first one's")
    add("--cache", type=Path, default=dataset.CACHE, metavar="DIR", help="decoded images (default: data/cache here)")
    cli.add_machine_arguments(parser)
    args = parser.parse_args(argv)
    args.split = "test" if args.split == "val" else args.split
    return args
# fmt: on


def main() -> None:
    args = parse_args()
    device = pick_device(args.device)
    paths = args.checkpoints
    name = f"all-{args.data.resolve().name}" if args.data and args.split == "all" else args.split
    outs = [args.out or path.parent / f"{path.stem}-{name}" for path in paths]
    if len(outs) > 1 and args.out:
        outs = [args.out / f"{path.resolve().parent.name}-{path.stem}" for path in paths]
    twice = [str(path) for path, out in zip(paths, outs, strict=True) if outs.count(out) > 1]
    if twice:
        raise InputError(f"{' and '.join(twice)}: would write to the same folder; evaluate them one by one")
    loaded = [load_model(path, device) for path in paths]
    first = loaded[0][1]
    for path, (_, checkpoint) in zip(paths, loaded, strict=True):
        if args.split != "all" and checkpoint["fingerprint"][args.split] != first["fingerprint"][args.split]:
            raise InputError(
                f"{path} and {paths[0]} have other {args.split} images; evaluate them apart, or both with --data and "
                "--split all on images that neither was trained on"
            )
    titles = titles_of(paths, [checkpoint for _, checkpoint in loaded])
    results, outputs, columns, names, first_faces = {}, {}, [], [], None
    for path, folder, title, (model, checkpoint) in zip(paths, outs, titles, loaded, strict=True):
        saved = checkpoint["args"]
        amp = pick_amp(args.amp or saved["amp"], device)
        data, source = select(args, checkpoint, path)
        faces = dataset.fingerprint_of(data.samples)
        first_faces = first_faces or faces
        if faces != first_faces:
            raise InputError(f"{path} and {paths[0]} have other images; evaluate them apart, or both with --data")
        make_folder(folder)
        if not args.bgr:
            (folder / "results-bgr.json").unlink(missing_ok=True)  # of an earlier evaluation
        facts = {"checkpoint": str(path), "title": title, "epoch": checkpoint["epoch"]}
        facts |= {"weights": checkpoint["weights"], "data": source, "split": args.split, "n": len(data)}
        for read_bgr in (False, True) if args.bgr else (False,):
            name = f"{title}, as BGR" if read_bgr else title
            batches = loader(data, EvalBatches(len(data), saved["batch_size"]), args.workers)
            scores = evaluate(model, batches, device, amp, saved["target"], saved["bgr"], read_bgr)
            if read_bgr:  # the channel-pixels were counted of the outputs as they are
                scores = {k: v for k, v in scores.items() if k.startswith("class_") or k == "confusion"}
            results[name] = facts | {"read_bgr": read_bgr} | scores | {"per_class": per_class(scores["confusion"])}
            plain = results[name] | {"confusion": scores["confusion"].tolist()}
            write_json(folder / f"results{'-bgr' * read_bgr}.json", plain)
        print(f"{title}: {path}, epoch {checkpoint['epoch']}, {saved['size']} px, weights {checkpoint['weights']}")
        if known := count_seen([sample.photo for sample in data.samples], checkpoint.get("trained_on", ())):
            print(f"{title}: WAS TRAINED ON {known} OF THESE {len(data)} IMAGES")
        images, labels = data[np.random.default_rng(first["args"]["seed"]).permutation(len(data))[:5].tolist()]
        outputs[title] = predict(model, images, device, amp), saved["target"]
        more = sample_columns(*outputs[title], title)
        names, columns = names + more[0], columns + more[1]
    out = args.out or outs[0]
    photos, truths = list(images.permute(0, 2, 3, 1).numpy()), [to_colours(label) for label in labels.numpy()]
    print(f"{source}, split {args.split}, {len(data)} images, {data.off_palette:,} label pixels off the palette\n")
    print_table(final_table(results))
    print()
    print_table(class_table({name: result for name, result in results.items() if not result["read_bgr"]}))
    if args.bgr:
        print()
        for name, result in results.items():
            hair = result["confusion"][CLASSES.index("hair")].double()
            as_hair, as_ears = (float(hair[CLASSES.index(c)] / hair.sum().clamp(min=1)) for c in ("hair", "ears"))
            print(f"of the hair's pixels, {as_hair:.1%} are taken for hair and {as_ears:.1%} for ears: {name}")
        draw_turquoise(out / "turquoise.png", photos, truths, outputs)
    else:
        (out / "turquoise.png").unlink(missing_ok=True)
    write_csv(out / "final.csv", final_table(results))
    write_csv(out / "per_class.csv", class_table(results))
    draw_confusion(out / "confusion.png", {name: result["confusion"] for name, result in results.items()})
    rows = [list(row) for row in zip(photos, truths, *columns, strict=True)]
    pictures.save_grid(out / "samples.png", rows, column_titles=["photo", "label", *names], legend=LEGEND, cell=1.9)
    written = "results.json, results-bgr.json" if args.bgr else "results.json"
    print(f"\n{written} -> {', '.join(map(str, outs))}")
    turquoise = ", turquoise.png" if args.bgr else ""
    print(f"final.csv, per_class.csv, confusion.png, samples.png{turquoise} -> {out}")


if __name__ == "__main__":
    cli.run(main)

"""The final scores of both models side by side, beside the paper's; scores per class.

    python mut1ny_fairness/eval.py mut1ny_fairness/runs/deeplabv3-rgb/best.pt mut1ny_fairness/runs/pspnet-rgb/best.pt
    python mut1ny_fairness/eval.py best.pt --data OTHER_FACES --split all     on other faces
    python mut1ny_fairness/eval.py best.pt --bgr                              why the paper's hair may be turquoise

Writes results.json, which holds the confusion matrix too (with --bgr also results-bgr.json), to best-test/ beside each
checkpoint (with --data FOLDER --split all to best-all-FOLDER/) and final.csv, per_class.csv, samples.png (with --bgr
also turquoise.png) to the first one's, or all below --out. Pixels are pooled: counted over the whole set, divided once.
"""

import math
import sys
from argparse import Namespace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from torch import Tensor, nn

from common import cli, pictures
from common.cli import InputError
from common.data import among, check_finite, find, in_order, progress
from common.device import autocast, to_device
from common.metrics import counts_from_confusion, scores_from_counts
from common.run import Checkpoint, Trained, load_checkpoint, result_folders, trained
from mut1ny_fairness import dataset
from mut1ny_fairness.dataset import HERE, LabelledFaces, normalize
from mut1ny_fairness.deeplabv3 import DeepLabV3
from mut1ny_fairness.losses import loss_of, nearest_class, predicted_channels
from mut1ny_fairness.palette import CLASSES, LEGEND, PALETTE
from mut1ny_fairness.pspnet import PSPNet
from mut1ny_fairness.scores import FINAL, POSITIVES, ROWS, Tally, implied_share, positives


@torch.inference_mode()
def evaluate(
    model: nn.Module, faces: LabelledFaces, args: dict, device: torch.device, amp: bool, read_bgr: bool = False
) -> dict[str, float | Tensor]:
    """The scores (see Tally) over a set of a network that was trained with `args`; under torchrun each image is seen
    by one process, once."""
    tally, batches = Tally(device, args["target"], args["bgr"], read_bgr), in_order(len(faces), args["batch_size"])
    for batch in progress(batches, "evaluating"):
        images, labels = faces.batch(batch)
        output, labels = outputs(model, images, device, amp), to_device(labels, device)
        tally.add(output, labels, loss_of(output, labels, args["target"], args["bgr"]))
    check_finite(tally.losses, batches, faces.names, "evaluation")
    return tally.scores()


@torch.inference_mode()
def outputs(model: nn.Module, images: Tensor, device: torch.device, amp: bool) -> Tensor:
    """uint8 images B x 3 x H x W -> the network's B x 3 (or 11) x H x W in float32, on the device."""
    model.eval()
    with autocast(device, amp):
        return model(normalize(images, device))


# ---- Checkpoints and data ------------------------------------------------------------------------------------------


def build_model(args: dict) -> DeepLabV3 | PSPNet:
    """The network that a run's arguments describe, with random weights."""
    num_outputs = 3 if args["target"] == "rgb" else len(CLASSES)
    if args["model"] == "deeplabv3":
        return DeepLabV3(num_outputs=num_outputs)
    return PSPNet(num_outputs=num_outputs, truncated=args["truncated"])


def load(path: str | Path, device: str = "auto", amp: str | None = None) -> Trained:
    """The network of a checkpoint, ready to use; raises InputError if it is not one of this folder."""
    checkpoint = load_checkpoint(Path(path), HERE.name)
    return trained(build_model(checkpoint["args"]), checkpoint, device, amp)


def title_of(args: dict) -> str:
    """A run in words: `DeepLabV3, rgb`."""
    name = "DeepLabV3" if args["model"] == "deeplabv3" else "PSPNet, truncated" if args["truncated"] else "PSPNet"
    learned = "our recipe" if args.get("recipe") == "ours" else args["target"]
    return f"{name}, {learned}{' (labels read as BGR)' if args['bgr'] else ''}"


def load_all(paths: list[Path], device: str, amp: str | None) -> dict[str, Trained]:
    """The networks of several checkpoints by the run in words, with the file where two would be called the same; prints
    a line on each."""
    networks, found = [load(path, device, amp) for path in paths], {}
    titles = [title_of(network.checkpoint["args"]) for network in networks]
    for title, path, network in zip(titles, paths, networks, strict=True):
        found[f"{title}, {path}" if titles.count(title) > 1 else title] = network
        saved = network.checkpoint
        print(f"{title}: {path}, epoch {saved['epoch']}, {saved['args']['size']} px, weights {saved['weights']}")
    return found


def select(args: Namespace, checkpoint: Checkpoint) -> tuple[LabelledFaces, list[str], str]:
    """The images to evaluate on, the checkpoint's test split unless told otherwise, who they are, and their source."""
    saved, manifest = checkpoint["args"], checkpoint["args"]["manifest"]
    if args.data and (args.split == "all" or not Path(manifest or "").is_file()):
        manifest = None  # that of the other folder
    samples, source = dataset.list_samples(checkpoint.data(args.data), manifest)
    if args.split != "all":
        samples = find(checkpoint["split"][args.split], samples, source)
    arrays = dataset.load(samples, saved["size"], args.cache)
    return LabelledFaces(arrays, list(range(len(samples))), samples), [s.identity for s in samples], source


# ---- Tables --------------------------------------------------------------------------------------------------------


def final_table(results: dict[str, dict]) -> list[list[str]]:
    """A header and one row per score: each run's, then the paper's two models' on their own test set.

    How many of the paper's channel-pixels were positive follows from its accuracy, precision and recall.
    """
    rows = [["score", *results, *(f"paper, {name}, last epoch" for name in FINAL)]]
    papers = [s | positives(implied_share(s["accuracy"], s["precision"], s["recall"])) for s in FINAL.values()]
    for name, title in (ROWS | POSITIVES).items():
        found = [scores.get(name) for scores in (*results.values(), *papers)]
        rows.append([title, *("" if x is None else f"{x:.4f}" for x in found)])
    return rows


def per_class(confusion: Tensor) -> dict[str, dict]:
    """11 x 11 -> class -> iou, f1, precision, recall (nan if absent) and support."""
    scores = scores_from_counts(counts_from_confusion(confusion))
    names = ("iou", "f1", "precision", "recall", "support")
    return {of: {name: scores[name][c].item() for name in names} for c, of in enumerate(CLASSES)}


def class_table(results: dict[str, dict]) -> list[list[str]]:
    """A header and one row per class: IoU and F1 of each run, and the class' pixels in the truth."""
    rows = [["class", *(f"{m}, {title}" for m in ("IoU", "F1") for title in results), "pixels"]]
    for name in CLASSES:
        of_class = [result["per_class"][name] for result in results.values()]
        numbers = ["absent" if math.isnan(c[m]) else f"{c[m]:.4f}" for m in ("iou", "f1") for c in of_class]
        rows.append([name, *numbers, str(of_class[0]["support"])])
    return rows


def draw_samples(
    path: Path, images: Tensor, labels: Tensor, shown: dict[str, tuple[Tensor, str]], both_orders: bool = False
) -> None:
    """Photo, label, and of each run the output as it is (rgb) and as classes, or in both channel orders.

    images: N x 3 x H x W and labels: N x H x W, uint8; shown: title -> N x 3 (or 11) x H x W outputs, their target.
    """
    columns = {"photo": images.permute(0, 2, 3, 1).numpy(), "true": PALETTE[labels.numpy()]}
    for title, (output, target) in shown.items():
        colours = predicted_channels(output, target)
        as_it_is = (255 * colours.clamp(0, 1)).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        if both_orders:
            columns |= {f"{title}\nread as RGB": as_it_is, f"{title}\nread as BGR": as_it_is[..., ::-1]}
        elif target == "labels":
            columns[title] = as_it_is
        else:
            nearest = PALETTE[nearest_class(colours).cpu().numpy()]
            columns |= {f"{title}\nas it is": as_it_is, f"{title}\nnearest class": nearest}
    rows = [list(row) for row in zip(*columns.values(), strict=True)]
    pictures.save_grid(path, rows, column_titles=list(columns), legend=LEGEND, cell=1.9)


# fmt: off
def parse_args() -> Namespace:
    """The arguments."""
    parser = cli.Parser(__doc__)
    add = parser.add_argument_group("what to evaluate").add_argument
    add("checkpoints", nargs="+", type=Path, metavar="CHECKPOINT", help="best.pt or last.pt of a run")
    add("--data", metavar="PATH", help="Mut1ny's or CelebAMask-HQ's folder (default: the checkpoint's)")
    add("--split", choices=["test", "train", "all"], default="test",
        help="test: the checkpoint's (Sec. III-D); train: the rest; all: every image, those it was trained on too")
    add("--bgr", action="store_true",
        help="also read the outputs in the other channel order, in which yellow hair is turquoise (ours)")
    add("--out", type=Path, metavar="DIR",
        help="default: best-test, or best-all-FOLDER, beside each best.pt; tables and pictures to the first one's")
    add("--cache", type=Path, default=dataset.CACHE, metavar="DIR", help="decoded images (default: data/cache here)")
    cli.add_machine_arguments(parser)
    return parser.parse_args()
# fmt: on


def main() -> None:
    args = parse_args()
    name = f"all-{Path(args.data).resolve().name}" if args.data and args.split == "all" else args.split
    outs = result_folders(args.checkpoints, args.out, name)
    networks = load_all(args.checkpoints, args.device, args.amp)
    selected = [select(args, network.checkpoint) for network in networks.values()]
    for path, (_, who, _) in zip(args.checkpoints, selected, strict=True):
        if who != selected[0][1]:
            raise InputError(
                f"{path}: has other {args.split} images or labels than {args.checkpoints[0]}, and cannot stand beside "
                "it; evaluate them apart, or both with --data and --split all on images that neither was trained on"
            )
    results, shown = {}, {}
    chosen = np.random.default_rng(0).permutation(len(selected[0][1]))[:5]
    for folder, (title, network), (faces, who, source) in zip(outs, networks.items(), selected, strict=True):
        model, checkpoint, device, amp = network
        pictures.make_folder(folder)
        facts = {"checkpoint": str(checkpoint.path), "title": title, "epoch": checkpoint["epoch"]}
        facts |= {"weights": checkpoint["weights"], "data": source, "split": args.split, "n": len(faces)}
        for bgr in (False, True)[: 1 + args.bgr]:
            scores = evaluate(model, faces, checkpoint["args"], device, amp, bgr)
            if bgr:  # the channel-pixels were counted of the outputs as they are
                scores = {k: v for k, v in scores.items() if k.startswith("class_") or k == "confusion"}
            result = facts | {"read_bgr": bgr} | scores | {"per_class": per_class(scores["confusion"])}
            result["confusion"] = scores["confusion"].tolist()
            pictures.write_json(folder / f"results{'-bgr' * bgr}.json", result)
            results[f"{title}, as BGR" if bgr else title] = result
        if seen := len(among(who, checkpoint["split"]["train"])):
            print(f"{title}: WAS TRAINED ON {seen} OF THESE {len(faces)} IMAGES")
        images, labels = faces.batch(chosen)
        shown[title] = outputs(model, images, device, amp), checkpoint["args"]["target"]
    off = faces.arrays["off"].sum()
    print(f"{source}, split {args.split}, {len(faces)} images, {off:,} label pixels off the palette\n")
    pictures.print_table(final_table(results))
    print()
    pictures.print_table(class_table({title: results[title] for title in networks}))
    out = args.out or outs[0]
    if args.bgr:  # turquoise are the ears, and yellow hair that is read in the other order
        print()
        for title, result in results.items():
            hair = result["confusion"][CLASSES.index("hair")]
            as_hair, as_ears = (hair[CLASSES.index(c)] / max(1, sum(hair)) for c in ("hair", "ears"))
            print(f"of the hair's pixels, {as_hair:.1%} are taken for hair and {as_ears:.1%} for ears: {title}")
        draw_samples(out / "turquoise.png", images, labels, shown, both_orders=True)
    pictures.write_csv(out / "final.csv", final_table(results))
    pictures.write_csv(out / "per_class.csv", class_table(results))
    draw_samples(out / "samples.png", images, labels, shown)
    print(f"\nresults.json{', results-bgr.json' * args.bgr} -> {', '.join(map(str, outs))}")
    print(f"final.csv, per_class.csv, samples.png{', turquoise.png' * args.bgr} -> {out}")


if __name__ == "__main__":
    cli.run(main)

"""Train DeepLabV3 or PSPNet to colour the 11 areas of a face as Mut1ny's label images do.

Cunha: "How do different semantic segmentation models perform at recognizing faces with different cultural
backgrounds?", Frankfurt University of Applied Sciences, 2024 (course project).

    python mut1ny_fairness/train.py --data Mut1ny                        the paper's DeepLabV3: 25 epochs
    python mut1ny_fairness/train.py --data Mut1ny --model pspnet         its PSPNet
    python mut1ny_fairness/train.py                 DeepLabV3 on 40 generated pictures of 64 px
    python mut1ny_fairness/train.py --target labels                      11 classes and cross-entropy instead
    python mut1ny_fairness/train.py --data Mut1ny --recipe ours          and dice, pictures mirrored, zoomed and shifted
    python mut1ny_fairness/train.py --resume mut1ny_fairness/runs/deeplabv3-rgb/last.pt
    torchrun --nproc_per_node=2 mut1ny_fairness/train.py --data Mut1ny   two processes, 2 images each
"""

import math
import sys
from argparse import Namespace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from torch import nn
from torch.optim import Optimizer

from common import cli, pictures
from common.cli import number
from common.data import check_finite, progress, shuffled
from common.device import (
    adam,
    autocast,
    copy_from_first,
    first_process_first,
    memory_format,
    parallel,
    start,
    to_device,
)
from common.run import Checkpoint, Run, arguments
from common.weights import fill, load_weights
from mut1ny_fairness import dataset
from mut1ny_fairness.dataset import HERE, LabelledFaces, augment, normalize
from mut1ny_fairness.eval import build_model, draw_samples, evaluate, outputs, title_of
from mut1ny_fairness.losses import loss_of, soft_dice
from mut1ny_fairness.palette import CLASSES
from mut1ny_fairness.resnet import encoder_of
from mut1ny_fairness.scores import ROWS, Tally

GENERATED_SIZE = 64  # ours: to end within minutes on a CPU
AUX = 0.4  # weight of the auxiliary loss of a whole PSPNet (Zhao et al.); DeepLabV3 has none (ours)
WEIGHTS = {"coco": "DeepLabV3_ResNet101_Weights.COCO_WITH_VOC_LABELS_V1", "imagenet": "ResNet101_Weights.IMAGENET1K_V1"}
PANELS = {  # figures 4 and 5 in their order, and beside each row what the 11 classes have (ours)
    "(a) accuracy": "accuracy", "(b) F1": "f1", "(c) IoU": "iou", "accuracy, 11 classes": "class_accuracy",
    "(d) loss": "loss", "(e) precision": "precision", "(f) recall": "recall", "mean IoU, 11 classes": "class_iou",
}  # fmt: skip
LINE = (
    "epoch {epoch:3d}  loss {loss:.4f}  F1 {f1:.4f}  IoU of 11 classes {class_iou:.4f}  test loss {test_loss:.4f}  "
    "F1 {test_f1:.4f}  IoU of 11 classes {test_class_iou:.4f}"
)


# fmt: off
def parse_args() -> tuple[Namespace, Checkpoint | None]:
    """The arguments, and the checkpoint that --resume names."""
    parser = cli.Parser(__doc__)
    add = parser.add_argument_group("data (Sec. III-B to III-D)").add_argument
    add("--data", type=cli.path, metavar="PATH",
        help="Mut1ny's or CelebAMask-HQ's folder (default: data/mut1ny or data/CelebAMask-HQ here, else generated)")
    add("--manifest", type=cli.path, metavar="FILE", help="of prepare.py (default: manifest.csv in the data folder)")
    add("--size", type=number(int, 16), metavar="N",
        help=f"image side ({dataset.SIZE}: Sec. III-D; on generated pictures {GENERATED_SIZE})")
    add("--split", choices=["images", "person"], default="images",
        help="images: 80/20 at random (Sec. III-D, ratio ours); person: no person on both sides (ours)")
    add("--target", choices=["rgb", "labels"],
        help="rgb (default): the label's colours by mean squared error (Sec. III-D.2: three outputs); "
        "labels: 11 classes by cross-entropy (ours)")
    add("--bgr", action="store_true", help="read the labels in the wrong channel order: the suspected mistake (ours)")
    add("--cache", type=Path, default=dataset.CACHE, metavar="DIR", help="decoded images (default: data/cache here)")
    add = parser.add_argument_group("model (Sec. III-A, III-D)").add_argument
    add("--model", choices=["deeplabv3", "pspnet"], default="deeplabv3", help="default deeplabv3: Sec. III-D.1")
    add("--truncated", action="store_true", help="PSPNet's encoder cut after layer2, as a common library does (ours)")
    add("--weights", default="auto", metavar="W",
        help="of the ResNet-101: coco (DeepLabV3: Sec. III-D.1), imagenet (PSPNet: Sec. III-D.2), none, a file, or "
        "auto: the paper's where they are available, else random")
    add = parser.add_argument_group("training (Sec. III-D)").add_argument
    add("--recipe", choices=["paper", "ours"], default="paper",
        help="ours: --target labels with a dice loss, pictures mirrored, zoomed and shifted, a rate that falls from "
        "--lr to 0 along a cosine")
    add("--epochs", type=number(int, 1), default=25, metavar="N", help="25: Sec. III-D")
    add("--batch-size", type=number(int, 2), default=4, metavar="N",
        help="4: ours (the public template's; the paper says \"a specific batch size\"); of all processes together")
    add("--lr", type=number(float, 0, above=True), metavar="X",
        help="of Adam, 0.0001: ours (the public template's; the paper names no optimiser); with --recipe ours and on "
        "generated pictures 0.001")
    args, saved = arguments(parser, HERE.name, free=("data", "manifest"), seed=100, seed_help=", the public template's")
    if args.size and args.size % 8:
        parser.error(f"--size {args.size} must be a multiple of 8, such as {args.size + -args.size % 8}")
    if args.truncated and args.model != "pspnet":
        parser.error("--truncated is for --model pspnet; DeepLabV3 needs its whole encoder")
    if args.recipe == "ours" and saved and args.epochs != saved["args"]["epochs"]:
        parser.error(f"--epochs {args.epochs}: the rate was to fall over {saved['args']['epochs']}; leave it out")
    if args.recipe == "ours" and args.target == "rgb":
        parser.error("--recipe ours: learns classes; leave --target rgb out")
    args.target = args.target or ("labels" if args.recipe == "ours" else "rgb")
    if args.bgr and args.target == "labels":
        parser.error("--bgr: only the target rgb learns colours, whose order can be wrong; leave one out")
    return args, saved
# fmt: on


def rate_of(args: Namespace, epoch: int) -> float:
    """The learning rate of an epoch, counted from 1: constant, or falling from --lr along a cosine (ours)."""
    return args.lr * (1 + math.cos(math.pi * (epoch - 1) / args.epochs)) / 2 if args.recipe == "ours" else args.lr


def train_epoch(
    network: nn.Module, faces: LabelledFaces, optimizer: Optimizer, run: Run, epoch: int
) -> dict[str, float]:
    """One pass over the training set -> its scores, of the network as it was at each step, dropout and all."""
    network.train()
    args, tally, losses = run.args, Tally(run.device, run.args.target, run.args.bgr), []
    batches = shuffled(len(faces), args.batch_size, args.seed, epoch)
    for batch in progress(batches, f"epoch {epoch}"):
        images, labels = faces.batch(batch)
        if args.recipe == "ours":
            images, labels = augment(images, labels)
        labels = to_device(labels, run.device)
        with autocast(run.device, run.amp):
            output = network(normalize(images, run.device))
        output, auxiliary = output if isinstance(output, tuple) else (output, None)
        loss = main_loss = loss_of(output, labels, args.target, args.bgr)
        if args.recipe == "ours":
            loss = loss + soft_dice(output, labels)
        if auxiliary is not None:
            loss = loss + AUX * loss_of(auxiliary, labels, args.target, args.bgr)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        tally.add(output, labels, main_loss)
        losses.append(loss.detach())
        check_finite(losses, batches, faces.names, f"epoch {epoch}")
    return tally.scores()


def main() -> None:
    args, saved = parse_args()
    device, amp = start(args, least=2)  # batch norm needs two images

    # data (Sec. III-B to III-D)
    with first_process_first():
        samples, source = dataset.list_samples(args.data, args.manifest)
        generated = not args.data and "GENERATED" in source
        args.size = args.size or (GENERATED_SIZE if generated else dataset.SIZE)
        args.lr = args.lr or (1e-3 if generated or args.recipe == "ours" else 1e-4)
        samples = samples[: args.limit]
        train, test = dataset.split(samples, args.split, args.seed)
        arrays = dataset.load(samples, args.size, args.cache)
    train_set, test_set = (LabelledFaces(arrays, part, samples) for part in (train, test))
    split = {"train": [samples[i].identity for i in train], "test": [samples[i].identity for i in test]}
    shown = test_set.batch(range(0, len(test_set), -(-len(test_set) // 4)))  # at most four, from all of it

    # model (Sec. III-A, III-D): new heads, COCO's ASPP is not kept (ours, the template's way: the paper does not say)
    model, weights = build_model(vars(args)), saved["weights"] if saved else None
    if not saved:
        name = args.weights if args.weights in WEIGHTS else "coco" if args.model == "deeplabv3" else "imagenet"
        with first_process_first():
            pretrained, weights, _ = load_weights(args.weights, WEIGHTS[name], name)
        if pretrained is not None:
            what, encoder = "torchvision's ResNet-101 or DeepLabV3-ResNet101", encoder_of(pretrained, args.truncated)
            fill(model.backbone, encoder, what, args.weights)
            weights = f"encoder of {weights}, new heads"
    model.to(device, memory_format=memory_format(device, amp))

    # optimiser (Sec. III-D)
    optimizer, title = adam(model, args.lr), title_of(vars(args))
    panels = {panel: {name: "training", f"test_{name}": "test"} for panel, name in PANELS.items()}
    run = Run(
        args, saved, HERE, device, amp,
        name=f"{args.model}{'-truncated' * args.truncated}-{args.target}{'-bgr' * args.bgr}"
             f"{'-ours' * (args.recipe == 'ours')}{'-generated' * generated}",
        parts={"model": model, "optimizer": optimizer},
        split=split,
        facts={
            "data": f"{source}: {len(samples)} images, {len(train)} train, {len(test)} test, split by {args.split}, "
                    f"{arrays['off'].sum():,} label pixels off the palette",
            "model": f"{title}, {sum(p.numel() for p in model.parameters()):,} parameters",
            "weights": weights,
        },
        keep={"weights": weights, "classes": list(CLASSES)},
        line=LINE,
        curves=lambda path, log: pictures.save_curves(path, log, panels, columns=4),
        samples=lambda path: draw_samples(
            path, *shown, {"predicted": (outputs(model, shown[0], device, amp), args.target)}
        ),
    )  # fmt: skip
    network = parallel(model, device, args.compile)

    # loop (Sec. III-D): the best weights by validation loss, and that set is the test set
    for epoch in run.epochs():
        optimizer.param_groups[0]["lr"] = rate_of(args, epoch)
        trained = train_epoch(network, train_set, optimizer, run, epoch)
        copy_from_first(model)
        tested = evaluate(model, test_set, vars(args), device, amp)
        better = tested["loss"] < min((row["test_loss"] for row in run.log), default=float("inf"))
        scores = {name: trained[name] for name in ROWS} | {f"test_{name}": tested[name] for name in ROWS}
        run.end_epoch(scores, better)
    run.end()


if __name__ == "__main__":
    cli.run(main)

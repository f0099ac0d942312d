"""Train DeepLabV3+ with squeeze-and-excitation on 18 binary face-part masks.

Zhakyp, Alenov, Adilkyzy: "Semantic Image Segmentation of Human Faces", Nazarbayev University.

    python nu_deeplabv3plus/train.py --data CelebAMask-HQ                    the paper's run without augmentation
    python nu_deeplabv3plus/train.py --data CelebAMask-HQ --augment flip     its run on 6,400 images
    python nu_deeplabv3plus/train.py --weights none --epochs 3               on generated faces, 3 minutes: val IoU 0.53
    python nu_deeplabv3plus/train.py --resume nu_deeplabv3plus/runs/none/last.pt    goes on with a stopped run
    torchrun --nproc_per_node=2 nu_deeplabv3plus/train.py --batch-size 8     two processes, 4 images each
"""

import sys
from argparse import Namespace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from common import cli, pictures
from common.celebamask import PARTS, list_celebamask
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
    sum_over_processes,
    to_device,
)
from common.losses import dice_loss
from common.metrics import batch_convention, multilabel_counts
from common.run import Checkpoint, Run, arguments
from common.weights import fill, load_weights
from nu_deeplabv3plus import dataset
from nu_deeplabv3plus.dataset import HERE, FaceParts
from nu_deeplabv3plus.eval import choose_faces, draw_overlays, evaluate, pooled_iou, predict_faces, scale
from nu_deeplabv3plus.model import OUTPUT_STRIDE, DeepLabV3Plus

CURVES = {
    "dice loss": {"loss": "training", "val_loss": "validation"},
    "mean IoU, mean over batches": {"iou": "training", "val_iou": "validation"},
    "mean IoU, pooled": {"pooled_iou": "training", "val_pooled_iou": "validation"},
    "learning rate": {"lr": "lr"},
}
LINE = "epoch {epoch:3d}  loss {loss:.4f}  val loss {val_loss:.4f}  IoU {val_iou:.4f} (pooled {val_pooled_iou:.4f})"


# fmt: off
def parse_args() -> tuple[Namespace, Checkpoint | None]:
    """The arguments, and the checkpoint that --resume names."""
    parser = cli.Parser(__doc__)
    add = parser.add_argument_group("data (Sec. 3.1, 3.2)").add_argument
    add("--data", type=cli.path, metavar="PATH", help="default: data/CelebAMask-HQ here, else generated faces")
    add("--size", type=number(int, 16), default=dataset.SIZE, metavar="N", help="a multiple of 16 (128: Sec. 3.1)")
    add("--augment", choices=["none", "flip", "flip-swap"], default="none",
        help="flip: Sec. 3.2, doubles the set; flip-swap: also swaps left and right (ours); none: Sec. 4")
    add("--cache", type=Path, default=dataset.CACHE, metavar="DIR", help="decoded faces (default: data/cache here)")
    add = parser.add_argument_group("training (Sec. 3.3, 3.4)").add_argument
    add("--epochs", type=number(int, 1), default=80, metavar="N", help="80: Sec. 3.4")
    add("--batch-size", type=number(int, 2), default=4, metavar="N", help="of all processes together (4: Sec. 3.4)")
    add("--lr", type=number(float, 0, above=True), default=1e-3, metavar="X", help="of Adam, 0.001: Sec. 3.4")
    add("--patience", type=number(int, 0), metavar="N",
        help="stop after N epochs without a better validation loss, 0: never (10, with mirrored faces 20: Sec. 3.4, 4)")
    add("--weights", default="auto", metavar="W",
        help="imagenet (Sec. 3.3), none, a file, or auto (default, ours): ImageNet where it is available, else random")
    free = ("data", "patience")
    args, saved = arguments(parser, HERE.name, free=free, limit=dataset.N_FACES, limit_help=" (4,000: Sec. 3.1)")
    if args.size % OUTPUT_STRIDE:
        parser.error(f"--size {args.size} must be a multiple of {OUTPUT_STRIDE}")
    if args.patience is None:
        args.patience = 10 if args.augment == "none" else 20
    return args, saved
# fmt: on


def reduce_on_plateau(optimizer: Optimizer) -> ReduceLROnPlateau:
    """x 0.1 on the fifth epoch without a loss below best - 1e-4, down to 1e-7 (Sec. 3.4; the rest is Keras')."""
    # Keras' patience of 5 is PyTorch's 4, which lets four bad epochs pass
    return ReduceLROnPlateau(optimizer, factor=0.1, patience=4, threshold=1e-4, threshold_mode="abs", min_lr=1e-7)


def epochs_since_best(losses: list[float]) -> int:
    """How many of the last epochs did not beat the best loss before them (Keras' rule with min_delta 0)."""
    return len(losses) - 1 - losses.index(min(losses)) if losses else 0


def train_epoch(network: nn.Module, faces: FaceParts, optimizer: Optimizer, run: Run, epoch: int) -> dict[str, float]:
    """One pass over the training set -> loss and iou as the paper counts them (mean over batches), and pooled_iou."""
    network.train()
    batches, losses, counts = shuffled(len(faces), run.args.batch_size, run.args.seed, epoch), [], []
    for batch in progress(batches, f"epoch {epoch}"):
        images, masks = faces.batch(batch)
        masks = to_device(masks, run.device)
        with autocast(run.device, run.amp):
            logits = network(scale(images, run.device))
        loss = dice_loss(logits, masks, over_processes=True)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
        counts.append(multilabel_counts(logits.detach() > 0, masks))
        check_finite(losses, batches, faces.names, f"epoch {epoch}")
    counts = sum_over_processes(torch.stack(counts))  # steps 18 4
    iou = batch_convention(counts)[0].mean().item()
    return {"loss": (sum(losses) / len(losses)).item(), "iou": iou, "pooled_iou": pooled_iou(counts.sum(0))}


def main() -> None:
    args, saved = parse_args()
    device, amp = start(args, least=2)  # batch norm needs two images

    # data (Sec. 3.1, 3.2)
    with first_process_first():
        folder, source = dataset.locate(args.data)
        faces = list_celebamask(folder)[: args.limit]
        arrays = dataset.load(faces, args.size, args.cache)
    names, (train, val) = [face.photo.name for face in faces], dataset.split(len(faces), args.seed)
    train_set, val_set = FaceParts(arrays, train, names, args.augment), FaceParts(arrays, val, names)
    split = {"train": [faces[i].identity for i in train], "val": [faces[i].identity for i in val]}

    # model (Sec. 3.3)
    model, weights = DeepLabV3Plus(num_classes=len(PARTS)), saved["weights"] if saved else None
    if not saved:
        with first_process_first():
            imagenet, weights, _ = load_weights(args.weights, "ResNet50_Weights.IMAGENET1K_V1")
        if imagenet is not None:
            fill(model.encoder, model.encoder.trunk_of(imagenet), "torchvision's ResNet-50", args.weights)
    model.to(device, memory_format=memory_format(device, amp))

    # optimiser and rules (Sec. 3.4)
    optimizer = adam(model, args.lr)
    plateau = reduce_on_plateau(optimizer)
    chosen = choose_faces(len(val_set), args.seed)[-3:]  # those of figure 8
    run = Run(
        args, saved, HERE, device, amp,
        name=args.augment + "-generated" * (not args.data and "GENERATED" in source),
        parts={"model": model, "optimizer": optimizer, "plateau": plateau},
        split=split,
        facts={
            "data": f"{source}: {len(faces)} faces, {len(train)} train, {len(val)} val, --augment {args.augment}",
            "model": f"DeepLabV3+ with SE, {sum(p.numel() for p in model.parameters()):,} parameters",
            "weights": weights,
        },
        keep={"weights": weights, "classes": list(PARTS)},
        line=LINE,
        curves=lambda path, log: pictures.save_curves(path, log, CURVES, ("learning rate",)),
        samples=lambda path: draw_overlays(path, *predict_faces(model, val_set, chosen, device, amp)),
    )  # fmt: skip
    network = parallel(model, device, args.compile)

    # loop (Sec. 3.4)
    for epoch in run.epochs():
        bad = epochs_since_best([row["val_loss"] for row in run.log])
        if 0 < args.patience <= bad:
            run.say("stopped", f"{bad} epochs without a better validation loss (--patience {args.patience})")
            break
        lr = optimizer.param_groups[0]["lr"]
        trained = train_epoch(network, train_set, optimizer, run, epoch)
        copy_from_first(model)
        validated = evaluate(model, val_set, args.batch_size, device, amp)
        plateau.step(validated["loss"])
        scores = {"val_loss": validated["loss"], "val_iou": validated["iou"], "lr": lr}
        scores["val_pooled_iou"] = pooled_iou(validated["counts"])
        better = validated["loss"] < min((row["val_loss"] for row in run.log), default=float("inf"))
        run.end_epoch(trained | scores, better)
    run.end()


if __name__ == "__main__":
    cli.run(main)

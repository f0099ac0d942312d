"""Step 2: fine-tune the pretrained encoder, with a new decoder, on a fraction of the labels; and its baseline.

Zaidi, Kumar, Khan: "A masked self-supervised face parsing pretraining technique", 2024; after Li, Cao, Wang, Xu: "A
Masked Self-Supervised Pretraining Method for Face Parsing", Mathematics 10(12):2002, 2022.

    python masked_ssl/train.py --epochs 7 --batch-size 4    after pretrain.py's try, on 160 generated faces of 64 px: 4
                                                            minutes on a CPU core, test mIoU 45
    python masked_ssl/train.py --data LaPa --weights masked_ssl/runs/pretrain/pretrain.pt --fraction 0.002   the paper's
    python masked_ssl/train.py --data LaPa --weights imagenet --fraction 0.002                              its baseline
    python masked_ssl/train.py --resume masked_ssl/runs/pretrained/last.pt
    torchrun --nproc_per_node=2 masked_ssl/train.py --data LaPa             two processes, 4 faces each

The bare command starts from the newest pretrain.pt that pretrain.py wrote in runs/, if it was made with the same data;
else from ImageNet's weights or, where those are not available, from random ones. The first lines say from which.
"""

import math
import sys
from argparse import Namespace
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from common import cli, pictures
from common.cli import number
from common.data import check_finite, progress, shuffled
from common.device import (
    autocast,
    copy_from_first,
    first_process_first,
    memory_format,
    parallel,
    start,
    sum_over_processes,
    to_device,
    world,
)
from common.run import Checkpoint, Run
from masked_ssl import dataset, recipe
from masked_ssl.classes import LAYOUTS
from masked_ssl.dataset import IGNORED, FaceLabels, normalize
from masked_ssl.eval import choose_faces, draw_figure_4, evaluate, predict_faces, summarize
from masked_ssl.model import Network
from masked_ssl.splits import GENERATED_SIZE, HERE, locate, take_fraction

# epochs, steps, learning rates: ours, the paper gives no number
DEFAULTS = {"size": dataset.SIZE, "epochs": 50, "min_steps": 2000, "lr": 1e-3}
GENERATED = {"size": GENERATED_SIZE, "epochs": 12, "min_steps": 0, "lr": 1e-2}  # ours: to end within minutes
ENCODER_LR = 0.1  # ours, times --lr; with one rate for both the pretraining helped less or not at all (NOTES.md)
CURVES = {  # figure 3
    "training loss": {"loss": "cross-entropy + dice", "cross_entropy": "cross-entropy", "dice": "dice"},
    "mIoU, %": {"test_miou": "test", "val_miou": "validation"},
    "mean F1 over the foreground, %": {"test_f1": "test", "val_f1": "validation"},
}
LINE = (
    "epoch {epoch:3d}  loss {loss:.4f}  val mIoU {val_miou:.2f}  test mIoU {test_miou:.2f}  mean F1 {test_f1:.2f}  "
    "lr {lr:.1e}"
)


# fmt: off
def parse_args() -> tuple[Namespace, Checkpoint | None]:
    """The arguments, and the checkpoint that --resume names."""
    parser = cli.Parser(__doc__)
    dataset.add_data_arguments(parser)
    add = parser.add_argument_group("labels (Abstract), model (Fine-Tuning Process)").add_argument
    add("--fraction", type=number(float, 0, 1, above=True), default=1.0, metavar="X",
        help="part of the labels to learn from (0.002 and 0.005: figure 3), drawn with --seed (default 1)")
    add("--weights", default="auto", metavar="W",
        help="the pretrain.pt of pretrain.py: the paper's; imagenet: its baseline; none; torchvision's file; or auto: "
             "the newest of runs/ if it was made with this data, else ImageNet's where available, else random")
    add = recipe.add_training_arguments(parser, DEFAULTS, GENERATED)
    add("--encoder-lr", type=number(float, 0, above=True), metavar="X",
        help=f"for the encoder (default {ENCODER_LR:g} of --lr)")
    add("--min-steps", type=number(int, 0), metavar="N",
        help="repeat few labels within an epoch, until all epochs together have N steps "
             f"(default {DEFAULTS['min_steps']}, on generated faces {GENERATED['min_steps']})")
    return recipe.parse(parser, "finetune", free=("data",), limit_help=" of each of train, val and test")
# fmt: on


def repeats(n: int, batch_size: int, epochs: int, min_steps: int) -> int:
    """How often an epoch shows each of n labels, so that all epochs together have at least min_steps steps."""
    return max(1, math.ceil(min_steps * batch_size / (epochs * n)))


def parsing_loss(logits: Tensor, labels: Tensor, smooth: float = 1.0) -> tuple[Tensor, Tensor]:
    """B x C x H x W logits, B x H x W labels (255: none) -> cross-entropy and dice loss, float32 (ours, both).

    Cross-entropy: mean over the labelled pixels. Dice: 1 - mean soft F1 of the classes that the batch's truth has, of
    softmax probabilities summed over the batch. Both are those of the global batch under torchrun.
    """
    C = logits.shape[1]
    log_p = F.log_softmax(logits.float(), dim=1)
    labelled = labels != IGNORED
    entropy = F.nll_loss(log_p, labels.long(), ignore_index=IGNORED, reduction="sum")
    p = log_p.exp() * labelled[:, None]
    y = F.one_hot(labels.masked_fill(~labelled, 0).long(), C).permute(0, 3, 1, 2) * labelled[:, None]
    pixels = [(p * y).sum((0, 2, 3)), p.sum((0, 2, 3)), y.sum((0, 2, 3)).float()]
    sums = sum_over_processes(torch.cat([*pixels, torch.stack([entropy, labelled.sum().float()])]))
    (tp, predicted, true), (entropy, n) = sums[: 3 * C].view(3, C), sums[3 * C :]
    f1 = (2 * tp + smooth) / (predicted + true + smooth)
    present = true > 0
    return entropy / n.clamp(min=1), 1 - (f1 * present).sum() / present.sum()


def train_epoch(network: nn.Module, faces: FaceLabels, optimizer: Optimizer, run: Run, epoch: int) -> dict[str, float]:
    """One epoch over the labels and their repetitions -> loss, cross_entropy and dice, means over batches."""
    network.train()
    args, losses = run.args, []
    batches = shuffled(len(faces), args.batch_size, args.seed, epoch)
    for step, batch in enumerate(progress(batches, f"epoch {epoch}"), (epoch - 1) * len(batches)):
        images, labels = faces.batch(batch, epoch)
        recipe.set_learning_rates(optimizer, step, args.epochs * len(batches))
        with autocast(run.device, run.amp):
            logits = network(normalize(images, run.device))
        cross_entropy, dice = parsing_loss(logits, to_device(labels, run.device))
        loss = cross_entropy + dice
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(torch.stack([loss, cross_entropy, dice]).detach())
        check_finite(losses, batches, faces.names, f"epoch {epoch}")
    return dict(zip(("loss", "cross_entropy", "dice"), torch.stack(losses).mean(0).tolist(), strict=True))


def main() -> None:
    args, saved = parse_args()
    device, amp = start(args, least=2)  # batch norm needs two faces

    # labels (Abstract)
    with first_process_first():
        data = locate(args.data, args.limit)
        recipe.fill_in(args, GENERATED if data.generated else DEFAULTS)
        recipe.fill_in(args, {"encoder_lr": ENCODER_LR * args.lr})
        classes = LAYOUTS[data.layout]
        parts = {**data.parts, "train": take_fraction(data.parts["train"], args.fraction, args.seed)}
        arrays = {
            part: dataset.load(faces, args.size, classes, args.cache, f"{part} faces") for part, faces in parts.items()
        }
    names = {part: [face.photo.name for face in faces] for part, faces in parts.items()}
    repeat = saved["repeat"] if saved else repeats(len(names["train"]), args.batch_size, args.epochs, args.min_steps)
    train_set = FaceLabels(arrays["train"], names["train"], classes, flip=True, repeat=repeat, seed=args.seed)
    tested = {part: FaceLabels(arrays[part], names[part], classes) for part in ("val", "test")}

    # model (CNN Architectures, Fine-Tuning Process)
    network = Network(len(classes), args.checkpointing)
    if saved:
        kind, weights, seen = "", saved["weights"], saved["pool"]
    else:
        with first_process_first():
            kind, weights, seen = recipe.start_from(network, args.weights, data)
    network.to(device, memory_format=memory_format(device, amp))
    optimizer = recipe.adamw(network, args.encoder_lr, args.lr)
    samples = choose_faces(tested["val"], classes)

    def draw_samples(path: Path) -> None:
        photos, truth, predicted, _ = predict_faces(network, tested["val"], samples, device, amp)
        draw_figure_4(path, photos, truth, {"predicted": predicted}, classes)

    steps = len(shuffled(len(train_set), args.batch_size, args.seed, 1))
    run = Run(
        args, saved, HERE, device, amp,
        name=Path(kind).stem + "-generated" * data.generated,
        parts={"model": network, "optimizer": optimizer},
        split={part: [face.identity for face in faces] for part, faces in parts.items()},
        facts={
            "data": f"{data.words}: {len(names['train'])} of {len(data.parts['train'])} train, "
                    f"{len(names['val'])} val, {len(names['test'])} test, {args.size} px, {len(classes)} classes; "
                    f"{data.split_words}",
            "model": f"UNet++ and FP decoder, {sum(p.numel() for p in network.parameters()):,} parameters",
            "weights": weights,
            "steps": f"{args.epochs} epochs of {steps}, each label {repeat} time(s) in each",
        },
        keep={"stage": "finetune", "classes": list(classes), "weights": weights, "repeat": repeat, "pool": seen},
        line=LINE, curves=partial(pictures.save_curves, panels=CURVES), samples=draw_samples,
    )  # fmt: skip
    wrapped = parallel(network, device, args.compile)

    # loop
    for epoch in run.epochs():
        row = {"steps": epoch * steps, **train_epoch(wrapped, train_set, optimizer, run, epoch)}
        copy_from_first(network)
        for part, faces in tested.items():
            scores = summarize(evaluate(network, faces, max(1, args.batch_size // world()[1]), device, amp), classes)
            row |= {f"{part}_{name}": scores[name] for name in ("miou", "f1")}
        better = row["val_miou"] > max((before["val_miou"] for before in run.log), default=-1)
        run.end_epoch({**row, "lr": optimizer.param_groups[1]["lr"]}, better)
    run.end()


if __name__ == "__main__":
    cli.run(main)

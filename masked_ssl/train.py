"""Step 2: fine-tune the pretrained encoder, with a new decoder, on a fraction of the labels; and its baseline.

Zaidi, Kumar, Khan: "A masked self-supervised face parsing pretraining technique", 2024; after Li, Cao, Wang, Xu: "A
Masked Self-Supervised Pretraining Method for Face Parsing", Mathematics 10(12):2002, 2022.

    python masked_ssl/train.py                  a try on 160 painted faces of 64 px; 16 minutes on one CPU core,
                                                  test mIoU 41
    python masked_ssl/train.py --data LaPa --init masked_ssl/runs/pretrain/pretrain.pt --fraction 0.002   the paper's
    python masked_ssl/train.py --data LaPa --init imagenet --fraction 0.002                               its baseline
    python masked_ssl/train.py --resume masked_ssl/runs/pretrained/last.pt
    torchrun --nproc_per_node=2 masked_ssl/train.py --data LaPa             two processes, 4 faces each

The bare command starts from the newest pretrain.pt that pretrain.py wrote in runs/, if it was made with the same data;
else from ImageNet's weights or, where those cannot be had, from random ones. The first lines say from which.
"""

import math
import os
import shlex
import sys
import time
from argparse import BooleanOptionalAction, Namespace
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from common import checkpoint, cli, distributed, pictures
from common.cache import fingerprint
from common.cli import InputError, number
from common.data import EvalBatches, TrainBatches, check_finite, loader
from common.device import autocast, memory_format, pick_amp, pick_device, seed_everything, to_device
from masked_ssl import dataset, splits
from masked_ssl.classes import classes_of
from masked_ssl.dataset import IGNORED, FaceLabels, normalize
from masked_ssl.eval import choose_faces, draw_figure_4, evaluate, predict_faces, summarize
from masked_ssl.model import Network
from masked_ssl.pool import identity
from masked_ssl.weights import (
    CHECK_EVERY,
    NOT_SAVED,
    ONLY_IN_LAST,
    PAPER,
    STARTS,
    adamw,
    check_run_arguments,
    check_together,
    fill_in,
    scheduled,
    start_from,
)

# epochs, steps, learning rates: ours, the paper gives no number
DEFAULTS = {"size": dataset.SIZE, "epochs": 50, "min_steps": 2000, "lr": 1e-3}
GENERATED = {"size": dataset.GENERATED_SIZE, "epochs": 12, "min_steps": 0, "lr": 1e-2}  # ours: to end within minutes
ENCODER_LR = 0.1  # ours, times --lr; with one rate for both the pretraining helped less or not at all (README.md)
MAY_CHANGE = {"epochs", "data", "workers", "device", "compile", "sync_batch_norm", "checkpointing"}  # when resuming
CURVES = {  # figure 3
    "training loss": {"loss": "cross-entropy + dice", "cross_entropy": "cross-entropy", "dice": "dice"},
    "mIoU, %": {"test_miou": "test", "val_miou": "validation"},
    "mean F1 over the foreground, %": {"test_f1": "test", "val_f1": "validation"},
}


# fmt: off
def parse_args(argv: list[str] | None = None) -> tuple[Namespace, set[str]]:
    """The arguments, and the names of those that stand on the command line."""
    parser = cli.Parser(__doc__)
    dataset.add_data_arguments(parser)
    add = parser.add_argument_group("labels (Abstract)").add_argument
    add("--fraction", type=number(float, 0, 1, above=True), default=1.0, metavar="X",
        help="part of the labels to learn from (0.002 and 0.005: figure 3), drawn with --seed (default 1)")
    add("--augment", choices=["flip", "none"], default="flip", help="flip: with left and right classes swapped (ours)")
    add = parser.add_argument_group("model (Fine-Tuning Process)").add_argument
    add("--init", default="auto", metavar="W",
        help="the pretrain.pt of pretrain.py: the paper's; imagenet: its baseline; random; or auto: the newest of "
             "runs/ if it was made with this data, else ImageNet's where to be had, else random")
    add("--checkpointing", action=BooleanOptionalAction, default=False,
        help="compute again what the backward pass needs: less memory, slower")
    add = parser.add_argument_group("training (ours: the 2024 text gives none of this)").add_argument
    add("--epochs", type=number(int, 1), metavar="N",
        help=f"each is tested (default {DEFAULTS['epochs']}, on painted faces {GENERATED['epochs']})")
    add("--min-steps", type=number(int, 0), metavar="N",
        help="see few labels so many times an epoch that there are N steps in all "
             f"(default {DEFAULTS['min_steps']}, on painted faces {GENERATED['min_steps']})")
    add("--batch-size", type=number(int, 2), default=8, metavar="N",
        help="default 8; under torchrun of all processes together")
    add("--lr", type=number(float, 0, above=True), metavar="X",
        help=f"of AdamW for the FP decoder, default {DEFAULTS['lr']}, on painted faces {GENERATED['lr']}")
    add("--encoder-lr", type=number(float, 0, above=True), metavar="X",
        help=f"for the encoder (default {ENCODER_LR:g} of --lr)")
    add("--schedule", choices=["cosine", "constant"], default="cosine", help="of the learning rates over all epochs")
    cli.add_run_arguments(parser, limit_help=" of each of train, val and test")
    args = parser.parse_args(argv)
    check_run_arguments(parser, args)
    given = cli.given_arguments(parser, argv)
    # whole paths, so that eval.py and --resume find them from any folder; text, because the checkpoint keeps them
    args.data = args.data and os.path.abspath(args.data)  # a link keeps its name, which splits.py looks at
    if args.init not in STARTS:
        args.init = str(Path(args.init).resolve())
    return args, given
# fmt: on


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
    sums = torch.cat([*pixels, torch.stack([entropy, labelled.sum().float()])])
    sums = distributed.sum_with_gradient(sums)
    (tp, predicted, true), (entropy, n) = sums[: 3 * C].view(3, C), sums[3 * C :]
    f1 = (2 * tp + smooth) / (predicted + true + smooth)
    present = true > 0
    return entropy / n.clamp(min=1), 1 - (f1 * present).sum() / present.sum()


def train_epoch(
    network: nn.Module,
    batches: DataLoader,
    optimizer: torch.optim.Optimizer,
    set_lr: Callable[[], None],
    device: torch.device,
    amp: bool,
    epoch: int,
) -> dict[str, float]:
    """One epoch over the labels and their repetitions -> loss, cross_entropy and dice, means over batches."""
    network.train()
    losses, parts = [], []
    rank, _ = distributed.world()
    bar = tqdm(batches, f"epoch {epoch}", leave=False, disable=None if rank == 0 else True, unit="batch")
    for images, labels in bar:
        set_lr()
        with autocast(device, amp):
            logits = network(normalize(images, device))
        cross_entropy, dice = parsing_loss(logits, to_device(labels, device))
        loss = cross_entropy + dice
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
        parts.append(torch.stack([cross_entropy, dice]).detach())
        if len(losses) % CHECK_EVERY == 0:
            check_finite(losses, batches, f"epoch {epoch}")
            bar.set_postfix(loss=f"{losses[-1].item():.4f}")
    check_finite(losses, batches, f"epoch {epoch}")
    cross_entropy, dice = torch.stack(parts).mean(0).tolist()
    return {"loss": torch.stack(losses).mean().item(), "cross_entropy": cross_entropy, "dice": dice}


def fill_defaults(args: Namespace, generated: bool) -> None:
    """Give the arguments that were not typed the values for painted faces or for real data, in place."""
    fill_in(args, GENERATED if generated else DEFAULTS)
    args.encoder_lr = args.encoder_lr or ENCODER_LR * args.lr


def repeats(n: int, batch_size: int, epochs: int, min_steps: int) -> int:
    """How often an epoch shows each of n labels, so that all epochs together have at least min_steps steps."""
    return max(1, math.ceil(min_steps * batch_size / (epochs * n)))


def main(argv: list[str] | None = None) -> None:
    args, given = parse_args(argv)
    saved = None
    if args.resume:
        saved = checkpoint.load_checkpoint(args.resume, PAPER)
        if saved.get("stage") != "finetune":
            raise InputError(f"--resume {args.resume}: a checkpoint of pretrain.py; resume that, or give it as --init")
        checkpoint.check_resumable(args.resume, saved)
        cli.resume_arguments(args, given, saved["args"], MAY_CHANGE)
    device = pick_device(args.device)
    amp = pick_amp(args.amp, device)
    rank, world_size = distributed.start(device)
    check_together(args, world_size)
    seed_everything(args.seed, args.deterministic)

    # labels
    with distributed.first_process_first():
        data = dataset.locate(args.data and Path(args.data), args.layout, args.limit)
        fill_defaults(args, data.generated)
        classes = classes_of(data.layout, args.classes)
        chosen = splits.take_fraction(data.parts["train"], args.fraction, args.seed)
        used = {**data.parts, "train": chosen}
        split = {part: [face.name for face in faces] for part, faces in used.items()}
        fingerprints = {part: fingerprint(dataset.files(faces)) for part, faces in used.items()}
        learned = [identity(face.photo) for face in chosen]
        if saved and (saved["split"], saved["fingerprint"]) != (split, fingerprints):
            raise InputError(f"--data {data.folder}: not the faces of {args.resume}; give the folder as it was")
        arrays = {
            part: dataset.load(faces, args.size, classes, args.cache, f"{part} faces")
            for part, faces in data.parts.items()  # all of train, so that other fractions and seeds find it there
        }
    names = {part: [face.photo.name for face in faces] for part, faces in data.parts.items()}
    position = {face.name: i for i, face in enumerate(data.parts["train"])}
    repeat = saved["repeat"] if saved else repeats(len(chosen), args.batch_size, args.epochs, args.min_steps)
    train_set = FaceLabels(
        arrays["train"], [position[face.name] for face in chosen], names["train"], classes,
        flip=args.augment == "flip", repeat=repeat, seed=args.seed,
    )  # fmt: skip
    tested = {
        part: FaceLabels(arrays[part], list(range(len(names[part]))), names[part], classes) for part in ("val", "test")
    }
    batches = TrainBatches(len(train_set), args.batch_size, args.seed)
    train_loader = loader(train_set, batches, args.workers, device.type == "cuda")
    test_loaders = {
        part: loader(faces, EvalBatches(len(faces), args.batch_size // world_size), args.workers, device.type == "cuda")
        for part, faces in tested.items()
    }

    # model (CNN Architectures, Fine-Tuning Process)
    network = Network(len(classes), args.checkpointing)
    weights, seen = (saved["weights"], saved["pool"]) if saved else ("", [])
    if not saved:
        with distributed.first_process_first():
            kind, weights, seen = start_from(network, args, data)
    network.to(device, memory_format=memory_format(device, amp))

    # training
    optimizer, log, best = adamw(network, args.encoder_lr, args.lr), [], -1.0
    if saved:
        for name, target in (("model", network), ("optimizer", optimizer)):
            checkpoint.restore(args.resume, lambda target=target, name=name: target.load_state_dict(saved[name]))
        log, best = saved["log"], saved["best"]
        checkpoint.set_rng_state(saved["rng"], device)
    wrapped = distributed.wrap(network, device, args.sync_batch_norm, args.compile)
    set_lr = scheduled(optimizer, args.epochs * len(batches), args.schedule, step=len(log) * len(batches))
    samples = choose_faces(tested["val"], classes)  # drawn whenever the model gets better

    def state() -> dict:
        return {
            "paper": PAPER,
            "stage": "finetune",
            "model": network.state_dict(),
            "optimizer": optimizer.state_dict(),
            "best": best,
            "epoch": len(log),
            "log": log,
            "args": {name: cli.jsonable(value) for name, value in vars(args).items() if name not in NOT_SAVED},
            "classes": list(classes),
            "weights": weights,
            "repeat": repeat,
            "split": split,
            "learned": learned,
            "pool": seen,
            "fingerprint": fingerprints,
            "rng": checkpoint.rng_state(device),
        }

    if rank == 0:
        if args.resume:
            out = checkpoint.resumed_run_folder(args.resume, log)
        else:
            out = checkpoint.new_run_folder(args.out, dataset.HERE / "runs", kind, data.generated)
        print(f"command    {shlex.join(sys.argv)}")
        print(f"device     {device}, {'bf16 autocast' if amp else 'float32'}, {world_size} process(es)")
        print(f"data       {data.words}: {len(chosen)} of {len(data.parts['train'])} train, {len(names['val'])} val, "
              f"{len(names['test'])} test, {args.size} px, {len(classes)} classes; {data.split_words}")  # fmt: skip
        print(f"model      UNet++ and FP decoder, {sum(p.numel() for p in network.parameters()):,} parameters")
        print(f"weights    {weights}")
        print(f"out        {out}")
        print(f"steps      {args.epochs} epochs of {len(batches)}, each label {repeat} time(s) in each", flush=True)
        if data.generated:
            print(dataset.DEMONSTRATION, flush=True)
        facts = {"weights": weights, "device": str(device), "amp": amp, "processes": world_size, "split": split}
        checkpoint.write_run_json(out / "run.json", vars(args), **facts)
        if not saved:
            checkpoint.save_checkpoint(out / "last.pt", state())  # a run stopped in its first epoch resumes from here
        if argv is None:  # label_fractions.py goes on by itself
            cli.go_on_with(out / "last.pt")

    for epoch in range(len(log) + 1, args.epochs + 1):
        started = time.perf_counter()
        batches.epoch = train_set.epoch = epoch
        trained = train_epoch(wrapped, train_loader, optimizer, set_lr, device, amp, epoch)
        distributed.copy_from_first(network)
        scores = {
            part: summarize(evaluate(network, faces, device, amp, len(classes)), classes)
            for part, faces in test_loaders.items()
        }
        improved = scores["val"]["miou"] > best
        best = max(best, scores["val"]["miou"])
        log.append({
            "epoch": epoch,
            "steps": epoch * len(batches),
            **trained,
            **{f"{part}_{name}": 100 * scores[part][name] for part in scores for name in ("miou", "f1")},
            "lr": optimizer.param_groups[1]["lr"],
            "seconds": round(time.perf_counter() - started, 1),
        })  # fmt: skip
        if rank > 0:
            continue
        if improved:
            checkpoint.save_checkpoint(out / "best.pt", {k: v for k, v in state().items() if k not in ONLY_IN_LAST})
            photos, truth, predicted, _ = predict_faces(network, tested["val"], samples, device, amp)
            draw_figure_4(out / "samples.png", photos, truth, {"predicted": predicted}, classes)
        checkpoint.save_checkpoint(out / "last.pt", state())
        checkpoint.write_log(out / "log.csv", log)
        pictures.save_curves(out / "curves.png", log, CURVES)
        print("epoch {epoch:3d}  loss {loss:.4f}  val mIoU {val_miou:.2f}  test mIoU {test_miou:.2f}  mean F1 "
              "{test_f1:.2f}  lr {lr:.1e}  {seconds:.0f} s".format(**log[-1]),
              " best" if improved else "", flush=True)  # fmt: skip
    if rank == 0:
        if saved and saved["epoch"] >= args.epochs:
            checkpoint.save_checkpoint(out / "last.pt", state())  # where its data lies now is news for eval.py
            print(f"done       {args.resume} already holds epoch {saved['epoch']}; give --epochs above that to go on")
        if argv is None:  # label_fractions.py goes on by itself
            evaluation = Path(sys.argv[0]).with_name("eval.py")
            print(f"next       python {shlex.quote(str(evaluation))} {shlex.quote(str(out / 'best.pt'))}")
    distributed.stop()


if __name__ == "__main__":
    cli.run(main)

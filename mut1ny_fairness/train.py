"""Train DeepLabV3 or PSPNet to colour the 11 areas of a face as Mut1ny's label images do.

Cunha: "How do different semantic segmentation models perform at recognizing faces with different cultural
backgrounds?", Frankfurt University of Applied Sciences, 2024 (course project).

    python mut1ny_fairness/train.py --data Mut1ny                        the paper's DeepLabV3: 25 epochs
    python mut1ny_fairness/train.py --data Mut1ny --model pspnet         its PSPNet
    python mut1ny_fairness/train.py                      DeepLabV3 on 24 generated pictures; 90 minutes, test F1 .77
    python mut1ny_fairness/train.py --epochs 1 --size 64                 a try in seconds
    python mut1ny_fairness/train.py --target labels                      11 classes and cross-entropy instead
    python mut1ny_fairness/train.py --resume mut1ny_fairness/runs/deeplabv3-rgb/last.pt
    torchrun --nproc_per_node=2 mut1ny_fairness/train.py --data Mut1ny   two processes, 2 images each
"""

import shlex
import sys
import time
from argparse import Namespace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from common import checkpoint, cli, distributed, pictures
from common.cache import fingerprint
from common.cli import InputError, number
from common.data import EvalBatches, TrainBatches, check_finite, loader
from common.device import adam, autocast, memory_format, pick_amp, pick_device, seed_everything, to_device
from common.weights import load_pretrained
from mut1ny_fairness import dataset
from mut1ny_fairness.dataset import LEGEND, LabelledFaces, normalize
from mut1ny_fairness.eval import PAPER, build_model, evaluate, predict, sample_columns, title_of
from mut1ny_fairness.palette import CLASSES, loss_of, to_colours
from mut1ny_fairness.scores import ROWS, Tally

AUX = {"deeplabv3": 0.0, "pspnet": 0.4}  # weight of the auxiliary loss; 0: no such head
MAY_CHANGE = {"epochs", "data", "manifest", "workers", "device", "compile", "sync_batch_norm"}  # when resuming
NOT_SAVED = {"cache", "out", "resume"}  # of this machine and this start, not of the run
ONLY_IN_LAST = {"optimizer", "rng"}  # best.pt does without: two thirds of 700 MB
CHECK_EVERY = 50  # steps between two looks at the losses: each look waits for the GPU
PANELS = {  # figures 4 and 5, in their order
    "(a) accuracy": "accuracy", "(b) F1": "f1", "(c) IoU": "iou", "(d) loss": "loss", "(e) precision": "precision",
    "(f) recall": "recall",
}  # fmt: skip


# fmt: off
def parse_args(argv: list[str] | None = None) -> tuple[Namespace, set[str]]:
    """The arguments, and the names of those that stand on the command line."""
    parser = cli.Parser(__doc__)
    add = parser.add_argument_group("data (Sec. III-B to III-D)").add_argument
    add("--data", type=Path, metavar="PATH",
        help="Mut1ny's or CelebAMask-HQ's folder (default: data/mut1ny or data/CelebAMask-HQ here, else generated)")
    add("--manifest", type=Path, metavar="FILE", help="of prepare.py (default: manifest.csv in the data folder)")
    add("--size", type=number(int, 16), default=dataset.SIZE, metavar="N", help="image side (256: Sec. III-D)")
    add("--split", choices=["images", "person"], default="images",
        help="images: 80/20 at random (Sec. III-D, ratio ours); person: no person on both sides (ours)")
    add("--target", choices=["rgb", "labels"], default="rgb",
        help="rgb: the label's colours by mean squared error (Sec. III-D.2: three outputs); "
        "labels: 11 classes by cross-entropy (ours)")
    add("--bgr", action="store_true", help="read the labels in the wrong channel order: the suspected mistake (ours)")
    add("--cache", type=Path, default=dataset.CACHE, metavar="DIR", help="decoded images (default: data/cache here)")
    add = parser.add_argument_group("model (Sec. III-A, III-D)").add_argument
    add("--model", choices=sorted(AUX), default="deeplabv3", help="default deeplabv3: Sec. III-D.1")
    add("--truncated", action="store_true", help="PSPNet's encoder cut after layer2, as a common library does (ours)")
    add("--aux", type=number(float, 0), metavar="X",
        help="weight of an auxiliary head's loss (default 0.4 for PSPNet, from its own paper; 0, no such head, for "
        "DeepLabV3 and for --truncated: ours)")
    add("--weights", default="auto", metavar="W",
        help="of the ResNet-101: coco (DeepLabV3: Sec. III-D.1), imagenet (PSPNet: Sec. III-D.2), none, a file, or "
        "auto: the paper's where they can be had, else random")
    add = parser.add_argument_group("training (Sec. III-D)").add_argument
    add("--epochs", type=number(int, 1), default=25, metavar="N", help="25: Sec. III-D")
    add("--batch-size", type=number(int, 1), default=4, metavar="N",
        help="4: ours (the public template's; the paper says \"a specific batch size\"); of all processes together")
    add("--lr", type=number(float, 0, above=True), default=1e-4, metavar="X",
        help="of Adam, 0.0001: ours (the public template's; the paper names no optimiser)")
    cli.add_run_arguments(parser, seed=100, seed_help=", the public template's")
    args = parser.parse_args(argv)
    given = cli.given_arguments(parser, argv)
    if args.resume and args.out:
        parser.error(f"--out {args.out}: a resumed run goes on in the folder of {args.resume}; leave --out out")
    if args.size % 8:
        parser.error(f"--size {args.size} must be a multiple of 8, such as {args.size // 8 * 8 + 8}")
    if args.truncated and args.model != "pspnet" and not args.resume:
        parser.error("--truncated is for --model pspnet; DeepLabV3 needs its whole encoder")
    if args.truncated and args.aux:
        parser.error(f"--aux {args.aux}: sits on layer3, which --truncated cuts off; leave one of them out")
    if args.aux is None:
        args.aux = 0.0 if args.truncated else AUX[args.model]
    # whole paths, so that eval.py and --resume find them from any folder; text, because the checkpoint keeps them
    args.data = args.data and str(args.data.resolve())
    args.manifest = args.manifest and str(args.manifest.resolve())
    return args, given
# fmt: on


def load_weights(model: nn.Module, args: Namespace) -> str:
    """Fill the encoder as --weights asks for it, and say where that came from.

    The heads start anew, COCO's ASPP included (ours, the template's way: the paper does not say).
    """
    coco = args.weights == "coco" or (args.weights != "imagenet" and args.model == "deeplabv3")
    if coco:
        state_dict, source = load_pretrained(
            args.weights, "DeepLabV3_ResNet101_Weights.COCO_WITH_VOC_LABELS_V1", name="coco"
        )
    else:
        state_dict, source = load_pretrained(args.weights, "ResNet101_Weights.IMAGENET1K_V1")
    if state_dict is None:
        return source
    try:
        model.backbone.load_torchvision(state_dict)
    except RuntimeError as error:
        problem = str(error).splitlines()[1].strip()[:100]
        raise InputError(
            f"--weights {args.weights}: not torchvision's ResNet-101 or DeepLabV3-ResNet101 ({problem}); give the "
            "state dict of one of these"
        ) from None
    return f"encoder of {source}, new heads"


def train_epoch(
    network: nn.Module,
    batches: DataLoader,
    optimizer: torch.optim.Optimizer,
    device: torch.device,
    amp: bool,
    args: Namespace,
    epoch: int,
) -> dict:
    """One pass over the training set -> its scores, of the network as it was at each step, dropout and all."""
    network.train()
    tally, losses = Tally(device, args.target, args.bgr), []
    rank, _ = distributed.world()
    bar = tqdm(batches, f"epoch {epoch}", leave=False, disable=None if rank == 0 else True, unit="batch")
    for images, labels in bar:
        labels = to_device(labels, device)
        with autocast(device, amp):
            output = network(normalize(images, device))
        output, auxiliary = output if args.aux > 0 else (output, None)
        loss = main_loss = loss_of(output, labels, args.target, args.bgr)
        if auxiliary is not None:
            loss = main_loss + args.aux * loss_of(auxiliary, labels, args.target, args.bgr)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        tally.add(output, labels, main_loss)
        losses.append(loss.detach())
        if len(losses) % CHECK_EVERY == 0:
            check_finite(losses, batches, f"epoch {epoch}")
            bar.set_postfix(loss=f"{losses[-1].item():.4f}")
    check_finite(losses, batches, f"epoch {epoch}")
    return tally.scores()


def draw_curves(path: Path, log: list[dict], title: str) -> None:
    """Figure 4 or 5: six panels of training and test; dotted, the pooled scores of the 11 classes."""
    figure, axes = pictures.subplots(2, 3, figsize=(12, 6.4))
    epochs, marker = [row["epoch"] for row in log], "." if len(log) < 10 else None
    for axis, (name, column) in zip(axes.flat, PANELS.items(), strict=True):
        for prefix, label, colour in (("", "training", "C0"), ("test_", "test", "C1")):
            axis.plot(epochs, [row[prefix + column] for row in log], color=colour, marker=marker, label=label)
            if f"class_{column}" in log[0]:
                scores = [row[f"{prefix}class_{column}"] for row in log]
                axis.plot(epochs, scores, ":", color=colour, marker=marker, label=f"{label}, 11 classes")
        axis.set_title(name)
        axis.set_xlabel("epoch")
        axis.grid(alpha=0.3)
        axis.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axis.legend(fontsize=8)
    figure.suptitle(pictures.plain(title))
    pictures.save_figure(path, figure)


def draw_samples(
    path: Path, data: LabelledFaces, model: nn.Module, device: torch.device, amp: bool, args: Namespace
) -> None:
    """Test images with their label and the network's output."""
    images, labels = data[list(range(min(4, len(data))))]
    titles, columns = sample_columns(predict(model, images, device, amp), args.target, "output")
    truths = [to_colours(label) for label in labels.numpy()]
    rows = [list(row) for row in zip(images.permute(0, 2, 3, 1).numpy(), truths, *columns, strict=True)]
    pictures.save_grid(path, rows, column_titles=["photo", "label", *titles], legend=LEGEND, cell=2)


def main() -> None:
    args, given = parse_args()
    saved = None
    if args.resume:
        saved = checkpoint.load_to_resume(args.resume, PAPER)
        cli.resume_arguments(args, given, saved["args"], MAY_CHANGE)
    device = pick_device(args.device)
    amp = pick_amp(args.amp, device)
    rank, world_size = distributed.start(device)
    if args.batch_size % world_size:
        raise InputError(
            f"--batch-size {args.batch_size} over {world_size} processes: each needs the same number of images; give "
            f"--batch-size {2 * world_size}"
        )
    seed_everything(args.seed, args.deterministic)

    # data (Sec. III-B to III-D)
    with distributed.first_process_first():
        manifest = args.manifest and Path(args.manifest)
        samples, source = dataset.list_samples(args.data and Path(args.data), manifest)
        samples = samples[: args.limit]
        train, test = dataset.split(samples, args.split, args.seed)
        split = {"train": [sample.key for sample in train], "test": [sample.key for sample in test]}
        fingerprints = {"train": dataset.fingerprint_of(train), "test": dataset.fingerprint_of(test)}
        if saved and (saved["split"], saved["fingerprint"]) != (split, fingerprints):
            raise InputError(
                f"--data {source}: not the images and labels that {args.resume} was trained on; give them as they were"
            )
        train_set, test_set = (LabelledFaces(part, args.size, args.cache) for part in (train, test))
    batches = TrainBatches(len(train_set), args.batch_size, args.seed)
    pin_memory = device.type == "cuda"
    train_loader = loader(train_set, batches, args.workers, pin_memory)
    test_loader = loader(test_set, EvalBatches(len(test_set), args.batch_size), args.workers, pin_memory)

    # model (Sec. III-A, III-D)
    model = build_model(vars(args))
    weights = saved["weights"] if saved else None
    if not saved:
        with distributed.first_process_first():
            weights = load_weights(model, args)
    model.to(device, memory_format=memory_format(device, amp))

    # training (Sec. III-D)
    optimizer = adam(model, args.lr)
    best, log = float("inf"), []
    if saved:
        for part, name in ((model, "model"), (optimizer, "optimizer")):
            checkpoint.restore(args.resume, lambda part=part, name=name: part.load_state_dict(saved[name]))
        best, log = saved["best"], saved["log"]
        checkpoint.set_rng_state(saved["rng"], device)
    network = distributed.wrap(model, device, args.sync_batch_norm, args.compile)

    def state() -> dict:
        return {
            "paper": PAPER,
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "best": best,
            "epoch": len(log),
            "log": log,
            "args": {name: cli.jsonable(value) for name, value in vars(args).items() if name not in NOT_SAVED},
            "classes": list(CLASSES),
            "weights": weights,
            "split": split,
            "fingerprint": fingerprints,
            "trained_on": [fingerprint([sample.photo]) for sample in train],
            "rng": checkpoint.rng_state(device),
        }

    if rank == 0:
        if args.resume:
            out = checkpoint.resumed_run_folder(args.resume, log)
        else:
            name = f"{args.model}{'-truncated' * args.truncated}-{args.target}{'-bgr' * args.bgr}"
            generated = not args.data and "GENERATED" in source
            out = checkpoint.new_run_folder(args.out, dataset.HERE / "runs", name, generated)
        off = train_set.off_palette + test_set.off_palette
        print(f"command    {shlex.join(sys.argv)}")
        print(f"device     {device}, {'bf16 autocast' if amp else 'float32'}, {world_size} process(es)")
        print(f"data       {source}: {len(samples)} images, {len(train)} train, {len(test)} test, split by "
              f"{args.split}, {off:,} label pixels off the palette")  # fmt: skip
        print(f"model      {title_of(vars(args))}, {sum(p.numel() for p in model.parameters()):,} parameters")
        print(f"weights    {weights}")
        print(f"out        {out}", flush=True)
        facts = {"weights": weights, "device": str(device), "amp": amp, "processes": world_size, "split": split}
        checkpoint.write_run_json(out / "run.json", vars(args), **facts)
        if not saved:
            checkpoint.save_checkpoint(out / "last.pt", state())  # a run stopped in its first epoch resumes from here
        cli.go_on_with(out / "last.pt")

    for epoch in range(len(log) + 1, args.epochs + 1):
        started = time.perf_counter()
        batches.epoch = epoch
        if rank > 0:  # dropout of its own; the first process draws on, as it would alone
            torch.manual_seed(args.seed + 1000 * epoch + rank)
        trained = train_epoch(network, train_loader, optimizer, device, amp, args, epoch)
        distributed.copy_from_first(model)
        tested = evaluate(model, test_loader, device, amp, args.target, args.bgr)
        improved = tested["loss"] < best
        best = min(best, tested["loss"])
        log.append({
            "epoch": epoch,
            **{name: trained[name] for name in ROWS},
            **{f"test_{name}": tested[name] for name in ROWS},
            "seconds": round(time.perf_counter() - started, 1),
        })  # fmt: skip
        if rank > 0:
            continue
        if improved:  # Sec. III-D: the best weights by validation loss; that set is the test set
            checkpoint.save_checkpoint(out / "best.pt", {k: v for k, v in state().items() if k not in ONLY_IN_LAST})
            draw_samples(out / "samples.png", test_set, model, device, amp, args)
        checkpoint.save_checkpoint(out / "last.pt", state())
        checkpoint.write_log(out / "log.csv", log)
        draw_curves(out / "curves.png", log, title_of(vars(args)))
        print("epoch {epoch:3d}  loss {loss:.4f}  F1 {f1:.4f}  IoU of 11 classes {class_iou:.4f}  test loss "
              "{test_loss:.4f}  F1 {test_f1:.4f}  IoU of 11 classes {test_class_iou:.4f}  {seconds:.0f} s"
              .format(**log[-1]), " best" if improved else "", flush=True)  # fmt: skip
    if rank == 0:
        if saved and saved["epoch"] >= args.epochs:
            print(f"done       {args.resume} already holds epoch {saved['epoch']}; give --epochs above that to go on")
        evaluation = Path(sys.argv[0]).with_name("eval.py")
        print(f"next       python {shlex.quote(str(evaluation))} {shlex.quote(str(out / 'best.pt'))}")
    distributed.stop()


if __name__ == "__main__":
    cli.run(main)

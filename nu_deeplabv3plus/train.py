"""Train DeepLabV3+ with squeeze-and-excitation on 18 binary face-part masks.

Zhakyp, Alenov, Adilkyzy: "Semantic Image Segmentation of Human Faces", Nazarbayev University.

    python nu_deeplabv3plus/train.py --data CelebAMask-HQ                    the paper's run without augmentation
    python nu_deeplabv3plus/train.py --data CelebAMask-HQ --augment flip     its run on 6,400 images
    python nu_deeplabv3plus/train.py --weights none --epochs 3               where no data is, on generated faces: 5
                                                                             minutes on two CPU cores, val IoU 0.50
    python nu_deeplabv3plus/train.py --resume nu_deeplabv3plus/runs/none/last.pt    goes on with a stopped run
    torchrun --nproc_per_node=2 nu_deeplabv3plus/train.py --batch-size 8     two processes, 4 images each
"""

import argparse
import shlex
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader
from tqdm import tqdm

from common import checkpoint, cli, distributed, pictures
from common.cache import fingerprint
from common.cli import InputError, number
from common.data import EvalBatches, TrainBatches, check_finite, loader
from common.device import adam, autocast, memory_format, pick_amp, pick_device, seed_everything, to_device
from common.losses import dice_loss
from common.metrics import batch_convention, mean_of_present, multilabel_counts, scores_from_counts
from common.weights import load_pretrained
from nu_deeplabv3plus import dataset
from nu_deeplabv3plus.dataset import PARTS, FaceParts
from nu_deeplabv3plus.eval import PAPER, choose_faces, draw_overlays, evaluate, predict_faces, scale
from nu_deeplabv3plus.model import OUTPUT_STRIDE, DeepLabV3Plus

MAY_CHANGE = {"epochs", "patience", "data", "workers", "device", "compile", "sync_batch_norm"}  # when resuming
NOT_SAVED = {"cache", "out", "resume"}  # of this machine and this start, not of the run
CHECK_EVERY = 50  # steps between two looks at the losses: each look waits for the GPU
CURVES = {
    "dice loss": {"loss": "training", "val_loss": "validation"},
    "mean IoU, mean over batches": {"iou": "training", "val_iou": "validation"},
    "mean IoU, pooled": {"pooled_iou": "training", "val_pooled_iou": "validation"},
    "learning rate": {"lr": "lr"},
}


# fmt: off
def parse_args(argv: list[str] | None = None) -> tuple[argparse.Namespace, set[str]]:
    """The arguments, and the names of those that stand on the command line."""
    parser = cli.Parser(__doc__)
    add = parser.add_argument_group("data (Sec. 3.1, 3.2)").add_argument
    add("--data", type=Path, metavar="PATH",
        help="CelebAMask-HQ folder (default: data/CelebAMask-HQ here, else generated faces)")
    add("--size", type=number(int, 16), default=dataset.SIZE, metavar="N", help="image side (128: Sec. 3.1)")
    add("--augment", choices=["none", "flip", "flip-swap"], default="none",
        help="flip: Sec. 3.2, doubles the set; flip-swap: also swaps left and right (ours); none: Sec. 4")
    add("--cache", type=Path, default=dataset.CACHE, metavar="DIR", help="decoded faces (default: data/cache here)")
    add = parser.add_argument_group("training (Sec. 3.4)").add_argument
    add("--epochs", type=number(int, 1), default=80, metavar="N", help="80: Sec. 3.4")
    add("--batch-size", type=number(int, 2), default=4, metavar="N",
        help="4: Sec. 3.4; under torchrun of all processes together")
    add("--lr", type=number(float, 0, above=True), default=1e-3, metavar="X", help="of Adam, 0.001: Sec. 3.4")
    add("--patience", type=number(int, 0), metavar="N",
        help="stop after N epochs without a better validation loss, 0: never "
        "(default 10, with mirrored images 20: Sec. 3.4, 4)")
    add("--weights", default="auto", metavar="W",
        help="of the ResNet-50: imagenet (Sec. 3.3), none, a file, or auto (default, ours): ImageNet where it can be "
        "had, else random")
    cli.add_run_arguments(parser, limit=dataset.N_FACES, limit_help=", as many as in Sec. 3.1")
    args = parser.parse_args(argv)
    if args.resume and args.out:
        parser.error(f"--out {args.out}: a resumed run goes on in the folder of {args.resume}; leave --out out")
    if args.size % OUTPUT_STRIDE:
        larger = args.size + -args.size % OUTPUT_STRIDE
        parser.error(f"--size {args.size} must be a multiple of {OUTPUT_STRIDE}, such as {larger}")
    return args, cli.given_arguments(parser, argv)
# fmt: on


def reduce_on_plateau(optimizer: torch.optim.Optimizer) -> ReduceLROnPlateau:
    """x 0.1 on the fifth epoch without a loss below best - 1e-4, down to 1e-7 (Sec. 3.4; the rest is Keras')."""
    # Keras' patience of 5 is PyTorch's 4, which lets four bad epochs pass; eps 0: the last step to the floor counts
    return ReduceLROnPlateau(
        optimizer, factor=0.1, patience=4, threshold=1e-4, threshold_mode="abs", min_lr=1e-7, eps=0
    )


class EarlyStopping:
    """Stop after `patience` epochs in a row that do not beat the best loss (Sec. 3.4; Keras' rule with min_delta 0)."""

    def __init__(self, patience: int):
        self.patience, self.best, self.bad_epochs = patience, float("inf"), 0

    def better(self, loss: float) -> bool:
        """Count an epoch; True if its loss is the best so far."""
        improved = loss < self.best
        self.best, self.bad_epochs = (loss, 0) if improved else (self.best, self.bad_epochs + 1)
        return improved

    @property
    def stop(self) -> bool:
        """True once `patience` epochs in a row were not better; never with patience 0."""
        return 0 < self.patience <= self.bad_epochs


def load_imagenet(model: DeepLabV3Plus, state_dict: dict[str, torch.Tensor], source: str) -> None:
    """Fill the encoder; raises InputError if the weights are not a ResNet-50's."""
    try:
        model.encoder.load_imagenet(state_dict)
    except RuntimeError as error:
        problem = str(error).splitlines()[1].strip()[:100]
        raise InputError(f"--weights {source}: not torchvision's ResNet-50 ({problem}); give its state dict") from None


def train_epoch(
    model: nn.Module, batches: DataLoader, optimizer: torch.optim.Optimizer, device: torch.device, amp: bool, epoch: int
) -> dict[str, float]:
    """One pass over the training set -> loss and iou as the paper counts them (mean over batches), and pooled_iou."""
    model.train()
    losses, counts = [], []
    rank, _ = distributed.world()
    bar = tqdm(batches, f"epoch {epoch}", leave=False, disable=None if rank == 0 else True, unit="batch")
    for images, masks in bar:
        masks = to_device(masks, device)
        with autocast(device, amp):
            logits = model(scale(images, device))
        loss = dice_loss(logits, masks, over_processes=True)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
        counts.append(multilabel_counts(logits.detach() > 0, masks))
        if len(losses) % CHECK_EVERY == 0:
            check_finite(losses, batches, f"epoch {epoch}")
            bar.set_postfix(loss=f"{losses[-1].item():.4f}")
    check_finite(losses, batches, f"epoch {epoch}")
    counts = distributed.sum_over_processes(torch.stack(counts))  # steps 18 4
    return {
        "loss": torch.stack(losses).mean().item(),
        "iou": batch_convention(counts)[0].mean().item(),
        "pooled_iou": mean_of_present(scores_from_counts(counts.sum(0))["iou"])[0],
    }


def main() -> None:
    args, given = parse_args()
    saved = None
    if args.resume:
        saved = checkpoint.load_to_resume(args.resume, PAPER)
        cli.resume_arguments(args, given, saved["args"], MAY_CHANGE)
    args.data = args.data and Path(args.data).resolve()  # eval.py and --resume find it from any folder
    device = pick_device(args.device)
    amp = pick_amp(args.amp, device)
    rank, world_size = distributed.start(device)
    if args.batch_size % world_size or args.batch_size // world_size < 2:
        raise InputError(
            f"--batch-size {args.batch_size} over {world_size} processes: each needs the same number of images, at "
            f"least 2 for batch norm; give --batch-size {4 * world_size}"
        )
    seed_everything(args.seed, args.deterministic)

    # data (Sec. 3.1, 3.2)
    with distributed.first_process_first():
        folder, source = dataset.locate(args.data)
        arrays, faces = dataset.load(folder, args.size, args.cache, args.limit)
    train, val = dataset.split(len(faces), args.seed)
    split = {"train": [faces[i].id for i in train], "val": [faces[i].id for i in val]}
    fingerprints = {
        name: fingerprint(dataset.files([faces[i] for i in part])) for name, part in (("train", train), ("val", val))
    }
    if saved and (saved["split"], saved["fingerprint"]) != (split, fingerprints):
        raise InputError(
            f"--data {folder}: not the faces and masks that {args.resume} was trained on; give the folder as it was"
        )
    trained_on = [fingerprint([faces[i].photo]) for i in train]  # eval.py finds them among other faces too
    train_set, val_set = FaceParts(arrays, train, faces, args.augment), FaceParts(arrays, val, faces)
    batches = TrainBatches(len(train_set), args.batch_size, args.seed)
    pin_memory = device.type == "cuda"
    train_loader = loader(train_set, batches, args.workers, pin_memory)
    val_loader = loader(val_set, EvalBatches(len(val_set), args.batch_size), args.workers, pin_memory)

    # model (Sec. 3.3)
    model = DeepLabV3Plus(num_classes=len(PARTS))
    weights = saved["weights"] if saved else None
    if not saved:
        with distributed.first_process_first():
            imagenet, weights = load_pretrained(args.weights, "ResNet50_Weights.IMAGENET1K_V1")
        if imagenet is not None:
            load_imagenet(model, imagenet, args.weights)
    model.to(device, memory_format=memory_format(device, amp))

    # training (Sec. 3.4)
    optimizer = adam(model, args.lr)
    plateau = reduce_on_plateau(optimizer)
    patience = args.patience if args.patience is not None else 10 if args.augment == "none" else 20
    stopping, log = EarlyStopping(patience), []
    if saved:
        for target, name in ((model, "model"), (optimizer, "optimizer"), (plateau, "plateau")):
            checkpoint.restore(args.resume, lambda target=target, name=name: target.load_state_dict(saved[name]))
        stopping.best, stopping.bad_epochs, log = saved["best"], saved["bad_epochs"], saved["log"]
        checkpoint.set_rng_state(saved["rng"], device)
    network = distributed.wrap(model, device, args.sync_batch_norm, args.compile)
    samples = choose_faces(len(val_set), args.seed)[-3:]  # those of figure 8, drawn whenever the model gets better

    def state() -> dict:
        return {
            "paper": PAPER,
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "plateau": plateau.state_dict(),
            "best": stopping.best,
            "bad_epochs": stopping.bad_epochs,
            "epoch": len(log),
            "log": log,
            "args": {name: cli.jsonable(value) for name, value in vars(args).items() if name not in NOT_SAVED},
            "classes": list(PARTS),
            "weights": weights,
            "split": split,
            "fingerprint": fingerprints,
            "trained_on": trained_on,
            "rng": checkpoint.rng_state(device),
        }

    if rank == 0:
        if args.resume:
            out = checkpoint.resumed_run_folder(args.resume, log)
        else:
            generated = not args.data and "GENERATED" in source
            out = checkpoint.new_run_folder(args.out, dataset.HERE / "runs", args.augment, generated)
        print(f"command    {shlex.join(sys.argv)}")
        print(f"device     {device}, {'bf16 autocast' if amp else 'float32'}, {world_size} process(es)")
        print(f"data       {source}: {len(faces)} faces, {len(train)} train, {len(val)} val, --augment {args.augment}")
        print(f"model      DeepLabV3+ with SE, {sum(p.numel() for p in model.parameters()):,} parameters")
        print(f"weights    {weights}")
        print(f"out        {out}", flush=True)
        facts = {"weights": weights, "device": str(device), "amp": amp, "processes": world_size, "split": split}
        checkpoint.write_run_json(out / "run.json", vars(args), **facts)
        if not saved:
            checkpoint.save_checkpoint(out / "last.pt", state())  # a run stopped in its first epoch resumes from here
        cli.go_on_with(out / "last.pt")

    for epoch in range(len(log) + 1, args.epochs + 1):
        if stopping.stop:
            break
        started = time.perf_counter()
        lr = optimizer.param_groups[0]["lr"]
        batches.epoch = epoch
        trained = train_epoch(network, train_loader, optimizer, device, amp, epoch)
        distributed.copy_from_first(model)
        validated = evaluate(model, val_loader, device, amp)
        plateau.step(validated["loss"])
        improved = stopping.better(validated["loss"])
        log.append({
            "epoch": epoch,
            **trained,
            "val_loss": validated["loss"],
            "val_iou": validated["iou"],
            "val_pooled_iou": mean_of_present(scores_from_counts(validated["counts"])["iou"])[0],
            "lr": lr,
            "seconds": round(time.perf_counter() - started, 1),
        })  # fmt: skip
        if rank > 0:
            continue
        if improved:
            checkpoint.save_checkpoint(out / "best.pt", state())
            draw_overlays(out / "samples.png", *predict_faces(model, val_set, samples, device, amp))
        checkpoint.save_checkpoint(out / "last.pt", state())
        checkpoint.write_log(out / "log.csv", log)
        pictures.save_curves(out / "curves.png", log, CURVES, log_scale=("learning rate",))
        print("epoch {epoch:3d}  loss {loss:.4f}  IoU {iou:.4f}  val loss {val_loss:.4f}  val IoU {val_iou:.4f} "
              "(pooled {val_pooled_iou:.4f})  lr {lr:.0e}  {seconds:.0f} s".format(**log[-1]),
              " best" if improved else "", flush=True)  # fmt: skip
    if rank == 0:
        if stopping.stop:
            print(f"stopped    {stopping.bad_epochs} epochs without a better validation loss (--patience {patience})")
        elif saved and saved["epoch"] >= args.epochs:
            print(f"done       {args.resume} already holds epoch {saved['epoch']}; give --epochs above that to go on")
        evaluation = Path(sys.argv[0]).with_name("eval.py")
        print(f"next       python {shlex.quote(str(evaluation))} {shlex.quote(str(out / 'best.pt'))}")
    distributed.stop()


if __name__ == "__main__":
    cli.run(main)

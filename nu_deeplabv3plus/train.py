"""Train DeepLabV3+ with squeeze-and-excitation on 18 binary face-part masks.

Zhakyp, Alenov, Adilkyzy: "Semantic Image Segmentation of Human Faces", Nazarbayev University (course project).

    python nu_deeplabv3plus/train.py --data CelebAMask-HQ                    the paper's run without augmentation
    python nu_deeplabv3plus/train.py --data CelebAMask-HQ --augment flip     its run on 6,400 images
    python nu_deeplabv3plus/train.py --epochs 3                              a try on generated faces
    python nu_deeplabv3plus/train.py --resume nu_deeplabv3plus/runs/none/last.pt
    torchrun --nproc_per_node=2 nu_deeplabv3plus/train.py --batch-size 8     two processes, 4 images each
"""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torchvision.models import ResNet50_Weights
from tqdm import tqdm

from common import cli, pictures
from common.checkpoint import (
    load_checkpoint,
    new_run_folder,
    rng_state,
    save_checkpoint,
    set_rng_state,
    write_log,
    write_run_json,
)
from common.cli import InputError, number
from common.data import EvalBatches, TrainBatches, loader
from common.device import (
    adam,
    autocast,
    barrier,
    copy_from_first,
    parallel,
    pick_amp,
    pick_device,
    seed_everything,
    start_processes,
    stop_processes,
    sum_over_processes,
)
from common.losses import dice_loss
from common.metrics import batch_convention, mean_of_present, multilabel_counts, scores_from_counts
from common.weights import load_pretrained
from nu_deeplabv3plus import dataset
from nu_deeplabv3plus.dataset import PARTS, FaceParts
from nu_deeplabv3plus.eval import evaluate, scale
from nu_deeplabv3plus.model import OUTPUT_STRIDE, DeepLabV3Plus

PAPER = Path(__file__).resolve().parent.name
MAY_CHANGE = {"epochs", "patience", "data", "cache", "workers", "device", "out", "resume"}  # when resuming
CHECK_EVERY = 50  # steps between two looks at the losses: each look waits for the GPU


def parse_args(argv=None):
    parser = cli.Parser(__doc__)
    group = parser.add_argument_group("data (Sec. 3.1, 3.2)")
    group.add_argument("--data", type=Path, metavar="PATH",
                       help="CelebAMask-HQ folder (default: data/CelebAMask-HQ here, else generated faces)")
    group.add_argument("--size", type=number(int, 16), default=dataset.SIZE, metavar="N", help="image side (128: Sec. 3.1)")
    group.add_argument("--augment", choices=["none", "flip", "flip-swap"], default="none",
                       help="flip: Sec. 3.2, doubles the set; flip-swap: left and right swap too (ours); none: Sec. 4")
    group.add_argument("--cache", type=Path, default=dataset.HERE / "data" / "cache", metavar="DIR",
                       help="where decoded faces are kept (default: data/cache here)")
    group = parser.add_argument_group("training (Sec. 3.4)")
    group.add_argument("--epochs", type=number(int, 1), default=80, metavar="N", help="80: Sec. 3.4")
    group.add_argument("--batch-size", type=number(int, 2), default=4, metavar="N",
                       help="4: Sec. 3.4; under torchrun all processes together")
    group.add_argument("--lr", type=number(float, 0, above=True), default=1e-3, metavar="X", help="of Adam, 0.001: Sec. 3.4")
    group.add_argument("--patience", type=number(int, 0), metavar="N", help="epochs without better validation loss until "
                       "training stops; 0: never (default 10, with --augment 20: Sec. 3.4, 4)")
    group.add_argument("--weights", default="auto", metavar="auto|imagenet|none|PATH",
                       help="of the ResNet-50 (ImageNet: Sec. 3.3); auto: ImageNet if it can be had, else random, and says so")
    cli.add_run_arguments(parser)
    args = parser.parse_args(argv)
    if args.size % OUTPUT_STRIDE:
        parser.error(f"--size {args.size} must be a multiple of {OUTPUT_STRIDE}, such as {args.size // 16 * 16 + 16}")
    return args, cli.given_arguments(parser, argv)


def reduce_on_plateau(optimizer: torch.optim.Optimizer) -> ReduceLROnPlateau:
    """x 0.1 on the fifth epoch without a validation loss below best - 1e-4, down to 1e-7 (Sec. 3.4; Keras' defaults)."""
    return ReduceLROnPlateau(optimizer, factor=0.1, patience=4, threshold=1e-4, threshold_mode="abs", min_lr=1e-7)


class EarlyStopping:
    """Stop after `patience` epochs in a row that do not beat the best loss (Sec. 3.4; Keras' rule with min_delta 0)."""

    def __init__(self, patience: int, best: float = float("inf"), bad_epochs: int = 0):
        self.patience, self.best, self.bad_epochs = patience, best, bad_epochs

    def better(self, loss: float) -> bool:
        """Count an epoch; True if its loss is the best so far."""
        improved = loss < self.best
        self.best, self.bad_epochs = (loss, 0) if improved else (self.best, self.bad_epochs + 1)
        return improved

    @property
    def stop(self) -> bool:
        return 0 < self.patience <= self.bad_epochs


def check_finite(losses: list[torch.Tensor], batches: TrainBatches, data: FaceParts, epoch: int) -> None:
    """Raise InputError with the names of the images in the first batch whose loss is nan or inf."""
    finite = torch.stack(losses).isfinite().tolist()
    if not all(finite):
        step = finite.index(False)
        names = ", ".join(data.name(i) for i in list(batches)[step])
        raise InputError(f"the loss of epoch {epoch}, step {step + 1} is not finite; its images: {names}; look at them, or "
                         "try a lower --lr or --amp off")


def train_epoch(model, data, batches, optimizer, args, device, amp, epoch) -> dict[str, float]:
    """One pass over the training set -> loss and IoU as the paper counts them (mean over batches), and pooled IoU."""
    model.train()
    batches.epoch = epoch
    losses, counts = [], []
    steps = loader(data, batches, args.workers, pin_memory=device.type == "cuda")
    bar = tqdm(steps, f"epoch {epoch}", leave=False, disable=None if batches.rank == 0 else True, unit="batch")
    for images, masks in bar:
        masks = masks.to(device, non_blocking=True)
        with autocast(device, amp):
            logits = model(scale(images, device))
        loss = dice_loss(logits, masks, over_processes=True)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
        counts.append(multilabel_counts(logits.detach() > 0, masks))
        if len(losses) % CHECK_EVERY == 0:
            check_finite(losses, batches, data, epoch)
            bar.set_postfix(loss=f"{losses[-1].item():.4f}")
    check_finite(losses, batches, data, epoch)
    counts = sum_over_processes(torch.stack(counts))  # steps 18 4
    pooled, _ = mean_of_present(scores_from_counts(counts.sum(0))["iou"])
    return {"loss": torch.stack(losses).mean().item(), "iou": batch_convention(counts)[0].mean().item(), "pooled": pooled}


def main():
    args, given = parse_args()
    checkpoint = None
    if args.resume:
        checkpoint = load_checkpoint(args.resume, PAPER)
        cli.resume_arguments(args, given, checkpoint["args"], MAY_CHANGE)
        args.data, args.cache = args.data and Path(args.data), Path(args.cache)
    device = pick_device(args.device)
    rank, world_size = start_processes(device)
    if args.batch_size % world_size or args.batch_size // world_size < 2:
        raise InputError(f"--batch-size {args.batch_size} over {world_size} processes: each needs the same number of images, "
                         f"at least 2 for batch norm; give --batch-size {4 * world_size}")
    amp = pick_amp(args.amp, device)
    seed_everything(args.seed, args.deterministic)

    # data: rank 0 paints or decodes first, the others find it done
    if rank > 0:
        barrier()
    folder, source = dataset.locate(args.data)
    cache, ids = dataset.load(folder, args.size, args.cache, args.limit)
    if rank == 0:
        barrier()
    parts = dataset.split(ids, args.seed)
    split_ids = {name: [ids[i] for i in parts[name]] for name in ("train", "val")}
    if checkpoint and checkpoint["split"] != split_ids:
        raise InputError(f"--data {folder}: its faces are not those that {args.resume} was trained on; restore the folder")
    train_set, val_set = FaceParts(cache, parts["train"], ids, args.augment), FaceParts(cache, parts["val"], ids)
    train_batches = TrainBatches(len(train_set), args.batch_size, args.seed)
    val_loader = loader(val_set, EvalBatches(len(val_set), args.batch_size), args.workers, device.type == "cuda")

    # model (Sec. 3.3)
    model = DeepLabV3Plus(num_classes=len(PARTS))
    if checkpoint:
        weights = checkpoint["weights"]
    else:
        if rank > 0:
            barrier()
        imagenet, weights = load_pretrained(args.weights, ResNet50_Weights.IMAGENET1K_V1)
        if rank == 0:
            barrier()
        if imagenet:
            model.encoder.load_imagenet(imagenet)
    model.to(device, memory_format=torch.channels_last)
    optimizer = adam(model, args.lr, device)
    plateau = reduce_on_plateau(optimizer)
    patience = args.patience if args.patience is not None else 10 if args.augment == "none" else 20
    stopping, rows, first_epoch = EarlyStopping(patience), [], 1
    if checkpoint:
        model.load_state_dict(checkpoint["model"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        plateau.load_state_dict(checkpoint["plateau"])
        stopping = EarlyStopping(patience, checkpoint["best"], checkpoint["bad_epochs"])
        rows, first_epoch = checkpoint["log"], checkpoint["epoch"] + 1
        set_rng_state(checkpoint["rng"], device)
    network = parallel(model, device)

    out = None
    if rank == 0:
        out = args.resume.parent if args.resume and not args.out else new_run_folder(args.out, dataset.HERE / "runs", args.augment)
        n_parameters = sum(p.numel() for p in model.parameters())
        print(f"command    {' '.join(sys.argv)}")
        print(f"device     {device}, {'bf16 autocast' if amp else 'float32'}, {world_size} process(es)")
        print(f"data       {source}; {len(ids)} faces, {len(train_set)} train (--augment {args.augment}), {len(val_set)} val")
        print(f"model      DeepLabV3+ with squeeze-and-excitation, {n_parameters:,} parameters")
        print(f"weights    {weights}")
        print(f"out        {out}", flush=True)
        write_run_json(out / "run.json", vars(args), weights=weights, device=str(device), amp=amp, split=split_ids)

    for epoch in range(first_epoch, args.epochs + 1):
        if stopping.stop:
            break
        started = time.perf_counter()
        lr = optimizer.param_groups[0]["lr"]
        train = train_epoch(network, train_set, train_batches, optimizer, args, device, amp, epoch)
        copy_from_first(model)
        val = evaluate(model, val_loader, device, amp)
        val_pooled, _ = mean_of_present(scores_from_counts(val["counts"])["iou"])
        plateau.step(val["loss"])
        improved = stopping.better(val["loss"])
        rows.append({
            "epoch": epoch, "loss": train["loss"], "iou": train["iou"], "pooled_iou": train["pooled"],
            "val_loss": val["loss"], "val_iou": val["iou"], "val_pooled_iou": val_pooled,
            "lr": lr, "seconds": round(time.perf_counter() - started, 1),
        })  # fmt: skip
        if rank == 0:
            state = {
                "paper": PAPER, "model": model.state_dict(), "optimizer": optimizer.state_dict(),
                "plateau": plateau.state_dict(), "epoch": epoch, "best": stopping.best, "bad_epochs": stopping.bad_epochs,
                "args": {name: cli.jsonable(value) for name, value in vars(args).items() if name not in ("out", "resume")},
                "classes": list(PARTS), "weights": weights, "split": split_ids, "log": rows, "rng": rng_state(device),
            }  # fmt: skip
            if improved:
                save_checkpoint(out / "best.pt", state)
            save_checkpoint(out / "last.pt", state)
            write_log(out / "log.csv", rows)
            pictures.save_curves(out / "curves.png", rows, {
                "dice loss": {"loss": "training", "val_loss": "validation"},
                "mean IoU, mean over batches": {"iou": "training", "val_iou": "validation"},
                "mean IoU, pooled": {"pooled_iou": "training", "val_pooled_iou": "validation"},
                "learning rate": {"lr": "lr"},
            }, log_scale=("learning rate",))  # fmt: skip
            print(f"epoch {epoch:3d}  loss {train['loss']:.4f}  IoU {train['iou']:.4f}  val loss {val['loss']:.4f}  "
                  f"val IoU {val['iou']:.4f} (pooled {val_pooled:.4f})  lr {lr:.0e}  {rows[-1]['seconds']:.0f} s"
                  f"{'  best' if improved else ''}", flush=True)
    if rank == 0:
        if stopping.stop:
            print(f"stopped early: {stopping.bad_epochs} epochs without a better validation loss (--patience {patience})")
        print(f"next       python {PAPER}/eval.py {out / 'best.pt'}")
    stop_processes()


if __name__ == "__main__":
    cli.run(main)

"""Step 1: hide patches in the middle of photos without labels and learn to reconstruct them.

Zaidi, Kumar, Khan: "A masked self-supervised face parsing pretraining technique", 2024; after Li, Cao, Wang, Xu: "A
Masked Self-Supervised Pretraining Method for Face Parsing", Mathematics 10(12):2002, 2022.

    python masked_ssl/pretrain.py                  a try on 180 painted faces of 64 px; 14 minutes on one CPU core,
                                                  error where hidden 0.41
    python masked_ssl/pretrain.py --data CelebAMask-HQ                       the paper's, at 512 px
    python masked_ssl/pretrain.py --data LaPa --photos DIR [DIR ...]         more photos for the pool
    python masked_ssl/pretrain.py --data LaPa --region whole                 patches everywhere
    python masked_ssl/pretrain.py --resume masked_ssl/runs/pretrain/last.pt
    torchrun --nproc_per_node=2 masked_ssl/pretrain.py --data LaPa           two processes, 4 photos each

Writes pretrain.pt, which train.py --init takes. The test photos of --data are never in the pool.
"""

import os
import shlex
import sys
import time
from argparse import BooleanOptionalAction, Namespace
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from common import checkpoint, cli, distributed, pictures
from common.cache import fingerprint
from common.cli import InputError, number
from common.data import TrainBatches, check_finite, loader
from common.device import autocast, memory_format, pick_amp, pick_device, seed_everything, to_device
from masked_ssl import dataset, pool
from masked_ssl.dataset import Data, denormalize, normalize
from masked_ssl.masking import MAX_RATIO, error_where_hidden, find_region, hide, paste, patch_sides, reconstruction_loss
from masked_ssl.model import Network
from masked_ssl.pool import MaskedPhotos
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
    load_backbone,
    load_pretraining,
    scheduled,
)

# epochs: ours, the paper gives no number
DEFAULTS = {"size": dataset.SIZE, "epochs": 100, "lr": 1e-4}
GENERATED = {"size": dataset.GENERATED_SIZE, "epochs": 10, "lr": 1e-3}  # ours: painted faces, to end within minutes
# when resuming
MAY_CHANGE = {"epochs", "data", "photos", "workers", "device", "compile", "sync_batch_norm", "checkpointing"}
CURVES = {
    "loss": {"loss": "over --loss-on"},
    "mean absolute error where hidden": {"hidden_error": "hidden"},
    "learning rate": {"lr": "lr"},
}


# fmt: off
def parse_args(argv: list[str] | None = None) -> tuple[Namespace, set[str]]:
    """The arguments, and the names of those that stand on the command line."""
    parser = cli.Parser(__doc__)
    dataset.add_data_arguments(parser, ", for its photos; those of its test split are kept out", labels=False)
    add = parser.add_argument_group("photos without labels (Approach)").add_argument
    add("--photos", type=Path, nargs="+", default=[], metavar="DIR",
        help="folders of photos: every picture in them and their subfolders counts, masks too, but for those of "
        "CelebAMask-HQ and LaPa; without --data they are the whole pool")
    add = parser.add_argument_group("masking (Approach: Pretraining Under Self-Supervision)").add_argument
    add("--mask-ratio", type=number(float, 0, MAX_RATIO, above=True), default=0.5, metavar="X",
        help="part of the region that is hidden (0.5, ours: the paper says a certain amount)")
    add("--region", choices=["center", "whole"], default="center",
        help="center: the paper's; whole: for comparison (ours; cf. the 2022 original's Sec. 4.3)")
    add("--two-thirds", choices=["side", "area"], default="side",
        help="of what the central region is two thirds: the text allows both (side: ours)")
    add("--loss-on", choices=["region", "masked"], default="region",
        help="region: the paper's; masked: its hidden pixels alone (ours)")
    add("--loss", choices=["l1", "l2"], default="l1", help="absolute or squared error (l1: ours)")
    add = parser.add_argument_group("training (ours: the 2024 text gives none of this)").add_argument
    add("--init", choices=STARTS, default="auto",
        help="of the ResNet-50: imagenet (ours: the paper says so of its baseline alone), random, or auto: ImageNet's "
        "where to be had, else random")
    add("--epochs", type=number(int, 1), metavar="N",
        help=f"default {DEFAULTS['epochs']}, on painted faces {GENERATED['epochs']}")
    add("--batch-size", type=number(int, 2), default=8, metavar="N",
        help="default 8; under torchrun of all processes together")
    add("--lr", type=number(float, 0, above=True), metavar="X",
        help=f"of AdamW, default {DEFAULTS['lr']}, on painted faces {GENERATED['lr']}")
    add("--schedule", choices=["cosine", "constant"], default="cosine", help="of the learning rate over all epochs")
    add("--augment", choices=["flip", "none"], default="flip", help="flip: half of the photos are mirrored")
    add("--checkpointing", action=BooleanOptionalAction, default=False,
        help="compute again what the backward pass needs: less memory, slower")
    cli.add_run_arguments(parser)
    args = parser.parse_args(argv)
    check_run_arguments(parser, args)
    # whole paths, so that --resume finds them from any folder; text, because the checkpoint keeps them
    args.data = args.data and os.path.abspath(args.data)  # a link keeps its name, which splits.py looks at
    args.photos = [str(path.resolve()) for path in args.photos]
    return args, cli.given_arguments(parser, argv)
# fmt: on


def find_pool(args: Namespace) -> tuple[list[Path], str, Data | None]:
    """The photos, where they come from in words, and the data that --data or its default gives, if any.

    Raises InputError for fewer than two photos.
    """
    data = None
    if args.data or not args.photos:
        data = dataset.locate(args.data and Path(args.data), args.layout, labels=False)
    photos, left_out = pool.gather(data, [Path(folder) for folder in args.photos])
    photos = photos[: args.limit]
    if len(photos) < 2:
        raise InputError(f"{len(photos)} photo(s) are too few for batch norm; give more, or a larger --limit")
    sources = ([data.words] if data else []) + args.photos
    kept_out = f", {left_out} copies of its test photos left out" if left_out else ""
    return photos, " + ".join(sources) + kept_out, data


def train_epoch(
    network: nn.Module,
    batches: DataLoader,
    optimizer: torch.optim.Optimizer,
    set_lr: Callable[[], None],
    args: Namespace,
    device: torch.device,
    amp: bool,
    epoch: int,
) -> dict[str, float]:
    """One pass over the pool -> loss, and hidden_error: mean absolute error where the photo was hidden."""
    network.train()
    losses, hidden = [], []
    rank, _ = distributed.world()
    region = batches.dataset.region
    bar = tqdm(batches, f"epoch {epoch}", leave=False, disable=None if rank == 0 else True, unit="batch")
    for images, masks in bar:
        images, masks = normalize(images, device), to_device(masks, device)
        set_lr()
        with autocast(device, amp):
            output = network(hide(images, masks))
        loss = reconstruction_loss(output, images, masks, region, loss=args.loss, on=args.loss_on)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
        hidden.append(error_where_hidden(output.detach(), images, masks))
        if len(losses) % CHECK_EVERY == 0:
            check_finite(losses, batches, f"epoch {epoch}")
            bar.set_postfix(loss=f"{losses[-1].item():.4f}")
    check_finite(losses, batches, f"epoch {epoch}")
    sums = torch.stack([torch.stack(losses).sum(), torch.stack(hidden).sum(), torch.full_like(losses[0], len(losses))])
    loss, error, n = distributed.sum_over_processes(sums).tolist()
    return {"loss": loss / n, "hidden_error": error / n}


@torch.inference_mode()
def draw_samples(
    path: Path, network: Network, data: MaskedPhotos, chosen: list[int], device: torch.device, amp: bool
) -> None:
    """Photos, with patches hidden, as the network gives them back, and with its guess in the patches alone."""
    network.eval()
    images, masks = data[chosen]
    images, masks = normalize(images, device), to_device(masks, device)
    with autocast(device, amp):
        output = network(hide(images, masks)).float()
    shown = {
        "photo": images,
        "masked": hide(images, masks),
        "reconstruction": output,
        "only the patches": paste(output, images, masks),
    }
    rows = [list(denormalize(pictures_of)) for pictures_of in shown.values()]
    pictures.save_grid(path, rows, row_titles=list(shown), cell=1.7)


def main(argv: list[str] | None = None) -> None:
    args, given = parse_args(argv)
    saved = None
    if args.resume:
        saved = load_pretraining(args.resume)
        checkpoint.check_resumable(args.resume, saved)
        cli.resume_arguments(args, given, saved["args"], MAY_CHANGE)
    device = pick_device(args.device)
    amp = pick_amp(args.amp, device)
    rank, world_size = distributed.start(device)
    check_together(args, world_size)
    seed_everything(args.seed, args.deterministic)

    # photos (Approach)
    with distributed.first_process_first():
        photos, source, data = find_pool(args)
        generated = data is not None and data.generated
        identities, mark = [pool.identity(photo) for photo in photos], fingerprint(photos)
        fill_in(args, GENERATED if generated else DEFAULTS)
        if saved and saved["fingerprint"] != mark:
            raise InputError(f"{source}: not the photos of {args.resume}; give the folders as they were")
        arrays = pool.load(photos, args.size, args.cache)
    region = find_region(args.size, args.region, args.two_thirds)
    train_set = MaskedPhotos(arrays, photos, region, args.mask_ratio, flip=args.augment == "flip", seed=args.seed)
    batches = TrainBatches(len(train_set), args.batch_size, args.seed)
    train_loader = loader(train_set, batches, args.workers, device.type == "cuda")

    # model (CNN Architectures)
    network = Network(3, args.checkpointing)
    start, weights = (saved["start"], saved["weights"]) if saved else ("", "")
    if not saved:
        with distributed.first_process_first():
            start, weights = load_backbone(network, args.init)
    network.to(device, memory_format=memory_format(device, amp))

    # training
    optimizer, log = adamw(network, args.lr, args.lr), []
    if saved:
        parts = {"encoder": network.encoder, "decoder": network.decoder, "optimizer": optimizer}
        for name, part in parts.items():
            checkpoint.restore(args.resume, lambda part=part, name=name: part.load_state_dict(saved[name]))
        log = saved["log"]
        checkpoint.set_rng_state(saved["rng"], device)
    wrapped = distributed.wrap(network, device, args.sync_batch_norm, args.compile)
    set_lr = scheduled(optimizer, args.epochs * len(batches), args.schedule, step=len(log) * len(batches))
    samples = torch.randperm(len(train_set), generator=torch.Generator().manual_seed(args.seed))[:7].tolist()

    def state() -> dict:
        return {
            "paper": PAPER,
            "stage": "pretrain",
            "encoder": network.encoder.state_dict(),
            "decoder": network.decoder.state_dict(),
            "optimizer": optimizer.state_dict(),
            "epoch": len(log),
            "log": log,
            "args": {name: cli.jsonable(value) for name, value in vars(args).items() if name not in NOT_SAVED},
            "start": start,
            "weights": weights,
            "source": source,
            "folder": data and str(data.folder.resolve()),
            "pool": identities,
            "fingerprint": mark,
            "rng": checkpoint.rng_state(device),
        }

    if rank == 0:
        if args.resume:
            out = checkpoint.resumed_run_folder(args.resume, log)
        else:
            out = checkpoint.new_run_folder(args.out, dataset.HERE / "runs", "pretrain", generated)
        low, high = patch_sides(args.size)
        print(f"command    {shlex.join(sys.argv)}")
        print(f"device     {device}, {'bf16 autocast' if amp else 'float32'}, {world_size} process(es)")
        print(f"data       {len(photos)} photos of {args.size} px without labels: {source}")
        print(f"masking    patches of {low}-{high} px over {args.mask_ratio:.0%} of rows and columns {region[0]} to "
              f"{region[1] - 1}, {args.loss.upper()} on the {args.loss_on}")  # fmt: skip
        print(f"model      UNet++ and R decoder, {sum(p.numel() for p in network.parameters()):,} parameters")
        print(f"weights    {weights}")
        print(f"out        {out}", flush=True)
        if generated:
            print(dataset.DEMONSTRATION, flush=True)
        facts = {"weights": weights, "device": str(device), "amp": amp, "processes": world_size, "photos": len(photos)}
        checkpoint.write_run_json(out / "run.json", vars(args), **facts)
        if not saved:
            checkpoint.save_checkpoint(out / "last.pt", state())  # a run stopped in its first epoch resumes from here
        cli.go_on_with(out / "last.pt")

    for epoch in range(len(log) + 1, args.epochs + 1):
        started = time.perf_counter()
        batches.epoch = train_set.epoch = epoch
        trained = train_epoch(wrapped, train_loader, optimizer, set_lr, args, device, amp, epoch)
        distributed.copy_from_first(network)
        lr = optimizer.param_groups[0]["lr"]
        log.append({"epoch": epoch, **trained, "lr": lr, "seconds": round(time.perf_counter() - started, 1)})
        if rank > 0:
            continue
        checkpoint.save_checkpoint(out / "last.pt", state())
        checkpoint.save_checkpoint(out / "pretrain.pt", {k: v for k, v in state().items() if k not in ONLY_IN_LAST})
        checkpoint.write_log(out / "log.csv", log)
        pictures.save_curves(out / "curves.png", log, CURVES)
        train_set.epoch = 0  # the same patches each time
        draw_samples(out / "samples.png", network, train_set, samples, device, amp)
        print("epoch {epoch:3d}  loss {loss:.4f}  error where hidden {hidden_error:.4f}  lr {lr:.1e}  {seconds:.0f} s"
              .format(**log[-1]), flush=True)  # fmt: skip
    if rank == 0:
        if saved and saved["epoch"] >= args.epochs:
            print(f"done       {args.resume} already holds epoch {saved['epoch']}; give --epochs above that to go on")
        flags = ["--init", str(out / "pretrain.pt"), "--size", str(args.size)]
        if args.data or data is None:  # --photos alone: which labels to learn from is not known
            flags += ["--data", args.data or "DATA"]
        elif generated:
            flags += ["--layout", args.layout]
        finetune = Path(sys.argv[0]).with_name("train.py")
        print(f"next       {shlex.join(['python', str(finetune), *flags])}")
    distributed.stop()


if __name__ == "__main__":
    cli.run(main)

"""Step 1: hide patches in the middle of photos without labels and learn to reconstruct them.

Zaidi, Kumar, Khan: "A masked self-supervised face parsing pretraining technique", 2024; after Li, Cao, Wang, Xu: "A
Masked Self-Supervised Pretraining Method for Face Parsing", Mathematics 10(12):2002, 2022.

    python masked_ssl/pretrain.py --weights none --epochs 3     a try on 180 generated faces of 64 px: 1.5 minutes on a
                                                                CPU core, error where hidden 0.43
    python masked_ssl/pretrain.py --data CelebAMask-HQ                       the paper's, at 512 px
    python masked_ssl/pretrain.py --data LaPa --photos DIR [DIR ...]         more photos for the pool
    python masked_ssl/pretrain.py --data LaPa --region whole                 patches everywhere
    python masked_ssl/pretrain.py --resume masked_ssl/runs/pretrain/last.pt
    torchrun --nproc_per_node=2 masked_ssl/pretrain.py --data LaPa           two processes, 4 photos each

Writes pretrain.pt, which train.py --weights takes. The test photos of --data are never in the pool.
"""

import sys
from argparse import Namespace
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import nn
from torch.optim import Optimizer

from common import cli, pictures
from common.cli import number
from common.data import check_finite, identity, progress, shuffled
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
from masked_ssl import dataset, masking, recipe
from masked_ssl.dataset import denormalize, normalize
from masked_ssl.masking import MaskedPhotos, error_where_hidden, hide, reconstruction_loss
from masked_ssl.model import Network
from masked_ssl.splits import GENERATED_SIZE, HERE, locate

# epochs: ours, the paper gives no number
DEFAULTS = {"size": dataset.SIZE, "epochs": 100, "lr": 1e-4}
GENERATED = {"size": GENERATED_SIZE, "epochs": 10, "lr": 1e-3}  # ours: generated faces, to end within minutes
CURVES = {
    "loss": {"loss": "training"},
    "mean absolute error where hidden": {"hidden_error": "training"},
    "learning rate": {"lr": "lr"},
}
LINE = "epoch {epoch:3d}  loss {loss:.4f}  error where hidden {hidden_error:.4f}  lr {lr:.1e}"


# fmt: off
def parse_args() -> tuple[Namespace, Checkpoint | None]:
    """The arguments, and the checkpoint that --resume names."""
    parser = cli.Parser(__doc__)
    dataset.add_data_arguments(parser, ", for its photos; those of its test split are kept out")
    add = parser.add_argument_group("photos and masking (Approach: Pretraining Under Self-Supervision)").add_argument
    add("--photos", type=cli.path, nargs="+", default=[], metavar="DIR",
        help="folders of photos: every picture in them and their subfolders counts, masks too, but for those below a "
        "labels/ or CelebAMask-HQ-mask-anno/; without --data they are the whole pool")
    add("--mask-ratio", type=number(float, 0, masking.MAX_RATIO, above=True), default=0.5, metavar="X",
        help="part of the region that is hidden (0.5, ours: the paper says a certain amount)")
    add("--region", choices=["center", "whole"], default="center",
        help="center: the paper's; whole: for comparison (ours; cf. the 2022 original's Sec. 4.3)")
    add = recipe.add_training_arguments(parser, DEFAULTS, GENERATED)
    add("--weights", default="auto", metavar="W",
        help="of the ResNet-50: imagenet (ours: the paper says so of its baseline alone), none, a file, or auto: "
        "ImageNet's where available, else random")
    return recipe.parse(parser, "pretrain", free=("data", "photos"), limit_help=" of each source")
# fmt: on


def train_epoch(
    network: nn.Module, photos: MaskedPhotos, optimizer: Optimizer, run: Run, epoch: int
) -> dict[str, float]:
    """One pass over the pool -> loss, and hidden_error: mean absolute error where the photo was hidden."""
    network.train()
    args, losses = run.args, []
    batches = shuffled(len(photos), args.batch_size, args.seed, epoch)
    for step, batch in enumerate(progress(batches, f"epoch {epoch}"), (epoch - 1) * len(batches)):
        images, masks = photos.batch(batch, epoch)
        images, masks = normalize(images, run.device), to_device(masks, run.device)
        recipe.set_learning_rates(optimizer, step, args.epochs * len(batches))
        with autocast(run.device, run.amp):
            output = network(hide(images, masks))
        loss = reconstruction_loss(output, images, photos.region)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(torch.stack([loss.detach(), error_where_hidden(output.detach(), images, masks)]))
        check_finite(losses, batches, photos.names, f"epoch {epoch}")
    loss, error = (sum_over_processes(torch.stack(losses).mean(0)) / world()[1]).tolist()
    return {"loss": loss, "hidden_error": error}


@torch.inference_mode()
def draw_samples(path: Path, network: Network, photos: MaskedPhotos, device: torch.device, amp: bool) -> None:
    """Photos, with patches hidden, as the network gives them back, and with its guess in the patches alone."""
    network.eval()
    chosen = torch.randperm(len(photos), generator=torch.Generator().manual_seed(photos.seed))[:7]
    images, masks = photos.batch(chosen.tolist(), epoch=0)  # the same patches each time
    images, masks = normalize(images, device), to_device(masks, device)
    with autocast(device, amp):
        output = network(hide(images, masks)).float()
    shown = {"photo": images, "masked": hide(images, masks), "reconstruction": output}
    shown["only the patches"] = torch.where(masks, output, images)
    rows = [list(denormalize(pictures_of)) for pictures_of in shown.values()]
    pictures.save_grid(path, rows, row_titles=list(shown), cell=1.7)


def main() -> None:
    args, saved = parse_args()
    device, amp = start(args, least=2)  # batch norm needs two photos

    # photos (Approach)
    with first_process_first():
        data = locate(args.data, labels=False) if args.data or not args.photos else None
        photos, source = masking.gather(data, [Path(folder) for folder in args.photos], args.limit)
        generated = data is not None and data.generated
        recipe.fill_in(args, GENERATED if generated else DEFAULTS)
        images = masking.load(photos, args.size, args.cache)
    region = masking.find_region(args.size, args.region)
    train_set = MaskedPhotos(images, [photo.name for photo in photos], region, args.mask_ratio, args.seed)

    # model (CNN Architectures)
    network = Network(3, args.checkpointing)
    if saved:
        origin, weights = saved["start"], saved["weights"]
    else:
        with first_process_first():
            origin, weights = recipe.load_backbone(network, args.weights)
    network.to(device, memory_format=memory_format(device, amp))
    optimizer = recipe.adamw(network, args.lr, args.lr)

    low, high = masking.patch_sides(args.size)
    run = Run(
        args, saved, HERE, device, amp,
        name="pretrain" + "-generated" * generated,
        parts={"model": network, "optimizer": optimizer},
        split={"pool": [identity(photo) for photo in photos]},
        facts={
            "data": f"{len(photos)} photos of {args.size} px without labels: {source}",
            "masking": f"patches of {low}-{high} px over {args.mask_ratio:.0%} of rows and columns {region[0]} to "
                       f"{region[1] - 1}",
            "model": f"UNet++ and R decoder, {sum(p.numel() for p in network.parameters()):,} parameters",
            "weights": weights,
        },
        keep={"stage": "pretrain", "start": origin, "weights": weights, "source": source,
              "folder": str(data.folder.resolve()) if data else None},
        line=LINE, curves=partial(pictures.save_curves, panels=CURVES), best="pretrain.pt",
        samples=lambda path: draw_samples(path, network, train_set, device, amp),
    )  # fmt: skip
    wrapped = parallel(network, device, args.compile)

    # loop
    for epoch in run.epochs():
        means = train_epoch(wrapped, train_set, optimizer, run, epoch)
        copy_from_first(network)
        run.end_epoch({**means, "lr": optimizer.param_groups[0]["lr"]}, better=True)

    flags = ["--weights", str(run.out / "pretrain.pt"), "--size", str(args.size)] if run.first else []
    if args.data or data is None:  # --photos alone: which labels to learn from is not known
        flags += ["--data", args.data or "DATA"]
    run.end("train.py", *flags)


if __name__ == "__main__":
    cli.run(main)

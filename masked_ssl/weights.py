"""What a run starts from and how it learns: first weights, optimiser, learning rate; the same in both steps."""

import math
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path

import torch

from common.checkpoint import load_checkpoint, restore
from common.cli import InputError
from common.weights import load_pretrained
from masked_ssl.dataset import Data
from masked_ssl.model import STRIDE, Network
from masked_ssl.pool import identity

PAPER = Path(__file__).resolve().parent.name
RUNS = Path(__file__).resolve().parent / "runs"
STARTS = ("auto", "imagenet", "random")
# the same in both steps
NOT_SAVED = {"cache", "out", "resume"}  # of this machine and this start, not of the run
ONLY_IN_LAST = {"optimizer", "rng"}  # pretrain.pt and best.pt do without: two thirds of 590 MB
CHECK_EVERY = 50  # steps between two looks at the losses: each look waits for the GPU


def check_run_arguments(parser: ArgumentParser, args: Namespace) -> None:
    """What must hold of the arguments of both steps; parser.error() where it does not."""
    if args.resume and args.out:
        parser.error(f"--out {args.out}: a resumed run goes on in the folder of {args.resume}; leave --out out")
    if args.size and args.size % STRIDE:
        parser.error(f"--size {args.size} must be a multiple of {STRIDE}, such as {args.size // STRIDE * STRIDE}")


def check_together(args: Namespace, world_size: int) -> None:
    """Raise InputError for what cannot go together, a resumed run's own arguments included."""
    if args.checkpointing and args.sync_batch_norm:
        raise InputError("--checkpointing meets each batch twice, --sync-batch-norm must not; leave one of them out")
    if args.checkpointing and args.compile:
        raise InputError("--checkpointing: torch.compile cannot follow it; leave it or --compile out (--no-compile)")
    if args.batch_size % world_size or args.batch_size // world_size < 2:
        raise InputError(
            f"--batch-size {args.batch_size} over {world_size} processes: each needs the same number of pictures, at "
            f"least 2 for batch norm; give --batch-size {4 * world_size}"
        )


def fill_in(args: Namespace, values: dict) -> None:
    """Give the arguments that were not typed these values, in place."""
    for name, value in values.items():
        if getattr(args, name) is None:
            setattr(args, name, value)


def load_backbone(network: Network, choice: str) -> tuple[str, str]:
    """Fill the ResNet-50 as --init says (auto, imagenet or random) -> "imagenet" or "random", and the same in words.

    Everything else keeps its random weights, as in the paper's baseline (Fine-Tuning Process). Raises InputError if
    ImageNet's must be had and cannot be.
    """
    state_dict, words = load_pretrained(choice, "ResNet50_Weights.IMAGENET1K_V1", none="random", flag="--init")
    if state_dict is None:
        return "random", words
    try:
        network.encoder.backbone.load_imagenet(state_dict)
    except RuntimeError as error:
        problem = str(error).splitlines()[1].strip()[:100]
        raise InputError(f"--init {choice}: {words} is not what it should be ({problem}); remove it") from None
    return "imagenet", f"ResNet-50 of {words}, the rest random"


def load_pretraining(path: Path) -> dict:
    """The checkpoint of step 1 at `path`; raises InputError if it is none."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; python {PAPER}/pretrain.py makes a pretrain.pt in its run folder")
    saved = load_checkpoint(path, PAPER)
    if saved.get("stage") != "pretrain":
        raise InputError(
            f"{path}: a checkpoint of train.py; give a file of pretrain.py's run, last.pt to resume, pretrain.pt else"
        )
    return saved


def newest_pretraining() -> Path | None:
    """The pretrain.pt that pretrain.py wrote last in this folder's runs/ (its second run is runs/pretrain-2)."""
    return max(RUNS.glob("pretrain*/pretrain.pt"), key=lambda path: path.stat().st_mtime, default=None)


def load_encoder(network: Network, path: Path, saved: dict) -> str:
    """Carry the whole encoder from step 1 to step 2 -> where the weights come from, in words."""
    if not saved["log"]:
        raise InputError(f"{path}: has not finished an epoch yet; let pretrain.py finish one")
    restore(path, lambda: network.encoder.load_state_dict(saved["encoder"], strict=True))
    words = f"encoder of {path}: {saved['epoch']} epochs at {saved['args']['size']} px on {len(saved['pool'])} photos"
    words += f" of {saved['source']}"
    return f"{words}, itself from {saved['weights']}"


def start_from(network: Network, args: Namespace, data: Data) -> tuple[str, str, list[str]]:
    """Fill the network as --init says -> imagenet, random or pretrained; where its weights come from, in words; and the
    identities of the photos that step 1 has seen.

    Raises InputError for an encoder that has seen test photos in step 1: its scores would not count.
    """
    path, skipped = Path(args.init), ""
    newest = newest_pretraining() if args.init == "auto" else None
    if newest:
        saved = load_pretraining(newest)
        if saved["folder"] == str(data.folder.resolve()) and saved["log"]:
            path = newest
        else:
            skipped = f"; not {newest}, which was made with other data or is not an epoch old"
    if str(path) in STARTS:
        start, words = load_backbone(network, args.init)
        return start, words + skipped, []
    saved = load_pretraining(path)
    seen = set(saved["pool"])
    tested = [face.photo.name for face in data.parts["test"] if identity(face.photo) in seen]
    if tested:
        raise InputError(
            f"--init {path}: was pretrained on {len(tested)} of the test photos of {data.folder}, such as {tested[0]}; "
            "pretrain with --data, which keeps them out"
        )
    return "pretrained", load_encoder(network, path, saved), saved["pool"]


def adamw(network: Network, encoder_lr: float, decoder_lr: float) -> torch.optim.AdamW:
    """Fused AdamW with PyTorch's other defaults (ours); the encoder's and the decoder's learning rate apart."""
    groups = [
        {"params": list(network.encoder.parameters()), "lr": encoder_lr, "peak_lr": encoder_lr},
        {"params": list(network.decoder.parameters()), "lr": decoder_lr, "peak_lr": decoder_lr},
    ]
    return torch.optim.AdamW(groups, fused=True)


def lr_factor(step: int, steps: int, schedule: str) -> float:
    """What the learning rates are multiplied by at `step` of 0 ... steps - 1 (ours).

    constant: 1. cosine: half a wave from 1 down to 0, after a twentieth of the steps in which it rises from 0.
    """
    if schedule == "constant":
        return 1.0
    warm_up = max(1, steps // 20)
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def scheduled(optimizer: torch.optim.Optimizer, steps: int, schedule: str, step: int = 0) -> Callable[[], None]:
    """A function to call before each step from `step` on, which sets the learning rates."""

    def set_lr() -> None:
        nonlocal step
        factor = lr_factor(step, steps, schedule)
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
        step += 1

    return set_lr

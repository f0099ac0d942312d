"""What both steps share: what a network starts from, its optimiser and its learning rate."""

import math
from collections.abc import Callable
from pathlib import Path

import torch

from common.cli import InputError
from common.run import Checkpoint, load_checkpoint, restore
from common.weights import fill, load_weights
from masked_ssl.dataset import HERE
from masked_ssl.model import Network

# ---- Where a network starts ----------------------------------------------------------------------------------------


def load_backbone(network: Network, choice: str) -> tuple[str, str]:
    """Fill the ResNet-50 as --weights says -> "random", "imagenet" or the file, and the same in words.

    Everything else keeps its random weights, as in the paper's baseline (Fine-Tuning Process). Raises InputError if
    what is asked for is not available.
    """
    state_dict, words, checkpoint = load_weights(choice, "ResNet50_Weights.IMAGENET1K_V1")
    if state_dict is None:
        return "random", words
    if checkpoint:
        raise InputError(f"--weights {choice}: a checkpoint of {checkpoint['paper']}; give torchvision's ResNet-50")
    backbone = network.encoder.backbone
    fill(backbone, backbone.trunk_of(state_dict), "torchvision's ResNet-50", choice)
    start = "imagenet" if choice in ("auto", "imagenet") else str(Path(choice).resolve())
    return start, f"ResNet-50 of {words}, the rest random"


def load_pretraining(path: Path) -> Checkpoint:
    """The checkpoint of step 1 at `path`; raises InputError if it is none, or has not finished an epoch."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; python masked_ssl/pretrain.py makes a pretrain.pt in its run folder")
    saved = load_checkpoint(path, HERE.name)
    if saved["stage"] != "pretrain":
        raise InputError(f"{path}: a checkpoint of train.py; give the pretrain.pt of a run of pretrain.py")
    if not saved["log"]:
        raise InputError(f"{path}: has not finished an epoch yet; let pretrain.py finish one")
    return saved


def newest_pretraining() -> Path | None:
    """The pretrain.pt that pretrain.py wrote last in this folder's runs/ (its second run is runs/pretrain-2)."""
    found = (HERE / "runs").glob("pretrain*/pretrain.pt")
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def load_encoder(network: Network, saved: Checkpoint) -> str:
    """Carry the whole encoder from step 1 to step 2 -> where the weights come from, in words."""
    encoder = {name[len("encoder.") :]: x for name, x in saved["model"].items() if name.startswith("encoder.")}
    carried = Checkpoint(encoder=encoder)
    carried.path = saved.path
    restore(carried, encoder=network.encoder)
    words = f"encoder of {saved.path}: {saved['epoch']} epochs at {saved['args']['size']} px on {saved['source']}"
    return f"{words}, itself from {saved['weights']}"


# ---- How it learns -------------------------------------------------------------------------------------------------


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


def scheduled(optimizer: torch.optim.Optimizer, steps: int, schedule: str) -> Callable[[int], None]:
    """A function that sets the learning rates for a step; of `steps` in all epochs together."""

    def set_lr(step: int) -> None:
        factor = lr_factor(step, steps, schedule)
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor

    return set_lr

"""What a run starts from and how it learns: first weights, optimiser, learning rate; the same in both steps."""

import math
from collections.abc import Callable
from pathlib import Path

import torch

from common.checkpoint import load_checkpoint, restore
from common.cli import InputError
from common.weights import load_pretrained
from masked_ssl.model import Network

PAPER = Path(__file__).resolve().parent.name
STARTS = ("auto", "imagenet", "random")


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
        raise InputError(f"{path}: a checkpoint of train.py; give the pretrain.pt of a run of pretrain.py")
    return saved


def load_encoder(network: Network, path: Path, saved: dict) -> tuple[str, str]:
    """Carry the whole encoder from step 1 to step 2 -> what step 1 started from, and where the weights come from."""
    restore(path, lambda: network.encoder.load_state_dict(saved["encoder"], strict=True))
    words = f"encoder of {path}: {saved['epoch']} epochs on {len(saved['pool'])} photos of {saved['source']}"
    return saved["start"], f"{words}, itself from {saved['weights']}"


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

"""A tiny training of every script that trains, on generated faces in CelebAMask-HQ's layout, for what all must pass."""

import importlib
from typing import NamedTuple

from torch import nn


class Training(NamedTuple):
    folder: str
    script: str
    arguments: tuple[str, ...]
    best: str = "best.pt"  # the checkpoint beside last.pt

    @property
    def module(self):
        return importlib.import_module(f"{self.folder}.{self.script}")


TRAININGS = {
    "nu_deeplabv3plus": Training("nu_deeplabv3plus", "train", ("--size", "32", "--weights", "none")),
    "hair_transfer": Training("hair_transfer", "train", ("--size", "32", "--init", "random", "--lr", "0.001")),
    "lrn_headtorso": Training("lrn_headtorso", "train", ("--size", "32", "--weights", "none")),
    "masked_ssl/pretrain": Training(
        "masked_ssl", "pretrain", ("--size", "32", "--init", "random", "--batch-size", "4"), "pretrain.pt"
    ),
    "masked_ssl": Training(
        "masked_ssl", "train", ("--size", "32", "--init", "random", "--batch-size", "4", "--min-steps", "0")
    ),
    "mut1ny_fairness": Training(
        "mut1ny_fairness", "train", ("--size", "32", "--weights", "none", "--model", "pspnet", "--truncated")
    ),
}


def one_block(channels: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    """A layer of nu_deeplabv3plus' ResNet-50, however many blocks it should have."""
    from nu_deeplabv3plus.model import Bottleneck

    return nn.Sequential(Bottleneck(channels, width, stride))


SMALL = (  # what makes the networks small: module, class (or none), attribute, value
    ("nu_deeplabv3plus.model", "ResNet50", "_layer", staticmethod(one_block)),
    ("hair_transfer.model", None, "BLOCKS", (1, 1, 1, 1)),
    ("lrn_headtorso.model", None, "CHANNELS", (4, 8, 8, 16, 16)),
    ("masked_ssl.model", None, "WIDTH", 8),
    ("mut1ny_fairness.resnet", None, "BLOCKS", (1, 1, 1, 1)),
)


def make_networks_small(folder: str, setattr=setattr) -> None:
    """Of a folder, in this process; with pytest's monkeypatch.setattr until the test ends."""
    for module, cls, name, value in SMALL:
        if module.startswith(folder):
            owner = importlib.import_module(module)
            setattr(getattr(owner, cls) if cls else owner, name, value)

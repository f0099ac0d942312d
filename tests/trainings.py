"""A tiny training of every script that trains, on generated faces in CelebAMask-HQ's layout, for what all must pass."""

import functools
import importlib
import math
from typing import NamedTuple

from torch import nn


class Training(NamedTuple):
    folder: str
    script: str
    arguments: str
    best: str = "best.pt"  # the checkpoint beside last.pt

    @property
    def module(self):
        return importlib.import_module(f"{self.folder}.{self.script}")


TINY = "--size 32 --weights none"
TRAININGS = {
    "nu_deeplabv3plus": Training("nu_deeplabv3plus", "train", TINY),
    "hair_transfer": Training("hair_transfer", "train", f"{TINY} --lr 0.001"),
    "lrn_headtorso": Training("lrn_headtorso", "train", TINY),
    "masked_ssl/pretrain": Training("masked_ssl", "pretrain", f"{TINY} --batch-size 4", "pretrain.pt"),
    "masked_ssl": Training("masked_ssl", "train", f"{TINY} --batch-size 4 --min-steps 0"),
    "mut1ny_fairness": Training("mut1ny_fairness", "train", f"{TINY} --model pspnet --truncated --recipe ours"),
}
FOLDERS = [name for name in TRAININGS if "/" not in name]


def block(in_channels: int, width: int, stride: int = 1, dilation: int = 1) -> nn.Module:
    """In a Bottleneck's place: of its shapes, with about a thirtieth of its weights."""
    pointwise = nn.Conv2d(in_channels, 4 * width, 1, stride, groups=math.gcd(32, in_channels), bias=False)
    return nn.Sequential(pointwise, nn.BatchNorm2d(4 * width), nn.ReLU())


def grouped(in_channels: int, out_channels: int, kernel_size: int, dilation: int = 1) -> nn.Sequential:
    """In conv_bn_relu's place: with about a thirtieth of its weights."""
    padding, groups = dilation * (kernel_size // 2), math.gcd(32, in_channels)
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, 1, padding, dilation, groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU())


def hair_head(num_outputs: int) -> nn.Module:
    return nn.Sequential(nn.Dropout(0.5), nn.Conv2d(2048, num_outputs, 1))


SMALL = {  # module -> what makes its network small
    "nu_deeplabv3plus.model": {"ASPP": functools.partial(nn.Conv2d, kernel_size=1), "Bottleneck": block},
    "hair_transfer.model": {"BLOCKS": (1, 1, 1, 1), "Bottleneck": block, "deeplab_head": hair_head},
    "lrn_headtorso.model": {"CHANNELS": (4, 8, 8, 16, 16)},
    "masked_ssl.model": {"WIDTH": 8, "Bottleneck": block},
    "mut1ny_fairness.resnet": {"BLOCKS": (1, 1, 1, 1), "Bottleneck": block},
    "mut1ny_fairness.deeplabv3": {"conv_bn_relu": grouped},
    "mut1ny_fairness.pspnet": {"conv_bn_relu": grouped},
}


def make_networks_small(folder: str, setattr=setattr) -> None:
    """Of a folder, in this process; with pytest's monkeypatch.setattr until the test ends."""
    for module, values in SMALL.items():
        for name, value in values.items() if module.startswith(folder) else ():
            setattr(importlib.import_module(module), name, value)


if __name__ == "__main__":  # a training by torchrun, with a small network
    make_networks_small("nu_deeplabv3plus")
    TRAININGS["nu_deeplabv3plus"].module.main()

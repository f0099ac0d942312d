"""ResNet-101 at output stride 8, the encoder of both models (He et al. 2016); its keys are torchvision's."""

import torch.nn.functional as F
from torch import Tensor, nn

BLOCKS = (3, 4, 23, 3)  # ResNet-101


def conv_bn_relu(in_channels: int, out_channels: int, kernel_size: int, dilation: int = 1) -> nn.Sequential:
    """Convolution that keeps H x W, without bias, batch norm, ReLU."""
    padding = dilation * (kernel_size // 2)
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size, padding=padding, dilation=dilation, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


class Bottleneck(nn.Module):
    """B x C_in x H x W -> B x 4 width x H/stride x W/stride (stride and dilation on the 3x3, as in torchvision)."""

    def __init__(self, in_channels: int, width: int, stride: int = 1, dilation: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or in_channels != 4 * width:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width)
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.bn3(self.conv3(x)) + shortcut)


class ResNet101(nn.Module):
    """B x 3 x H x W -> layer3 B x 1024 x H/8 x W/8, layer4 B x 2048 x H/8 x W/8; truncated: layer2 B x 512, twice.

    Where a layer would halve the map, its 3x3 convolutions are dilated instead: 2 in layer3, 4 in layer4. The first
    block of each keeps the dilation of the layer before, because its 3x3 is the one that would have had the stride.
    """

    def __init__(self, truncated: bool = False):
        super().__init__()
        self.truncated = truncated
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = self._layer(64, 64, BLOCKS[0])
        self.layer2 = self._layer(256, 128, BLOCKS[1], stride=2)
        if not truncated:
            self.layer3 = self._layer(512, 256, BLOCKS[2], dilation=2)
            self.layer4 = self._layer(1024, 512, BLOCKS[3], dilation=4)
        for module in self.modules():  # before any pretrained weights: He's, as in torchvision
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @staticmethod
    def _layer(in_channels: int, width: int, blocks: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
        first = Bottleneck(in_channels, width, stride, max(1, dilation // 2))  # as torchvision's
        return nn.Sequential(first, *[Bottleneck(4 * width, width, dilation=dilation) for _ in range(blocks - 1)])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))  # B 64 H/4 W/4
        layer2 = self.layer2(self.layer1(x))
        if self.truncated:
            return layer2, layer2
        layer3 = self.layer3(layer2)
        return layer3, self.layer4(layer3)


def encoder_of(state_dict: dict[str, Tensor], truncated: bool = False) -> dict[str, Tensor]:
    """What a ResNet101 takes of torchvision's ResNet-101, of its DeepLabV3 or of a network of this folder: no heads."""
    unused = ("fc.", "classifier.", "aux_classifier.", "pyramid.", *(("layer3.", "layer4.") if truncated else ()))
    encoder = {name.removeprefix("backbone."): x for name, x in state_dict.items()}
    return {name: x for name, x in encoder.items() if not name.startswith(unused)}


def upsample(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """B x C x h x w -> B x C x H x W float32, bilinear, whatever the network ran in."""
    return F.interpolate(logits.float(), size=size, mode="bilinear", align_corners=False)

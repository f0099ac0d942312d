"""The Label Refinement Network (Sec. 2.1, Fig. 1) and the U-Net it is compared with (Sec. 2.2), on a VGG-16 encoder.

    image B x 3 x 224 x 224
      VGG-16: pool1 64 x 112, pool2 128 x 56, pool3 256 x 28, pool4 512 x 14, pool5 512 x 7

    LRN                                                        U-Net
      unit 1: pool5 ------------------------- map 7              pool5: conv, conv, up ------------- 64 x 14
      unit 2: pool5 + map 7 ------------- up, map 14             + pool4: conv, conv, up ----------- 64 x 28
      unit 3: pool4 + map 14 ------------ up, map 28             + pool3: conv, conv, up ----------- 64 x 56
      unit 4: pool3 + map 28 ------------ up, map 56             + pool2: conv, conv, up ---------- 64 x 112
      unit 5: pool2 + map 56 ----------- up, map 112             + pool1: conv, conv, up ---------- 64 x 224
      unit 6: pool1 + map 112 ---------- up, map 224             conv to 1, sigmoid ------------- map 224

A map is a probability in [0, 1]. Both networks return a list of maps, coarse to fine: the LRN six, the U-Net one.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FILTERS = 64  # of the decoders (Sec. 2.1)
STRIDE = 32  # of the encoder: H and W must be multiples of it
CHANNELS = (64, 128, 256, 512, 512)  # of the five levels (Sec. 2.1)
CONVOLUTIONS = (2, 2, 3, 3, 3)
FOUND_ABOVE = 0.5  # ours: a pixel of a map is the person above this probability


class VGG16(nn.Module):
    """B x 3 x H x W -> the five max-pool outputs, B x 64 x H/2 x W/2 to B x 512 x H/32 x W/32 (Sec. 2.1).

    Thirteen 3x3 convolutions with ReLU; names and order are torchvision's, so that its ImageNet weights load with
    strict=True once the classifier is left out (`trunk_of`). AssertionError unless 32 divides H and W.
    """

    def __init__(self):
        super().__init__()
        layers, in_channels = [], 3
        for channels, count in zip(CHANNELS, CONVOLUTIONS, strict=True):
            for _ in range(count):
                layers += [nn.Conv2d(in_channels, channels, 3, padding=1), nn.ReLU(inplace=True)]
                in_channels = channels
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)

    @staticmethod
    def trunk_of(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """The encoder's part of torchvision's VGG-16 weights, or of those of a network of ours."""
        return {name.removeprefix("encoder."): x for name, x in state_dict.items() if "features." in name}

    def forward(self, x: Tensor) -> list[Tensor]:
        H, W = x.shape[-2:]
        assert H % STRIDE == 0 and W % STRIDE == 0, f"H and W must be multiples of {STRIDE}, got {H} x {W}"
        pools = []
        for layer in self.features:
            x = layer(x)
            if isinstance(layer, nn.MaxPool2d):
                pools.append(x)
        return pools


def init_glorot(model: nn.Module) -> None:
    """Glorot uniform weights (Sec. 2.3) and zero biases (Keras' default: the paper does not say)."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)


def up(x: Tensor) -> Tensor:
    """B x C x H x W -> B x C x 2H x 2W, bilinear (ours: the paper does not say)."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


# ---- Sec. 2.1: Label Refinement Network ----------------------------------------------------------------------------


class RefinementUnit(nn.Module):
    """Features B x C x H x W and the map so far, B x 1 x H x W, if there is one -> a better map, B x 1 x H x W.

    channel_reduction: the original LRN's convolution that leaves the features as many channels as there are outputs,
    here one. The paper takes it out, having found that nothing is learned through so narrow a passage; its kernel (3x3)
    and that it has no activation are ours.
    """

    def __init__(self, channels: int, *, first: bool = False, channel_reduction: bool = False):
        super().__init__()
        self.reduce = nn.Conv2d(channels, 1, 3, padding=1) if channel_reduction else nn.Identity()
        in_channels = (1 if channel_reduction else channels) + (0 if first else 1)
        self.conv1 = nn.Conv2d(in_channels, FILTERS, 3, padding=1)
        self.conv2 = nn.Conv2d(FILTERS, 1, 3, padding=1)

    def forward(self, features: Tensor, coarse: Tensor | None = None) -> Tensor:
        x = self.reduce(features)
        if coarse is not None:
            x = torch.cat([x, coarse.to(x.dtype)], dim=1)
        x = self.conv2(F.relu(self.conv1(x)))
        return torch.sigmoid(x.float())  # in float32 also under autocast, for the losses


class LRN(nn.Module):
    """B x 3 x H x W normalised images -> six maps, B x 1 x H/32 x W/32 to B x 1 x H x W. 15,864,198 parameters."""

    def __init__(self, *, channel_reduction: bool = False):
        super().__init__()
        self.encoder = VGG16()
        first = RefinementUnit(CHANNELS[-1], first=True)
        others = [RefinementUnit(channels, channel_reduction=channel_reduction) for channels in reversed(CHANNELS)]
        self.units = nn.ModuleList([first, *others])  # pool5 twice, then pool4 ... pool1
        init_glorot(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        pools = self.encoder(x)[::-1]
        maps = [self.units[0](pools[0])]  # H/32
        for unit, features in zip(self.units[1:], pools, strict=True):
            maps.append(up(unit(features, maps[-1])))  # H/16, H/8, H/4, H/2, H
        return maps


# ---- Sec. 2.2: U-Net -----------------------------------------------------------------------------------------------


def double_conv(in_channels: int) -> nn.Sequential:
    """B x in_channels x H x W -> B x 64 x H x W: two 3x3 convolutions with ReLU."""
    first, second = nn.Conv2d(in_channels, FILTERS, 3, padding=1), nn.Conv2d(FILTERS, FILTERS, 3, padding=1)
    return nn.Sequential(first, nn.ReLU(inplace=True), second, nn.ReLU(inplace=True))


class UNet(nn.Module):
    """B x 3 x H x W normalised images -> [one map, B x 1 x H x W].

    The paper draws no U-Net; it says that the encoder is the LRN's and the rest very similar. So ours has the LRN's
    skips and its 64 filters, and passes on 64 features where the LRN passes on a map.
    """

    def __init__(self):
        super().__init__()
        self.encoder = VGG16()
        self.bottom = double_conv(CHANNELS[-1])
        self.decoder = nn.ModuleList(double_conv(channels + FILTERS) for channels in CHANNELS[-2::-1])
        self.classifier = nn.Conv2d(FILTERS, 1, 3, padding=1)
        init_glorot(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        *skips, x = self.encoder(x)
        x = up(self.bottom(x))  # B 64 H/16 W/16
        for block, skip in zip(self.decoder, skips[::-1], strict=True):
            x = up(block(torch.cat([skip, x], dim=1)))  # H/8, H/4, H/2, H
        return [torch.sigmoid(self.classifier(x).float())]

"""PSPNet with a dilated ResNet-101 (Sec. III-A.2, fig. 2; Zhao et al. 2017).

    image B x 3 x 256 x 256
      ResNet-101, layer3 and layer4 dilated instead of strided
        layer3 -------------------------------------- B x 1024 x 32 x 32   (the auxiliary head's input, weight 0.4)
        layer4 -------------------------------------- B x 2048 x 32 x 32
      pyramid: means over 1x1, 2x2, 3x3, 6x6 regions,
            each 1x1 to 512, BN, ReLU, up ------------- 4 x B x 512 x 32 x 32
      concat with layer4 ------------------------------ B x 4096 x 32 x 32
      3x3 to 512, BN, ReLU, dropout, 1x1, up x8 -------- B x 3 (or 11) x 256 x 256, linear

`truncated` cuts the encoder after layer2 (512 channels), as a widely used library does by default: the paper's 7 h
against DeepLabV3's 31 h look like that one (NOTES.md). The paper says that the final feature map is as large as the
image; here it is an eighth of it, as in Zhao et al., and the output is enlarged.
"""

import torch
from torch import Tensor, nn

from mut1ny_fairness.resnet import ResNet101, conv_bn_relu, upsample

BINS = (1, 2, 3, 6)


def pooling_matrix(length: int, bins: int, like: Tensor) -> Tensor:
    """bins x length: row b holds the weights of the mean over region b, from floor(b L / bins) to ceil((b+1) L / bins).

    Regions overlap by a cell where `bins` does not divide `length`. On the device and of the type of `like`.
    """
    b, cells = torch.arange(bins, device=like.device)[:, None], torch.arange(length, device=like.device)
    start, end = b * length // bins, ((b + 1) * length + bins - 1) // bins
    return ((cells >= start) & (cells < end)).to(like.dtype) / (end - start).to(like.dtype)


def pool(x: Tensor, bins: int) -> Tensor:
    """B x C x h x w -> B x C x bins x bins, adaptive average pooling as two matrix products.

    F.adaptive_avg_pool2d does not run on an Apple GPU where bins does not divide the side, as 3 and 6 do not divide 32.
    """
    rows, columns = (pooling_matrix(side, bins, x) for side in x.shape[-2:])
    return rows @ x @ columns.T


class PyramidPooling(nn.Module):
    """B x C x h x w -> B x (C + 4 x C/4) x h x w."""

    def __init__(self, channels: int):
        super().__init__()
        self.convs = nn.ModuleList([conv_bn_relu(channels, channels // len(BINS), 1) for _ in BINS])

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-2:]
        levels = [upsample(conv(pool(x, n)), size) for n, conv in zip(BINS, self.convs, strict=True)]
        return torch.cat([x, *(level.to(x.dtype) for level in levels)], dim=1)


def head(channels: int, width: int, num_outputs: int) -> nn.Sequential:
    """B x channels x h x w -> B x num_outputs x h x w."""
    return nn.Sequential(*conv_bn_relu(channels, width, 3), nn.Dropout(0.1), nn.Conv2d(width, num_outputs, 1))


class PSPNet(nn.Module):
    """B x 3 x H x W normalised images -> B x num_outputs x H x W in float32, without an activation.

    In training mode a whole network returns that and the auxiliary head's, which only the training loss uses.
    """

    def __init__(self, *, num_outputs: int = 3, truncated: bool = False):
        super().__init__()
        channels = 512 if truncated else 2048
        self.backbone = ResNet101(truncated)
        self.pyramid = PyramidPooling(channels)
        self.classifier = head(2 * channels, 512, num_outputs)
        self.aux_classifier = None if truncated else head(1024, 256, num_outputs)  # on layer3, which is cut off

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        size = x.shape[-2:]
        layer3, layer4 = self.backbone(x)
        output = upsample(self.classifier(self.pyramid(layer4)), size)
        if self.aux_classifier is None or not self.training:
            return output
        return output, upsample(self.aux_classifier(layer3), size)

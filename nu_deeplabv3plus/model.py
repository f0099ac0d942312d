"""DeepLabV3+ with squeeze-and-excitation for 18 binary face-part masks (Sec. 3.3).

    image B x 3 x 128 x 128
      ResNet-50, cut after layer3 ----------------- B x 1024 x 8 x 8   (output stride 16)
      |  `- layer1: low-level features ------------ B x 256 x 32 x 32  (output stride 4)
      ASPP: image pooling, 1x1, 3x3 rates 6/12/18,
            concat, 1x1 ---------------------------- B x 256 x 8 x 8
      squeeze-and-excitation, up x4 ---------------- B x 256 x 32 x 32
      concat with 48 low-level channels ------------ B x 304 x 32 x 32
      two 3x3, squeeze-and-excitation -------------- B x 256 x 32 x 32
      1x1 to 18, up x4 ----------------------------- B x 18 x 128 x 128 logits

The paper draws the blocks; the widths are those of the Keras design that it seems to follow (NOTES.md).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

OUTPUT_STRIDE = 16
RATES = (6, 12, 18)  # of the ASPP


def conv_bn_relu(in_channels: int, out_channels: int, kernel_size: int, dilation: int = 1) -> nn.Sequential:
    """Convolution that keeps H x W, without bias, batch norm, ReLU."""
    padding = dilation * (kernel_size // 2)
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size, padding=padding, dilation=dilation, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


class Bottleneck(nn.Module):
    """B x C_in x H x W -> B x 4 width x H/stride x W/stride (He et al. 2016; stride on the 3x3, as in torchvision)."""

    def __init__(self, in_channels: int, width: int, stride: int = 1):
        super().__init__()
        out_channels = 4 * width
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or in_channels != out_channels:
            conv = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.bn3(self.conv3(x)) + shortcut)


class ResNet50(nn.Module):
    """B x 3 x H x W -> low_level B x 256 x H/4 x W/4, high_level B x 1024 x H/16 x W/16.

    Cut after layer3; the names are torchvision's, so that its ImageNet weights load once layer4 and fc are left out.
    """

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = self._layer(64, width=64, blocks=3, stride=1)
        self.layer2 = self._layer(256, width=128, blocks=4, stride=2)
        self.layer3 = self._layer(512, width=256, blocks=6, stride=2)

    @staticmethod
    def _layer(in_channels: int, width: int, blocks: int, stride: int) -> nn.Sequential:
        first = Bottleneck(in_channels, width, stride)
        return nn.Sequential(first, *[Bottleneck(4 * width, width) for _ in range(blocks - 1)])

    @staticmethod
    def trunk_of(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """torchvision's ResNet-50 weights without what is cut off here."""
        return {name: x for name, x in state_dict.items() if not name.startswith(("layer4.", "fc."))}

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        low_level = self.layer1(x)
        high_level = self.layer3(self.layer2(low_level))
        return low_level, high_level


class ASPP(nn.Module):
    """B x C x h x w -> B x 256 x h x w (Sec. 3.3, "Spatial Pyramid Pooling"; Eq. 1 is the dilated convolution).

    At 128 px the map is 8 x 8, so of the 3x3 kernels with rates 12 and 18 only the centre tap ever meets a feature.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.image_pooling = nn.Sequential(nn.AdaptiveAvgPool2d(1), *conv_bn_relu(in_channels, out_channels, 1))
        self.conv1x1 = conv_bn_relu(in_channels, out_channels, 1)
        self.atrous = nn.ModuleList(conv_bn_relu(in_channels, out_channels, 3, dilation=rate) for rate in RATES)
        self.project = conv_bn_relu((2 + len(RATES)) * out_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        # up-sampling a 1x1 map bilinearly is repeating it
        pooled = self.image_pooling(x).expand(-1, -1, *x.shape[-2:])
        branches = [pooled, self.conv1x1(x)] + [conv(x) for conv in self.atrous]
        return self.project(torch.cat(branches, dim=1))


class SqueezeExcite(nn.Module):
    """B x C x H x W -> the same, each channel weighted by a number in (0, 1) (Hu et al. 2018; ratio 8: Sec. 3.3)."""

    def __init__(self, channels: int):
        super().__init__()
        self.squeeze = nn.Linear(channels, channels // 8, bias=False)
        self.excite = nn.Linear(channels // 8, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean(dim=(2, 3))))))
        return x * weight[:, :, None, None]


class DeepLabV3Plus(nn.Module):
    """B x 3 x H x W images in [0, 1] -> B x num_classes x H x W logits; the sigmoid is in the loss and the evaluation.

    H and W are multiples of 16 (AssertionError otherwise). 17,817,266 learnable parameters with 18 classes.
    """

    def __init__(self, *, num_classes: int = 18):
        super().__init__()
        self.encoder = ResNet50()
        self.aspp = ASPP(1024, 256)
        self.encoder_se = SqueezeExcite(256)  # "after the 1x1 convolution in the encoder"
        self.low_level = conv_bn_relu(256, 48, 1)
        self.decoder = nn.Sequential(conv_bn_relu(256 + 48, 256, 3), conv_bn_relu(256, 256, 3))
        self.decoder_se = SqueezeExcite(256)  # "before the up-sampling operation in the decoder"
        self.classifier = nn.Conv2d(256, num_classes, 1)
        # before any ImageNet weights (ours): He for the ResNet, as torchvision; elsewhere Glorot, Keras' default
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.xavier_uniform_(module.weight)
        for module in self.encoder.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        H, W = x.shape[-2:]
        assert H % OUTPUT_STRIDE == 0 and W % OUTPUT_STRIDE == 0, f"H and W must be multiples of 16, got {H} x {W}"
        low_level, x = self.encoder(x)  # B 256 H/4 W/4, B 1024 H/16 W/16
        x = self.encoder_se(self.aspp(x))  # B 256 H/16 W/16
        x = F.interpolate(x, size=low_level.shape[-2:], mode="bilinear", align_corners=False)
        x = torch.cat([x, self.low_level(low_level)], dim=1)  # B 304 H/4 W/4
        x = self.decoder_se(self.decoder(x))  # B 256 H/4 W/4
        # Keras' design: up x4, then the 1x1; the two commute, and 18 channels are cheaper to up-sample than 256
        x = self.classifier(x)  # B 18 H/4 W/4
        return F.interpolate(x, size=(H, W), mode="bilinear", align_corners=False)

"""DeepLabV3 with a ResNet-101 for one mask: hair or not (Sec. II; Chen et al. 2017, He et al. 2016).

    image B x 3 x 256 x 256
      ResNet-101, layer3 and layer4 dilated instead of strided
        layer3 -------------------------------------- B x 1024 x 32 x 32   (output stride 8)
        layer4 -------------------------------------- B x 2048 x 32 x 32
      ASPP: 1x1, 3x3 rates 12/24/36, image pooling,
            concat, 1x1, dropout --------------------- B x 256 x 32 x 32
      3x3, 1x1 to one channel, up x8 ----------------- B x 1 x 256 x 256 logits
      sigmoid ---------------------------------------- the output that the loss compares with the mask

Every key of the state dict is torchvision's, so that the backbone of its COCO checkpoint fits key for key. The head is
new, the ASPP too, as in the template (NOTES.md); the paper names the one output channel alone. 58,625,857 parameters.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCKS = (3, 4, 23, 3)  # ResNet-101
RATES = (12, 24, 36)  # of the ASPP, as in torchvision


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
        out_channels = 4 * width
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=dilation, dilation=dilation, bias=False)
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


class ResNet101(nn.Module):
    """B x 3 x H x W -> B x 2048 x H/8 x W/8.

    Where a layer would halve the map, its 3x3 convolutions are dilated instead: 2 in layer3, 4 in layer4. The first
    block of each keeps the dilation of the layer before, because its 3x3 is the one that would have had the stride.
    """

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = self._layer(64, 64, BLOCKS[0], stride=1, dilations=(1, 1))
        self.layer2 = self._layer(256, 128, BLOCKS[1], stride=2, dilations=(1, 1))
        self.layer3 = self._layer(512, 256, BLOCKS[2], stride=1, dilations=(1, 2))
        self.layer4 = self._layer(1024, 512, BLOCKS[3], stride=1, dilations=(2, 4))
        for module in self.modules():  # before any pretrained weights: He's, as in torchvision
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @staticmethod
    def _layer(in_channels: int, width: int, blocks: int, stride: int, dilations: tuple[int, int]) -> nn.Sequential:
        first = Bottleneck(in_channels, width, stride, dilations[0])
        return nn.Sequential(first, *[Bottleneck(4 * width, width, dilation=dilations[1]) for _ in range(blocks - 1)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))  # B 64 H/4 W/4
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


class ASPP(nn.Module):
    """B x C x h x w -> B x 256 x h x w.

    At 256 px the map is 32 x 32, so of the 3x3 kernel with rate 36 only the centre tap ever meets a feature. The rates
    are the COCO checkpoint's, made for 520 px.
    """

    def __init__(self, in_channels: int):
        super().__init__()
        pooling = nn.Sequential(nn.AdaptiveAvgPool2d(1), *conv_bn_relu(in_channels, 256, 1))
        atrous = [conv_bn_relu(in_channels, 256, 3, dilation=rate) for rate in RATES]
        self.convs = nn.ModuleList([conv_bn_relu(in_channels, 256, 1), *atrous, pooling])
        self.project = nn.Sequential(*conv_bn_relu(len(self.convs) * 256, 256, 1), nn.Dropout(0.5))

    def forward(self, x: Tensor) -> Tensor:
        *branches, pooled = [conv(x) for conv in self.convs]
        # up-sampling a 1x1 map bilinearly is repeating it
        return self.project(torch.cat([*branches, pooled.expand_as(branches[0])], dim=1))


def deeplab_head(num_outputs: int) -> nn.Sequential:
    """layer4 -> B x num_outputs x h x w."""
    return nn.Sequential(ASPP(2048), *conv_bn_relu(256, 256, 3), nn.Conv2d(256, num_outputs, 1))


class DeepLabV3(nn.Module):
    """B x 3 x H x W normalised images -> B x num_outputs x H x W logits (float32); `activate` makes them the output."""

    def __init__(self, *, num_outputs: int = 1, output: str = "sigmoid"):
        super().__init__()
        self.output = output
        self.backbone = ResNet101()
        self.classifier = deeplab_head(num_outputs)

    def activate(self, logits: Tensor) -> Tensor:
        """Logits -> the output, in float32: in (0, 1) with sigmoid, in (-1, 1) with tanh."""
        return torch.tanh(logits.float()) if self.output == "tanh" else torch.sigmoid(logits.float())

    def forward(self, x: Tensor) -> Tensor:
        # paper: a sigmoid before torchvision's up-sampling; here after it: the AUROC and recolor.py want logits
        return upsample(self.classifier(self.backbone(x)), x.shape[-2:])


def upsample(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """B x C x h x w -> B x C x H x W float32, bilinear, whatever the network ran in."""
    return F.interpolate(logits.float(), size=size, mode="bilinear", align_corners=False)


def backbone_of(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """The ResNet-101 in the state dict of a DeepLabV3 or of a classifier: what is transferred (figure 2)."""
    if any(name.startswith("backbone.") for name in state_dict):
        return {name.removeprefix("backbone."): x for name, x in state_dict.items() if name.startswith("backbone.")}
    return {name: x for name, x in state_dict.items() if name.startswith(("conv1.", "bn1.", "layer"))}

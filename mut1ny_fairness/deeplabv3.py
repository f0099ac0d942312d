"""DeepLabV3 with a ResNet-101 (Sec. III-A.1, fig. 1; Chen et al. 2017), key for key torchvision's.

    image B x 3 x 256 x 256
      ResNet-101, layer3 and layer4 dilated instead of strided
        layer4 -------------------------------------- B x 2048 x 32 x 32   (output stride 8)
      ASPP: 1x1, 3x3 rates 12/24/36, image pooling,
            concat, 1x1, dropout --------------------- B x 256 x 32 x 32
      3x3, 1x1, up x8 --------------------------------- B x 3 (or 11) x 256 x 256, linear

paper: rates 6, 12, 18 (the DeepLabV3 paper's, at output stride 16). Here torchvision's 12, 24, 36 at stride 8, because
the paper takes torchvision's network and only that has COCO weights. Without torchvision's auxiliary head, as in the
public template (ours: the paper does not say).
"""

import torch
from torch import Tensor, nn

from mut1ny_fairness.resnet import ResNet101, conv_bn_relu, upsample


class ASPP(nn.Module):
    """B x 2048 x h x w -> B x 256 x h x w."""

    def __init__(self):
        super().__init__()
        pooling = nn.Sequential(nn.AdaptiveAvgPool2d(1), *conv_bn_relu(2048, 256, 1))
        atrous = [conv_bn_relu(2048, 256, 3, dilation=rate) for rate in (12, 24, 36)]
        self.convs = nn.ModuleList([conv_bn_relu(2048, 256, 1), *atrous, pooling])
        self.project = nn.Sequential(*conv_bn_relu(5 * 256, 256, 1), nn.Dropout(0.5))

    def forward(self, x: Tensor) -> Tensor:
        *branches, pooled = [conv(x) for conv in self.convs]
        # up-sampling a 1x1 map bilinearly is repeating it
        return self.project(torch.cat([*branches, pooled.expand_as(branches[0])], dim=1))


class DeepLabV3(nn.Module):
    """B x 3 x H x W normalised images -> B x num_outputs x H x W in float32, without an activation."""

    def __init__(self, *, num_outputs: int = 3):
        super().__init__()
        self.backbone = ResNet101()
        self.classifier = nn.Sequential(ASPP(), *conv_bn_relu(256, 256, 3), nn.Conv2d(256, num_outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        _, layer4 = self.backbone(x)  # B 2048 H/8 W/8
        return upsample(self.classifier(layer4), x.shape[-2:])

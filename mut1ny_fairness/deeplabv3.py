"""DeepLabV3 with a ResNet-101 (Sec. III-A.1, fig. 1; Chen et al. 2017), key for key torchvision's.

    image B x 3 x 256 x 256
      ResNet-101, layer3 and layer4 dilated instead of strided
        layer3 -------------------------------------- B x 1024 x 32 x 32   (output stride 8; the auxiliary head's input)
        layer4 -------------------------------------- B x 2048 x 32 x 32
      ASPP: 1x1, 3x3 rates 12/24/36, image pooling,
            concat, 1x1, dropout --------------------- B x 256 x 32 x 32
      3x3, 1x1, up x8 --------------------------------- B x 3 (or 11) x 256 x 256, linear

paper: rates 6, 12, 18 (the DeepLabV3 paper's, at output stride 16). Here torchvision's 12, 24, 36 at stride 8, because
the paper takes torchvision's network and only that has COCO weights.
"""

import torch
from torch import Tensor, nn

from mut1ny_fairness.resnet import ResNet101, auxiliary_head, conv_bn_relu, upsample


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
    """B x 3 x H x W normalised images -> B x num_outputs x H x W in float32, without an activation.

    With `aux` a network in training mode returns that and the auxiliary head's, on layer3. Off by default: ours, as in
    the public template; the paper does not say.
    """

    def __init__(self, *, num_outputs: int = 3, aux: bool = False):
        super().__init__()
        self.backbone = ResNet101()
        self.classifier = nn.Sequential(ASPP(), *conv_bn_relu(256, 256, 3), nn.Conv2d(256, num_outputs, 1))
        self.aux_classifier = auxiliary_head(num_outputs) if aux else None

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        size = x.shape[-2:]
        layer3, layer4 = self.backbone(x)  # B 1024 H/8 W/8, B 2048 H/8 W/8
        output = upsample(self.classifier(layer4), size)
        if self.aux_classifier is None or not self.training:
            return output
        return output, upsample(self.aux_classifier(layer3), size)

"""UNet++ on a ResNet-50 as the encoder of both steps, and the two decoders of one convolution each (Figure 2).

    image B x 3 x H x W
      ResNet-50 --- 64 @ 1/2, 256 @ 1/4, 512 @ 1/8, 1024 @ 1/16, 2048 @ 1/32
      UNet++, whose nodes x_d_l stand at resolution l (0: 1/16 ... 4: 1/1) and come from the ResNet's stage d:

        2048 - x_0_0 - x_0_1 - x_0_2 - x_0_3 - x_0_4 --- B x 16 x H x W   "n x H x W", figure 5 shows them
        1024 --|-----  x_1_1 - x_1_2 - x_1_3                every node up-samples the node before it and
         512 ----------|------ x_2_2 - x_2_3                concatenates all nodes below it at its own
         256 ------------------|------ x_3_3                resolution, and the ResNet's map of that size
          64 --------------------------|

      R decoder (step 1):  3x3 to 3 --------------------- B x 3 x H x W       the picture, put together again
      FP decoder (step 2): 3x3 to the classes ----------- B x classes x H x W logits

The paper names UNet++ and ResNet-50; the widths 256, 128, 64, 32, 16 are the usual ones, and end in the 16
channels that its figure shows.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

STRIDE = 32  # H and W are multiples of it
WIDTH = 64  # of the ResNet's first stage; the tests make it small
DECODER_CHANNELS = (256, 128, 64, 32, 16)


# ---- ResNet-50 -----------------------------------------------------------------------------------------------------


class Bottleneck(nn.Module):
    """B x C_in x H x W -> B x 4 width x H/stride x W/stride (He et al. 2016; stride on the 3x3, as in torchvision)."""

    def __init__(self, in_channels: int, width: int, stride: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or in_channels != 4 * width:
            projection = nn.Conv2d(in_channels, 4 * width, 1, stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(4 * width))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.bn3(self.conv3(x)) + shortcut)


class ResNet50(nn.Module):
    """B x 3 x H x W -> the five maps at 1/2, 1/4, 1/8, 1/16 and 1/32 (64, 256, 512, 1024, 2048 channels).

    The names are torchvision's, so that its ImageNet weights load with strict=True without their classifier.
    """

    def __init__(self, width: int = 64):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = self._layer(width, width, blocks=3, stride=1)
        self.layer2 = self._layer(4 * width, 2 * width, blocks=4, stride=2)
        self.layer3 = self._layer(8 * width, 4 * width, blocks=6, stride=2)
        self.layer4 = self._layer(16 * width, 8 * width, blocks=3, stride=2)
        self.channels = [width, 4 * width, 8 * width, 16 * width, 32 * width]
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")  # torchvision's

    @staticmethod
    def _layer(in_channels: int, width: int, blocks: int, stride: int) -> nn.Sequential:
        first = Bottleneck(in_channels, width, stride)
        return nn.Sequential(first, *[Bottleneck(4 * width, width) for _ in range(blocks - 1)])

    def forward(self, x: Tensor, run: Callable = lambda module, x: module(x)) -> list[Tensor]:
        maps = [self.relu(self.bn1(self.conv1(x)))]
        x = self.maxpool(maps[0])
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            for block in layer:
                x = run(block, x)
            maps.append(x)
        return maps


# ---- UNet++ --------------------------------------------------------------------------------------------------------


class Node(nn.Module):
    """B x C_in x h x w and skips B x C_i x 2h x 2w -> B x C_out x 2h x 2w: up-sample (nearest), concat, twice 3x3."""

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int):
        super().__init__()
        self.conv1 = self._conv_bn_relu(in_channels + skip_channels, out_channels)
        self.conv2 = self._conv_bn_relu(out_channels, out_channels)

    @staticmethod
    def _conv_bn_relu(in_channels: int, out_channels: int) -> nn.Sequential:
        conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        nn.init.kaiming_uniform_(conv.weight, mode="fan_in", nonlinearity="relu")
        return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))

    def forward(self, x: Tensor, *skips: Tensor) -> Tensor:
        x = torch.cat([F.interpolate(x, scale_factor=2, mode="nearest"), *skips], dim=1)
        return self.conv2(self.conv1(x))


class UNetPlusPlus(nn.Module):
    """The paper's "Encoder": B x 3 x H x W normalised images -> B x 16 x H x W features (Zhou et al. 2018).

    H and W are multiples of 32 (AssertionError otherwise). 48,985,600 parameters: 23,508,032 in the ResNet-50 and
    25,477,568 in the nodes. `checkpointing` recomputes each block in the backward pass instead of keeping its maps.
    """

    def __init__(self, checkpointing: bool = False):
        super().__init__()
        self.checkpointing = checkpointing
        self.backbone = ResNet50(WIDTH)
        stages = self.backbone.channels[::-1]  # 2048, 1024, 512, 256, 64: stage d, and the skip at resolution d - 1
        self.nodes = nn.ModuleDict()
        for last in range(4):  # resolution l
            for d in range(last + 1):
                if d == 0:  # the outermost row tapers off to the 16 channels
                    before = DECODER_CHANNELS[last - 1] if last else stages[0]
                    out, siblings = DECODER_CHANNELS[last], last
                else:
                    before, out, siblings = stages[last], stages[last + 1], last - d
                self.nodes[f"x_{d}_{last}"] = Node(before, (siblings + 1) * stages[last + 1], out)
        self.nodes["x_0_4"] = Node(DECODER_CHANNELS[3], 0, DECODER_CHANNELS[4])

    def forward(self, x: Tensor) -> Tensor:
        H, W = x.shape[-2:]
        assert H % STRIDE == 0 and W % STRIDE == 0, f"H and W must be multiples of {STRIDE}, got {H} x {W}"
        stages = self.backbone(x, self._run)[::-1]  # 1/32, 1/16, 1/8, 1/4, 1/2
        x = {}
        for last in range(4):
            for d in range(last, -1, -1):
                before = stages[d] if d == last else x[d, last - 1]
                siblings = [x[other, last] for other in range(d + 1, last + 1)]
                x[d, last] = self._run(self.nodes[f"x_{d}_{last}"], before, *siblings, stages[last + 1])
        return self._run(self.nodes["x_0_4"], x[0, 3])  # B 16 H W

    def _run(self, module: nn.Module, *inputs: Tensor) -> Tensor:
        """module(*inputs), its inner maps thrown away and computed again for the gradient if `checkpointing`."""
        if not (self.checkpointing and self.training and torch.is_grad_enabled()):
            return module(*inputs)
        contexts = lambda: (nullcontext(), _statistics_kept(module))  # noqa: E731
        return checkpoint(module, *inputs, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)


@contextmanager
def _statistics_kept(module: nn.Module) -> Iterator[None]:
    """Batch norm counts a batch once, though it is computed twice."""
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:  # checkpoint() ends the second pass by an exception
        for norm, (momentum, batches) in zip(norms, kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, batches


# ---- The networks of the two steps ---------------------------------------------------------------------------------


class Network(nn.Module):
    """B x 3 x H x W -> B x out_channels x H x W: the shared encoder and a decoder of one 3x3 convolution (Figure 2).

    out_channels 3 is step 1's, with the R decoder (435 parameters); the number of classes is step 2's, with the FP
    decoder (11 classes: 1,595; 19: 2,755). The paper does not give the kernel's size; 3x3 is the usual head.
    """

    def __init__(self, out_channels: int, checkpointing: bool = False):
        super().__init__()
        self.encoder = UNetPlusPlus(checkpointing)
        self.decoder = nn.Conv2d(DECODER_CHANNELS[-1], out_channels, 3, padding=1)
        nn.init.xavier_uniform_(self.decoder.weight)
        nn.init.zeros_(self.decoder.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))

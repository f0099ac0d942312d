"""The two targets: what the network puts out, the loss of it, and how it is read.

    --target rgb       the paper: 3 outputs, mean squared error with label / 255; a pixel's class is its nearest colour
    --target labels    11 outputs, cross-entropy (ours)

bgr: label files read as OpenCV reads them, in the wrong channel order (NOTES.md, "The turquoise hair").
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from common.device import sum_over_processes, to_device
from mut1ny_fairness.palette import CLASSES, PALETTE


def loss_of(output: Tensor, label: Tensor, target: str, bgr: bool = False) -> Tensor:
    """Output of the network and B x H x W true classes -> scalar, float32; bgr: of the target rgb alone."""
    if target == "rgb":
        return F.mse_loss(output.float(), true_channels(label, bgr))
    return F.cross_entropy(output.float(), label.long())


def soft_dice(output: Tensor, label: Tensor) -> Tensor:
    """B x 11 x H x W and B x H x W -> 1 - mean soft F1 of the classes that the batch has, float32 (ours): small parts
    count as much as large ones. Under torchrun the batch is that of all processes together."""
    p, y = output.float().softmax(1), F.one_hot(label.long(), len(CLASSES)).permute(0, 3, 1, 2)
    tp, predicted, true = sum_over_processes(torch.stack([x.sum((0, 2, 3)) for x in (p * y, p, y)]))
    return 1 - ((2 * tp + 1) / (predicted + true + 1))[true > 0].mean()


def palette(bgr: bool, device: torch.device) -> Tensor:
    """11 x 3 in 0..1, in the order RGB or BGR."""
    colours = PALETTE[:, ::-1].copy() if bgr else PALETTE
    return to_device(torch.from_numpy(colours), device).float() / 255


def true_channels(label: Tensor, bgr: bool = False) -> Tensor:
    """B x H x W classes -> B x 3 x H x W, label / 255: the paper's target."""
    return palette(bgr, label.device)[label.long()].permute(0, 3, 1, 2)


def nearest_class(output: Tensor) -> Tensor:
    """B x 3 x H x W colours in 0..1 (what lies beyond is cut off) -> B x H x W, the class of the nearest colour."""
    colours = palette(False, output.device)
    # |x - c|^2 without |x|^2, which is the same for all c: a 1x1 convolution
    return F.conv2d(output.float().clamp(0, 1), -2 * colours[:, :, None, None], (colours**2).sum(1)).argmin(1)


def predicted_channels(output: Tensor, target: str) -> Tensor:
    """Output of the network -> B x 3 x H x W; of 11 classes the colours of the best one."""
    return output.float() if target == "rgb" else true_channels(output.argmax(1))


def predicted_classes(output: Tensor, target: str, bgr: bool = False) -> Tensor:
    """Output of the network -> B x H x W classes; bgr: its colours read in the other channel order."""
    if target == "labels" and not bgr:
        return output.argmax(1)
    colours = predicted_channels(output, target)
    return nearest_class(colours.flip(1) if bgr else colours)

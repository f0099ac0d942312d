"""Losses, always computed in float32 whatever the network ran in."""

import torch
from torch import Tensor

from common.device import sum_over_processes


def dice_loss(logits: Tensor, target: Tensor, smooth: float = 1e-5, over_processes: bool = False) -> Tensor:
    """1 - mean over classes of the soft F1, B x C x H x W logits and 0/1 targets -> scalar (float32).

    The `segmentation_models` library's DiceLoss: sums over batch, height and width for each class, `smooth` above and
    below, then the mean over classes. A class that is absent from the target has a loss near 1 until its probabilities
    are pushed to practically zero, because `smooth` is so small.
    `over_processes`: the sums run over all processes of torchrun, so that the loss is the global batch's.
    """
    p = torch.sigmoid(logits.float())
    y = target.float()
    sums = torch.stack([(p * y).sum((0, 2, 3)), p.sum((0, 2, 3)), y.sum((0, 2, 3))])  # 3 x C
    tp, predicted, true = sum_over_processes(sums) if over_processes else sums
    return 1 - ((2 * tp + smooth) / (predicted + true + smooth)).mean()

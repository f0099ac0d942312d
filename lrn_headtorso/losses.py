"""The loss of Sec. 2.3, which train.py lowers and eval.py reports."""

import torch
import torch.nn.functional as F
from torch import Tensor


def summed_bce(maps: list[Tensor], alphas: Tensor) -> Tensor:
    """Maps B x 1 x h x w in [0, 1], coarse to fine, and alphas B x 1 x H x W uint8 -> the loss of each picture, B.

    Binary cross-entropy, averaged over the pixels of each map and summed over the maps (Sec. 2.3). The truth is brought
    to each map's size by averaging areas and stays soft (ours: the paper does not say).
    """
    truth = alphas.float() / 255
    loss = torch.zeros(len(truth), device=truth.device)
    for p in maps:
        y, p = F.interpolate(truth, size=p.shape[-2:], mode="area"), p.float()
        # PyTorch's stops at nan with its own error: here the loss becomes nan, and check_finite() names the images
        bce = F.binary_cross_entropy(p.nan_to_num(0.5), y, reduction="none")
        loss = loss + bce.mean((1, 2, 3)) + 0 * p.mean((1, 2, 3))
    return loss

"""stub docstring"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from common.device import autocast, sum_over_processes
from common.losses import dice_loss
from common.metrics import batch_convention, multilabel_counts


def scale(images: Tensor, device: torch.device) -> Tensor:
    """uint8 images to float32 in [0, 1] on the device, and nothing more (Sec. 3.2): no mean, no standard deviation."""
    return images.to(device, non_blocking=True).float() / 255


@torch.inference_mode()
def evaluate(model: nn.Module, batches: DataLoader, device: torch.device, amp: bool) -> dict[str, float | Tensor]:
    """Loss and scores of `model` over a set.

    loss, iou, f1: the paper's convention, a mean over batches. counts: 18 x 4 int64 (TP, FP, FN, TN), pooled over the
    set; summed over the processes of torchrun, each of which sees every image of its batches once.
    """
    model.eval()
    losses, counts = [torch.zeros(0, device=device)], [torch.zeros(0, 18, 4, dtype=torch.int64, device=device)]
    for images, masks in batches:
        masks = masks.to(device, non_blocking=True)
        with autocast(device, amp):
            logits = model(scale(images, device))
        losses.append(dice_loss(logits, masks)[None])
        counts.append(multilabel_counts(logits.float() > 0, masks)[None])  # sigmoid > 0.5
    losses, counts = torch.cat(losses), torch.cat(counts)
    iou, f1 = batch_convention(counts)
    n = torch.tensor(float(len(losses)), device=device)
    n, loss, iou, f1 = sum_over_processes(torch.stack([n, losses.sum(), iou.sum(), f1.sum()])).tolist()
    return {"loss": loss / n, "iou": iou / n, "f1": f1 / n, "counts": sum_over_processes(counts.sum(0)).cpu()}

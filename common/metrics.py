"""Metrics: counts are pooled over a whole set as int64 tensors and divided once, at the end.

    counts = multilabel_counts(logits > 0, masks)      # C x 4, per batch, summed over the set
    scores = scores_from_counts(counts)                # IoU, precision, recall, F1, accuracy, support per class

A class without a pixel in the truth is absent: its recall is nan, and its IoU, precision and F1 too unless
something was predicted (then they are 0). A class that is present but never predicted has precision 0.
`mean_of_present` leaves nan out and says how many it left out.
"""

import numpy as np
import scipy
import torch
from torch import Tensor

# ---- Counts --------------------------------------------------------------------------------------------------------


def multilabel_counts(prediction: Tensor, truth: Tensor) -> Tensor:
    """Two B x C x H x W tensors (bool, or 0/1) -> C x 4 int64: TP, FP, FN, TN over batch, height and width."""
    # contiguous, and small integers while they suffice: on a CPU that is a fifth of the time of plain sums of
    # channels_last bools
    prediction, truth = prediction.bool().contiguous(), truth.bool().contiguous()
    B, _, H, W = truth.shape
    small = torch.uint8 if B < 256 and truth.device.type == "cpu" else torch.int32
    masks = (x.view(torch.uint8) for x in (prediction & truth, prediction, truth))
    both, predicted, true = (x.sum(0, dtype=small).sum((1, 2)) for x in masks)
    tp, fp, fn = both, predicted - both, true - both
    return torch.stack([tp, fp, fn, B * H * W - tp - fp - fn], dim=1)


def confusion_matrix(prediction: Tensor, truth: Tensor, num_classes: int) -> Tensor:
    """Two B x H x W integer tensors of class ids -> C x C int64, row = truth, column = prediction.

    Pixels whose truth is outside 0..C-1 (255, say) are left out; predictions are inside, as an argmax is. Stays on the
    device without waiting for it: a bincount on the CPU, elsewhere a product of one-hot rows, exact in float32; of one
    picture row at a time, because on Apple GPUs longer products can be wrong (pytorch#195163).
    """
    C = num_classes
    if truth.device.type == "cpu" and truth.dtype == torch.uint8 and C <= 127:
        # in int16, which is faster: a truth of 255 still fits, and falls behind the C x C cells
        cell = truth.short() * C + prediction.short()
        return torch.bincount(cell.flatten(), minlength=C * C)[: C * C].reshape(C, C)
    if truth.device.type == "cpu":
        cell = torch.where((truth >= 0) & (truth < C), truth.int() * C + prediction.int(), C * C)  # C * C: left out
        return torch.bincount(cell.flatten(), minlength=C * C + 1)[: C * C].reshape(C, C)
    classes = torch.arange(C, device=truth.device)
    truth_rows = (truth.flatten(0, 1)[:, None] == classes[:, None]).float()  # BH C W
    prediction_rows = (prediction.flatten(0, 1)[:, None] == classes[:, None]).float()
    return (truth_rows @ prediction_rows.transpose(1, 2)).round().long().sum(0)


def counts_from_confusion(matrix: Tensor) -> Tensor:
    """C x C confusion matrix (row = truth) -> C x 4 int64: TP, FP, FN, TN of each class against the rest."""
    tp = matrix.diagonal()
    fp = matrix.sum(0) - tp
    fn = matrix.sum(1) - tp
    return torch.stack([tp, fp, fn, matrix.sum() - tp - fp - fn], dim=1)


# ---- Scores --------------------------------------------------------------------------------------------------------


def scores_from_counts(counts: Tensor) -> dict[str, np.ndarray]:
    """C x 4 counts -> iou, precision, recall, f1 (nan if absent), accuracy (float64, length C), support (int64)."""
    tp, fp, fn, tn = counts.cpu().numpy().astype(np.float64).T
    support = tp + fn
    with np.errstate(invalid="ignore"):  # 0 / 0 is nan
        precision = tp / (tp + fp)
        precision[(tp + fp == 0) & (support > 0)] = 0.0  # present, never predicted
        return {
            "iou": tp / (tp + fp + fn),
            "precision": precision,
            "recall": tp / support,
            "f1": 2 * tp / (2 * tp + fp + fn),
            "accuracy": (tp + tn) / (tp + fp + fn + tn),
            "support": support.astype(np.int64),
        }


def mean_of_present(values: np.ndarray) -> tuple[float, int]:
    """Mean over the values that are not nan (nan if none), and how many were left out."""
    present = values[~np.isnan(values)]
    return (float(present.mean()) if present.size else float("nan")), int(values.size - present.size)


def batch_convention(counts: Tensor, smooth: float = 1e-5) -> tuple[Tensor, Tensor]:
    """N x C x 4 counts of N batches -> IoU and F1 of each batch (N, float32), the `segmentation_models` convention.

    Per class over the batch, `smooth` above and below, then the mean over all classes: a class that is absent from
    truth and prediction scores 1. Averaged over batches this is what that library prints; it is not the pooled IoU.
    """
    tp, fp, fn, _ = counts.float().unbind(-1)
    iou = (tp + smooth) / (tp + fp + fn + smooth)
    f1 = (2 * tp + smooth) / (2 * tp + fp + fn + smooth)
    return iou.mean(-1), f1.mean(-1)


# ---- One mask against another --------------------------------------------------------------------------------------


def jaccard(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Jaccard index of two H x W bool masks, in 0..1; 1 if both are empty."""
    union = np.logical_or(prediction, truth).sum()
    return float(np.logical_and(prediction, truth).sum() / union) if union else 1.0


def contour(mask: np.ndarray) -> np.ndarray:
    """H x W bool mask -> H x W bool: its pixels with a background 4-neighbour; beyond the picture is background."""
    return mask & ~scipy.ndimage.binary_erosion(mask)


def hausdorff(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Symmetric Hausdorff distance in pixels between the contours of two H x W bool masks.

    0 if both are empty; if one is, the picture's diagonal, which no two contours can exceed.
    """
    if not prediction.any() and not truth.any():
        return 0.0
    if not prediction.any() or not truth.any():
        return float(np.hypot(*truth.shape))
    a, b = np.argwhere(contour(prediction)), np.argwhere(contour(truth))
    return float(max(scipy.spatial.KDTree(b).query(a)[0].max(), scipy.spatial.KDTree(a).query(b)[0].max()))

"""The scores of Sec. IV-A, and those of the 11 classes beside them; the same while training and at the end."""

import torch
from torch import Tensor

from common.distributed import sum_over_processes
from common.metrics import confusion_matrix, counts_from_confusion, multilabel_counts, scores_from_counts
from mut1ny_fairness.palette import (
    CLASSES,
    PREDICTED_ABOVE,
    TRUE_ABOVE,
    predicted_channels,
    predicted_classes,
    true_channels,
)

ROWS = {  # results.json's name -> the table's
    "loss": "loss",
    "accuracy": "accuracy, channel-pixels",
    "f1": "F1, channel-pixels",
    "iou": "IoU, channel-pixels",
    "precision": "precision, channel-pixels",
    "recall": "recall, channel-pixels",
    "class_accuracy": "accuracy, 11 classes",
    "class_iou": "mean IoU, 11 classes",
    "class_f1": "mean F1, 11 classes",
    "class_precision": "mean precision, 11 classes",
    "class_recall": "mean recall, 11 classes",
}


class Tally:
    """What training and evaluation count, batch by batch, on the device and without waiting for it.

    The paper's convention, the public template's: every channel of every pixel is a case of its own, true where the
    label's colour is above 0, predicted where the output is above 0.1. Beside it the 11 classes' confusion matrix.
    bgr: the labels were read in the wrong channel order; read_bgr: the outputs are.
    """

    def __init__(self, device: torch.device, target: str, bgr: bool = False, read_bgr: bool = False):
        self.target, self.bgr, self.read_bgr = target, bgr, read_bgr
        self.counts = torch.zeros(4, dtype=torch.int64, device=device)
        self.confusion = torch.zeros(len(CLASSES), len(CLASSES), dtype=torch.int64, device=device)
        self.losses, self.sizes = [], []

    @torch.no_grad()
    def add(self, output: Tensor, labels: Tensor, loss: Tensor) -> None:
        """Output of the network, B x H x W true classes, and the batch's loss."""
        predicted = predicted_channels(output, self.target) > PREDICTED_ABOVE
        self.counts += multilabel_counts(predicted, true_channels(labels, self.bgr) > TRUE_ABOVE).sum(0)
        classes = predicted_classes(output, self.target, self.read_bgr)
        self.confusion += confusion_matrix(classes, labels, len(CLASSES))
        self.losses.append(loss.detach())
        self.sizes.append(len(labels))

    def scores(self) -> dict[str, float | Tensor]:
        """ROWS' names to numbers, and confusion, over all processes of torchrun."""
        losses = [loss.item() * size for loss, size in zip(self.losses, self.sizes, strict=True)]
        sums = torch.tensor([sum(losses), sum(self.sizes)], dtype=torch.float32, device=self.counts.device)
        loss, n = sum_over_processes(sums).tolist()
        paper = scores_from_counts(sum_over_processes(self.counts)[None])
        confusion = sum_over_processes(self.confusion).cpu()
        classes = scores_from_counts(counts_from_confusion(confusion))
        present = classes["support"] > 0  # the same classes for every network, whatever it predicts
        return {
            "loss": loss / n,
            **{name: float(paper[name][0]) for name in ("accuracy", "f1", "iou", "precision", "recall")},
            "class_accuracy": float(confusion.diagonal().sum() / confusion.sum()),
            **{f"class_{m}": float(classes[m][present].mean()) for m in ("iou", "f1", "precision", "recall")},
            "confusion": confusion,
        }

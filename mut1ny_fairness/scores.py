"""The scores of Sec. IV-A, and those of the 11 classes beside them; the same while training and at the end."""

import torch
from torch import Tensor

from common.device import sum_over_processes
from common.metrics import confusion_matrix, counts_from_confusion, multilabel_counts, scores_from_counts
from mut1ny_fairness.losses import predicted_channels, predicted_classes, true_channels
from mut1ny_fairness.palette import CLASSES

TRUE_ABOVE, PREDICTED_ABOVE = 0.0, 0.1  # the public template's thresholds on a channel's value (NOTES.md)
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
# ours: what F1 comes to without a network, which depends on the labels' colours alone
POSITIVES = {"positive_share": "channel-pixels that are positive", "all_positive_f1": "F1 of calling all positive"}
# Sec. IV-B, IV-C: the test scores of the last epoch
FINAL = {
    "DeepLabV3": {"loss": 0.0355, "accuracy": 0.8369, "f1": 0.7555, "iou": 0.4818, "precision": 0.6657,
                  "recall": 0.8973},
    "PSPNet": {"loss": 0.0649, "accuracy": 0.6115, "f1": 0.5659, "iou": 0.3346, "precision": 0.4168, "recall": 0.9158},
}  # fmt: skip


def positives(share: float) -> dict[str, float]:
    """Part of the channel-pixels that is positive -> POSITIVES' names to numbers: precision is the share, recall 1."""
    return {"positive_share": share, "all_positive_f1": 2 * share / (1 + share)}


def implied_share(accuracy: float, precision: float, recall: float) -> float:
    """The part that was positive where these were measured: accuracy is 1 - share * (missed + wrongly called), missed
    being 1 - recall, and wrongly called recall * (1 - precision) / precision."""
    return (1 - accuracy) / (1 - recall + recall * (1 - precision) / precision)


class Tally:
    """What training and evaluation count, batch by batch, on the device and without waiting for it.

    The public template's thresholds: every channel of every pixel is a case of its own, true where the label's colour
    is above 0, predicted where the output is above 0.1. Pooled, where the template averages over batches (NOTES.md).
    Beside it the 11 classes' confusion matrix. bgr: the labels were read in the wrong channel order; read_bgr: the
    outputs are.
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
        """ROWS' and POSITIVES' names to numbers, and confusion, over all processes of torchrun."""
        losses = [loss.item() * size for loss, size in zip(self.losses, self.sizes, strict=True)]
        sums = torch.tensor([sum(losses), sum(self.sizes)], dtype=torch.float32, device=self.counts.device)
        loss, n = sum_over_processes(sums).tolist()
        paper = scores_from_counts(sum_over_processes(self.counts)[None])  # a channel-pixel is a case
        confusion = sum_over_processes(self.confusion).cpu()
        classes = scores_from_counts(counts_from_confusion(confusion))
        present = classes["support"] > 0  # the same classes for every network, whatever it predicts
        return {
            "loss": loss / n,
            **{name: float(paper[name][0]) for name in ("accuracy", "f1", "iou", "precision", "recall")},
            "class_accuracy": float(confusion.diagonal().sum() / confusion.sum()),
            **{f"class_{m}": float(classes[m][present].mean()) for m in ("iou", "f1", "precision", "recall")},
            **positives(float(paper["support"][0]) / (3 * confusion.sum().item())),
            "confusion": confusion,
        }

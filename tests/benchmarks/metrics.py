"""Scores of a batch: common/metrics.py and hair_transfer/scores.py against torchmetrics, scikit-learn, MONAI and smp.

Every peer is asked for the same pooled values, in the way that its own documentation has for a batch of masks. All
start from what an evaluation has, predictions as bools or int64 classes and a truth of bytes; a peer that wants other
types has to make them. A peer is imported when it is called: any of them may be missing.
"""

import warnings
from collections.abc import Callable, Iterator
from importlib import import_module

import numpy as np
import torch
from benchmarks.contest import Row, compare, in_turns, timed
from torch import Tensor

from common.metrics import confusion_matrix, multilabel_counts
from hair_transfer.scores import auroc_from_sums, rank_histogram, rank_sums

Sides = dict[str, Callable[[], np.ndarray]]  # "ours" and the peers, each of which computes the values
TORCHMETRICS = "torchmetrics.functional.classification"


def sides(ours: Callable, torchmetrics: Callable, **peers: Callable) -> Sides:
    """torchmetrics(checked) runs with and without its look for values that are no class."""
    peers = {"torchmetrics, validate_args=False": lambda: torchmetrics(False), **peers}
    return {"ours": ours, "torchmetrics": lambda: torchmetrics(True), **peers}


def of_monai(predicted: Tensor, truth: Tensor) -> np.ndarray:
    counts = import_module("monai.metrics").get_confusion_matrix(predicted, truth)
    return counts.sum(0)[:, [0, 1, 3]].numpy()


def of_smp(predicted: Tensor, truth: Tensor, **kind) -> np.ndarray:
    get_stats = import_module("segmentation_models_pytorch.metrics").get_stats
    tp, fp, fn, _ = get_stats(predicted.long(), truth.long(), **kind)
    return torch.stack([tp.sum(0), fp.sum(0), fn.sum(0)], dim=1).numpy()


def multilabel(batch: int, size: int) -> Sides:
    """TP, FP, FN of 18 masks, pooled over a batch: 18 x 3; predictions as a channels_last network leaves them."""
    truth = (torch.rand(batch, 18, size, size) < 0.2).byte()
    binary = (torch.randn(truth.shape) + 2 * truth > 1).contiguous(memory_format=torch.channels_last)

    def torchmetrics(checked: bool) -> np.ndarray:
        scores = import_module(TORCHMETRICS).multilabel_stat_scores
        counts = scores(binary.int(), truth, num_labels=18, average=None, validate_args=checked)
        return counts[:, [0, 1, 3]].numpy()

    def scikit_learn() -> np.ndarray:
        rows = [x.movedim(1, -1).reshape(-1, 18).numpy() for x in (truth, binary.byte())]
        matrix = import_module("sklearn.metrics").multilabel_confusion_matrix(*rows)  # 18 2 2: (TN, FP), (FN, TP)
        return np.stack([matrix[:, 1, 1], matrix[:, 0, 1], matrix[:, 1, 0]], axis=1)

    peers = {"scikit-learn": scikit_learn, "MONAI": lambda: of_monai(binary.float(), truth.float())}
    peers["segmentation_models_pytorch"] = lambda: of_smp(binary, truth, mode="multilabel")
    return sides(lambda: multilabel_counts(binary, truth)[:, :3].numpy(), torchmetrics, **peers)


def multiclass(batch: int, size: int) -> Sides:
    """TP, FP, FN of 19 classes, pooled over a batch: 19 x 3."""
    truth = torch.randint(19, (batch, size, size)).byte()
    predicted = torch.where(torch.rand(truth.shape) < 0.8, truth.long(), torch.randint(19, truth.shape))

    def from_matrix(matrix: Tensor | np.ndarray) -> np.ndarray:
        matrix = np.asarray(matrix)
        tp = np.diagonal(matrix)
        return np.stack([tp, matrix.sum(0) - tp, matrix.sum(1) - tp], axis=1)

    def torchmetrics(checked: bool) -> np.ndarray:
        matrix = import_module(TORCHMETRICS).multiclass_confusion_matrix
        return from_matrix(matrix(predicted, truth, num_classes=19, validate_args=checked))

    def scikit_learn() -> np.ndarray:
        matrix = import_module("sklearn.metrics").confusion_matrix
        return from_matrix(matrix(truth.flatten().numpy(), predicted.flatten().numpy(), labels=range(19)))

    def monai() -> np.ndarray:
        one_hot = import_module("monai.networks").one_hot
        return of_monai(*(one_hot(x[:, None], 19) for x in (predicted, truth.long())))

    peers = {"scikit-learn": scikit_learn, "MONAI": monai}
    peers["segmentation_models_pytorch"] = lambda: of_smp(predicted, truth, mode="multiclass", num_classes=19)
    return sides(lambda: from_matrix(confusion_matrix(predicted, truth, 19)), torchmetrics, **peers)


def area(batch: int, size: int) -> Sides:
    """AUROC over all pixels of a batch of one mask each: ours by 2^20 bins of scores, the peers sort them."""
    truth = (torch.rand(batch, 1, size, size) < 0.3).long()
    scores = torch.sigmoid(torch.randn(truth.shape) + 2 * truth)

    def ours() -> np.ndarray:
        return np.array(auroc_from_sums(rank_sums(rank_histogram(scores, truth)).tolist())[0])

    def torchmetrics(checked: bool) -> np.ndarray:
        return import_module(TORCHMETRICS).binary_auroc(scores, truth, validate_args=checked).numpy()

    def scikit_learn() -> np.ndarray:
        of_scores = import_module("sklearn.metrics").roc_auc_score
        return np.array(of_scores(truth.flatten().numpy(), scores.flatten().numpy()))

    def monai() -> np.ndarray:
        return np.array(import_module("monai.metrics").compute_roc_auc(scores.flatten(), truth.flatten()))

    return sides(ours, torchmetrics, **{"scikit-learn": scikit_learn, "MONAI": monai})


# what, the measure, batch and side
MEASURES = (
    ("counts of 18 masks", multilabel, 8, 128),
    ("counts of 19 classes", multiclass, 8, 512),
    ("AUROC", area, 6, 256),
)


def metrics(quick: bool) -> Iterator[Row]:
    """Rows of milliseconds a batch, with the largest difference between our values and the peer's."""
    torch.manual_seed(0)
    warnings.simplefilter("ignore", FutureWarning)  # peers' deprecations of their own dependencies
    for what, measure, batch, size in MEASURES:
        size = 32 if quick else size
        runs, differences, contenders = {}, {}, measure(batch, size)
        for name, compute in contenders.items():
            try:
                differences[name] = float(np.abs(contenders["ours"]() - compute()).max())
                runs[name] = lambda compute=compute: timed(compute)
            except ImportError:
                print(f"metrics: {name} is not installed")
        found = in_turns(runs, rounds=2 if quick else 15, budget=1 if quick else 12)
        yield from compare("metrics", f"{what}, {batch} x {size} px", "ms", found, differences)

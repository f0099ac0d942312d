"""Scores of a batch: common/metrics.py against torchmetrics, scikit-learn, MONAI, scikit-image and smp's.

Every peer is asked for the same pooled values, in the way that its own documentation has for a batch of masks. All
start from what an evaluation has, predictions as bools or int64 classes and a truth of bytes; a peer that wants other
types has to make them.
"""

import warnings
from collections.abc import Callable, Iterator

import numpy as np
import torch
from benchmarks.contest import Row, compare, in_turns, timed
from torch import Tensor

from common.metrics import auroc, confusion_matrix, hausdorff, multilabel_counts

Peers = dict[str, Callable[[], np.ndarray]]
UNCHECKED = "torchmetrics, validate_args=False"


def _masks(batch: int, size: int) -> tuple[Tensor, Tensor]:
    """Logits and 0/1 masks, B x 18 x size x size; the logits lie in memory as a channels_last network leaves them."""
    truth = (torch.rand(batch, 18, size, size) < 0.2).byte()
    logits = torch.randn(batch, 18, size, size) + 2 * truth - 1
    return logits.contiguous(memory_format=torch.channels_last), truth


def multilabel(batch: int, size: int) -> tuple[Callable[[], np.ndarray], Peers]:
    """TP, FP, FN of 18 masks, pooled over a batch: 18 x 3."""
    logits, truth = _masks(batch, size)
    binary = logits > 0

    def torchmetrics(checked: bool = True) -> np.ndarray:
        from torchmetrics.functional.classification import multilabel_stat_scores

        counts = multilabel_stat_scores(binary.int(), truth, num_labels=18, average=None, validate_args=checked)
        return counts[:, [0, 1, 3]].numpy()

    def scikit_learn() -> np.ndarray:
        from sklearn.metrics import multilabel_confusion_matrix

        rows = [x.movedim(1, -1).reshape(-1, 18).numpy() for x in (truth, binary.byte())]
        matrix = multilabel_confusion_matrix(*rows)  # 18 2 2: (TN, FP), (FN, TP)
        return np.stack([matrix[:, 1, 1], matrix[:, 0, 1], matrix[:, 1, 0]], axis=1)

    def monai() -> np.ndarray:
        from monai.metrics import get_confusion_matrix

        return get_confusion_matrix(binary.float(), truth.float()).sum(0)[:, [0, 1, 3]].numpy()

    def smp() -> np.ndarray:
        from segmentation_models_pytorch.metrics import get_stats

        tp, fp, fn, _ = get_stats(binary.long(), truth.long(), mode="multilabel")
        return torch.stack([tp.sum(0), fp.sum(0), fn.sum(0)], dim=1).numpy()

    peers = {"torchmetrics": torchmetrics, UNCHECKED: lambda: torchmetrics(checked=False), "scikit-learn": scikit_learn,
             "MONAI": monai, "segmentation_models_pytorch": smp}  # fmt: skip
    return lambda: multilabel_counts(binary, truth)[:, :3].numpy(), peers


def multiclass(batch: int, size: int) -> tuple[Callable[[], np.ndarray], Peers]:
    """TP, FP, FN of 19 classes, pooled over a batch: 19 x 3."""
    truth = torch.randint(19, (batch, size, size)).byte()
    predicted = torch.where(torch.rand(truth.shape) < 0.8, truth.long(), torch.randint(19, truth.shape))

    def from_matrix(matrix: Tensor | np.ndarray) -> np.ndarray:
        matrix = np.asarray(matrix)
        tp = np.diagonal(matrix)
        return np.stack([tp, matrix.sum(0) - tp, matrix.sum(1) - tp], axis=1)

    def torchmetrics(checked: bool = True) -> np.ndarray:
        from torchmetrics.functional.classification import multiclass_confusion_matrix

        return from_matrix(multiclass_confusion_matrix(predicted, truth, num_classes=19, validate_args=checked))

    def scikit_learn() -> np.ndarray:
        from sklearn.metrics import confusion_matrix as theirs

        return from_matrix(theirs(truth.flatten().numpy(), predicted.flatten().numpy(), labels=range(19)))

    def monai() -> np.ndarray:
        from monai.metrics import get_confusion_matrix
        from monai.networks import one_hot

        both = [one_hot(x[:, None], 19) for x in (predicted, truth.long())]
        return get_confusion_matrix(*both).sum(0)[:, [0, 1, 3]].numpy()

    def smp() -> np.ndarray:
        from segmentation_models_pytorch.metrics import get_stats

        tp, fp, fn, _ = get_stats(predicted, truth.long(), mode="multiclass", num_classes=19)
        return torch.stack([tp.sum(0), fp.sum(0), fn.sum(0)], dim=1).numpy()

    peers = {"torchmetrics": torchmetrics, UNCHECKED: lambda: torchmetrics(checked=False), "scikit-learn": scikit_learn,
             "MONAI": monai, "segmentation_models_pytorch": smp}  # fmt: skip
    return lambda: from_matrix(confusion_matrix(predicted, truth, 19)), peers


def area(batch: int, size: int) -> tuple[Callable[[], np.ndarray], Peers]:
    """Exact AUROC over all pixels of a batch of one mask each."""
    truth = (torch.rand(batch, 1, size, size) < 0.3).long()
    scores = torch.sigmoid(torch.randn(truth.shape) + 2 * truth)

    def torchmetrics(checked: bool = True) -> np.ndarray:
        from torchmetrics.functional.classification import binary_auroc

        return binary_auroc(scores, truth, validate_args=checked).numpy()

    def scikit_learn() -> np.ndarray:
        from sklearn.metrics import roc_auc_score

        return np.float64(roc_auc_score(truth.flatten().numpy(), scores.flatten().numpy()))

    def monai() -> np.ndarray:
        from monai.metrics import compute_roc_auc

        return np.float64(compute_roc_auc(scores.flatten(), truth.flatten()))

    peers = {"torchmetrics": torchmetrics, UNCHECKED: lambda: torchmetrics(checked=False), "scikit-learn": scikit_learn,
             "MONAI": monai}  # fmt: skip
    return lambda: np.float64(auroc(scores, truth)), peers


def distance(batch: int, size: int) -> tuple[Callable[[], np.ndarray], Peers]:
    """Hausdorff distance between the contours of two ellipses, for each picture of a batch."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size] / size - 0.5

    def ellipse() -> np.ndarray:
        a, b = rng.uniform(0.2, 0.4, 2)
        dy, dx = rng.uniform(-0.08, 0.08, 2)
        return ((y - dy) / a) ** 2 + ((x - dx) / b) ** 2 < 1

    pairs = [(ellipse(), ellipse()) for _ in range(batch)]

    def monai() -> np.ndarray:
        from monai.metrics import compute_hausdorff_distance

        both = [torch.from_numpy(np.stack(masks))[:, None] for masks in zip(*pairs, strict=True)]
        return compute_hausdorff_distance(*both, include_background=True)[:, 0].numpy()

    def scikit_image() -> np.ndarray:
        from skimage.metrics import hausdorff_distance
        from skimage.segmentation import find_boundaries

        return np.array([hausdorff_distance(*(find_boundaries(m, mode="inner") for m in pair)) for pair in pairs])

    return lambda: np.array([hausdorff(*pair) for pair in pairs]), {"MONAI": monai, "scikit-image": scikit_image}


# what, the measure, batch and side
MEASURES = (
    ("counts of 18 masks", multilabel, 8, 128),
    ("counts of 19 classes", multiclass, 8, 512),
    ("exact AUROC", area, 6, 256),
    ("Hausdorff distances of contours", distance, 8, 224),
)


def metrics(quick: bool) -> Iterator[Row]:
    """Rows of milliseconds a batch, with the largest difference between our values and the peer's."""
    torch.manual_seed(0)
    for what, measure, batch, size in MEASURES:
        size = 32 if quick else size
        ours, peers = measure(batch, size)
        expected, differences = ours(), {}
        warnings.simplefilter("ignore", FutureWarning)  # peers' deprecations of their own dependencies
        for name, peer in list(peers.items()):
            try:
                differences[name] = float(np.abs(expected - peer()).max())
            except ImportError:
                print(f"metrics: {name} is not installed")
                peers.pop(name)
        runs = {name: lambda run=run: 1000 * timed(run) for name, run in ({"ours": ours} | peers).items()}
        found = in_turns(runs, rounds=2 if quick else 15, budget=1 if quick else 12)
        mine = found.pop("ours")
        for name, values in found.items():
            what_of = f"{what}, {batch} x {size} px"
            yield from compare("metrics", what_of, "ms", mine, {name: values}, difference=differences[name])

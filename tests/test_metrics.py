"""common/metrics.py against numbers worked out by hand and brute force."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial.distance import directed_hausdorff

from common.metrics import (
    batch_convention,
    confusion_matrix,
    contour,
    counts_from_confusion,
    hausdorff,
    jaccard,
    mean_of_present,
    multilabel_counts,
    scores_from_counts,
)

NAN = float("nan")


def test_multilabel_counts_by_hand_and_of_many_pixels():
    truth = torch.tensor([[[[1, 1], [0, 0]], [[0, 0], [0, 0]]], [[[1, 0], [0, 0]], [[1, 1], [1, 1]]]])  # 2 2 2 2
    prediction = torch.tensor([[[[1, 0], [1, 0]], [[0, 1], [0, 0]]], [[[1, 0], [0, 0]], [[0, 1], [1, 1]]]])
    for kind in (torch.bool, torch.uint8, torch.int64, torch.float32):
        counts = multilabel_counts(prediction.to(kind), truth.to(kind))
        assert counts.dtype == torch.int64 and counts.tolist() == [[2, 1, 1, 4], [3, 1, 1, 3]]
    for B, size in ((1, 20), (255, 2), (256, 2), (600, 2), (0, 4)):  # no sum overflows
        ones = torch.ones(B, 2, size, size, dtype=torch.bool)
        assert multilabel_counts(ones, ones).tolist() == [[B * size**2, 0, 0, 0]] * 2


class NotCPU(str):
    """A device that PyTorch takes for the CPU and `confusion_matrix` for another one."""

    type = "elsewhere"


class Elsewhere(torch.Tensor):
    device = property(lambda self: NotCPU("cpu"))


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize(("kind", "ignored"), [(torch.int64, 255), (torch.uint8, 255), (torch.int64, -1)])
def test_confusion_matrix_counts_each_pair(kind, ignored, elsewhere):
    generator = torch.Generator().manual_seed(0)
    truth, prediction = (torch.randint(0, 5, (3, 9, 7), generator=generator) for _ in range(2))
    truth[torch.rand(truth.shape, generator=generator) < 0.2] = ignored
    for left in (truth, truth[:0], torch.full_like(truth, ignored)):  # some, no image, no pixel
        given = left.to(kind).as_subclass(Elsewhere if elsewhere else torch.Tensor)
        matrix = confusion_matrix(prediction[: len(left)].to(kind), given, 5).as_subclass(torch.Tensor)
        found = prediction[: len(left)]
        expected = [[((left == t) & (found == p)).sum().item() for p in range(5)] for t in range(5)]
        assert matrix.dtype == torch.int64 and matrix.tolist() == expected


def test_counts_from_confusion_by_hand():
    matrix = torch.tensor([[5, 1, 0], [2, 3, 4], [0, 0, 6]])  # row = truth
    assert counts_from_confusion(matrix).tolist() == [[5, 2, 1, 13], [3, 1, 6, 11], [6, 4, 0, 11]]


def test_scores_by_hand_and_means_that_leave_absent_classes_out():
    # ordinary; absent on both sides; absent, but predicted; present, never predicted; perfect
    counts = [[6, 2, 4, 88], [0, 0, 0, 100], [0, 5, 0, 95], [0, 0, 7, 93], [10, 0, 0, 90]]
    scores = scores_from_counts(torch.tensor(counts))
    for name, expected in {
        "iou": [6 / 12, NAN, 0, 0, 1],
        "precision": [6 / 8, NAN, 0, 0, 1],
        "recall": [6 / 10, NAN, NAN, 0, 1],
        "f1": [12 / 18, NAN, 0, 0, 1],
        "accuracy": [0.94, 1, 0.95, 0.93, 1],
    }.items():
        assert scores[name] == pytest.approx(np.array(expected), abs=1e-9, nan_ok=True), name
    assert scores["support"].tolist() == [10, 0, 0, 7, 10]
    assert mean_of_present(scores["iou"]) == (pytest.approx((0.5 + 0 + 0 + 1) / 4), 1)
    assert mean_of_present(scores["recall"]) == (pytest.approx((0.6 + 0 + 1) / 3), 2)
    mean, left_out = mean_of_present(np.array([NAN, NAN]))
    assert np.isnan(mean) and left_out == 2
    big = 2**24 + 1  # the first whole number that float32 cannot hold
    assert scores_from_counts(torch.tensor([[big, 0, 1, 0]]))["recall"][0] == big / (big + 1)


def test_batch_convention_by_hand():
    """A class that is absent on both sides scores 1 here; pooled scores leave it out."""
    s = 1e-5
    first = [[6, 2, 4, 4], [0, 0, 0, 16], [0, 3, 0, 13]]  # ordinary, absent on both sides, absent but predicted
    iou, f1 = batch_convention(torch.tensor([first, [[0, 0, 5, 11], [8, 0, 0, 8], [1, 1, 1, 13]]]))
    ious = [((6 + s) / (12 + s) + 1 + s / (3 + s)) / 3, (s / (5 + s) + 1 + (1 + s) / (3 + s)) / 3]
    f1s = [((12 + s) / (18 + s) + 1 + s / (3 + s)) / 3, (s / (5 + s) + 1 + (2 + s) / (4 + s)) / 3]
    assert iou.tolist() == pytest.approx(ious, abs=1e-7) and f1.tolist() == pytest.approx(f1s, abs=1e-7)


def test_jaccard_by_hand():
    a, b = np.array([[1, 1, 0], [1, 0, 0]], bool), np.array([[1, 0, 0], [1, 0, 1]], bool)
    empty = np.zeros_like(a)
    assert jaccard(a, b) == 2 / 4
    assert jaccard(a, ~a) == jaccard(a, empty) == jaccard(empty, a) == 0 and jaccard(a, a) == jaccard(empty, empty) == 1


def test_hausdorff_by_hand():
    a, b = np.zeros((10, 12), bool), np.zeros((10, 12), bool)
    a[1, 1] = b[4, 5] = True
    assert hausdorff(a, b) == 5
    b[1, 2] = True  # from b's far pixel it is still 5, from a's pixel only 1
    assert hausdorff(a, b) == hausdorff(b, a) == 5 and hausdorff(a, a) == 0
    full, hole = np.ones((11, 11), bool), np.ones((11, 11), bool)
    hole[5, 5] = False  # as regions they are one pixel apart; the hole's rim is 4 from the outer contour
    assert hausdorff(full, hole) == 4
    empty = np.zeros((30, 40), bool)
    assert hausdorff(empty, empty) == 0 and hausdorff(empty, np.eye(30, 40, dtype=bool)) == 50  # the diagonal


def contour_of(mask):
    """The pixels that have one beside, above or below that is background, as all beyond the picture is."""
    around = np.pad(mask, 1)
    return mask & ~(around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:])


def test_contours_by_hand_and_hausdorff_equals_scipys():
    for seed in range(8):
        noise = np.random.default_rng(seed).normal(size=(2, 28, 35))
        a, b = ndimage.gaussian_filter(noise, (0, 2, 2)) > 0.05
        assert (contour(a) == contour_of(a)).all()
        u, v = np.argwhere(contour_of(a)), np.argwhere(contour_of(b))
        expected = max(directed_hausdorff(u, v)[0], directed_hausdorff(v, u)[0])
        assert expected > 0 and hausdorff(a, b) == hausdorff(b, a) == pytest.approx(expected, abs=1e-9)

"""common/metrics.py against numbers worked out by hand, brute force and scipy."""

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


def same(a, b, tolerance=1e-9):
    np.testing.assert_allclose(np.asarray(a, float), np.asarray(b, float), atol=tolerance, rtol=0, equal_nan=True)


# ---- Counts --------------------------------------------------------------------------------------------------------


def test_multilabel_counts_by_hand():
    truth = torch.tensor([[[[1, 1], [0, 0]], [[0, 0], [0, 0]]], [[[1, 0], [0, 0]], [[1, 1], [1, 1]]]])  # 2 2 2 2
    prediction = torch.tensor([[[[1, 0], [1, 0]], [[0, 1], [0, 0]]], [[[1, 0], [0, 0]], [[0, 1], [1, 1]]]])
    counts = multilabel_counts(prediction, truth)
    assert counts.dtype == torch.int64
    assert counts.tolist() == [[2, 1, 1, 4], [3, 1, 1, 3]]


@pytest.mark.parametrize("kind", [torch.bool, torch.uint8, torch.int64, torch.float32])
def test_multilabel_counts_of_every_dtype(kind):
    truth = torch.ones(1, 1, 20, 20)  # 400 pixels: more than a uint8 sum could hold
    assert multilabel_counts(truth.to(kind), truth.to(kind)).tolist() == [[400, 0, 0, 0]]


@pytest.mark.parametrize("batch", [255, 256, 600])
def test_multilabel_counts_of_many_pictures_do_not_overflow(batch):
    ones = torch.ones(batch, 2, 3, 2, dtype=torch.bool)
    counts = multilabel_counts(ones, ones)
    assert counts.tolist() == [[6 * batch, 0, 0, 0]] * 2 and counts.dtype == torch.int64


def test_multilabel_counts_of_an_empty_batch_are_zero():
    empty = torch.zeros(0, 3, 4, 4)
    assert multilabel_counts(empty, empty).tolist() == [[0, 0, 0, 0]] * 3


class NotCPU(str):
    """A device that PyTorch takes for the CPU and `confusion_matrix` for another one."""

    type = "elsewhere"


class Elsewhere(torch.Tensor):
    device = property(lambda self: NotCPU("cpu"))


def brute_confusion(prediction, truth, C):
    matrix = np.zeros((C, C), np.int64)
    for t, p in zip(truth.flatten().tolist(), prediction.flatten().tolist(), strict=True):
        if 0 <= t < C:
            matrix[t, p] += 1
    return matrix


@pytest.mark.parametrize("kind", [torch.int64, torch.uint8])
@pytest.mark.parametrize("elsewhere", [False, True])
def test_confusion_matrix_equals_brute_force(kind, elsewhere):
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(0, 5, (3, 9, 7), generator=generator)
    truth[torch.rand(truth.shape, generator=generator) < 0.2] = 255
    prediction = torch.randint(0, 5, (3, 9, 7), generator=generator)
    expected = brute_confusion(prediction, truth, 5)
    if elsewhere:
        truth = truth.as_subclass(Elsewhere)
    matrix = confusion_matrix(prediction.to(kind), truth.to(kind), 5).as_subclass(torch.Tensor)
    assert matrix.dtype == torch.int64
    assert matrix.tolist() == expected.tolist()
    assert 0 < expected.sum() < truth.numel()  # some pixels were left out


def test_confusion_matrix_leaves_out_minus_one_as_well():
    truth, prediction = torch.tensor([[[0, -1], [1, 7]]]), torch.tensor([[[1, 1], [1, 0]]])
    assert confusion_matrix(prediction, truth, 2).tolist() == [[0, 1], [0, 1]]
    elsewhere = confusion_matrix(prediction, truth.as_subclass(Elsewhere), 2)
    assert elsewhere.as_subclass(torch.Tensor).tolist() == [[0, 1], [0, 1]]


@pytest.mark.parametrize("elsewhere", [False, True])
def test_confusion_matrix_of_nothing_is_zero(elsewhere):
    empty = torch.zeros(0, 4, 4, dtype=torch.int64)
    truth = empty.as_subclass(Elsewhere) if elsewhere else empty
    assert confusion_matrix(empty, truth, 3).as_subclass(torch.Tensor).tolist() == [[0] * 3] * 3
    ignored = torch.full((1, 2, 2), 255)
    assert confusion_matrix(ignored * 0, ignored, 2).tolist() == [[0, 0], [0, 0]]


def test_counts_from_confusion_by_hand():
    matrix = torch.tensor([[5, 1, 0], [2, 3, 4], [0, 0, 6]])  # row = truth
    assert counts_from_confusion(matrix).tolist() == [[5, 2, 1, 13], [3, 1, 6, 11], [6, 4, 0, 11]]


def test_both_counts_agree_on_one_hot_masks():
    generator = torch.Generator().manual_seed(1)
    truth = torch.randint(0, 4, (2, 6, 6), generator=generator)
    prediction = torch.randint(0, 4, (2, 6, 6), generator=generator)
    one_hot = [torch.nn.functional.one_hot(x, 4).permute(0, 3, 1, 2) for x in (prediction, truth)]
    assert torch.equal(counts_from_confusion(confusion_matrix(prediction, truth, 4)), multilabel_counts(*one_hot))


# ---- Scores --------------------------------------------------------------------------------------------------------

COUNTS = torch.tensor(
    [
        [6, 2, 4, 88],  # an ordinary class
        [0, 0, 0, 100],  # absent from truth and prediction
        [0, 5, 0, 95],  # absent, but predicted
        [0, 0, 7, 93],  # present, never predicted
        [10, 0, 0, 90],  # perfect
    ]
)


def test_scores_from_counts_by_hand():
    scores = scores_from_counts(COUNTS)
    same(scores["iou"], [6 / 12, NAN, 0, 0, 1])
    same(scores["precision"], [6 / 8, NAN, 0, 0, 1])
    same(scores["recall"], [6 / 10, NAN, NAN, 0, 1])
    same(scores["f1"], [12 / 18, NAN, 0, 0, 1])
    same(scores["accuracy"], [0.94, 1, 0.95, 0.93, 1])
    assert scores["support"].tolist() == [10, 0, 0, 7, 10]
    assert scores["support"].dtype == np.int64
    assert all(scores[name].dtype == np.float64 for name in ("iou", "precision", "recall", "f1", "accuracy"))


def test_mean_of_present_leaves_absent_classes_out_and_counts_them():
    scores = scores_from_counts(COUNTS)
    assert mean_of_present(scores["iou"]) == (pytest.approx((0.5 + 0 + 0 + 1) / 4), 1)
    assert mean_of_present(scores["recall"]) == (pytest.approx((0.6 + 0 + 1) / 3), 2)


def test_mean_of_nothing_is_nan():
    mean, left_out = mean_of_present(np.array([NAN, NAN]))
    assert np.isnan(mean) and left_out == 2


def test_counts_beyond_float32_keep_every_pixel():
    big = 2**24 + 1  # the first whole number that float32 cannot hold
    scores = scores_from_counts(torch.tensor([[big, 0, 1, 0]]))
    assert scores["support"].tolist() == [big + 1]
    assert scores["recall"][0] == big / (big + 1)


def test_pooled_iou_is_not_the_mean_over_batches():
    batches = torch.tensor([[[1, 0, 1, 98]], [[90, 0, 0, 10]]])  # 2 batches, 1 class
    pooled = scores_from_counts(batches.sum(0))["iou"][0]
    mean = np.mean([scores_from_counts(batch)["iou"][0] for batch in batches])
    assert pooled == pytest.approx(91 / 92)
    assert mean == pytest.approx(0.75)


def test_batch_convention_by_hand():
    s = 1e-5
    counts = torch.tensor(
        [
            [[6, 2, 4, 4], [0, 0, 0, 16], [0, 3, 0, 13]],  # ordinary, absent on both sides, absent but predicted
            [[0, 0, 5, 11], [8, 0, 0, 8], [1, 1, 1, 13]],
        ]
    )
    iou, f1 = batch_convention(counts)
    assert iou.shape == f1.shape == (2,)
    assert iou.dtype == torch.float32
    same(iou, [((6 + s) / (12 + s) + 1 + s / (3 + s)) / 3, (s / (5 + s) + 1 + (1 + s) / (3 + s)) / 3], 1e-7)
    same(f1, [((12 + s) / (18 + s) + 1 + s / (3 + s)) / 3, (s / (5 + s) + 1 + (2 + s) / (4 + s)) / 3], 1e-7)


def test_batch_convention_reads_smooth():
    iou, f1 = batch_convention(torch.tensor([[[1, 1, 0, 2]]]), smooth=1.0)
    assert (iou.item(), f1.item()) == (pytest.approx(2 / 3), pytest.approx(3 / 4))


def test_a_class_absent_on_both_sides_scores_one_in_the_batch_convention_only():
    counts = torch.tensor([[0, 0, 0, 50]])
    assert batch_convention(counts[None])[0].item() == 1
    assert np.isnan(scores_from_counts(counts)["iou"][0])


# ---- One mask against another --------------------------------------------------------------------------------------


def mask_of(*rows):
    return np.array([[pixel == "#" for pixel in row] for row in rows])


def test_jaccard_by_hand():
    assert jaccard(mask_of("##.", "#.."), mask_of("#..", "#.#")) == 2 / 4
    assert jaccard(mask_of("#."), mask_of(".#")) == 0
    assert jaccard(mask_of("##"), mask_of("##")) == 1


def test_jaccard_of_empty_masks():
    empty, full = mask_of(".."), mask_of("##")
    assert jaccard(empty, empty) == 1
    assert jaccard(empty, full) == jaccard(full, empty) == 0


def test_contour_by_hand():
    mask = mask_of("......", ".####.", ".####.", ".####.", ".####.", "......")
    assert (contour(mask) == mask_of("......", ".####.", ".#..#.", ".#..#.", ".####.", "......")).all()


def test_the_edge_of_the_picture_is_background_to_a_contour():
    assert (contour(mask_of("####", "####", "####")) == mask_of("####", "#..#", "####")).all()


def test_a_diagonal_neighbour_makes_no_contour():
    full = np.ones((5, 5), bool)
    full[0, 0] = False
    assert not contour(full)[1, 1]  # its four neighbours are all there
    assert contour(full)[0, 1]


def test_hausdorff_by_hand():
    a, b = np.zeros((10, 12), bool), np.zeros((10, 12), bool)
    a[1, 1] = b[4, 5] = True
    assert hausdorff(a, b) == 5
    b[1, 2] = True  # from b's far pixel it is still 5, from a's pixel only 1
    assert hausdorff(a, b) == hausdorff(b, a) == 5
    assert hausdorff(a, a) == 0


def test_hausdorff_is_between_contours():
    a, b = np.zeros((11, 11), bool), np.zeros((11, 11), bool)
    a[:] = True
    b[:] = True
    b[5, 5] = False  # as regions they are one pixel apart; the hole's rim is 4 from the outer contour
    assert hausdorff(a, b) == 4


def test_hausdorff_of_empty_masks():
    empty, full = np.zeros((30, 40), bool), np.zeros((30, 40), bool)
    full[3, 4] = True
    assert hausdorff(empty, empty) == 0
    assert hausdorff(empty, full) == hausdorff(full, empty) == 50  # the diagonal


def blobs(rng, shape):
    mask = ndimage.gaussian_filter(rng.normal(size=shape), 2) > 0.05
    mask[tuple(rng.integers(0, shape))] = True  # never empty
    return mask


@pytest.mark.parametrize("seed", range(8))
def test_hausdorff_equals_scipy_and_brute_force(seed):
    rng = np.random.default_rng(seed)
    a, b = blobs(rng, (28, 35)), blobs(rng, (28, 35))
    u, v = np.argwhere(contour(a)), np.argwhere(contour(b))
    both_ways = max(directed_hausdorff(u, v)[0], directed_hausdorff(v, u)[0])
    distances = np.sqrt(((u[:, None] - v[None]) ** 2).sum(-1))
    assert both_ways > 0
    assert hausdorff(a, b) == pytest.approx(both_ways, abs=1e-9)
    assert hausdorff(a, b) == pytest.approx(max(distances.min(0).max(), distances.min(1).max()), abs=1e-9)
    assert hausdorff(b, a) == hausdorff(a, b)

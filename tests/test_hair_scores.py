"""The scores of hair_transfer against SciPy and cases counted by hand."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from hair_transfer.scores import BAND, Tally


def tally_of(batches):
    """The scores of batches of logits and masks, B x 1 x H x W."""
    tally = Tally(torch.device("cpu"))
    for logits, masks in batches:
        tally.add(logits, torch.sigmoid(logits), masks)
    return tally.scores()


def scores_of(logits, truth):
    """Of one picture, H x W."""
    return tally_of([(torch.as_tensor(logits)[None, None], torch.as_tensor(truth).byte()[None, None])])


def exact_auroc(scores, truth):
    """The Mann-Whitney U of the ones, as a part of all pairs."""
    truth = np.asarray(truth, bool)
    ones, zeros = truth.sum(), (~truth).sum()
    return (stats.rankdata(scores)[truth].sum() - ones * (ones + 1) / 2) / (ones * zeros)


@pytest.mark.parametrize(
    ("scores", "truth", "expected", "bound"),  # bound: half of the pairs that share a bin, as ties do
    [
        ([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1], 0.75, 0),
        ([5.0, 5.0, 5.0], [0, 1, 1], 0.5, 0.5),  # all tied
        ([-3.0, -1.0, 0.0, -0.0, 2.0], [0, 1, 0, 1, 1], 4.5 / 6, 0.5 / 6),  # -0 ties with 0
        ([-math.inf, -2.0, 7.0, math.inf], [0, 1, 0, 1], 0.75, 0),
        ([1.0, 1.0 + 1e-6], [0, 1], 0.5, 0.5),  # closer than a bin: the exact one is 1, and the bound says so
    ],
)
def test_auroc_by_hand(scores, truth, expected, bound):
    found = scores_of([scores], [truth])
    assert (found["auroc"], found["auroc_error"]) == pytest.approx((expected, bound), abs=1e-12)


@pytest.mark.parametrize(("scale", "separation"), [(1e-6, 4.0), (0.3, 0.0), (1e4, 1.0)])
def test_binned_auroc_equals_the_exact_one_within_its_stated_error(scale, separation):
    rng = np.random.default_rng(0)
    truth = rng.random(200_000) < 0.2
    scores = ((rng.normal(size=truth.size) + separation * truth) * scale).astype(np.float32)
    found = scores_of(scores[None], truth[None])
    off, error = abs(found["auroc"] - exact_auroc(scores, truth)), found["auroc_error"]
    assert off <= error + 1e-12 and off < 1e-6 and error < 5e-4


def boundary_f1(prediction, truth):
    """Of two H x W bool arrays."""
    return scores_of(np.where(prediction, np.float32(9), np.float32(-9)), truth)["boundary_f1"]


def test_boundary_f1_equals_scipys():
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(2, 40, 50)), (0, 4, 4))
    prediction, truth = noise > 0
    # the frame is no edge
    edges = [mask & ~ndimage.binary_erosion(mask, border_value=1) for mask in (prediction, truth)]
    far = [ndimage.distance_transform_edt(~edge) > BAND for edge in edges]
    precision, recall = 1 - far[1][edges[0]].mean(), 1 - far[0][edges[1]].mean()
    assert 0 < precision < 1 and 0 < recall < 1 and precision != recall
    assert boundary_f1(prediction, truth) == pytest.approx(2 * precision * recall / (precision + recall))


def test_an_edge_may_be_three_pixels_off():
    left, empty = np.tile(np.arange(32) < 10, (32, 1)), np.zeros((32, 32), bool)
    for shift, expected in ((0, 1.0), (3, 1.0), (4, 0.0)):
        assert boundary_f1(np.roll(left, shift, axis=1) | left, left) == expected
    assert boundary_f1(empty, left) == boundary_f1(left, empty) == 0 and math.isnan(boundary_f1(empty, empty))


def batches_of_a_set(sizes=(4, 4, 3)):
    """Random logits B x 1 x 16 x 16 and masks that they are better than chance for."""
    generator = torch.Generator().manual_seed(0)
    for B in sizes:
        masks = (torch.rand(B, 1, 16, 16, generator=generator) < 0.3).to(torch.uint8)
        yield torch.randn(B, 1, 16, 16, generator=generator) + 2 * masks - 1, masks


def test_the_tally_pools_pixels_over_the_set():
    scores = tally_of(batches_of_a_set())
    logits, truth = (torch.cat([x.flatten() for x in part]) for part in zip(*batches_of_a_set(), strict=True))
    output, truth = torch.sigmoid(logits), truth.bool()
    for name, threshold in (("f1_01", 0.1), ("f1_05", 0.5)):
        hit = output > threshold
        assert scores[name] == pytest.approx((2 * (hit & truth).sum() / (hit.sum() + truth.sum())).item())
    for name, of in (("iou", hit | truth), ("precision", hit), ("recall", truth)):
        assert scores[name] == pytest.approx(((hit & truth).sum() / of.sum()).item())
    assert scores["loss"] == pytest.approx((output - truth.float()).square().mean().item(), rel=1e-6)
    assert scores["auroc"] == pytest.approx(exact_auroc(logits, truth), abs=scores["auroc_error"] + 1e-12)
    mean = np.mean([exact_auroc(logits.flatten(), masks.flatten()) for logits, masks in batches_of_a_set()])
    assert scores["batch_auroc"] == pytest.approx(mean, abs=1e-5) and scores["batches"] == 3


def test_batches_of_one_class_have_no_auroc_and_are_left_out():
    bald = torch.randn(2, 1, 16, 16), torch.zeros(2, 1, 16, 16)
    scores, hairy = (tally_of([*batches_of_a_set((2,)), *more]) for more in ([bald], []))
    assert scores["batches"] == 1 and scores["batch_auroc"] == hairy["batch_auroc"] < 1


def test_a_process_without_batches_sends_the_same_shapes_and_types_as_the_others(monkeypatch):
    seen = []
    monkeypatch.setattr("hair_transfer.scores.sum_over_processes", lambda x: seen.append((x.dtype, x.shape)) or x + 1)
    tally_of(batches_of_a_set((2,)))
    expected, seen[:] = list(seen), []
    tally_of([])
    assert seen == expected and seen

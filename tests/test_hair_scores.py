"""The scores of hair_transfer against SciPy and cases counted by hand."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage, stats

from hair_transfer.scores import (
    BAND,
    Tally,
    auroc_from_sums,
    boundary_f1,
    dilate,
    edge,
    edge_counts,
    rank_histogram,
    rank_sums,
)

CPU = torch.device("cpu")


def binned_auroc(scores, truth):
    return auroc_from_sums(rank_sums(rank_histogram(torch.as_tensor(scores), torch.as_tensor(truth))).tolist())


def exact_auroc(scores, truth):
    """The Mann-Whitney U of the ones, as a part of all pairs."""
    truth = np.asarray(truth, bool)
    ones, zeros = truth.sum(), (~truth).sum()
    return (stats.rankdata(scores)[truth].sum() - ones * (ones + 1) / 2) / (ones * zeros)


# ---- AUROC ---------------------------------------------------------------------------------------------------------


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
    assert binned_auroc(scores, truth) == pytest.approx((expected, bound), abs=1e-12)


@pytest.mark.parametrize(("scale", "separation"), [(1e-6, 4.0), (0.3, 0.0), (1e4, 1.0)])
def test_binned_auroc_equals_the_exact_one_within_its_stated_error(scale, separation):
    rng = np.random.default_rng(0)
    truth = rng.random(200_000) < 0.2
    scores = ((rng.normal(size=truth.size) + separation * truth) * scale).astype(np.float32)
    value, error = binned_auroc(scores, truth)
    assert abs(value - exact_auroc(scores, truth)) <= error + 1e-12
    assert error < 5e-4 and abs(value - exact_auroc(scores, truth)) < 1e-6


# ---- Edges ---------------------------------------------------------------------------------------------------------


def test_edges_and_their_band_equal_scipys():
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(40, 50)), 4)
    mask = torch.from_numpy(noise > 0)[None, None]
    cross = ndimage.generate_binary_structure(2, 1)
    expected = (noise > 0) & ~ndimage.binary_erosion(noise > 0, cross, border_value=1)  # the frame is no edge
    assert (edge(mask)[0, 0].numpy() == expected).all() and expected.any()
    distance = ndimage.distance_transform_edt(~expected)
    assert (dilate(edge(mask), BAND)[0, 0].numpy() == (distance <= BAND)).all()


@pytest.mark.parametrize(("shift", "expected"), [(0, 1.0), (3, 1.0), (4, 0.0)])
def test_an_edge_may_be_three_pixels_off(shift, expected):
    truth, prediction = torch.zeros(2, 1, 1, 32, 32, dtype=torch.bool)
    truth[..., :10] = True
    prediction[..., : 10 + shift] = True
    assert boundary_f1(edge_counts(prediction, truth).tolist()) == expected


def test_boundary_f1_by_hand():
    assert boundary_f1([3, 4, 1, 2]) == pytest.approx(2 * 0.75 * 0.5 / 1.25)
    assert boundary_f1([0, 0, 0, 5]) == 0 and math.isnan(boundary_f1([0, 0, 0, 0]))


# ---- A pass over a set ---------------------------------------------------------------------------------------------


def batches_of_a_set(sizes=(4, 4, 3)):
    """Random logits B x 1 x 16 x 16 and masks that they are better than chance for."""
    generator = torch.Generator().manual_seed(0)
    for B in sizes:
        masks = (torch.rand(B, 1, 16, 16, generator=generator) < 0.3).to(torch.uint8)
        yield torch.randn(B, 1, 16, 16, generator=generator) + 2 * masks - 1, masks


def tally_of(batches):
    tally = Tally(CPU)
    for logits, masks in batches:
        output = torch.sigmoid(logits)
        tally.add(logits, output, masks, F.mse_loss(output, masks.float()))
    return tally


def test_the_tally_pools_pixels_over_the_set():
    scores = tally_of(batches_of_a_set()).scores()
    logits, truth = (torch.cat([x.flatten() for x in part]) for part in zip(*batches_of_a_set(), strict=True))
    output, truth = torch.sigmoid(logits), truth.bool()
    for name, threshold in (("f1_01", 0.1), ("f1_05", 0.5)):
        hit = output > threshold
        assert scores[name] == pytest.approx((2 * (hit & truth).sum() / (hit.sum() + truth.sum())).item())
    assert scores["iou"] == pytest.approx(((hit & truth).sum() / (hit | truth).sum()).item())
    assert scores["precision"] == pytest.approx(((hit & truth).sum() / hit.sum()).item())
    assert scores["recall"] == pytest.approx(((hit & truth).sum() / truth.sum()).item())
    assert scores["loss"] == pytest.approx((output - truth.float()).square().mean().item(), rel=1e-6)
    assert scores["auroc"] == pytest.approx(exact_auroc(logits, truth), abs=scores["auroc_error"] + 1e-12)
    mean = np.mean([exact_auroc(logits.flatten(), masks.flatten()) for logits, masks in batches_of_a_set()])
    assert scores["batch_auroc"] == pytest.approx(mean, abs=1e-5) and scores["batches"] == 3


def test_batches_of_one_class_have_no_auroc_and_are_left_out():
    bald = torch.randn(2, 1, 16, 16), torch.zeros(2, 1, 16, 16)
    scores, hairy = (tally_of([*batches_of_a_set((2,)), *more]).scores() for more in ([bald], []))
    assert scores["batches"] == 1 and scores["batch_auroc"] == hairy["batch_auroc"] < 1


def test_a_process_without_batches_sends_the_same_shapes_and_types_as_the_others(monkeypatch):
    seen = []
    monkeypatch.setattr("hair_transfer.scores.sum_over_processes", lambda x: seen.append((x.dtype, x.shape)) or x + 1)
    tally_of(batches_of_a_set((2,))).scores()
    expected, seen[:] = list(seen), []
    tally_of([]).scores()
    assert seen == expected and seen

"""mut1ny_fairness: scores of groups, bootstrap and permutation test against cases small enough to enumerate by hand,
groups.csv, the simulation."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from conftest import refused
from PIL import Image

from mut1ny_fairness import group_stats as stats
from mut1ny_fairness.groups import NOT_GIVEN, Photo, find_groups, read_groups

FEW = (300, 400)  # resamples and permutations
ONE_CLASS = np.ones(1, bool)


def counts_with_iou(*ious):
    """One class; images with the given IoU: TP of 100 pixels, the rest is missed."""
    return np.array([[[100 * iou, 0, 100 * (1 - iou)]] for iou in ious])


def photos_of(*people):
    """people: (group, person, emotions ...)."""
    return [Photo(Path(f"{person}-{e}.png"), {}, person, {"group": group, "emotion": e})
            for group, person, *emotions in people for e in emotions]  # fmt: skip


def people_of(**sizes):
    """a=12: twelve people a00, a01, ... of the group a, a photo each."""
    return [(group, f"{group}{i:02d}", "sad") for group, n in sizes.items() for i in range(n)]


def resample(counts, groups, repeats, seed):
    return stats.bootstrap(counts, groups, stats.person_weights(groups, repeats, np.random.default_rng(seed)))


def test_pooled_and_per_image_differ_as_they_should_and_weights_count():
    counts = np.array([[[90.0, 0, 10]], [[1.0, 0, 9]]])  # a large face at 0.9, a small one at 0.1
    scores = stats.weighted_scores(counts, np.array([[1, 1], [1, 0], [0, 3], [0, 0]]))
    assert scores["iou_image"] == pytest.approx([0.5, 0.9, 0.1, np.nan], nan_ok=True)
    assert scores["iou_pooled"] == pytest.approx([91 / 110, 0.9, 0.1, np.nan], nan_ok=True)


# ---- Bootstrap and permutation test --------------------------------------------------------------------------------


def test_bootstrap_of_two_people_has_three_outcomes():
    """Ann (images 0.2, 0.4) and Bob (0.9): Ann twice, both, Bob twice, at 1 : 2 : 1. Images of Ann stay together."""
    groups = find_groups(photos_of(("x", "Ann", "sad", "happy"), ("x", "Bob", "sad")), ["group"])
    values = resample(counts_with_iou(0.2, 0.4, 0.9), groups, 4000, seed=0)["iou_image"]
    found, times = np.unique(values.round(6), return_counts=True)
    assert found.tolist() == pytest.approx([0.3, 0.5, 0.9])
    assert times / 4000 == pytest.approx([0.25, 0.5, 0.25], abs=0.03)
    found = stats.with_bounds(np.array([0.5]), values)
    assert (found["low"][0], found["high"][0]) == pytest.approx((0.3, 0.9))


def test_people_in_several_groups_are_drawn_for_all_at_once():
    """Everyone is 0.1 better happy than sad: the difference never varies, though the scores do."""
    photos = photos_of(*[("x", f"x{i}", "happy", "sad") for i in range(6)])
    counts = counts_with_iou(*(iou - worse for iou in np.linspace(0.3, 0.8, 6) for worse in (0, 0.1)))
    values = resample(counts, find_groups(photos, ["emotion"]), 200, seed=1)["iou_image"]
    assert np.ptp(values[:, 0]) > 0.1 and values[:, 0] - values[:, 1] == pytest.approx(np.full(200, 0.1))


def test_who_has_a_photo_without_a_group_is_drawn_with_the_group_of_the_others():
    photos = photos_of(("", "a00", "happy"), *people_of(a=10, b=10))  # a00's first photo is in no group
    groups = find_groups(photos, ["group"])
    weights = stats.person_weights(groups, 50, np.random.default_rng(0))[:, groups.person]  # of each photo
    assert (weights[:, 0] == weights[:, 1]).all() and np.ptp(weights[:, 0]) > 0
    assert (weights[:, 1:11].sum(1) == 10).all() and (weights[:, 11:].sum(1) == 10).all()


def test_the_null_of_four_people_in_two_groups_is_the_enumerated_one():
    ious = np.array([0.1, 0.2, 0.6, 0.9])
    counts, person, group = counts_with_iou(*ious), np.arange(4), np.array([0, 0, 1, 1])
    every = [abs(np.mean(ious[list(a)]) - np.mean(np.delete(ious, a))) for a in itertools.combinations(range(4), 2)]
    drawn = stats.permuted_groups(person, group, 6000, np.random.default_rng(0))
    null = stats.permutation_null(counts, drawn, 2)["iou_image"]
    values, times = np.unique(null.round(6), return_counts=True)
    expected, weights = np.unique(np.round(every, 6), return_counts=True)
    assert values.tolist() == pytest.approx(expected.tolist())
    assert times / 6000 == pytest.approx(weights / 6, abs=0.03)
    observed = stats.gap(stats.weighted_scores(counts, stats.one_hot(group, 2))["iou_image"])
    assert observed == pytest.approx(0.6)
    assert stats.p_value(null, float(observed)) == pytest.approx(2 / 6, abs=0.03)  # it and its mirror image


def test_a_persons_images_move_together_and_a_column_that_varies_within_people_is_shuffled_within_them():
    person, group, rng = np.array([0, 0, 1, 1, 2, 3]), np.array([0, 0, 0, 0, 1, 1]), np.random.default_rng(0)
    drawn = stats.permuted_groups(person, group, 300, rng)
    assert (drawn[:, 0] == drawn[:, 1]).all() and (drawn[:, 2] == drawn[:, 3]).all()
    assert (drawn[:, [0, 2, 4, 5]].sum(1) == 2).all() and len(np.unique(drawn, axis=0)) == 6
    # three people, sad and happy each: 2^3 arrangements, never two happy images of a person
    person, emotion = np.array([0, 1, 2, 0, 1, 2]), np.array([0, 0, 0, 1, 1, 1])
    drawn = stats.permuted_groups(person, emotion, 400, rng)
    assert all((drawn[:, person == p].sum(1) == 1).all() for p in range(3)) and len(np.unique(drawn, axis=0)) == 8


def test_the_simulation_agrees_with_what_is_known():
    power, observed = stats.simulate_power((3, 20), np.array([0, 0.05, 0.2]), 0.05, repeats=600, permutations=199)
    assert observed.mean(1) == pytest.approx([3 / np.sqrt(np.pi) * 0.05 / np.sqrt(n) for n in (3, 20)], rel=0.06)
    assert (power[:, 0] < 0.09).all() and (np.diff(power, axis=1) > 0).all()
    assert (power[1, 1:] > power[0, 1:]).all() and power[1, 2] > 0.99 and power[0, 1] < 0.4


# ---- groups.csv ----------------------------------------------------------------------------------------------------


def test_a_broken_groups_csv_is_one_clear_line(tmp_path):
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    damages = {
        "has no column image": b"",
        "lost.png is not a file": b"image,group\nlost.png,x\n",
        "line 2: the path '../a.png' leaves": b"image,group\n../a.png,x\n",
        "line 3: a.png is also in": b"image,group\na.png,x\na.png,y\n",
        "is not a table in UTF-8": b"image,group\n\xff\xfa,x\n",
    }
    for words, content in damages.items():
        (tmp_path / "groups.csv").write_bytes(content)
        error = refused(read_groups, tmp_path / "groups.csv", ["group"])
        assert words in error and "groups.csv" in error


def test_groups_under_ten_people_are_not_ranked_and_under_thirty_are_wide():
    people = [("x", f"x{i}", "sad", "happy") for i in range(30)] + people_of(y=10)
    people += [("z", f"z{i}", "sad", "happy") for i in range(9)] + [("", f"n{i}", "sad") for i in range(12)]
    groups = find_groups(photos_of(*people), ["group"])
    found = {name: (groups.people[g], groups.ranked[g], groups.note(g)) for g, name in enumerate(groups.names)}
    assert found == {
        "x": (30, True, ""), "y": (10, True, "wide (under 30 people)"), "z": (9, False, "not ranked (under 10 people)"),
        NOT_GIVEN: (12, False, "not ranked"),
    }  # fmt: skip
    error = refused(find_groups, photos_of(*people), ["group", "emotion"])
    assert "emotion differs between the photos of x0, group between nobody's" in error


def test_two_columns_make_groups_of_their_combinations():
    photos = [
        Photo(Path(f"{g}{i}.png"), {}, f"{g}{i}", {"group": g, "gender": "mf"[i % 2]}) for g in "xy" for i in range(20)
    ]
    groups = find_groups(photos, ["group", "gender"])
    assert groups.names == ["x / f", "x / m", "y / f", "y / m"] and groups.people == [10] * 4
    drawn = stats.permuted_groups(groups.person, groups.of_image, 50, np.random.default_rng(0))
    assert (np.sort(drawn) == np.sort(groups.of_image)).all()  # no group grows or shrinks by chance


def test_the_gap_is_between_ranked_groups_only():
    rng = np.random.default_rng(0)
    groups = find_groups(photos_of(*people_of(a=12, b=12, tiny=3), ("one", "o", "sad")), ["group"])
    ious = np.concatenate([rng.uniform(0.7, 0.8, 12), rng.uniform(0.5, 0.6, 12), [0.01] * 3, [0.99]])
    result = stats.analyse(counts_with_iou(*ious), ONE_CLASS, groups, *FEW)
    found, a, b, overall = result["gaps"]["iou_image"], ious[:12].mean(), ious[12:24].mean(), ious[:24].mean()
    assert (found["best"], found["worst"]) == ("a", "b") and found["p"] == pytest.approx(1 / 401)
    assert found["gap"] == pytest.approx(a - b) and found["gap_low"] < found["gap"] < found["gap_high"]
    assert found["overall"] == pytest.approx(overall)
    assert found["equity_scaled"] == pytest.approx(overall / (1 + abs(a - overall) + abs(b - overall)))


def test_means_run_over_the_classes_that_ten_people_of_every_ranked_group_have():
    """Men and women are segmented alike; a beard, which the labels of the men alone have, is no gap between them."""
    twice = ("women", "two photos", "sad", "happy")
    photos = photos_of(*people_of(men=15), twice, *people_of(women=14, tiny=3))
    groups = find_groups(photos, ["group"])
    counts = np.tile(np.array([80.0, 0, 20]), (34, 5, 1))  # IoU 0.80 of each class
    counts[:15, 3] = 20, 0, 80  # the men's beards
    counts[15:, 3] = counts[31:, 0] = 0  # a group that is not ranked need not have a class
    counts[26:, 2] = counts[25:, 4] = 0  # of the women ten have class 2, and nine class 4, in ten photos
    shared = stats.shared_classes(counts[:, :, 0] + counts[:, :, 2] > 0, groups)
    assert shared.tolist() == [True, True, True, False, False]
    result = stats.analyse(counts, shared, groups, *FEW)
    for score, g in result["gaps"].items():
        assert (g["gap"], g["gap_low"], g["gap_high"], g["null_median"]) == pytest.approx((0, 0, 0, 0)), score
        assert g["p"] == 1 and g["overall"] == pytest.approx(0.8 if "iou" in score else 8 / 9)
    # predicted where its photo's truth has none, a shared class counts as 0 there: two of three are right
    counts[0, 0] = 0, 7, 0
    wrong = stats.analyse(counts[:31], shared, find_groups(photos[:31], ["group"]), *FEW)["scores"]["iou_image"]
    assert wrong["value"] == pytest.approx([(14 * 0.8 + 1.6 / 3) / 15, 0.8])

"""mut1ny_fairness: scores of groups, bootstrap and permutation test against cases small enough to enumerate by hand,
groups.csv, the simulation."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import refused
from PIL import Image

from common import pictures
from common.metrics import confusion_matrix, counts_from_confusion, scores_from_counts
from mut1ny_fairness import fairness, group_pictures, group_stats
from mut1ny_fairness.group_stats import (
    analyse,
    bootstrap,
    gap,
    one_hot,
    p_value,
    permutation_null,
    permuted_groups,
    person_weights,
    shared_classes,
    weighted_scores,
    what_varies,
)
from mut1ny_fairness.group_tables import difference_table, gap_table, score_table
from mut1ny_fairness.groups import NOT_GIVEN, Photo, find_groups, read_groups
from mut1ny_fairness.palette import CLASSES

FEW = (300, 400)  # resamples and permutations
ONE_CLASS = np.ones(1, bool)


def counts_with_iou(*ious):
    """One class; images with the given IoU: TP of 100 pixels, the rest is missed."""
    return np.array([[[100 * iou, 0, 100 * (1 - iou)]] for iou in ious])


def photos_of(*people):
    """people: (group, person, emotions ...)."""
    return [Photo(Path(f"{person}-{e}.png"), None, person, {"group": group, "emotion": e})
            for group, person, *emotions in people for e in emotions]  # fmt: skip


def people_of(**sizes):
    """a=12: twelve people a00, a01, ... of the group a, a photo each."""
    return [(group, f"{group}{i:02d}", "sad") for group, n in sizes.items() for i in range(n)]


def resample(counts, groups, repeats, seed):
    return bootstrap(counts, groups, person_weights(groups, repeats, np.random.default_rng(seed)))


# ---- Scores --------------------------------------------------------------------------------------------------------


def test_counts_and_scores_are_those_of_common_metrics():
    rng = np.random.default_rng(0)
    true, predicted = (rng.integers(0, 11, (6, 20, 20)).astype(np.uint8) for _ in range(2))
    true[true == 7] = 0
    predicted[predicted == 7] = 0  # no teeth anywhere
    classes = [1, 3, 7]
    counts = np.stack([fairness.count(p, t) for p, t in zip(predicted, true, strict=True)])[:, classes]
    scores = weighted_scores(counts, np.ones((1, 6)))

    def expected(these) -> dict[str, np.ndarray]:
        matrix = confusion_matrix(*(torch.from_numpy(x[these]).long() for x in (predicted, true)), 11)
        return scores_from_counts(counts_from_confusion(matrix))

    per_image = [expected(slice(i, i + 1)) for i in range(6)]
    for name in ("iou", "f1"):
        pooled = expected(slice(None))[name][classes]
        assert scores[f"class_{name}_pooled"][0] == pytest.approx(pooled, nan_ok=True)
        assert scores[f"{name}_pooled"][0] == pytest.approx(pooled[:2].mean())  # absent teeth do not count
        of_image = np.array([of[name][classes[:2]] for of in per_image])
        assert scores[f"{name}_image"][0] == pytest.approx(of_image.mean(1).mean())
        assert scores[f"class_{name}_image"][0] == pytest.approx([*of_image.mean(0), np.nan], nan_ok=True)


def test_pooled_and_per_image_differ_as_they_should_and_weights_count():
    counts = np.array([[[90.0, 0, 10]], [[1.0, 0, 9]]])  # a large face at 0.9, a small one at 0.1
    scores = weighted_scores(counts, np.array([[1, 1], [1, 0], [0, 3], [0, 0]]))
    assert scores["iou_image"] == pytest.approx([0.5, 0.9, 0.1, np.nan], nan_ok=True)
    assert scores["iou_pooled"] == pytest.approx([91 / 110, 0.9, 0.1, np.nan], nan_ok=True)
    nothing = np.concatenate([counts, np.zeros((1, 1, 3))])  # neither true nor predicted: no score, not 0
    assert weighted_scores(nothing, np.ones((1, 3)))["iou_image"][0] == pytest.approx(0.5)


# ---- Bootstrap -----------------------------------------------------------------------------------------------------


def test_bootstrap_of_two_people_has_three_outcomes():
    """Ann (images 0.2, 0.4) and Bob (0.9): Ann twice, both, Bob twice, at 1 : 2 : 1. Images of Ann stay together."""
    groups = find_groups(photos_of(("x", "Ann", "sad", "happy"), ("x", "Bob", "sad")), ["group"])
    values = resample(counts_with_iou(0.2, 0.4, 0.9), groups, 4000, seed=0)["iou_image"]
    found, times = np.unique(values.round(6), return_counts=True)
    assert found.tolist() == pytest.approx([0.3, 0.5, 0.9])
    assert times / 4000 == pytest.approx([0.25, 0.5, 0.25], abs=0.03)
    found = group_stats.with_bounds(np.array([0.5]), values)
    assert (found["low"][0], found["high"][0]) == pytest.approx((0.3, 0.9))


def test_people_in_several_groups_are_drawn_for_all_at_once_and_groups_of_people_keep_their_size():
    """Everyone is 0.1 better happy than sad: the difference never varies, though the scores do."""
    photos = photos_of(*[("x", f"x{i}", "happy", "sad") for i in range(6)])
    counts = counts_with_iou(*(iou - worse for iou in np.linspace(0.3, 0.8, 6) for worse in (0, 0.1)))
    values = resample(counts, find_groups(photos, ["emotion"]), 200, seed=1)["iou_image"]
    assert np.ptp(values[:, 0]) > 0.1 and values[:, 0] - values[:, 1] == pytest.approx(np.full(200, 0.1))
    groups = find_groups(photos_of(*people_of(a=3, b=4)), ["group"])
    weights = person_weights(groups, 50, np.random.default_rng(0))
    assert (weights[:, :3].sum(1) == 3).all() and (weights[:, 3:].sum(1) == 4).all()


# ---- Permutation test ----------------------------------------------------------------------------------------------


def test_the_null_of_four_people_in_two_groups_is_the_enumerated_one():
    ious = np.array([0.1, 0.2, 0.6, 0.9])
    counts, person, group = counts_with_iou(*ious), np.arange(4), np.array([0, 0, 1, 1])
    every = [abs(np.mean(ious[list(a)]) - np.mean(np.delete(ious, a))) for a in itertools.combinations(range(4), 2)]
    drawn = permuted_groups(person, [group], np.array([0, 1]), 6000, np.random.default_rng(0))
    null = permutation_null(counts, drawn, 2)["iou_image"]
    values, times = np.unique(null.round(6), return_counts=True)
    expected, weights = np.unique(np.round(every, 6), return_counts=True)
    assert values.tolist() == pytest.approx(expected.tolist())
    assert times / 6000 == pytest.approx(weights / 6, abs=0.03)
    observed = gap(weighted_scores(counts, one_hot(group, 2))["iou_image"])
    assert observed == pytest.approx(0.6)
    assert p_value(null, float(observed)) == pytest.approx(2 / 6, abs=0.03)  # it and its mirror image


def test_a_persons_images_move_together_and_a_column_that_varies_within_people_is_shuffled_within_them():
    person, group, rng = np.array([0, 0, 1, 1, 2, 3]), np.array([0, 0, 0, 0, 1, 1]), np.random.default_rng(0)
    drawn = permuted_groups(person, [group], np.array([0, 1]), 300, rng)
    assert (drawn[:, 0] == drawn[:, 1]).all() and (drawn[:, 2] == drawn[:, 3]).all()
    assert (drawn[:, [0, 2, 4, 5]].sum(1) == 2).all() and len(np.unique(drawn, axis=0)) == 6
    # three people, sad and happy each: 2^3 arrangements, never two happy images of a person
    person, emotion = np.array([0, 1, 2, 0, 1, 2]), np.array([0, 0, 0, 1, 1, 1])
    drawn = permuted_groups(person, [emotion], np.array([0, 1]), 400, rng)
    assert all((drawn[:, person == p].sum(1) == 1).all() for p in range(3)) and len(np.unique(drawn, axis=0)) == 8
    # with the group as a second column both happen, each in its way
    group, table = np.array([0, 0, 1, 0, 0, 1]), np.array([[0, 1], [2, 3]])  # group, emotion -> number
    drawn = permuted_groups(person, [group, emotion], table, 400, rng)
    assert ((drawn >= 2).reshape(400, 2, 3).sum(2) == 1).all() and ((drawn % 2).sum(1) == 3).all()


def test_the_simulation_agrees_with_what_is_known():
    power, observed = group_stats.simulate_power((3, 20), np.array([0, 0.05, 0.2]), 0.05, repeats=600, permutations=199)
    assert observed.mean(1) == pytest.approx([3 / np.sqrt(np.pi) * 0.05 / np.sqrt(n) for n in (3, 20)], rel=0.06)
    assert (power[:, 0] < 0.09).all() and (np.diff(power, axis=1) > 0).all()
    assert (power[1, 1:] > power[0, 1:]).all() and power[1, 2] > 0.99 and power[0, 1] < 0.4


# ---- groups.csv ----------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    for name in ("a", "b", "c"):
        Image.new("RGB", (20, 20)).save(tmp_path / f"{name}.png")
    return tmp_path


@pytest.mark.parametrize(("separator", "encoding"), [(",", "utf-8"), (";", "utf-8-sig"), ("\t", "utf-16")])
def test_separators_and_byte_order_marks(folder, separator, encoding):
    rows = [["Image ", "Group", "person", "label"], ["a.png", "é", "1", "b.png"], ["c.png", "", "", ""], [""] * 4]
    text = "\r\n".join(separator.join(row) for row in rows)
    (folder / "groups.csv").write_bytes(text.encode(encoding))
    photos, columns = read_groups(folder / "groups.csv", ["group"])
    assert columns == ["image", "group", "person", "label"] and len(photos) == 2
    assert photos[0].image == folder / "a.png" and photos[0].label == folder / "b.png" and photos[0].row["group"] == "é"
    assert photos[1].label is None and photos[1].person == str(folder / "c.png")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "has no column image"),
        ("image,group\n", "has no rows"),
        ("image,group\nlost.png,x\n", "lost.png does not exist"),
        ("image,group\n../a.png,x\n", "line 2: the path '../a.png' leaves"),
        ("image,group,label\na.png,x,/etc/hostname\n", "leaves"),
        ("image,group\na.png,x\na.png,y\n", "line 3: a.png is also in"),
        ("image,group\na.png,x,1,2\n", "line 2: has too many cells"),
        ("image,group\n,x\n", "line 2: has no image"),
        ("image,group\n\udcff\udcfa,x\n", "is not UTF-8"),
    ],
)
def test_a_broken_groups_csv_is_one_clear_line(folder, text, named):
    (folder / "groups.csv").write_bytes(text.encode("utf-8", "surrogateescape"))
    error = refused(read_groups, folder / "groups.csv", ["group"])
    assert named in error and "groups.csv" in error


def test_groups_under_ten_people_are_not_ranked_and_under_thirty_are_wide():
    people = [("x", f"x{i}", "sad", "happy") for i in range(30)] + people_of(y=10)
    people += [("z", f"z{i}", "sad", "happy") for i in range(9)] + [("", f"n{i}", "sad") for i in range(12)]
    groups = find_groups(photos_of(*people), ["group"])
    found = {name: (groups.people[g], groups.ranked[g], groups.note(g)) for g, name in enumerate(groups.names)}
    assert found == {
        "x": (30, True, ""), "y": (10, True, "wide (under 30 people)"), "z": (9, False, "not ranked (under 10 people)"),
        NOT_GIVEN: (12, False, "not ranked"),
    }  # fmt: skip
    two = find_groups(photos_of(*people), ["group", "emotion"])
    assert two.images[two.names.index("x / happy")] == 30 and two.people[two.names.index("z / sad")] == 9


# ---- All of it -----------------------------------------------------------------------------------------------------


def test_the_gap_is_between_ranked_groups_only():
    rng = np.random.default_rng(0)
    groups = find_groups(photos_of(*people_of(a=12, b=12, tiny=3), ("one", "o", "sad")), ["group"])
    ious = np.concatenate([rng.uniform(0.7, 0.8, 12), rng.uniform(0.5, 0.6, 12), [0.01] * 3, [0.99]])
    result = analyse(counts_with_iou(*ious), ONE_CLASS, groups, *FEW)
    found, a, b, overall = result["gaps"]["iou_image"], ious[:12].mean(), ious[12:24].mean(), ious[:24].mean()
    assert (found["best"], found["worst"]) == ("a", "b") and found["p"] == pytest.approx(1 / 401)
    assert found["gap"] == pytest.approx(a - b) and found["gap_low"] < found["gap"] < found["gap_high"]
    assert found["overall"] == pytest.approx(overall)
    assert found["equity_scaled"] == pytest.approx(overall / (1 + abs(a - overall) + abs(b - overall)))
    by_group = {row[1]: row for row in score_table(groups, {"model": result}, [CLASSES.index("eyes")])[1:]}
    assert "[" in by_group["tiny"][4] and by_group["one"][4] == "0.990"  # one person: no interval
    assert difference_table(groups, {"A": result, "B": result})[1][4] == "0.000 [0.000, 0.000]"
    alone = find_groups(photos_of(*people_of(a=12)), ["group"])
    assert analyse(counts_with_iou(*ious[:12]), ONE_CLASS, alone, *FEW)["gaps"] == {}
    alike = analyse(counts_with_iou(*[0.7] * 28), ONE_CLASS, groups, *FEW)  # sums in another order: not quite 0
    assert {tuple(row[2:4]) for row in gap_table({"a run": alike})[1:]} == {("none", "none")}


def test_means_run_over_the_classes_that_every_ranked_group_has():
    """Men and women are segmented alike; a beard, which the labels of the men alone have, is no gap between them."""
    photos = photos_of(*people_of(men=15, women=15, tiny=3))
    groups = find_groups(photos, ["group"])
    counts = np.tile(np.array([80.0, 0, 20]), (33, 4, 1))  # IoU 0.80 of each class
    counts[:15, 3] = 20, 0, 80  # the men's beards
    counts[15:, 3] = counts[30:, 0] = 0  # a group that is not ranked need not have a class
    shared = shared_classes(counts[:, :, 0] + counts[:, :, 2] > 0, groups)
    assert shared.tolist() == [True, True, True, False]
    result = analyse(counts, shared, groups, *FEW)
    for score, g in result["gaps"].items():
        assert (g["gap"], g["gap_low"], g["gap_high"], g["null_median"]) == pytest.approx((0, 0, 0, 0)), score
        assert g["p"] == 1 and g["overall"] == pytest.approx(0.8 if "iou" in score else 8 / 9)
    men, women = groups.names.index("men"), groups.names.index("women")
    values = result["scores"]["class_iou_pooled"]["value"]  # the columns of the classes still show it
    assert values[men, 3] == pytest.approx(0.2) and np.isnan(values[women, 3])
    # predicted where its photo's truth has none, a shared class counts as 0 there: two of three are right
    counts[0, 0] = 0, 7, 0
    wrong = analyse(counts[:30], shared, find_groups(photos[:30], ["group"]), *FEW)["scores"]["iou_image"]["value"]
    assert wrong == pytest.approx([(14 * 0.8 + 1.6 / 3) / 15, 0.8])


def test_a_class_is_shared_if_ten_people_of_each_ranked_group_have_it():
    """Twice as many photos as people: men have all four classes, of the women 12, 10, 9 and none."""
    people = [(group, f"{group}{i}", "sad", "happy") for group in ("men", "women") for i in range(12)]
    groups, present = find_groups(photos_of(*people), ["group"]), np.ones((48, 4), bool)
    for c, n in enumerate((12, 10, 9, 0)):
        present[24 + 2 * n :, c] = False
    assert groups.ranked.all() and shared_classes(present, groups).tolist() == [True, True, False, False]
    # fewer than two ranked groups, as with the paper's nine photos: what anybody of every group has
    found = shared_classes(present, groups._replace(ranked=np.array([True, False])))
    assert found.tolist() == [True, True, True, False]


def test_a_photo_in_a_group_that_is_not_ranked_changes_neither_the_test_nor_its_strata():
    """12 people in a, 12 in b; one of those in a is on a photo of c too, or of A, which comes first."""
    people, ious = people_of(a=12, b=12), np.random.default_rng(0).uniform(0.4, 0.9, 25)
    without = find_groups(photos_of(*people), ["group"])
    expected = analyse(counts_with_iou(*ious[:24]), ONE_CLASS, without, *FEW)["gaps"]["iou_image"]
    for name, place in (("c", 0), ("A", 24)):
        groups = find_groups(photos_of(*people[:place], (name, "a00", "sad"), *people[place:]), ["group"])
        assert what_varies(groups, ["group"]) == {}
        counts = counts_with_iou(*np.insert(ious[:24], place, ious[24]))
        found = analyse(counts, ONE_CLASS, groups, *FEW)["gaps"]["iou_image"]
        for key, value in expected.items():
            assert found[key] == (value if isinstance(value, str) else pytest.approx(value)), key
    # ranked, c counts: then the column does vary, and who is in both is drawn for both
    groups = find_groups(photos_of(*people, ("c", "a00", "sad"), *people_of(c=10)), ["group"])
    assert what_varies(groups, ["group"]) == {"group": ([0], 34)}
    weights = person_weights(groups, 50, np.random.default_rng(0))
    assert (weights.sum(1) == 34).all() and np.ptp(weights[:, :12].sum(1)) > 0


# ---- Pictures ------------------------------------------------------------------------------------------------------


def test_the_grid_shows_another_person_in_every_column_as_long_as_there_are_some():
    photos = photos_of(*[("x", f"x{i}", "sad", "happy", "angry") for i in range(3)], ("y", "y0", "sad", "happy"))
    for seed in range(8):
        grid = group_pictures.choose_grid(photos, ["group"], "emotion", seed)
        assert [*grid] == ["x", "y"] and [*grid["x"]] == [*grid["y"]] == ["angry", "happy", "sad"]
        assert len({photo.person for photo in grid["x"].values()}) == 3 and grid["y"]["angry"] is None
    grid = group_pictures.choose_grid(photos, ["group"], None, 0)
    assert [*grid["x"]] == [""]


def test_a_dollar_in_a_name_is_no_formula_and_a_letter_that_the_font_lacks_is_its_number(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(pictures, "save_figure", lambda path, figure, dpi: figures.append(figure))
    found = {"best": "a_$<30k", "worst": "毛 Søren", "gap": 0.1, "p": 0.5, "null": np.linspace(0, 0.2, 9)}
    group_pictures.draw_nulls(tmp_path / "null.png", {"run $_$": {"gaps": {group_stats.HEADLINE: found}}})
    title = figures[0].axes[0].title
    assert title.get_text().startswith("run $_$\nbest a_$<30k, worst \\u6bdb Søren: gap")
    assert not title.get_parse_math()

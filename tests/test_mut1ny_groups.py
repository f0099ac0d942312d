"""mut1ny_fairness: scores of groups, bootstrap and permutation test against cases small enough to enumerate by hand,
groups.csv, the simulation."""

import itertools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from common import pictures
from common.cli import InputError
from common.metrics import confusion_matrix, counts_from_confusion, scores_from_counts
from mut1ny_fairness import fairness, group_pictures, group_stats, group_tables
from mut1ny_fairness.group_stats import (
    bootstrap,
    gap,
    one_hot,
    permutation_null,
    permuted_groups,
    person_weights,
    shared_classes,
    weighted_scores,
)
from mut1ny_fairness.groups import NOT_GIVEN, Photo, find_groups, read_groups
from mut1ny_fairness.palette import CLASSES

ARGS = SimpleNamespace(bootstrap=300, permutations=400, seed=0)


def counts_with_iou(*ious):
    """One class; images with the given IoU: TP of 100 pixels, the rest is missed."""
    return np.array([[[100 * iou, 0, 100 * (1 - iou)]] for iou in ious])


def resample(counts, person, group, G, repeats, seed):
    """The bootstrap of groups that are made of one column."""
    everything, rng = np.ones(len(person), bool), np.random.default_rng(seed)
    return bootstrap(counts, person, group, G, person_weights(person, [group], everything, repeats, rng))


# ---- Scores --------------------------------------------------------------------------------------------------------


def test_counts_and_pooled_scores_are_those_of_common_metrics():
    rng = np.random.default_rng(0)
    true, predicted = (rng.integers(0, 11, (6, 20, 20)).astype(np.uint8) for _ in range(2))
    true[true == 7] = 0
    predicted[predicted == 7] = 0  # no teeth anywhere
    classes = [1, 3, 7]
    counts = np.stack([fairness.count(p, t, classes) for p, t in zip(predicted, true, strict=True)])
    scores = weighted_scores(counts, np.ones((1, 6)))
    matrix = confusion_matrix(*(torch.from_numpy(x).long() for x in (predicted, true)), 11)
    expected = scores_from_counts(counts_from_confusion(matrix))
    for name in ("iou", "f1"):
        assert scores[f"class_{name}_pooled"][0] == pytest.approx(expected[name][classes], nan_ok=True)
        assert scores[f"{name}_pooled"][0] == pytest.approx(expected[name][[1, 3]].mean())  # absent teeth do not count
    per_image = np.array([scores_from_counts(counts_from_confusion(confusion_matrix(
        torch.from_numpy(p)[None].long(), torch.from_numpy(t)[None].long(), 11)))["iou"][classes]
        for p, t in zip(predicted, true, strict=True)])  # fmt: skip
    assert scores["iou_image"][0] == pytest.approx(np.nanmean(per_image, 1).mean())
    assert scores["class_iou_image"][0] == pytest.approx([*per_image[:, :2].mean(0), np.nan], nan_ok=True)


def test_pooled_and_per_image_differ_as_they_should_and_weights_count():
    counts = np.array([[[90.0, 0, 10]], [[1.0, 0, 9]]])  # a large face at 0.9, a small one at 0.1
    scores = weighted_scores(counts, np.array([[1, 1], [1, 0], [0, 3], [0, 0]]))
    assert scores["iou_image"][:3].tolist() == pytest.approx([0.5, 0.9, 0.1])
    assert scores["iou_pooled"][:3].tolist() == pytest.approx([91 / 110, 0.9, 0.1])
    assert np.isnan(scores["iou_image"][3]) and np.isnan(scores["iou_pooled"][3])
    nothing = np.concatenate([counts, np.zeros((1, 1, 3))])  # neither true nor predicted: no score, not 0
    assert weighted_scores(nothing, np.ones((1, 3)))["iou_image"][0] == pytest.approx(0.5)


# ---- Bootstrap -----------------------------------------------------------------------------------------------------


def test_bootstrap_of_two_people_has_three_outcomes():
    """Ann (images 0.2, 0.4) and Bob (0.9): Ann twice, both, Bob twice, at 1 : 2 : 1. Images of Ann stay together."""
    counts = counts_with_iou(0.2, 0.4, 0.9)
    person, group = np.array([0, 0, 1]), np.zeros(3, int)
    values = resample(counts, person, group, 1, repeats=4000, seed=0)["iou_image"][:, 0]
    found, times = np.unique(values.round(6), return_counts=True)
    assert found.tolist() == pytest.approx([0.3, 0.5, 0.9])
    assert times / 4000 == pytest.approx([0.25, 0.5, 0.25], abs=0.03)
    low, high = group_stats.interval(values[:, None])
    assert (low[0], high[0]) == pytest.approx((0.3, 0.9))


def test_people_who_are_in_two_groups_are_drawn_for_both_at_once():
    """Everyone is 0.1 better happy than sad: the difference never varies, though the scores do."""
    happy, sad = np.linspace(0.3, 0.8, 6), np.linspace(0.3, 0.8, 6) - 0.1
    counts = counts_with_iou(*happy, *sad)
    person, group = np.tile(np.arange(6), 2), np.repeat([0, 1], 6)
    values = resample(counts, person, group, 2, repeats=200, seed=1)["iou_image"]
    assert np.ptp(values[:, 0]) > 0.1 and values[:, 0] - values[:, 1] == pytest.approx(np.full(200, 0.1))


def test_groups_keep_their_size_and_a_seed_gives_the_same_resamples():
    person, group = np.arange(7), np.array([0, 0, 0, 1, 1, 1, 1])
    weights = person_weights(person, [group], np.ones(7, bool), 50, np.random.default_rng(0))
    assert (weights[:, :3].sum(1) == 3).all() and (weights[:, 3:].sum(1) == 4).all()
    counts = counts_with_iou(*np.linspace(0, 1, 7))
    once, twice, other = (resample(counts, person, group, 2, 50, seed)["iou_image"] for seed in (3, 3, 4))
    assert (once == twice).all() and (once != other).any()


def test_people_with_different_subsets_of_a_column_are_resampled_together():
    """60 people with 2 to 5 of 6 emotions each: hardly two share their set, and the spread is still sd / sqrt(n)."""
    rng = np.random.default_rng(0)
    emotions = [rng.permutation(6)[: rng.integers(2, 6)] for _ in range(60)]
    person = np.repeat(np.arange(60), [len(e) for e in emotions])
    emotion, ious = np.concatenate(emotions), rng.uniform(0.3, 0.9, 60)
    counts = counts_with_iou(*ious[person])
    found = resample(counts, person, emotion, 6, 2000, seed=0)["iou_image"].std(0)
    expected = [ious[person[emotion == e]].std() / np.sqrt((emotion == e).sum()) for e in range(6)]
    assert found == pytest.approx(expected, rel=0.15)


def test_large_sets_in_blocks_are_the_same_as_in_one(monkeypatch):
    counts = counts_with_iou(*np.linspace(0, 1, 9))
    person, group = np.arange(9), np.arange(9) % 3
    whole = resample(counts, person, group, 3, 40, seed=3)["iou_pooled"]
    groups = np.array([np.random.default_rng(i).permutation(group) for i in range(40)])
    null = permutation_null(counts, groups, 3)["iou_pooled"]
    monkeypatch.setattr(group_stats, "BLOCK_BYTES", 1)
    assert (resample(counts, person, group, 3, 40, seed=3)["iou_pooled"] == whole).all()
    assert permutation_null(counts, groups, 3)["iou_pooled"] == pytest.approx(null)


# ---- Permutation test ----------------------------------------------------------------------------------------------


def test_the_null_of_four_people_in_two_groups_is_the_enumerated_one():
    ious = np.array([0.1, 0.2, 0.6, 0.9])
    counts, person, group = counts_with_iou(*ious), np.arange(4), np.array([0, 0, 1, 1])
    every = [abs(np.mean(ious[list(a)]) - np.mean(np.delete(ious, a))) for a in itertools.combinations(range(4), 2)]
    drawn = permuted_groups(person, [group], np.array([0, 1]), 6000, np.random.default_rng(0))
    assert ((drawn == 0).sum(1) == 2).all()
    null = permutation_null(counts, drawn, 2)["iou_image"]
    values, times = np.unique(null.round(6), return_counts=True)
    expected, weights = np.unique(np.round(every, 6), return_counts=True)
    assert values.tolist() == pytest.approx(expected.tolist())
    assert times / 6000 == pytest.approx(weights / 6, abs=0.03)
    observed = gap(weighted_scores(counts, one_hot(group, 2))["iou_image"])
    assert observed == pytest.approx(0.6)
    assert group_stats.p_value(null, float(observed)) == pytest.approx(2 / 6, abs=0.03)  # it and its mirror image


def test_a_persons_images_move_together_between_groups():
    person, group = np.array([0, 0, 1, 1, 2, 3]), np.array([0, 0, 0, 0, 1, 1])
    drawn = permuted_groups(person, [group], np.array([0, 1]), 300, np.random.default_rng(0))
    assert (drawn[:, 0] == drawn[:, 1]).all() and (drawn[:, 2] == drawn[:, 3]).all()
    assert (np.stack([drawn[:, i] for i in (0, 2, 4, 5)], 1).sum(1) == 2).all() and len(np.unique(drawn, axis=0)) == 6


def test_a_column_that_varies_within_people_is_shuffled_within_them():
    """Three people, sad and happy each: 2^3 arrangements, never two happy images of a person."""
    person, emotion = np.array([0, 1, 2, 0, 1, 2]), np.array([0, 0, 0, 1, 1, 1])
    drawn = permuted_groups(person, [emotion], np.array([0, 1]), 400, np.random.default_rng(0))
    assert all((drawn[:, person == p].sum(1) == 1).all() for p in range(3))
    assert len(np.unique(drawn, axis=0)) == 8
    # with the group as a second column both happen, each in its way
    group = np.array([0, 0, 1, 0, 0, 1])
    table = np.array([[0, 1], [2, 3]])  # group, emotion -> number
    drawn = permuted_groups(person, [group, emotion], table, 400, np.random.default_rng(0))
    assert ((drawn >= 2).reshape(400, 2, 3).sum(2) == 1).all() and ((drawn % 2).sum(1) == 3).all()


def test_p_is_uniform_where_groups_mean_nothing_and_small_where_they_do():
    rng = np.random.default_rng(0)
    group, ps = np.arange(30) % 3, []
    for trial in range(100):
        counts = counts_with_iou(*rng.uniform(0.2, 0.8, 30))
        drawn = permuted_groups(np.arange(30), [group], np.arange(3), 199, rng)
        observed = gap(weighted_scores(counts, one_hot(group, 3))["iou_image"])
        ps.append(group_stats.p_value(permutation_null(counts, drawn, 3)["iou_image"], float(observed)))
    assert 0.35 < np.mean(ps) < 0.65 and np.mean(np.array(ps) <= 0.1) < 0.2
    counts = counts_with_iou(*(0.5 + 0.2 * (group == 0) + rng.uniform(-0.05, 0.05, 30)))
    observed = gap(weighted_scores(counts, one_hot(group, 3))["iou_image"])
    assert group_stats.p_value(permutation_null(counts, drawn, 3)["iou_image"], float(observed)) == 1 / 200


def test_equity_scaling_by_hand():
    assert group_stats.equity_scaled(0.8, np.array([0.7, 0.8, 0.9])) == pytest.approx(0.8 / 1.2)
    assert group_stats.equity_scaled(0.8, np.array([0.8, 0.8])) == 0.8


# ---- The simulation ------------------------------------------------------------------------------------------------


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


def write(folder, text: str | bytes) -> Path:
    path = folder / "groups.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_separators_and_byte_order_marks(folder, separator, encoding):
    rows = [["Image ", "Group", "person", "label"], ["a.png", "é", "1", "b.png"], ["c.png", "", "", ""], [""] * 4]
    text = "\r\n".join(separator.join(row) for row in rows)
    photos, columns = read_groups(write(folder, text.encode(encoding)), ["group"])
    assert columns == ["image", "group", "person", "label"] and len(photos) == 2
    assert photos[0].image == folder / "a.png" and photos[0].label == folder / "b.png" and photos[0].row["group"] == "é"
    assert photos[1].label is None and photos[1].person == str(folder / "c.png")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "has no column image"),
        ("photo,group\na.png,x\n", "has no column image; its columns are photo, group"),
        ("image,kind\na.png,x\n", "has no column group; its columns are image, kind"),
        ("image,group\n", "has no rows"),
        ("image,group\nlost.png,x\n", "line 2: .*lost.png does not exist"),
        ("image,group\n../a.png,x\n", "line 2: the path '../a.png' leaves"),
        ("image,group,label\na.png,x,/etc/hostname\n", "leaves"),
        ("image,group\na.png,x\na.png,y\n", "line 3: a.png stands in line 2 already"),
        ("image,group\na.png,x,1,2\n", "line 2: has too many cells"),
        ("image,group\n,x\n", "line 2: has no image"),
        (b"image,group\n\xff\xfa,x\n", "is not UTF-8"),
    ],
)
def test_a_broken_groups_csv_is_one_clear_line(folder, text, named):
    with pytest.raises(InputError, match=named) as error:
        read_groups(write(folder, text), ["group"])
    assert "\n" not in str(error.value) and "groups.csv" in str(error.value)
    with pytest.raises(InputError, match="No such file"):
        read_groups(folder / "missing.csv", ["group"])


def photos_of(*people):
    """people: (group, person, emotions ...)."""
    return [Photo(Path(f"{person}-{e}.png"), None, person, {"group": group, "emotion": e})
            for group, person, *emotions in people for e in emotions]  # fmt: skip


def test_groups_under_ten_people_are_not_ranked_and_under_thirty_are_wide():
    people = [("x", f"x{i}", "sad", "happy") for i in range(30)] + [("y", f"y{i}", "sad") for i in range(10)]
    people += [("z", f"z{i}", "sad", "happy") for i in range(9)] + [("", f"n{i}", "sad") for i in range(12)]
    photos = photos_of(*people)
    groups = find_groups(photos, ["group"])
    assert dict(zip(groups.names, groups.people, strict=True)) == {"x": 30, "y": 10, "z": 9, NOT_GIVEN: 12}
    assert {name for name, ranked in zip(groups.names, groups.ranked, strict=True) if ranked} == {"x", "y"}
    notes = {name: groups.note(g) for g, name in enumerate(groups.names)}
    assert notes["x"] == "" and notes["y"] == "wide (under 30 people)"
    assert notes["z"] == "not ranked (under 10 people)" and notes[NOT_GIVEN] == "not ranked"
    two = find_groups(photos, ["group", "emotion"])
    assert two.images[two.names.index("x / happy")] == 30 and two.people[two.names.index("z / sad")] == 9


def test_groups_that_are_all_alike_have_no_best_and_no_worst():
    photos = photos_of(*[(g, f"{g}{i}", "sad") for g, n in (("a", 12), ("b", 17), ("c", 11)) for i in range(n)])
    groups = find_groups(photos, ["group"])
    result = fairness.analyse(counts_with_iou(*[0.7] * 40), np.ones(1, bool), groups, ARGS)
    found = result["gaps"]["iou_image"]
    assert (found["best"], found["worst"]) == (None, None) and found["gap"] < 1e-12  # sums in another order
    _, *rows = group_tables.gap_table({"a run": result})
    assert {tuple(row[2:4]) for row in rows} == {("none", "none")}


def test_a_dollar_in_a_name_is_no_formula(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(pictures, "save_figure", lambda path, figure, dpi: figures.append(figure))
    gap = {"best": "a_$<30k", "worst": "b_$_", "gap": 0.1, "p": 0.5, "null": np.linspace(0, 0.2, 9)}
    group_pictures.draw_nulls(tmp_path / "null.png", {"run $_$": {"gaps": {group_pictures.HEADLINE: gap}}})
    figures[0].canvas.draw()
    title = figures[0].axes[0].title
    words, formula = title._preprocess_math(title.get_text())
    assert words.startswith("run $_$\nbest a_$<30k, worst b_$_: gap") and not formula


def test_the_gap_is_between_ranked_groups_only():
    rng = np.random.default_rng(0)
    photos = photos_of(*[("a", f"a{i}", "sad") for i in range(12)], *[("b", f"b{i}", "sad") for i in range(12)],
                       *[("tiny", f"t{i}", "sad") for i in range(3)], ("one", "o", "sad"))  # fmt: skip
    ious = np.concatenate([rng.uniform(0.7, 0.8, 12), rng.uniform(0.5, 0.6, 12), [0.01] * 3, [0.99]])
    groups = find_groups(photos, ["group"])
    one_class = np.ones(1, bool)
    result = fairness.analyse(counts_with_iou(*ious), one_class, groups, ARGS)
    found = result["gaps"]["iou_image"]
    assert (found["best"], found["worst"]) == ("a", "b") and found["p"] == pytest.approx(1 / 401)
    assert found["gap"] == pytest.approx(ious[:12].mean() - ious[12:24].mean())
    assert found["gap_low"] < found["gap"] < found["gap_high"] and found["overall"] == pytest.approx(ious[:24].mean())
    distances = abs(ious[:12].mean() - ious[:24].mean()) + abs(ious[12:24].mean() - ious[:24].mean())
    assert found["equity_scaled"] == pytest.approx(ious[:24].mean() / (1 + distances))
    table = group_tables.score_table(groups, {"model": result}, [CLASSES.index("eyes")])
    by_group = {row[1]: row for row in table[1:]}
    assert "[" in by_group["tiny"][4] and by_group["one"][4] == "0.990"  # one person: no interval
    alone = fairness.analyse(counts_with_iou(*ious[:12]), one_class, find_groups(photos[:12], ["group"]), ARGS)
    assert alone["gaps"] == {}
    both = group_tables.difference_table(groups, {"A": result, "B": result})
    assert both[1][4] == "0.000 [0.000, 0.000]"


def test_means_run_over_the_classes_that_every_ranked_group_has():
    """Men and women are segmented alike; a beard, which the labels of the men alone have, is no gap between them."""
    photos = photos_of(*[("men", f"m{i}", "sad") for i in range(15)], *[("women", f"w{i}", "sad") for i in range(15)],
                       *[("tiny", f"t{i}", "sad") for i in range(3)])  # fmt: skip
    groups = find_groups(photos, ["group"])
    counts = np.tile(np.array([80.0, 0, 20]), (33, 4, 1))  # IoU 0.80 of each class
    counts[:15, 3] = 20, 0, 80  # the men's beards
    counts[15:, 3] = counts[30:, 0] = 0  # a group that is not ranked need not have a class
    in_truth = counts[:, :, 0] + counts[:, :, 2] > 0
    shared = shared_classes(in_truth, groups.person, groups.of_image, groups.ranked)
    assert shared.tolist() == [True, True, True, False]
    result = fairness.analyse(counts, shared, groups, ARGS)
    for score, g in result["gaps"].items():
        assert (g["gap"], g["gap_low"], g["gap_high"], g["null_median"]) == pytest.approx((0, 0, 0, 0)), score
        assert g["p"] == 1 and g["overall"] == pytest.approx(0.8 if "iou" in score else 8 / 9)
    men, women = groups.names.index("men"), groups.names.index("women")
    for name in ("class_iou_image", "class_iou_pooled"):  # the columns of the classes still show it
        assert result["observed"][name][men, 3] == pytest.approx(0.2) and np.isnan(result["observed"][name][women, 3])
    every = fairness.analyse(counts, np.ones(4, bool), groups, ARGS)["gaps"]["iou_image"]
    assert every["gap"] == pytest.approx(0.15) and every["p"] == pytest.approx(1 / 401)
    # predicted where its photo's truth has none, a shared class counts as 0 there: two of three are right
    counts[0, 0] = 0, 7, 0
    wrong = fairness.analyse(counts[:30], shared, find_groups(photos[:30], ["group"]), ARGS)["observed"]["iou_image"]
    assert wrong == pytest.approx([(14 * 0.8 + 1.6 / 3) / 15, 0.8])


def test_a_class_is_shared_if_ten_people_of_each_ranked_group_have_it():
    """Twice as many photos as people: men have all four classes, of the women 12, 10, 9 and none."""
    photos = photos_of(*[("men", f"m{i}", "sad", "happy") for i in range(12)],
                       *[("women", f"w{i}", "sad", "happy") for i in range(12)])  # fmt: skip
    groups = find_groups(photos, ["group"])
    present = np.ones((48, 4), bool)
    for c, people in enumerate((12, 10, 9, 0)):
        present[24 + 2 * people :, c] = False
    assert groups.ranked.all()
    assert shared_classes(present, groups.person, groups.of_image, groups.ranked).tolist() == [True, True, False, False]
    # fewer than two ranked groups, as with the paper's nine photos: what anybody of every group has
    for ranked in ([False, False], [True, False]):
        found = shared_classes(present, groups.person, groups.of_image, np.array(ranked))
        assert found.tolist() == [True, True, True, False]


def test_no_test_looks_at_all_photos_and_says_nothing_of_what_varies(capsys):
    photos = photos_of(*[("a", f"a{i}", "sad") for i in range(3)], ("b", "a0", "sad"))
    groups = find_groups(photos, ["group"])
    assert not groups.ranked.any() and groups.tested.all()
    fairness.print_what_varies(photos, groups, ["group"])
    assert capsys.readouterr().out == ""


def test_no_shared_class():
    present, group = np.repeat([[True, False], [False, True]], 10, axis=0), np.repeat([0, 1], 10)
    nothing = shared_classes(present, np.arange(20), group, np.ones(2, bool))
    assert not nothing.any()
    photos = photos_of(*[(group, f"{group}{i}", "sad") for group in "ab" for i in range(10)])
    result = fairness.analyse(np.ones((20, 2, 3)), nothing, find_groups(photos, ["group"]), ARGS)
    assert result["gaps"] == {} and np.isnan(result["observed"]["iou_image"]).all()
    assert result["observed"]["class_iou_pooled"] == pytest.approx(1 / 3)


def test_a_photo_in_a_group_that_is_not_ranked_changes_neither_the_test_nor_its_strata(capsys):
    """12 people in a, 12 in b; one of those in a is on a photo of c too."""
    rng = np.random.default_rng(0)
    people = [(group, f"{group}{i:02d}", "sad") for group in "ab" for i in range(12)]
    ious = rng.uniform(0.4, 0.9, 25)
    without = find_groups(photos_of(*people), ["group"])
    # first or last in the file, and before or after a in the alphabet
    for name, place in (("c", 24), ("c", 0), ("A", 24)):
        photos = photos_of(*people[:place], (name, "a00", "sad"), *people[place:])
        groups = find_groups(photos, ["group"])
        assert groups.tested.sum() == 24 and not groups.tested[place]
        weights = person_weights(groups.person, groups.columns, groups.tested, 50, np.random.default_rng(0))
        assert (weights[:, :12].sum(1) == 12).all() and (weights[:, 12:].sum(1) == 12).all()
        fairness.print_what_varies(photos, groups, ["group"])
        assert capsys.readouterr().out == ""
        one_class = np.ones(1, bool)
        found = fairness.analyse(counts_with_iou(*np.insert(ious[:24], place, ious[24])), one_class, groups, ARGS)
        expected = fairness.analyse(counts_with_iou(*ious[:24]), one_class, without, ARGS)
        for key, value in expected["gaps"]["iou_image"].items():
            same = found["gaps"]["iou_image"][key]
            assert same == (value if isinstance(value, str) else pytest.approx(value)), key
    # ranked, c counts: then the column does vary, and who is in both is drawn for both
    photos = photos_of(("A", "A00", "sad"), *people, ("c", "a00", "sad"), *[("c", f"c{i}", "sad") for i in range(10)])
    groups = find_groups(photos, ["group"])
    fairness.print_what_varies(photos, groups, ["group"])
    assert "group differs between the photos of 1 of 34 people (first: a00)" in capsys.readouterr().out
    weights = person_weights(groups.person, groups.columns, groups.tested, 50, np.random.default_rng(0))
    assert (weights.sum(1) == 35).all() and np.ptp(weights[:, 1:13].sum(1)) > 0


def test_the_grid_shows_another_person_in_every_column_as_long_as_there_are_some():
    photos = photos_of(*[("x", f"x{i}", "sad", "happy", "angry") for i in range(3)], ("y", "y0", "sad", "happy"))
    for seed in range(8):
        grid = group_pictures.choose_grid(photos, ["group"], "emotion", seed)
        assert grid.rows == ["x", "y"] and grid.columns == ["angry", "happy", "sad"]
        assert len({photo.person for photo in grid.cells[0]}) == 3 and grid.cells[1][0] is None
    grid = group_pictures.choose_grid(photos, ["group"], None, 0)
    assert grid.columns == [""] and len(grid.cells[0]) == 1


def test_class_names(folder):
    assert fairness.scored_classes("lips, eyes") == [1, 3] and fairness.scored_classes(None) == list(range(1, 11))
    with pytest.raises(InputError, match="no class 'mouth'; they are background, eyes"):
        fairness.scored_classes("eyes,mouth")

"""masked_ssl: both layouts and what is refused, splits, label fractions, flips, and the pool without test photos."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import refused
from PIL import Image

from common import celebamask
from common.celebamask import DUPLICATES, PARTS
from masked_ssl import dataset, masking, splits
from masked_ssl.classes import LAYOUTS, mirrored_classes
from masked_ssl.dataset import IGNORED, FaceLabels, decode
from masked_ssl.splits import Face, locate, take_fraction

CELEBA, LAPA = LAYOUTS["celebamask"], LAYOUTS["lapa"]


def people(names):
    return [Face(name, Path(f"{name}.jpg"), {}, splits.source_of(name)) for name in names]


def write_lapa(folder, faces):
    """Painted faces as LaPa lays them out, 64 x 60 px: ten to train with, and one each for val and test."""
    for part, members in locate(faces).parts.items():
        for kind in ("images", "labels"):
            (folder / part / kind).mkdir(parents=True)
        for face in members:
            image, labels = (array[:60] for array in decode(face, 64, CELEBA).values())
            Image.fromarray(image).save(folder / part / "images" / f"{face.name}_0.jpg")
            Image.fromarray(labels % len(LAPA)).save(folder / part / "labels" / f"{face.name}_0.png")
    return folder


def test_a_photo_that_is_not_square_keeps_its_shape(tmp_path):
    photo, label = tmp_path / "a.png", tmp_path / "label.png"
    picture = np.zeros((20, 40, 3), np.uint8)
    picture[0], picture[-1] = 10, 200
    Image.fromarray(picture).save(photo)
    Image.fromarray(np.tile(np.arange(40, dtype=np.uint8) // 4, (20, 1))).save(label)
    sample = decode(Face("a", photo, {"": label}, "a"), 40, LAPA)
    assert (sample["labels"][:10] == IGNORED).all() and (sample["labels"][30:] == IGNORED).all()
    assert (sample["labels"][10:30] == np.arange(40) // 4).all()
    assert (sample["images"][:11] == 10).all() and (sample["images"][29:] == 200).all()


def test_bad_and_missing_labels_of_lapa_are_named(faces, tmp_path):
    folder = write_lapa(tmp_path / "LaPa", faces)
    (path,) = (folder / "val" / "labels").iterdir()
    for words, damaged in (
        ("has the value 11; expected 0..10", np.full((60, 64), 11, np.uint8)),
        ("is 9 x 7 px, its photo 64 x 60", np.zeros((7, 9), np.uint8)),
        ("has 3 channels", np.zeros((60, 64, 3), np.uint8)),
    ):
        Image.fromarray(damaged).save(path)
        message = refused(dataset.load, locate(folder).parts["val"], 32, LAPA, tmp_path / "cache")
        assert str(path) in message and words in message
    path.unlink()
    assert f"{path.stem}.jpg: has no label" in refused(locate, folder)


def test_later_parts_lie_over_earlier_ones(faces):
    face = next(f for f in celebamask.list_celebamask(faces) if "l_eye" in f.masks)
    size = Image.open(face.photo).size[0]
    expected = np.zeros((size, size), int)
    for c, part in enumerate(PARTS, 1):
        if part in face.masks:
            expected[np.asarray(Image.open(face.masks[part]).convert("L")) > 0] = c
    one = Face("0", face.photo, dict(sorted(face.masks.items())), "0")  # the order of files does not matter
    assert (decode(one, size, CELEBA)["labels"] == expected).all()


def test_the_official_split_is_celebas_partition_by_number(faces, tmp_path):
    folder = shutil.copytree(faces, tmp_path / "CelebAMask-HQ")
    numbers = [5, 162770, 162771, 182637, 182638, 202598, 7, 9, 11, 13, 15, 17]
    mapping = "".join(f"{i}           {number}      {number + 1:06d}.jpg\n" for i, number in enumerate(numbers))
    (folder / "CelebA-HQ-to-CelebA-mapping.txt").write_text("idx    orig_idx    orig_file\n" + mapping)

    def ids(data):
        return {part: [int(face.name) for face in found] for part, found in data.parts.items()}

    for given in (tmp_path, folder):  # --data may be the folder that holds it
        data = locate(given)
        assert ids(data) == {"train": [0, 6, 7, 8, 9, 10, 11], "val": [1, 2], "test": [3, 4, 5]}
        assert data.folder == folder and data.split_words.startswith("official")
    file = folder / "CelebA-HQ-to-CelebA-mapping.txt"
    file.write_text(mapping[: mapping.rindex("11 ")])
    assert "has no line for 11.jpg" in refused(locate, folder)


def test_the_random_split_is_80_10_10_and_never_parts_duplicates():
    def sides(numbers):
        found = [celebamask.FaceFiles(i, Path(f"{i}.jpg"), {}) for i in numbers]
        parts, _ = splits.split_celebamask(Path("none"), found)
        return {int(face.name): part for part, faces in parts.items() for face in faces}

    side = sides(range(798))
    assert [[*side.values()].count(part) for part in ("train", "val", "test")] == pytest.approx([638, 80, 80], abs=2)
    assert len(side) == 798 and sides(range(798)) == side
    side = sides(sorted({*DUPLICATES, *DUPLICATES.values()}))
    assert len(set(side.values())) == 3 and all(side[a] == side[b] for a, b in DUPLICATES.items())


def test_fractions_are_drawn_with_the_seed_nested_and_part_no_source():
    copies = people([f"AFW_{i // 7}_{i % 7}" for i in range(700)] + [f"{i}_0" for i in range(700)] + ["a", "my_photo"])
    assert len({face.source for face in copies}) == 100 + 700 + 2
    single = people(map(str, range(18176)))
    for faces, largest, fractions in ((single, 1, (0.002, 0.005, 0.01, 0.1, 1)), (copies, 7, (0.01, 0.05, 0.2, 0.7))):
        before = set()
        for fraction in fractions:
            subset = take_fraction(faces, fraction, seed=1)
            assert abs(len(subset) - fraction * len(faces)) <= largest / 2
            chosen = {face.source for face in subset}
            assert [face for face in faces if face.source in chosen] == subset and before < chosen
            before = chosen
        assert take_fraction(faces, 0.2, seed=1) != take_fraction(faces, 0.2, seed=2)
    assert "--fraction 0.002 of 100 labels is 0.2; give 0.02" in refused(take_fraction, single[:100], 0.002, 0)


@pytest.mark.parametrize("classes", [CELEBA, LAPA])
def test_left_and_right_swap_in_the_mirror_and_nothing_else(classes):
    table = mirrored_classes(classes)
    swapped = {(classes[c], classes[table[c]]) for c in range(len(classes)) if table[c] != c}
    pairs = [("l_eye", "r_eye"), ("l_brow", "r_brow"), ("l_ear", "r_ear")]
    assert swapped == {order for pair in pairs if pair[0] in classes for order in (pair, pair[::-1])}
    assert table[IGNORED] == IGNORED


def test_flips_mirror_picture_and_label_together_by_seed_epoch_and_index_alone():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, len(CELEBA), (3, 8, 8)).astype(np.uint8)
    labels[:, 0] = IGNORED
    arrays = {"images": rng.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8), "labels": labels}
    flipped = FaceLabels(arrays, list("abc"), CELEBA, flip=True, repeat=4, seed=3)
    straight = FaceLabels(arrays, list("abc"), CELEBA, repeat=4).batch(range(12))
    assert len(flipped) == 12
    mirror, turned = torch.from_numpy(mirrored_classes(CELEBA)), np.zeros((2, 12), bool)
    for epoch in range(2):
        images, labels = flipped.batch(range(12), epoch)
        for i, (image, label) in enumerate(zip(*straight, strict=True)):
            turned[epoch, i] = not torch.equal(images[i], image)
            if turned[epoch, i]:
                image, label = image.flip(-1), mirror[label.flip(-1).long()]
            assert torch.equal(images[i], image) and torch.equal(labels[i], label)
        assert torch.equal(flipped.batch([7], epoch)[0][0], images[7])
    assert 0 < turned[0].sum() < 12 and (turned[0] != turned[1]).any()
    assert any(0 < turned[0, i::3].sum() < 4 for i in range(3))  # a face's repetitions are drawn apart


def test_the_pool_has_no_test_photo_wherever_it_lies_and_says_what_comes_from_where(faces, tmp_path):
    data = locate(faces, labels=False)
    tested = {face.photo.name for face in data.parts["test"]}
    more = tmp_path / "more" / "deep"
    more.mkdir(parents=True)
    shutil.copy(data.parts["test"][0].photo, more / "a_copy_of_another_name.jpg")
    for name in ("new", "newer", "newest"):
        Image.new("RGB", (30, 20), (9, len(name), 9)).save(more / f"{name}.png")
    (tmp_path / "more" / "labels").mkdir()  # what lies there is no photo
    Image.new("RGB", (30, 20)).save(tmp_path / "more" / "labels" / "new.png")
    photos, words = masking.gather(data, [tmp_path / "more", faces], None)
    known = {face.photo.name for part in ("train", "val") for face in data.parts[part]}
    assert {p.name for p in photos} == known | {"new.png", "newer.png", "newest.png"} and not known & tested
    assert len(photos) == 12 - len(tested) + 3  # each once, though the faces are named twice
    assert f", {1 + len(tested)} copies of its test photos left out" in words
    photos, words = masking.gather(data, [tmp_path / "more"], 2)  # --limit holds for each source
    assert [p.name for p in photos] == [f.photo.name for f in data.parts["train"][:2]] + ["new.png", "newer.png"]
    assert words.startswith(f"2 of {faces} + 2 of {tmp_path / 'more'}")

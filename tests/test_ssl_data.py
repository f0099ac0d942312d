"""masked_ssl: both layouts and what is refused, splits, label fractions, flips, and the pool without test photos."""

import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import refused
from PIL import Image

from common import celebamask
from common.celebamask import DUPLICATES, PARTS
from masked_ssl import dataset, layouts, pool, splits
from masked_ssl.classes import LAYOUTS, mirrored_classes
from masked_ssl.dataset import FaceLabels
from masked_ssl.layouts import IGNORED, Face, decode, fitted
from masked_ssl.masking import find_region
from masked_ssl.pool import MaskedPhotos
from masked_ssl.splits import locate, take_fraction

CELEBA, LAPA = LAYOUTS["celebamask"], LAYOUTS["lapa"]


@pytest.fixture(scope="module")
def lapa_faces(tmp_path_factory):
    """Thirty painted faces in LaPa's layout. Shared: tests that change files copy it first."""
    return layouts.write_lapa(tmp_path_factory.mktemp("data") / "LaPa", n=30, size=48)


@pytest.fixture
def copy(lapa_faces, tmp_path):
    shutil.copytree(lapa_faces, tmp_path / "LaPa")
    return tmp_path / "LaPa"


def people(names, sources=None):
    return [Face(n, Path(f"{n}.jpg"), {}, s) for n, s in zip(names, sources or names, strict=True)]


# ---- LaPa ----------------------------------------------------------------------------------------------------------


def test_lapa_of_mixed_sizes_loads_into_one_array(lapa_faces, tmp_path):
    data = locate(lapa_faces)
    assert data.layout == "lapa" and set(data.parts) == {"train", "val", "test"}
    train = data.parts["train"]
    sizes = {Image.open(face.photo).size for face in train}
    assert len(sizes) > 5 and any(w != h for w, h in sizes)
    arrays = dataset.load(train, 64, LAPA, tmp_path / "cache")
    faces = FaceLabels(arrays, list(range(len(train))), [f.name for f in train], LAPA)
    images, labels = faces.batch([0, 3, 5])
    assert images.shape == (3, 3, 64, 64) and labels.shape == (3, 64, 64) and labels.dtype == torch.uint8
    assert set(np.unique(arrays["labels"])) <= {*range(11), IGNORED}


def test_a_photo_that_is_not_square_keeps_its_shape(tmp_path):
    (tmp_path / "labels").mkdir()
    photo, label = tmp_path / "a.png", tmp_path / "labels" / "a.png"
    picture = np.zeros((20, 40, 3), np.uint8)
    picture[0], picture[-1] = 10, 200
    Image.fromarray(picture).save(photo)
    Image.fromarray(np.tile(np.arange(40, dtype=np.uint8) // 4, (20, 1))).save(label)
    sample = decode(Face("a", photo, {"": label}, "a"), 40, LAPA)
    assert fitted((40, 20), 40) == (10, 0, 20, 40) and fitted((10, 40), 20) == (0, 7, 20, 5)
    assert (sample["labels"][:10] == IGNORED).all() and (sample["labels"][30:] == IGNORED).all()
    assert (sample["labels"][10:30] == np.arange(40) // 4).all()
    assert (sample["images"][:11] == 10).all() and (sample["images"][29:] == 200).all()


def bad_value(folder):
    path = sorted((folder / "train" / "labels").iterdir())[1]
    label = np.asarray(Image.open(path)).copy()
    label[3, 4] = 11
    Image.fromarray(label).save(path)
    return path, "has the value 11; expected 0..10"


def colours(folder):
    path = min((folder / "test" / "labels").iterdir())
    Image.open(path).convert("RGB").save(path)
    return path, "has 3 channels"


def other_size(folder):
    path = min((folder / "val" / "labels").iterdir())
    Image.fromarray(np.zeros((7, 9), np.uint8)).save(path)
    return path, "is 9 x 7 px, its photo"


def truncated(folder):
    path = sorted((folder / "train" / "labels").iterdir())[2]
    path.write_bytes(path.read_bytes()[:40])
    return path, "cannot be read as an image"


@pytest.mark.parametrize("damage", [bad_value, colours, other_size, truncated])
def test_a_bad_label_is_named(damage, copy, tmp_path):
    path, words = damage(copy)
    data = locate(copy)
    faces = [face for part in data.parts.values() for face in part]
    message = refused(dataset.load, faces, 32, LAPA, tmp_path / "cache")
    assert str(path) in message and words in message


def test_a_photo_without_label_and_a_part_without_photos_are_refused(copy):
    label = min((copy / "val" / "labels").iterdir())
    label.unlink()
    assert f"{label.stem}.jpg: has no label" in refused(locate, copy)
    shutil.rmtree(copy / "val" / "images")
    assert "val/images: holds no photo" in refused(locate, copy)


def test_the_source_of_a_warped_copy():
    names = ("HELEN_137346980_1_5", "12708537734_6", "portrait", "my_photo")
    assert [*map(layouts.source_of, names)] == ["HELEN_137346980_1", "12708537734", "portrait", "my_photo"]


# ---- CelebAMask-HQ -------------------------------------------------------------------------------------------------


def test_later_parts_lie_over_earlier_ones(faces, tmp_path):
    face = next(f for f in celebamask.list_celebamask(faces) if "l_eye" in f.masks)
    size = Image.open(face.photo).size[0]
    expected = np.zeros((size, size), int)
    for c, part in enumerate(PARTS, 1):
        if part in face.masks:
            expected[np.asarray(Image.open(face.masks[part]).convert("L")) > 0] = c
    one = Face("0", face.photo, dict(sorted(face.masks.items())), "0")  # the order of files does not matter
    assert (decode(one, size, CELEBA)["labels"] == expected).all()
    merged = decode(one, size, LAPA)["labels"]
    assert merged.max() <= 10 and (merged[expected == CELEBA.index("l_eye")] == LAPA.index("l_eye")).all()
    assert (merged[expected == CELEBA.index("neck")] == 0).all()
    assert (merged[expected == CELEBA.index("hair")] == LAPA.index("hair")).all()


def test_a_face_without_masks_and_masks_of_two_sizes_are_named(faces, tmp_path):
    shutil.copytree(faces, tmp_path / "faces")
    masks = tmp_path / "faces" / "CelebAMask-HQ-mask-anno" / "0"
    every = [face for part in locate(tmp_path / "faces").parts.values() for face in part]
    Image.new("RGB", (40, 40)).save(masks / "00003_nose.png")
    three = next(f for f in every if f.name == "3")
    assert "00003_nose.png: is 40 x 40 px" in refused(decode, three, 32, CELEBA)
    for path in masks.glob("00004_*"):
        path.unlink()
    every = [face for part in locate(tmp_path / "faces").parts.values() for face in part]
    assert "4.jpg: has no mask" in refused(decode, next(f for f in every if f.name == "4"), 32, CELEBA)
    shutil.rmtree(masks.parent)
    assert "a mask of skin" in refused(locate, tmp_path / "faces")
    assert len(locate(tmp_path / "faces", labels=False).parts["train"]) == 10  # step 1 needs none


def test_a_folder_that_is_neither_is_refused(tmp_path):
    assert "nowhere: no such folder" in refused(locate, tmp_path / "nowhere")
    assert "has neither train/images" in refused(locate, tmp_path)


# ---- Splits --------------------------------------------------------------------------------------------------------

MAPPING = "idx    orig_idx    orig_file\n" + "".join(
    f"{i}           {orig}      {orig + 1:06d}.jpg\n"
    for i, orig in enumerate([5, 162770, 162771, 182637, 182638, 202598, 7, 9, 11, 13, 15, 17])
)


@pytest.fixture
def mapped(faces, tmp_path):
    shutil.copytree(faces, tmp_path / "faces")
    (tmp_path / "faces" / "CelebA-HQ-to-CelebA-mapping.txt").write_text(MAPPING)
    return tmp_path / "faces"


def ids(data):
    return {part: [int(face.name) for face in found] for part, found in data.parts.items()}


def test_the_official_split_without_partition_list_goes_by_orig_idx(mapped):
    data = locate(mapped)
    assert ids(data) == {"train": [0, 1, 6, 7, 8, 9, 10, 11], "val": [2, 3], "test": [4, 5]}
    assert "official" in data.split_words


def test_the_partition_list_decides_where_there_is_one(mapped):
    sides = [2, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1]
    lines = [line.split()[2] for line in MAPPING.splitlines()[1:]]
    partition = mapped / "list_eval_partition.txt"
    partition.write_text("".join(f"{name} {side}\n" for name, side in zip(lines, sides, strict=True)))
    data = locate(mapped)
    assert ids(data) == {"train": [3, 4, 5, 6, 7, 8, 9, 10], "val": [2, 11], "test": [0, 1]}
    assert "list_eval_partition.txt" in data.split_words
    partition.write_text("\n".join(partition.read_text().splitlines()[:-1]))
    assert "000018.jpg" in refused(locate, mapped)
    (mapped / "CelebA-HQ-to-CelebA-mapping.txt").write_text("\n".join(MAPPING.splitlines()[:-2]))
    assert "mapping.txt: has no line for 10.jpg" in refused(locate, mapped)


def test_the_folder_that_holds_the_data_is_the_same_data(mapped, tmp_path):
    """With CelebA's list in either of the two."""
    outer = mapped.parent / "outer"
    inner = shutil.copytree(mapped, outer / "CelebAMask-HQ")
    assert locate(outer).folder == inner and locate(outer).parts == locate(inner).parts
    lines = [line.split()[2] for line in MAPPING.splitlines()[1:]]
    (outer / "list_eval_partition.txt").write_text("".join(f"{name} {k % 3}\n" for k, name in enumerate(lines)))
    store = inner.rename(tmp_path / "store")
    inner.symlink_to(store)  # the list lies beside the link, not beside what it points to
    for folder in (outer, inner):
        found = locate(folder)
        assert ids(found) == {"train": [0, 3, 6, 9], "val": [1, 4, 7, 10], "test": [2, 5, 8, 11]}
        assert found.split_words == "official, list_eval_partition.txt"


def test_the_random_split_is_80_10_10_and_never_parts_duplicates():
    def found(numbers):
        return [celebamask.FaceFiles(i, Path(f"{i}.jpg"), {}) for i in numbers]

    parts, words = splits.split_celebamask(Path("none"), found(range(798)))
    assert [len(parts[p]) for p in parts] == pytest.approx([638, 80, 80], abs=2) and "80/10/10" in words
    assert len({face.name for part in parts.values() for face in part}) == 798
    again, _ = splits.split_celebamask(Path("none"), found(range(798)))
    assert again == parts
    numbers = sorted({*DUPLICATES, *DUPLICATES.values()})
    side = {}
    for part, faces in splits.split_celebamask(Path("none"), found(numbers))[0].items():
        side |= {int(face.name): part for face in faces}
    assert len(set(side.values())) == 3 and all(side[a] == side[b] for a, b in DUPLICATES.items())
    assert "none is for" in refused(splits.split_celebamask, Path("none"), found([1, 2]))


# ---- Label fractions -----------------------------------------------------------------------------------------------


def test_fractions_are_nested():
    seed, faces = 1, people([str(i) for i in range(18176)])
    subsets = [take_fraction(faces, fraction, seed) for fraction in (0.002, 0.005, 0.01, 0.1, 1)]
    assert [len(s) for s in subsets[:3]] == [36, 91, 182] and len(subsets[-1]) == 18176
    for small, large in pairwise(subsets):
        assert {face.name for face in small} < {face.name for face in large}
    assert subsets[0] == take_fraction(faces, 0.002, seed) != take_fraction(faces, 0.002, seed + 1)
    numbers = [int(face.name) for face in subsets[1]]
    assert numbers == sorted(numbers)


@pytest.mark.parametrize("seed", range(3))
def test_warped_copies_of_one_source_stay_together(seed):
    names = [f"HELEN_{i // 7}_{i % 7}" for i in range(700)] + [f"{i}_0" for i in range(700)]
    faces = people(names, [layouts.source_of(name) for name in names])
    before = set()
    for fraction in (0.01, 0.05, 0.2, 0.7):
        subset = take_fraction(faces, fraction, seed)
        assert abs(len(subset) - fraction * 1400) <= 3.5  # half of the largest source
        chosen = {face.source for face in subset}
        assert all(face in subset for face in faces if face.source in chosen) and before <= chosen
        before = chosen


def test_fewer_than_two_labels_are_refused():
    faces = people([str(i) for i in range(100)])
    assert len(take_fraction(faces, 0.02, 0)) == 2
    assert "--fraction 0.002 of 100 labels is 0.2; give 0.02" in refused(take_fraction, faces, 0.002, 0)


# ---- Flips and repetitions -----------------------------------------------------------------------------------------


def arrays_of(n=6, size=8, classes=CELEBA):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, len(classes), (n, size, size)).astype(np.uint8)
    labels[:, 0] = IGNORED
    return {"images": rng.integers(0, 256, (n, size, size, 3), dtype=np.uint8), "labels": labels}


@pytest.mark.parametrize("classes", [CELEBA, LAPA])
def test_left_and_right_swap_in_the_mirror_and_nothing_else(classes):
    table = mirrored_classes(classes)
    swapped = {frozenset((classes[c], classes[table[c]])) for c in range(len(classes)) if table[c] != c}
    pairs = [("l_eye", "r_eye"), ("l_brow", "r_brow"), ("l_ear", "r_ear")]
    assert swapped == {frozenset(pair) for pair in pairs if pair[0] in classes}
    assert (table[table] == np.arange(256)).all() and table[IGNORED] == IGNORED
    assert table[classes.index("l_lip")] == classes.index("l_lip")
    if classes == LAPA:
        assert table[:11].tolist() == [0, 1, 3, 2, 5, 4, 6, 7, 8, 9, 10]


def test_flips_mirror_the_picture_and_the_label_together():
    arrays = arrays_of()
    names = [str(i) for i in range(6)]
    plain = FaceLabels(arrays, list(range(6)), names, CELEBA)
    flipped = FaceLabels(arrays, list(range(6)), names, CELEBA, flip=True, seed=1)
    mirror = torch.from_numpy(mirrored_classes(CELEBA))
    seen = set()
    for epoch in range(8):
        images, labels = flipped.batch(range(6), epoch)
        for i, (image, label) in enumerate(zip(*plain.batch(range(6)), strict=True)):
            straight = torch.equal(images[i], image)
            seen.add((i, straight))
            if straight:
                assert torch.equal(labels[i], label)
            else:
                assert torch.equal(images[i], image.flip(-1)) and torch.equal(labels[i], mirror[label.flip(-1).long()])
    assert len(seen) == 12  # each face both ways


def test_samples_depend_on_seed_epoch_and_face_alone():
    arrays, names = arrays_of(), [str(i) for i in range(6)]
    faces = FaceLabels(arrays, [1, 3, 5], names, CELEBA, flip=True, repeat=4, seed=3)
    assert len(faces) == 12 and faces.names == ["1", "3", "5"]
    whole, alone = faces.batch(range(12), epoch=2), faces.batch([7], epoch=2)
    assert torch.equal(whole[0][7], alone[0][0]) and torch.equal(whole[1][7], alone[1][0])
    turned = [torch.equal(whole[0][i], torch.from_numpy(arrays["images"][1]).permute(2, 0, 1)) for i in (0, 3, 6, 9)]
    assert 0 < sum(turned) < 4  # its repetitions are drawn apart


# ---- The pool ------------------------------------------------------------------------------------------------------


def test_the_pool_has_no_test_photo_wherever_it_lies_and_says_what_comes_from_where(faces, tmp_path):
    data = locate(faces, labels=False)
    tested = {face.photo.name for face in data.parts["test"]}
    more = tmp_path / "more" / "deep"
    more.mkdir(parents=True)
    shutil.copy(data.parts["test"][0].photo, more / "a_copy_of_another_name.jpg")
    for name in ("new", "newer", "newest"):
        Image.new("RGB", (30, 20), (9, len(name), 9)).save(more / f"{name}.png")
    photos, words = pool.gather(data, [tmp_path / "more", faces / "CelebA-HQ-img"], None)
    known = {face.photo.name for part in ("train", "val") for face in data.parts[part]}
    assert {p.name for p in photos} == known | {"new.png", "newer.png", "newest.png"} and not known & tested
    assert len(photos) == 12 - len(tested) + 3  # each once, though the faces are named twice
    assert f", {1 + len(tested)} copies of its test photos left out" in words
    photos, words = pool.gather(data, [tmp_path / "more"], 2)  # --limit holds for each source
    assert [p.name for p in photos] == [f.photo.name for f in data.parts["train"][:2]] + ["new.png", "newer.png"]
    assert words.startswith(f"2 of {faces} + 2 of {tmp_path / 'more'}")
    assert "1 photo(s) are too few" in refused(pool.gather, data, [], 1)


def test_labels_are_no_photos_and_a_folder_must_hold_some(lapa_faces, faces, tmp_path):
    found = pool.photos_below(lapa_faces)
    assert found and all(p.parent.name == "images" for p in found)
    assert {p.parent.name for p in pool.photos_below(faces)} == {"CelebA-HQ-img"}
    assert "nowhere: no such folder" in refused(pool.photos_below, faces / "nowhere")
    assert "holds no photo" in refused(pool.photos_below, tmp_path)


def test_what_is_hidden_depends_on_seed_epoch_and_photo_alone():
    images = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), dtype=np.uint8)
    names = [f"{i}.jpg" for i in range(6)]
    photos = [MaskedPhotos(images, names, find_region(64), 0.5, flip=True, seed=seed) for seed in (4, 4, 5)]
    shown, masks = photos[0].batch(range(6), epoch=2)
    assert shown.shape == (6, 3, 64, 64) and masks.shape == (6, 1, 64, 64) and masks.dtype == torch.bool
    straight = [torch.equal(a, torch.from_numpy(b).permute(2, 0, 1)) for a, b in zip(shown, images, strict=True)]
    turned = [torch.equal(a.flip(-1), torch.from_numpy(b).permute(2, 0, 1)) for a, b in zip(shown, images, strict=True)]
    assert any(straight) and any(turned) and all(np.add(straight, turned) == 1)
    again = photos[1].batch([5, 1], epoch=2)  # in another batch, of another process
    assert torch.equal(again[0], shown[[5, 1]]) and torch.equal(again[1], masks[[5, 1]])
    assert not torch.equal(photos[0].batch(range(6), epoch=3)[1], masks)
    assert not torch.equal(photos[2].batch(range(6), epoch=2)[1], masks)

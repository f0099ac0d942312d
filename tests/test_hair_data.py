"""hair_transfer/dataset.py: who is in which half, what is read from disk, and what is refused."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common.cli import InputError
from hair_transfer.dataset import (
    DUPLICATES,
    MEAN,
    STD,
    Face,
    HairMasks,
    central_square,
    decode,
    list_faces,
    list_pairs,
    normalize,
    split,
    verify,
)


def people(ids, root=0):
    return [Face(root, id, Path(f"{id}.jpg"), None) for id in ids]


# ---- The split -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "train", "test"),
    [(30000, 2000, 600), (2600, 2000, 600), (967, 744, 223), (52, 40, 12), (12, 9, 3), (3, 2, 1)],
)
def test_sizes_of_the_split(n, train, test):
    halves = split(people(range(n)), seed=0)
    assert [len(half) for half in halves] == [train, test]
    keys = [face.id for half in halves for face in half]
    assert len(set(keys)) == train + test
    assert all(half == sorted(half) for half in halves)


def test_the_split_depends_on_the_seed_alone():
    faces = people(range(100))
    assert split(faces, 3) == split(list(faces), 3) != split(faces, 4)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_too_few_faces(n):
    with pytest.raises(InputError, match=f"{n} face"):
        split(people(range(n)), 0)


def test_there_are_13_pairs_of_duplicates_of_adjacent_ids():
    assert len(DUPLICATES) == 13 and all(b == a + 1 for a, b in DUPLICATES)


@pytest.mark.parametrize("seed", range(50))
def test_duplicates_never_straddle_the_split(seed):
    ids = sorted({id for pair in DUPLICATES for id in pair} | set(range(60)))
    train, test = ({face.id for face in half} for half in split(people(ids), seed))
    assert len(train) + len(test) == len(ids) and not train & test
    for pair in DUPLICATES:
        assert set(pair) <= train or set(pair) <= test


@pytest.mark.parametrize("seed", range(10))
def test_equal_ids_of_two_folders_never_straddle_the_split(seed):
    faces = people(range(50), 0) + people(range(30, 80), 1)
    train, test = split(faces, seed)
    assert not {face.id for face in train} & {face.id for face in test}
    assert sorted(train + test) == sorted(faces)
    assert abs(len(test) - 23) <= 1


# ---- Reading -------------------------------------------------------------------------------------------------------


@pytest.fixture
def bald(faces, tmp_path):
    """The generated faces, of which 2 and 5 have no hair file."""
    folder = tmp_path / "faces"
    shutil.copytree(faces, folder)
    for id in (2, 5):
        (folder / "CelebAMask-HQ-mask-anno" / "0" / f"{id:05d}_hair.png").unlink(missing_ok=True)
    return folder


def test_a_face_without_hair_file_has_an_empty_mask(bald, tmp_path):
    faces = list_faces([bald])
    assert len(faces) == 12 and faces[2].mask is None and faces[0].mask is not None
    images, masks = HairMasks(faces, 32, tmp_path / "cache")[[2, 0]]
    assert images.shape == (2, 3, 32, 32) and images.dtype == torch.uint8
    assert masks.shape == (2, 1, 32, 32) and masks[0].sum() == 0 and masks[1].sum() > 0
    assert set(masks.unique().tolist()) == {0, 1}
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_a_face_without_any_mask_is_not_bald_but_not_annotated(bald, tmp_path):
    for path in bald.rglob("00002_*.png"):
        path.unlink()
    with pytest.raises(InputError, match="2.jpg: has no mask of any part; unpack all of the annotations"):
        list_faces([bald])
    for path in bald.rglob("*.png"):  # a folder with hair masks alone, where a face without one is bald
        if not path.name.endswith("_hair.png"):
            path.unlink()
    assert [face.id for face in list_faces([bald]) if face.mask is None] == [2, 5]


def test_a_black_hair_mask_is_told_from_one_that_is_too_small_to_see(bald):
    """Both cover nothing at 16 px; only the first has no white pixel."""
    black, small = (bald / "CelebAMask-HQ-mask-anno" / "0" / f"{id:05d}_hair.png" for id in (0, 1))
    Image.new("RGB", (64, 64)).save(black)
    dot = Image.new("RGB", (64, 64))
    dot.putpixel((0, 0), (255, 255, 255))
    dot.save(small)
    report = verify(list_faces([bald]), 16)
    assert report.black == [black] and not report.problems and (report.share[:2] == 0).all()


def test_the_cache_knows_when_a_hair_file_is_gone(faces, bald, tmp_path):
    before = HairMasks(list_faces([faces])[:3], 32, tmp_path / "cache")
    after = HairMasks(list_faces([bald])[:3], 32, tmp_path / "cache")
    assert before.arrays.folder != after.arrays.folder
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_masks_and_images_are_those_of_the_files(faces, tmp_path):
    face = list_faces([faces])[0]
    sample = decode(face, 64)
    assert (sample["images"] == np.asarray(Image.open(face.photo))).all()
    mask = np.asarray(Image.open(face.mask).convert("L")) > 0
    assert (np.unpackbits(sample["masks"], axis=-1) == mask).all()
    half = np.unpackbits(decode(face, 32)["masks"], axis=-1).astype(bool)
    assert (half == mask[1::2, 1::2]).mean() > 0.95  # nearest: each pixel is one of the mask's


def test_faces_of_two_folders_are_told_apart(faces, bald):
    both = list_faces([faces, bald])
    assert [face.root for face in both] == [0] * 12 + [1] * 12
    assert both[3].key == [0, 3] and both[15].key == [1, 3]


def test_another_part_can_stand_in_for_hair(faces):
    assert all(face.mask.name.endswith("_skin.png") for face in list_faces([faces], "skin"))


def test_a_folder_without_any_hair_is_refused(faces, tmp_path):
    shutil.copytree(faces, tmp_path / "faces")
    for path in (tmp_path / "faces").rglob("*_hair.png"):
        path.unlink()
    with pytest.raises(InputError, match="none of its 12 faces has a mask NNNNN_hair.png"):
        list_faces([tmp_path / "faces"])


def test_photo_and_mask_of_different_shape_are_refused(bald):
    face = list_faces([bald])[0]
    Image.new("RGB", (40, 60)).save(face.mask)
    with pytest.raises(InputError, match="00000_hair.png: is 40 x 60 px"):
        decode(face, 32)


def test_pairs_of_any_origin_are_cut_to_the_square_in_the_middle(tmp_path):
    for name in ("photos", "masks"):
        (tmp_path / name).mkdir()
    photo, mask = np.zeros((40, 80, 3), np.uint8), np.zeros((40, 80), np.uint8)
    photo[:, 20:60], mask[:, 20:40] = 200, 255  # the square, and the left half of it
    Image.fromarray(photo).save(tmp_path / "photos" / "a.png")
    Image.fromarray(mask).save(tmp_path / "masks" / "a.png")
    (face,) = list_pairs(tmp_path)
    sample = decode(face, 16)
    assert (sample["images"] == 200).all()
    assert (np.unpackbits(sample["masks"], axis=-1) == ([1] * 8 + [0] * 8)).all()
    (tmp_path / "masks" / "a.png").rename(tmp_path / "masks" / "b.png")
    with pytest.raises(InputError, match="a.png: has no mask"):
        list_pairs(tmp_path)


def test_a_square_photo_is_not_cut():
    image = Image.new("RGB", (7, 7))
    assert central_square(image).size == (7, 7)


def test_normalize_is_imagenets():
    images = torch.tensor([0, 128, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    expected = [
        (value / 255 - mean) / std
        for value, mean, std in zip((0, 128, 255), MEAN.flatten().tolist(), STD.flatten().tolist(), strict=True)
    ]
    assert normalize(images, torch.device("cpu")).flatten().tolist() == pytest.approx(expected, abs=1e-6)

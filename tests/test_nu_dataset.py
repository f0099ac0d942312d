"""nu_deeplabv3plus/dataset.py: the cache against direct decoding, and what the two flips do to left and right."""

import pickle
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from common.cache import fingerprint
from common.celebamask import FLIP_PAIRS, list_celebamask, print_unused, unused_files
from common.cli import InputError
from common.faces import PARTS, generate_face, write_celebamask
from nu_deeplabv3plus import dataset
from nu_deeplabv3plus.dataset import FaceParts

L_EYE, R_EYE, NOSE = (PARTS.index(part) for part in ("l_eye", "r_eye", "nose"))


@pytest.fixture
def loaded(faces, tmp_path):
    return dataset.load(faces, 64, tmp_path / "cache")


def test_cache_equals_decoding_by_hand(loaded, faces):
    cache, found = loaded
    images, masks = FaceParts(cache, [3, 8], found)[[1, 0]]
    for image, mask, id in zip(images, masks, (8, 3), strict=True):
        photo = np.asarray(Image.open(faces / "CelebA-HQ-img" / f"{id}.jpg").convert("RGB"))
        assert np.array_equal(image.permute(1, 2, 0).numpy(), photo)  # 64 px on disk: no resizing
        for c, part in enumerate(PARTS):
            path = faces / "CelebAMask-HQ-mask-anno" / "0" / f"{id:05d}_{part}.png"
            truth = np.asarray(Image.open(path).convert("L")) > 0 if path.exists() else np.zeros((64, 64), bool)
            assert np.array_equal(mask[c].numpy().astype(bool), truth), part


def test_masks_are_the_generated_faces_own(loaded):
    cache, found = loaded
    _, masks = FaceParts(cache, [0], found)[[0]]
    assert np.array_equal(masks[0].numpy().astype(bool), generate_face(0, 64).masks[: len(PARTS)])


def test_mask_resizing_is_nearest_and_images_are_antialiased(faces, tmp_path):
    cache, found = dataset.load(faces, 32, tmp_path / "cache")
    _, masks = FaceParts(cache, [0], found)[[0]]
    skin = Image.open(faces / "CelebAMask-HQ-mask-anno" / "0" / "00000_skin.png").convert("L")
    expected = np.asarray(skin.resize((32, 32), Image.Resampling.NEAREST)) > 0
    assert np.array_equal(masks[0, 0].numpy().astype(bool), expected)
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255  # finer than the target: nearest would give black or white, antialiasing grey
    folder = tmp_path / "stripes"
    shutil.copytree(faces, folder)
    Image.fromarray(stripes).save(folder / "CelebA-HQ-img" / "0.jpg", quality=100)
    cache, _ = dataset.load(folder, 32, tmp_path / "cache")
    assert 100 < cache["images"][0].mean() < 155 and cache["images"][0, 8:-8, 8:-8].std() < 40


def test_shapes_types_and_memory_format(loaded):
    cache, found = loaded
    images, masks = FaceParts(cache, list(range(12)), found)[[0, 5, 2]]
    assert images.shape == (3, 3, 64, 64) and images.dtype == torch.uint8
    assert masks.shape == (3, 18, 64, 64) and masks.dtype == torch.uint8 and masks.max() == 1
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_flip_doubles_the_set(loaded):
    cache, found = loaded
    assert len(FaceParts(cache, [0, 1, 2], found)) == 3
    assert len(FaceParts(cache, [0, 1, 2], found, "flip")) == 6
    assert FaceParts(cache, [4, 5], found, "flip").name(3) == "5.jpg mirrored"


@pytest.mark.parametrize("augment", ["flip", "flip-swap"])
def test_flipping_twice_is_the_identity(loaded, augment):
    cache, found = loaded
    data = FaceParts(cache, [0, 1], found, augment)
    images, masks = data[[0, 1]]
    flipped_images, flipped_masks = data[[2, 3]]
    assert not torch.equal(images, flipped_images)
    assert torch.equal(flipped_images.flip(-1), images)
    back = flipped_masks.flip(-1)
    assert torch.equal(back[:, data.swapped] if augment == "flip-swap" else back, masks)


def test_after_flip_swap_a_left_eye_is_a_left_eye(loaded):
    """l_eye lies in the right half of an unmirrored picture; it must after the swap, and the plain flip moves it."""
    cache, found = loaded
    eyes_seen = [i for i in range(12) if generate_face(found[i].id, 64).masks[[L_EYE, R_EYE]].any((1, 2)).all()]
    n = len(eyes_seen)
    assert n > 5

    def centre(masks, part):
        return (masks[:, part].float().sum(1) * torch.arange(64)).sum(1) / masks[:, part].sum((1, 2))

    mirrored = list(range(n, 2 * n))
    _, plain = FaceParts(cache, eyes_seen, found)[list(range(n))]
    _, swapped = FaceParts(cache, eyes_seen, found, "flip-swap")[mirrored]
    _, literal = FaceParts(cache, eyes_seen, found, "flip")[mirrored]
    assert (centre(plain, L_EYE) > centre(plain, R_EYE)).all()
    assert (centre(swapped, L_EYE) > centre(swapped, R_EYE)).all()
    assert (centre(literal, L_EYE) < centre(literal, R_EYE)).all()
    assert torch.equal(swapped[:, L_EYE], plain[:, R_EYE].flip(-1))
    assert torch.equal(swapped[:, NOSE], plain[:, NOSE].flip(-1))


def test_of_many_unused_files_twenty_are_named(faces, tmp_path, capsys):
    folder = shutil.copytree(faces, tmp_path / "faces")
    for photo in sorted((folder / "CelebA-HQ-img").iterdir())[3:]:
        photo.unlink()
    unused = unused_files(folder, list_celebamask(folder))
    print_unused(folder)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 21 and all(str(path) in line for path, line in zip(unused, lines[:20], strict=False))
    assert lines[-1] == f"... and {len(unused) - 20} more files that are not used"


def test_flip_pairs_are_the_three_left_right_pairs():
    assert [(PARTS[a], PARTS[b]) for a, b in FLIP_PAIRS] == [(f"l_{p}", f"r_{p}") for p in ("eye", "brow", "ear")]


def test_a_changed_file_size_or_part_gives_another_cache(faces, tmp_path):
    folder, cache = tmp_path / "faces", tmp_path / "cache"
    shutil.copytree(faces, folder)
    before, _ = dataset.load(folder, 64, cache)
    dataset.load(folder, 64, cache)
    assert len(list(cache.iterdir())) == 1
    skin = folder / "CelebAMask-HQ-mask-anno" / "0" / "00002_skin.png"
    Image.new("RGB", (64, 64), (255, 255, 255)).save(skin)
    after, found = dataset.load(folder, 64, cache)
    _, masks = FaceParts(after, [2], found)[[0]]
    assert masks[0, 0].all() and not np.array_equal(before["masks"], after["masks"])
    dataset.load(folder, 32, cache)
    assert len(list(cache.iterdir())) == 3


def test_the_split_is_80_20_seeded_and_disjoint():
    train, val = dataset.split(4000, seed=0)
    assert (len(train), len(val)) == (3200, 800)  # Sec. 3.2
    assert not set(train) & set(val) and sorted(train + val) == list(range(4000))
    assert dataset.split(4000, seed=0) == (train, val) and dataset.split(4000, seed=1) != (train, val)
    with pytest.raises(InputError, match="too few"):
        dataset.split(2, seed=0)


def test_the_cache_of_4000_faces_stays_below_400_mb(loaded):
    cache, found = loaded
    bytes_per_face = sum(array.nbytes for array in cache.values()) / len(found) * (128 / 64) ** 2
    assert 4000 * bytes_per_face < 400e6


def test_loader_processes_get_a_path_instead_of_a_copy(loaded):
    cache, found = loaded
    data = FaceParts(cache, [1, 2], found)
    pickled = pickle.dumps(data)
    assert len(pickled) < 5000 < cache["images"].nbytes
    assert all(torch.equal(a, b) for a, b in zip(pickle.loads(pickled)[[0, 1]], data[[0, 1]], strict=True))


def test_masks_may_lie_in_any_subfolder_and_the_folder_may_be_given_by_its_parent(faces, tmp_path):
    shutil.copytree(faces, tmp_path / "CelebAMask-HQ")
    annotations = tmp_path / "CelebAMask-HQ" / "CelebAMask-HQ-mask-anno"
    (annotations / "0").rename(annotations / "13")
    assert [face.masks.keys() for face in list_celebamask(tmp_path)] == [f.masks.keys() for f in list_celebamask(faces)]


def test_other_faces_with_the_same_ids_have_another_fingerprint(faces, tmp_path):
    other = write_celebamask(tmp_path / "other", n=12, size=64, seed=100)
    ours, theirs = list_celebamask(faces), list_celebamask(other)
    assert [face.id for face in ours] == [face.id for face in theirs]
    prints = [fingerprint(face.photo for face in found) for found in (ours, theirs, list_celebamask(faces))]
    assert prints[0] == prints[2] != prints[1]


def test_the_usual_mask_size_is_not_that_of_one_odd_file(faces, tmp_path):
    folder = tmp_path / "faces"
    shutil.copytree(faces, folder)
    Image.new("RGB", (20, 20)).save(folder / "CelebAMask-HQ-mask-anno" / "0" / "00000_skin.png")
    assert dataset.usual_mask_shape(list_celebamask(folder)) == (64, 64)


def test_harmless_kinds_of_photo_and_mask_simply_work(faces, tmp_path):
    folder = tmp_path / "faces"
    shutil.copytree(faces, folder)
    photo, skin = folder / "CelebA-HQ-img" / "0.jpg", folder / "CelebAMask-HQ-mask-anno" / "0" / "00000_skin.png"
    grey = Image.open(photo).convert("L")
    Image.fromarray(np.asarray(grey).astype(np.uint16) * 257).save(photo.with_suffix(".png"))  # 16 bits a pixel
    photo.unlink()
    expected = np.asarray(Image.open(skin).convert("L")) > 0
    Image.open(skin).convert("P").save(skin)
    cache, found = dataset.load(folder, 64, tmp_path / "cache")
    images, masks = FaceParts(cache, [0], found)[[0]]
    assert np.array_equal(images[0, 0].numpy(), np.asarray(grey)) and torch.equal(images[0, 0], images[0, 2])
    assert np.array_equal(masks[0, 0].numpy().astype(bool), expected)

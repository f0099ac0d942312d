"""lrn_headtorso/dataset.py and matting.py: pairs, alphas, the split, the augmentation, edges."""

import unicodedata

import numpy as np
import pytest
import torch
from conftest import refused
from PIL import Image

from lrn_headtorso import dataset, matting
from lrn_headtorso.dataset import HeadTorso, split
from lrn_headtorso.pairs import Pair, list_pairs, read_alpha
from lrn_headtorso.whiten import BAND, replace_background

SIZE = 64
CPU = torch.device("cpu")


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def a_photo(path, w=8, h=6):
    return save(path, np.zeros((h, w, 3), np.uint8))


def a_cutout(path, w=8, h=6, alpha=128):
    pixels = np.zeros((h, w, 4), np.uint8)
    pixels[:, : w // 2, 3] = alpha
    return save(path, pixels)


# ---- Folders -------------------------------------------------------------------------------------------------------


def test_pairs_go_by_name_and_the_unmatched_are_named(tmp_path):
    for name in ("b", "a", "lonely"):
        a_photo(tmp_path / "photos" / f"{name}.jpg")
    a_cutout(tmp_path / "cutouts" / "a.png")
    a_cutout(tmp_path / "cutouts" / "b-removebg-preview.png")
    a_cutout(tmp_path / "cutouts" / "orphan-removebg.png")
    (tmp_path / "photos" / "notes.txt").write_text("")
    a_photo(tmp_path / "photos" / unicodedata.normalize("NFD", "é.jpg"))  # as macOS writes it
    a_cutout(tmp_path / "cutouts" / unicodedata.normalize("NFC", "é.png"))
    pairs, alone = list_pairs(tmp_path)
    assert [pair.name for pair in pairs] == ["a", "b", "é"]
    assert pairs[1].masks == (tmp_path / "cutouts" / "b-removebg-preview.png",)
    assert [path.name for path in alone] == ["lonely.jpg", "orphan-removebg.png"]
    a_photo(tmp_path / "photos" / "more" / "b.png")
    assert "b.png: has the name of" in refused(list_pairs, tmp_path)


def test_lfws_own_layout(tmp_path):
    for name in ("Ann_Lee_0001", "Ann_Lee_0002", "Bo_Kim_0001"):
        a_photo(tmp_path / "lfw" / name[:-5] / f"{name}.jpg")
    a_cutout(tmp_path / "cutouts" / "Ann_Lee" / "Ann_Lee_0002.png")
    a_cutout(tmp_path / "cutouts" / "Bo_Kim_0001.png")
    pairs, alone = list_pairs(tmp_path)
    assert [pair.photo.name for pair in pairs] == ["Ann_Lee_0002.jpg", "Bo_Kim_0001.jpg"] and len(alone) == 1
    assert list_pairs(tmp_path / "lfw") == (pairs, alone)
    (tmp_path / "data").mkdir()
    (tmp_path / "lfw").rename(tmp_path / "data" / "lfw")  # the cut-outs beside the data folder
    assert [pair.name for pair in list_pairs(tmp_path / "data")[0]] == [pair.name for pair in pairs]


def test_celebamask_is_the_union_of_all_parts(faces):
    pairs, _ = list_pairs(faces)
    assert len(pairs) == 12 and pairs[3].name == "3"
    alpha, union = dataset.decode(pairs[3], 64)["alphas"], np.zeros((64, 64), bool)
    for path in (faces / "CelebAMask-HQ-mask-anno" / "0").glob("00003_*.png"):
        union |= np.asarray(Image.open(path).convert("L")) > 0
    assert np.array_equal(alpha, union * np.uint8(255))
    assert 0.2 < union.mean() < 0.95


@pytest.mark.parametrize(
    ("n", "asked", "sizes"),
    [
        (298, {}, (225, 25, 48)),  # the paper's
        (290, {}, (219, 24, 47)),  # the same proportion
        (290, {"n_test": 48}, (218, 24, 48)),
        (798, {"n_train": 700}, (630, 70, 48)),
        (3, {}, (1, 1, 1)),
    ],
)
def test_other_numbers_of_pictures(n, asked, sizes):
    parts = split(n, **asked)
    assert tuple(len(parts[name]) for name in ("train", "val", "test")) == sizes
    assert len(set().union(*parts.values())) == sum(sizes) and parts == split(n, **asked)
    assert all(part == sorted(part) for part in parts.values())
    assert "2 picture(s) are too few" in refused(split, 2)


# ---- Alphas --------------------------------------------------------------------------------------------------------


def test_every_kind_of_mask_is_read(tmp_path):
    mask = np.zeros((6, 8), np.uint8)
    mask[2:, 3:] = 255
    assert np.array_equal(read_alpha(save(tmp_path / "grey.png", mask)), mask)
    opaque = np.dstack([mask, mask, mask, np.full_like(mask, 255)])
    assert np.array_equal(read_alpha(save(tmp_path / "opaque.png", opaque)), mask)
    assert "the class numbers of a merged mask" in refused(read_alpha, save(tmp_path / "merged.png", mask // 15))
    soft = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5
    assert np.array_equal(read_alpha(save(tmp_path / "matte.png", soft)), soft)  # a grey matte is alpha
    cutout = np.dstack([np.full_like(soft, 99)] * 3 + [soft])
    assert np.array_equal(read_alpha(save(tmp_path / "cutout.png", cutout)), soft)
    assert np.array_equal(read_alpha(save(tmp_path / "la.png", cutout[..., 2:])), soft)
    photo = save(tmp_path / "photo.png", np.full((4, 4, 4), [37, 37, 37, 255], np.uint8))  # nothing was cut out
    assert "photo.png: has the colour" in refused(read_alpha, photo)


def test_a_mask_may_be_a_preview_whose_size_is_rounded(tmp_path):
    pair = Pair("a", a_photo(tmp_path / "a.jpg", 80, 60), (a_cutout(tmp_path / "small.png", 41, 30),))
    assert dataset.decode(pair, 32)["alphas"].shape == (32, 32)
    pair = pair._replace(masks=(a_cutout(tmp_path / "a.png", 60, 80),))
    assert "a.png: is 60 x 80 px, another shape" in refused(dataset.decode, pair, 32)


# ---- Augmentation --------------------------------------------------------------------------------------------------


def painted(n=5, size=SIZE):
    """Pictures whose red channel is their own alpha: wherever the mask goes, the paint must be."""
    rng = np.random.default_rng(0)
    alphas = np.zeros((n, size, size), np.uint8)
    for alpha in alphas:
        y, x = rng.integers(8, size - 24, 2)
        alpha[y : y + 16, x : x + 12] = 255
    images = np.zeros((n, size, size, 3), np.uint8)
    images[..., 0], images[..., 1] = alphas, 90
    return {"images": images, "alphas": alphas}


def test_a_painted_marker_stays_under_its_mask():
    data = HeadTorso(painted(), list("abcde"))
    for epoch in range(8):
        images, alphas = data.augmented(np.arange(5), CPU, epoch)
        assert torch.equal(images[:, 0], alphas[:, 0])
        assert (images[:, 1] == 90).all()  # and beyond the edges nothing black comes in
        assert not (alphas[:, 0].numpy() == data.arrays["alphas"]).all((1, 2)).any()
    images, alphas = data.batch([2], CPU)
    assert np.array_equal(alphas[0, 0], data.arrays["alphas"][2]) and torch.equal(images[:, 0], alphas[:, 0])


def test_a_sample_depends_on_seed_epoch_and_picture_alone():
    def sample(i, batch, *, seed=0, epoch=1):
        return HeadTorso(painted(), list("abcde"), seed).augmented(np.array(batch), CPU, epoch)[1][batch.index(i)]

    assert torch.equal(sample(3, [3]), sample(3, [0, 4, 3]))
    assert not torch.equal(sample(3, [3]), sample(3, [3], epoch=2))
    assert not torch.equal(sample(3, [3]), sample(3, [3], seed=1))


def test_flip_zoom_and_rotation_stay_in_their_ranges():
    drawn = np.stack([dataset.random_affine(np.random.default_rng(i)) for i in range(500)])
    area = np.linalg.det(drawn[:, :, :2])
    zoom, angle = np.abs(area) ** -0.5, np.degrees(np.arctan2(drawn[:, 1, 0], drawn[:, 1, 1]))
    assert 0.4 < (area < 0).mean() < 0.6
    assert 1 / dataset.ZOOM <= zoom.min() < 0.82 and 1.22 < zoom.max() <= dataset.ZOOM + 1e-5
    assert -dataset.ROTATION <= angle.min() < -14 and 14 < angle.max() <= dataset.ROTATION
    assert not drawn[:, :, 2].any()


def test_new_backgrounds():
    cache = painted()
    cache["foregrounds"] = np.full_like(cache["images"], (200, 0, 0))
    backgrounds = np.full((1, SIZE, SIZE, 3), (0, 0, 180), np.uint8)
    data, plain = HeadTorso(cache, list("abcde"), 0, backgrounds), HeadTorso(cache, list("abcde"))
    changed = 0
    for epoch in range(10):
        images, alphas = data.augmented(np.arange(5), CPU, epoch)
        assert torch.equal(alphas, plain.augmented(np.arange(5), CPU, epoch)[1])  # the masks stay as they are
        for image, alpha in zip(images.numpy(), alphas[:, 0].numpy(), strict=True):
            if (image[2] == 0).all():
                continue
            changed += 1
            share = alpha / 255
            assert np.abs(image[0] - 200 * share).max() <= 1 and np.abs(image[2] - 180 * (1 - share)).max() <= 1
            assert not image[1].any()  # nothing of the old background
    assert 15 <= changed <= 35  # about half of 50


# ---- Edges ---------------------------------------------------------------------------------------------------------

RED, GREEN = np.array([0.8, 0.1, 0.1], np.float32), np.array([0.1, 0.7, 0.2], np.float32)


def a_disc(size=120, radius=36, softness=2.0):
    """Photo of a red disc on green with a soft edge, and its true matte."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    matte = np.clip((radius - np.hypot(x, y)) / softness + 0.5, 0, 1).astype(np.float32)
    return matting.composite(RED, matte, GREEN).astype(np.float32), matte


@pytest.mark.parametrize("size", [120, 1400])  # the second is fitted on a reduced copy
def test_the_guided_filter_finds_the_pictures_edge(size):
    photo, true = a_disc(size, radius=0.3 * size)
    wrong = np.roll(true > 0.5, round(0.01 * size), axis=1).astype(np.float32)  # a contour that is a little off
    found = matting.refine(photo, wrong, band=round(0.05 * size))
    assert np.abs(found - true).mean() < 0.6 * np.abs(wrong - true).mean()


def test_the_old_backgrounds_colour_is_taken_out():
    photo, matte = a_disc()
    colours = np.concatenate([strip for _, strip in matting.foreground_colours(photo, matte)])
    edge = (matte > 0.1) & (matte < 0.9)
    assert np.abs(photo[edge] - RED).max() > 0.4
    assert np.abs(colours[edge] - RED).max() < 0.05
    assert np.array_equal(colours[matte == 1], photo[matte == 1])


def test_inner_pixels_are_the_photos_own():
    """A photo without a flat spot, and a network's probability of an ellipse in it."""
    h, w = 100, 150
    photo, other = np.random.default_rng(0).integers(0, 256, (2, h, w, 3), dtype=np.uint8)
    y, x = np.mgrid[:h, :w]
    inside = 1 - np.hypot((x - w / 2) / (0.35 * w), (y - h / 2) / (0.35 * h))
    probability = (1 / (1 + np.exp(-20 * inside))).astype(np.float32)
    near = matting.box((probability > 0.5).astype(np.float32), round(BAND * w))
    inner, outer = near > 0.999, near < 0.001
    assert inner.mean() > 0.2 and outer.mean() > 0.3
    in_front, cut_out = (
        np.asarray(replace_background(Image.fromarray(photo), probability, background))
        for background in (Image.fromarray(other), None)
    )
    assert np.array_equal(in_front[inner], photo[inner]) and np.array_equal(in_front[outer], other[outer])
    assert np.array_equal(cut_out[inner][:, :3], photo[inner])
    assert (cut_out[inner][:, 3] == 255).all() and not cut_out[outer].any()

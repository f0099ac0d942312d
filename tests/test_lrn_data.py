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


def blank(path, size=(8, 6)):
    """A black photo or, as PNG, a cut-out of nobody."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGBA" if path.suffix == ".png" else "RGB", size).save(path)
    return path


# ---- Folders -------------------------------------------------------------------------------------------------------


def test_pairs_go_by_name_and_the_unmatched_are_named(tmp_path):
    for name in ("b.jpg", "a.jpg", "lonely.jpg", unicodedata.normalize("NFD", "é.jpg")):  # as macOS writes it
        blank(tmp_path / "photos" / name)
    for name in ("a.png", "b-removebg-preview (1).png", "orphan-removebg.png", unicodedata.normalize("NFC", "é.png")):
        blank(tmp_path / "cutouts" / name)
    (tmp_path / "photos" / "notes.txt").write_text("")
    pairs, alone = list_pairs(tmp_path)
    assert [pair.name for pair in pairs] == ["a", "b", "é"]
    assert pairs[1].masks == (tmp_path / "cutouts" / "b-removebg-preview (1).png",)
    assert [path.name for path in alone] == ["lonely.jpg", "orphan-removebg.png"]
    blank(tmp_path / "photos" / "more" / "b.png")
    assert "b.png: has the name of" in refused(list_pairs, tmp_path)


def test_lfws_own_layout(tmp_path):
    for name in ("Ann_Lee_0001", "Ann_Lee_0002", "Bo_Kim_0001"):
        blank(tmp_path / "lfw" / name[:-5] / f"{name}.jpg")
    blank(tmp_path / "cutouts" / "Ann_Lee" / "Ann_Lee_0002.png")
    blank(tmp_path / "cutouts" / "Bo_Kim_0001.png")
    pairs, alone = list_pairs(tmp_path)
    assert [pair.photo.name for pair in pairs] == ["Ann_Lee_0002.jpg", "Bo_Kim_0001.jpg"] and len(alone) == 1


def test_celebamask_is_the_union_of_all_parts(faces):
    pairs, _ = list_pairs(faces)
    assert len(pairs) == 12 and pairs[3].name == "3"
    alpha, union = dataset.decode(pairs[3], 64)["alphas"], np.zeros((64, 64), bool)
    for path in (faces / "CelebAMask-HQ-mask-anno" / "0").glob("00003_*.png"):
        union |= np.asarray(Image.open(path).convert("L")) > 0
    assert np.array_equal(alpha, union * np.uint8(255))
    assert 0.2 < union.mean() < 0.95


def test_other_numbers_of_pictures():
    for n, asked, sizes in (
        (298, {}, (225, 25, 48)),  # the paper's
        (798, {}, (225, 25, 48)),  # of more, as many
        (290, {}, (219, 24, 47)),  # the same proportion
        (290, {"n_test": 48}, (218, 24, 48)),
        (798, {"n_train": 700}, (630, 70, 48)),
        (3, {}, (1, 1, 1)),
    ):
        parts = split(n, **asked)
        assert tuple(len(parts[name]) for name in ("train", "val", "test")) == sizes
        assert len(set().union(*parts.values())) == sum(sizes) and parts == split(n, **asked)
        assert all(part == sorted(part) for part in parts.values())
    assert "2 picture(s) are too few" in refused(split, 2)


# ---- Alphas --------------------------------------------------------------------------------------------------------


def test_every_kind_of_mask_is_read(tmp_path):
    def read(picture):
        Image.fromarray(picture).save(tmp_path / "a.png")
        return read_alpha(tmp_path / "a.png")

    mask, soft = np.zeros((6, 8), np.uint8), np.arange(48, dtype=np.uint8).reshape(6, 8) * 5
    mask[2:, 3:] = 255
    opaque, cutout = np.dstack([mask] * 3 + [np.full_like(mask, 255)]), np.dstack([np.full_like(soft, 99)] * 3 + [soft])
    for picture, alpha in ((mask, mask), (opaque, mask), (soft, soft), (cutout, soft), (cutout[..., 2:], soft)):
        assert np.array_equal(read(picture), alpha)
    assert "the class numbers of a merged mask" in refused(read, mask // 15)
    nothing_cut_out = np.full((4, 4, 4), [37, 37, 37, 255], np.uint8)
    assert "a.png: has the colour" in refused(read, nothing_cut_out)


def test_a_mask_may_be_a_preview_whose_size_is_rounded(tmp_path):
    photo = blank(tmp_path / "a.jpg", (80, 60))
    preview = Pair("a", photo, (blank(tmp_path / "small.png", (41, 30)),))
    assert dataset.decode(preview, 32)["alphas"].shape == (32, 32)
    other = Pair("a", photo, (blank(tmp_path / "a.png", (60, 80)),))
    assert "a.png: is 60 x 80 px, another shape" in refused(dataset.decode, other, 32)


# ---- Augmentation --------------------------------------------------------------------------------------------------


def painted(seed=0, backgrounds=None):
    """Five pictures whose red channel is their own alpha: wherever the mask goes, the paint must be."""
    rng = np.random.default_rng(0)
    images, alphas = np.zeros((5, SIZE, SIZE, 3), np.uint8), np.zeros((5, SIZE, SIZE), np.uint8)
    for alpha in alphas:
        y, x = rng.integers(8, SIZE - 24, 2)
        alpha[y : y + 16, x : x + 12] = 255
    images[..., 0], images[..., 1] = alphas, 90
    arrays = {"images": images, "alphas": alphas, "foregrounds": np.full_like(images, (200, 0, 0))}
    return HeadTorso(arrays, list("abcde"), seed, backgrounds)


def test_a_painted_marker_stays_under_its_mask():
    data = painted()
    for epoch in range(8):
        images, alphas = data.augmented(np.arange(5), CPU, epoch)
        assert torch.equal(images[:, 0], alphas[:, 0])
        assert (images[:, 1] == 90).all()  # and beyond the edges nothing black comes in
        assert not (alphas[:, 0].numpy() == data.arrays["alphas"]).all((1, 2)).any()
    images, alphas = data.batch([2], CPU)
    assert np.array_equal(alphas[0, 0], data.arrays["alphas"][2]) and torch.equal(images[:, 0], alphas[:, 0])


def test_a_sample_depends_on_seed_epoch_and_picture_alone():
    def sample(i, batch, *, seed=0, epoch=1):
        return painted(seed).augmented(np.array(batch), CPU, epoch)[1][batch.index(i)]

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
    data, plain, changed = painted(0, np.full((1, SIZE, SIZE, 3), (0, 0, 180), np.uint8)), painted(), 0
    for epoch in range(10):
        images, alphas = data.augmented(np.arange(5), CPU, epoch)
        assert torch.equal(alphas, plain.augmented(np.arange(5), CPU, epoch)[1])  # the masks stay as they are
        for image, alpha in zip(images.numpy(), alphas[:, 0].numpy(), strict=True):
            if image[2].any():
                changed += 1
                share = alpha / 255
                assert np.abs(image[0] - 200 * share).max() <= 1 and np.abs(image[2] - 180 * (1 - share)).max() <= 1
                assert not image[1].any()  # nothing of the old background
    assert 15 <= changed <= 35  # about half of 50


# ---- Edges ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [120, 1400])  # the second is fitted on a reduced copy
def test_the_guided_filter_finds_the_pictures_edge_and_the_old_backgrounds_colour_is_taken_out(size):
    """A red disc on green with a soft edge."""
    red, green = np.array([0.8, 0.1, 0.1], np.float32), np.array([0.1, 0.7, 0.2], np.float32)
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    true = np.clip((0.3 * size - np.hypot(x, y)) / 2 + 0.5, 0, 1).astype(np.float32)
    photo = true[..., None] * red + (1 - true[..., None]) * green
    wrong = np.roll(true > 0.5, round(0.01 * size), axis=1).astype(np.float32)  # a contour that is a little off
    found = matting.refine(photo, wrong, band=round(0.05 * size))
    assert np.abs(found - true).mean() < 0.6 * np.abs(wrong - true).mean()
    colours = np.concatenate([strip for _, strip in matting.foreground_colours(photo, true)])
    edge = (true > 0.1) & (true < 0.9)
    assert np.abs(photo[edge] - red).max() > 0.4 and np.abs(colours[edge] - red).max() < 0.05
    assert np.array_equal(colours[true == 1], photo[true == 1])


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

"""hair_transfer/recolor.py: colours by number, and what must and must not change in a photo."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from common.cli import InputError
from common.faces import PARTS, generate_face
from hair_transfer.recolor import (
    COLOURS,
    REACH,
    guided_filter,
    lab_to_srgb,
    parse_color,
    predict,
    recolor,
    refine,
    srgb_to_lab,
    strip,
)

BLOND, BLACK, BLUE = (201, 163, 106), (27, 24, 25), (48, 80, 192)


@pytest.fixture(scope="module")
def face():
    """A generated face with plenty of hair, 160 px, and its hair blurred as a network's output is."""
    for seed in range(100):
        painted = generate_face(seed, 160)
        hair = painted.masks[PARTS.index("hair")]
        if 0.15 < hair.mean() < 0.5:
            return painted.image, hair, ndimage.gaussian_filter(hair.astype(np.float32), 4)


def lightness(image, where):
    return srgb_to_lab(image[where] / 255)[:, 0]


# ---- Lab -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [
        ((0, 0, 0), (0, 0, 0)),
        ((255, 255, 255), (100, 0, 0)),
        ((119, 119, 119), (50.03, 0, 0)),
        ((255, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 255, 0), (87.73, -86.18, 83.18)),
        ((0, 0, 255), (32.30, 79.19, -107.86)),
    ],
)
def test_lab_of_known_colours(rgb, lab):
    assert srgb_to_lab(np.array(rgb) / 255) == pytest.approx(lab, abs=0.02)


def test_lab_there_and_back_keeps_every_value():
    grid = np.stack(np.meshgrid(*[np.arange(0, 256, 15)] * 3), axis=-1)
    assert (np.round(255 * lab_to_srgb(srgb_to_lab(grid / 255))) == grid).all()


# ---- Where the hair is ---------------------------------------------------------------------------------------------


def test_the_guided_filter_of_a_constant_is_that_constant():
    guide = np.random.default_rng(0).random((20, 30, 3))
    a, b = guided_filter(guide, np.full((20, 30), 0.7), 3, 1e-4)
    assert np.abs(a).max() < 1e-9 and np.abs(b - 0.7).max() < 1e-9


def test_refined_edges_follow_the_photos():
    rng = np.random.default_rng(0)
    image = rng.integers(190, 215, (200, 400, 3), dtype=np.uint8)
    image[:, :200] = rng.integers(30, 60, (200, 200, 3))
    rough = ndimage.gaussian_filter1d((np.arange(400) < 200).astype(np.float32), 4) * np.ones((200, 1), np.float32)
    hair = refine(image, rough)
    assert hair[:, 196:200].mean() > 0.8 and hair[:, 200:204].mean() < 0.2
    assert rough[0, 196:200].mean() < 0.7 and rough[0, 200:204].mean() > 0.3  # it was not so before


def test_nothing_far_from_sure_hair_is_hair(face):
    image, _, probability = face
    hair = refine(image, probability)
    far = ndimage.distance_transform_cdt(probability < 0.5, "chessboard") > round(REACH * max(probability.shape))
    assert far.mean() > 0.2 and hair.dtype == np.float32
    assert (hair[far] == 0).all() and hair.min() >= 0 and hair.max() <= 1
    assert hair[probability > 0.95].mean() > 0.9


def test_a_faint_guess_everywhere_is_no_hair(face):
    image, _, probability = face
    assert not refine(image, np.full_like(probability, 0.49)).any()


# ---- The new colour ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("color", [BLOND, BLACK, BLUE])
def test_pixels_far_from_hair_do_not_change_at_all(face, color):
    image, _, probability = face
    before = image.copy()
    result = recolor(image, refine(image, probability), color)
    far = ndimage.distance_transform_cdt(probability < 0.5, "chessboard") > round(REACH * max(probability.shape))
    assert (result[far] == image[far]).all() and (image == before).all()
    assert result.dtype == np.uint8 and result.shape == image.shape
    assert (result[probability > 0.95] != image[probability > 0.95]).any(-1).mean() > 0.9


def test_strength_0_and_no_hair_change_nothing(face):
    image, _, probability = face
    assert (recolor(image, probability, BLUE, strength=0.0) == image).all()
    assert (recolor(image, np.zeros_like(probability), BLUE) == image).all()


@pytest.mark.parametrize("color", [BLOND, BLACK, BLUE, (255, 255, 255), (0, 0, 0), (255, 0, 255)])
def test_light_and_dark_keep_their_order(face, color):
    """Texture: of two strands of one hue the lighter stays the lighter, and all stay apart."""
    ramp = np.arange(20, 236, 5)
    image = (ramp[None, :, None] * np.array((0.8, 0.6, 0.5))).round().astype(np.uint8)
    light = lightness(recolor(image, np.ones(image.shape[:2]), color), np.ones(image.shape[:2], bool))
    assert (np.diff(light) > -1).all()  # a rounding of the three channels
    assert light[-1] - light[0] > 15 and len(np.unique(light.round(1))) > 20


@pytest.mark.parametrize(("own", "color"), [((30, 24, 20), BLOND), ((210, 180, 130), BLACK), ((120, 80, 50), BLUE)])
def test_hair_takes_the_colour_on(own, color):
    rng = np.random.default_rng(0)
    image = np.clip(np.array(own) * rng.uniform(0.7, 1.3, (40, 40, 1)), 0, 255).astype(np.uint8)
    where = np.ones((40, 40), bool)
    before, after, wanted = (
        np.median(srgb_to_lab(x / 255).reshape(-1, 3), axis=0)
        for x in (image, recolor(image, where.astype(np.float32), color), np.array(color)[None])
    )
    # most of the way to its lightness, and to its chroma as far as that is lighter or darker
    share = (after[0] - before[0]) / (wanted[0] - before[0])
    assert 0.5 < share < 0.8
    assert np.linalg.norm(after[1:] - wanted[1:]) < 0.6 * max(np.linalg.norm(wanted[1:] - before[1:]), 10)
    spread = [np.std(lightness(x, where)) for x in (image, recolor(image, where.astype(np.float32), color))]
    assert 0.4 < spread[1] / spread[0] < 2.5  # texture is neither lost nor blown up


def test_black_specks_do_not_stay_black_in_hair_made_light():
    image = np.full((20, 20, 3), 24, np.uint8)
    image[5, 5] = 0
    result = recolor(image, np.ones((20, 20), np.float32), BLOND)
    light = lightness(result, np.ones((20, 20), bool)).reshape(20, 20)
    assert light[5, 5] > 0.5 * light[0, 0]


def test_half_the_strength_is_half_the_way(face):
    image, _, probability = face
    hair = (probability > 0.9).astype(np.float32)
    where = hair > 0
    none, half, full = (srgb_to_lab(recolor(image, hair, BLOND, s)[where] / 255) for s in (0.0, 0.5, 1.0))
    assert np.abs(half - (none + full) / 2).mean() < 1


@pytest.mark.parametrize("size", [(200, 121), (97, 333), (50, 50)])
def test_the_networks_output_lies_on_the_photo_where_it_belongs(size):
    """A stand-in network that answers "red": its output must cover the photo's red rectangle, whatever the shape."""

    class Red(torch.nn.Module):
        def forward(self, x):
            return 8 * (x[:, :1] - 0.3)

        def activate(self, logits):
            return torch.sigmoid(logits)

    W, H = size
    image = np.zeros((H, W, 3), np.uint8)
    true = np.zeros((H, W), bool)
    true[H // 5 : H // 2, W // 2 : W - W // 8] = True
    image[true] = (255, 0, 0)
    found = predict(Red(), Image.fromarray(image), 64, torch.device("cpu"), False) > 0.5
    assert found.shape == (H, W) and (found & true).sum() / (found | true).sum() > 0.9


# ---- Command line --------------------------------------------------------------------------------------------------


def test_colours_by_name_and_number():
    assert parse_color("#3050c0") == BLUE and parse_color("Blond") == BLOND
    assert parse_color("brown") != (165, 42, 42) and parse_color("teal") == (0, 128, 128)
    assert all(len(parse_color(name)) == 3 for name in COLOURS)


@pytest.mark.parametrize("text", ["#12", "colour", ""])
def test_no_colour(text):
    with pytest.raises(InputError, match=f"--color {text}: no such colour"):
        parse_color(text)


def test_a_strip_is_not_higher_than_needed():
    large, small = np.zeros((1000, 800, 3), np.uint8), np.zeros((100, 80, 3), np.uint8)
    assert strip([large, large, large]).shape == (512, 1229, 3)
    assert strip([small, small]).shape == (100, 160, 3)
    assert Image.fromarray(strip([small])).mode == "RGB"

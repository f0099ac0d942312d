"""hair_transfer/recolor.py: colours by number, and what must and must not change in a photo."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from common.celebamask import PARTS
from common.faces import generate_face
from common.run import Trained
from hair_transfer.recolor import COLOURS, REACH, lab_to_srgb, parse_color, predict, recolor, refine, srgb_to_lab

BLOND, BLACK, BLUE = (201, 163, 106), (27, 24, 25), (48, 80, 192)


def test_lab_of_known_colours_and_back():
    known = {
        (0, 0, 0): (0, 0, 0), (255, 255, 255): (100, 0, 0), (119, 119, 119): (50.03, 0, 0),
        (255, 0, 0): (53.24, 80.09, 67.20), (0, 255, 0): (87.73, -86.18, 83.18), (0, 0, 255): (32.30, 79.19, -107.86),
    }  # fmt: skip
    for rgb, lab in known.items():
        assert srgb_to_lab(np.array(rgb) / 255) == pytest.approx(lab, abs=0.02)
    grid = np.stack(np.meshgrid(*[np.arange(0, 256, 15)] * 3), axis=-1)
    assert (np.round(255 * lab_to_srgb(srgb_to_lab(grid / 255))) == grid).all()


@pytest.mark.parametrize("size", [(200, 121), (97, 333), (50, 50)])
def test_the_networks_output_lies_on_the_photo_where_it_belongs(size):
    """A network that answers "red": its output must cover the photo's red rectangle, whatever the shape."""

    class Red(torch.nn.Module):
        def forward(self, x):
            return 8 * (x[:, :1] - 0.3)

        def activate(self, logits):
            return torch.sigmoid(logits)

    W, H = size
    image, true = np.zeros((H, W, 3), np.uint8), np.zeros((H, W), bool)
    true[H // 5 : H // 2, W // 2 : W - W // 8] = True
    image[true] = (255, 0, 0)
    network = Trained(Red(), {"args": {"size": 64}}, torch.device("cpu"), False)
    found = predict(network, Image.fromarray(image)) > 0.5
    assert found.shape == (H, W) and (found & true).sum() / (found | true).sum() > 0.9


def test_refined_edges_follow_the_photos():
    rng = np.random.default_rng(0)
    image = rng.integers(190, 215, (200, 400, 3), dtype=np.uint8)
    image[:, :200] = rng.integers(30, 60, (200, 200, 3))
    rough = ndimage.gaussian_filter1d((np.arange(400) < 200).astype(np.float32), 4) * np.ones((200, 1), np.float32)
    hair = refine(image, rough)
    assert hair[:, 196:200].mean() > 0.8 and hair[:, 200:204].mean() < 0.2
    assert rough[0, 196:200].mean() < 0.7 and rough[0, 200:204].mean() > 0.3  # it was not so before


def test_what_is_far_from_sure_hair_is_not_dyed():
    """A generated face with plenty of hair; its mask, blurred as a network's output is."""
    face = generate_face(1, 160)
    image, probability = face.image, ndimage.gaussian_filter(np.float32(face.masks[PARTS.index("hair")]), 4)
    far = ndimage.distance_transform_cdt(probability < 0.5, "chessboard") > round(REACH * 160)
    sure, before, hair = probability > 0.95, image.copy(), refine(image, probability)
    assert far.mean() > 0.2 and sure.mean() > 0.1
    assert (hair[far] == 0).all() and hair[sure].mean() > 0.9 and hair.min() >= 0 and hair.max() <= 1
    assert not refine(image, np.full_like(probability, 0.49)).any()  # a faint guess everywhere is none
    for color in (BLOND, BLACK, BLUE):
        dyed = recolor(image, hair, color)
        assert (dyed[far] == image[far]).all() and (dyed[sure] != image[sure]).any(-1).mean() > 0.9
    assert (recolor(image, np.zeros_like(hair), BLUE) == image).all() and (image == before).all()


@pytest.mark.parametrize(("own", "color"), [((30, 24, 20), BLOND), ((210, 180, 130), BLACK), ((60, 40, 25), BLUE)])
def test_hair_takes_the_colour_on(own, color):
    """Most of the way to its lightness, and to its chroma as far as that is lighter or darker."""
    image, hair = np.full((20, 20, 3), own, np.uint8), np.ones((20, 20), np.float32)
    dyed = [recolor(image, hair, color, strength)[10, 10] for strength in (0, 0.5, 1)]
    assert (recolor(image, hair / 2, color)[10, 10] == dyed[1]).all()  # half a pixel of hair
    before, half, after, wanted = (srgb_to_lab(np.array(x) / 255) for x in (*dyed, color))
    assert (dyed[0] == own).all() and half == pytest.approx((before + after) / 2, abs=1.5)
    assert 0.5 < (after[0] - before[0]) / (wanted[0] - before[0]) < 0.8
    assert np.linalg.norm(after[1:] - wanted[1:]) < 0.6 * max(np.linalg.norm(wanted[1:] - before[1:]), 10)


def test_colours_by_name_and_number():
    assert parse_color("#3050c0") == BLUE and parse_color("Blond") == BLOND
    assert parse_color("brown") != (165, 42, 42) and parse_color("teal") == (0, 128, 128)
    assert all(len(parse_color(name)) == 3 for name in COLOURS)

"""Which pixels step 1 hides, and the loss that asks for them back (Approach: "Pretraining Under Self-Supervision").

region   the central two thirds of the picture, or all of it
patches  squares of 32 to 64 px in a picture of 512 px, wholly inside the region, until --mask-ratio of it is hidden
loss     L1 or L2 over the region
"""

import math

import numpy as np
from torch import Tensor

CENTRE = 2 / 3  # "two-thirds of the entire picture"
PATCH = (32, 64)  # px, at PATCH_SIZE px
PATCH_SIZE = 512
MAX_RATIO = 0.95  # whole patches at random find the last corners of the region only after a very long time


def find_region(size: int, region: str = "center", measure: str = "side") -> tuple[int, int]:
    """first, last + 1: the rows, and columns, of the square in which patches lie, in a picture of size x size.

    The text allows two readings of two thirds: of each `side` (44 % of the pixels), or of the `area` (82 % a side).
    """
    share = 1.0 if region == "whole" else CENTRE if measure == "side" else math.sqrt(CENTRE)
    side = round(share * size)
    first = (size - side) // 2
    return first, first + side


def patch_sides(size: int) -> tuple[int, int]:
    """The smallest and the largest side of a patch in a picture of size x size: 32 and 64 px at 512, in proportion."""
    low, high = (max(1, round(side * size / PATCH_SIZE)) for side in PATCH)
    return low, high


def draw_mask(rng: np.random.Generator, size: int, region: tuple[int, int], ratio: float) -> np.ndarray:
    """size x size bool, True where hidden: patches inside `region` over `ratio` of it, and at most one patch more.

    They may overlap, as the paper says nothing against it; pixels count once.
    """
    first, end = region
    low, high = patch_sides(size)
    mask = np.zeros((size, size), bool)
    missing = ratio * (end - first) ** 2
    while missing > 0:
        sides = rng.integers(low, high + 1, 32)
        corners = first + (rng.random((32, 2)) * (end - first - sides + 1)[:, None]).astype(np.int64)
        for side, (y, x) in zip(sides.tolist(), corners.tolist(), strict=True):
            patch = mask[y : y + side, x : x + side]
            missing -= side * side - np.count_nonzero(patch)
            patch[...] = True
            if missing <= 0:
                break
    return mask


def hide(images: Tensor, masks: Tensor) -> Tensor:
    """Normalised images B x C x H x W, masks B x 1 x H x W bool -> the images with 0, the mean colour, where hidden."""
    return images.masked_fill(masks, 0)


def reconstruction_loss(
    output: Tensor, images: Tensor, masks: Tensor, region: tuple[int, int], *, loss: str = "l1", on: str = "region"
) -> Tensor:
    """B x C x H x W twice, B x 1 x H x W bool -> scalar float32: the error over the region, or its hidden pixels alone.

    Absolute (l1) or squared (l2); the mean is taken within each picture first, so that each counts the same however
    much of it is hidden.
    """
    first, end = region
    inside = (..., slice(first, end), slice(first, end))
    error = output[inside].float() - images[inside].float()  # B C h w
    error = (error.abs() if loss == "l1" else error.square()).mean(1)  # B h w
    if on == "masked":
        hidden = masks[inside][:, 0].float()
        return ((error * hidden).sum((1, 2)) / hidden.sum((1, 2)).clamp(min=1)).mean()
    return error.mean()


def error_where_hidden(output: Tensor, images: Tensor, masks: Tensor) -> Tensor:
    """B x C x H x W twice, B x 1 x H x W bool -> scalar float32: the mean absolute error of all hidden pixels."""
    error = (output.float() - images.float()).abs().mean(1, keepdim=True)
    return (error * masks).sum() / masks.sum().clamp(min=1)

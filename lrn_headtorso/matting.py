"""Soft edges: what turns a segmentation into a cut-out that can be put on another background.

Pictures are H x W x 3, uint8 or float32 in 0..1, mattes H x W float32 in 0..1, radii in pixels. What is smooth is
computed on a copy of at most WORKING_SIDE px and enlarged strip by strip, so that a photo of 48 megapixels fits too.
"""

from collections.abc import Iterator

import numpy as np
import scipy
from PIL import Image

from lrn_headtorso.model import FOUND_ABOVE

WORKING_SIDE = 1024
STRIP = 256  # rows


def box(x: np.ndarray, radius: int) -> np.ndarray:
    """The mean over (2 radius + 1)^2 pixels of H x W or H x W x C, edges repeated."""
    size = (2 * radius + 1, 2 * radius + 1, 1)[: x.ndim]
    return scipy.ndimage.uniform_filter(x, size, mode="nearest")


def floats(picture: np.ndarray) -> np.ndarray:
    """uint8 -> float32 in 0..1; float32 stays as it is."""
    return picture.astype(np.float32) / 255 if picture.dtype == np.uint8 else picture


def resize(x: np.ndarray, width: int, height: int, rows: slice = slice(None)) -> np.ndarray:
    """H x W (x C) -> the `rows` of height x width (x C), float32, bilinear, antialiased when it shrinks."""
    top, bottom, _ = rows.indices(height)
    part = (0, top * len(x) / height, x.shape[1], bottom * len(x) / height)
    channels = [Image.fromarray(c).resize((width, bottom - top), Image.Resampling.BILINEAR, part)
                for c in np.atleast_3d(floats(x)).transpose(2, 0, 1)]  # fmt: skip
    return np.stack(channels, axis=-1).reshape(bottom - top, width, *x.shape[2:])


def working_size(picture: np.ndarray) -> tuple[int, int, float]:
    """Width and height of the small copy, and its scale."""
    H, W = picture.shape[:2]
    scale = min(1, WORKING_SIDE / max(H, W))
    return max(1, round(W * scale)), max(1, round(H * scale)), scale


def guided_filter(x: np.ndarray, p: np.ndarray, radius: int) -> tuple[np.ndarray, np.ndarray]:
    """H x W x 3 picture and H x W matte -> a (H x W x 3) and b: the filtered matte is a . x + b (He et al. 2013).

    A locally linear function of the colours has the picture's edges. a and b are smooth, so those of a reduced copy do
    (He and Sun 2015).
    """
    eps = 1e-4  # a difference in colour (squared) well below this counts as none
    mean_x, mean_p = box(x, radius), box(p, radius)
    covariance_xp = box(x * p[..., None], radius) - mean_x * mean_p[..., None]  # H W 3
    products = (x[..., :, None] * x[..., None, :]).reshape(*p.shape, 9)
    covariance_x = box(products, radius).reshape(*p.shape, 3, 3) - mean_x[..., :, None] * mean_x[..., None, :]
    a = np.linalg.solve(covariance_x + eps * np.eye(3, dtype=np.float32), covariance_xp[..., None])[..., 0]
    b = mean_p - (a * mean_x).sum(-1)
    return box(a.astype(np.float32), radius), box(b.astype(np.float32), radius)


def refine(photo: np.ndarray, probability: np.ndarray, band: int) -> np.ndarray:
    """Photo and the network's probability at the photo's size -> matte, H x W in 0..1.

    Only a band along the contour is soft: farther than `band` pixels inside the person it is 1, farther outside 0, so
    that the filter, which would let a shirt shine through that looks like the wall, cannot reach there.
    """
    (H, W), (w, h, scale) = probability.shape, working_size(photo)
    matte = (probability > FOUND_ABOVE).astype(np.float32)
    small = resize(matte, w, h)
    around = box(small, max(1, round(band * scale)))  # share of the person: 0 or 1 away from the contour, 1/2 on it
    a, b = guided_filter(resize(photo, w, h), small, max(1, round(0.6 * band * scale)))
    for top in range(0, H, STRIP):
        rows = slice(top, top + STRIP)
        share, person = resize(around, W, H, rows), matte[rows]
        filtered = (resize(a, W, H, rows) * floats(photo[rows])).sum(-1) + resize(b, W, H, rows)
        # the filter seldom gets to 0 and 1 by itself; cutting more from below than from above leaves no haze outside
        soft = np.clip((filtered - 0.35) / 0.55, 0, 1)
        away = np.clip(np.abs(2 * share - 1), 0, 1) ** 3  # lets the soft edge end gently where the band ends
        strip = (1 - away) * soft + away * person
        strip[share > 1 - 1e-4] = 1
        strip[share < 1e-4] = 0
        matte[rows] = strip
    return matte


def foreground_colours(photo: np.ndarray, matte: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """H x W x 3, H x W -> strips of rows of the person's own colours, also where the old background shines through.

    photo = matte * F + (1 - matte) * B at every pixel; F and B are first taken to be the means of what surrounds it,
    weighted by the matte, then F is moved to fit the equation (blur fusion: Forte 2021, a wide pass and a narrow one).
    Where the matte is 1 the result is the photo.
    """
    (H, W), (w, h, _) = matte.shape, working_size(photo)
    small, a = resize(photo, w, h), resize(matte, w, h)[..., None]
    F = B = small
    for radius in (max(4, max(w, h) // 12), max(2, max(w, h) // 150)):
        near = box(a, radius)
        # far from the person, and deep inside, there is nothing to average: the estimate stays what it was
        F_mean = (box(F * a, radius) + 1e-5 * F) / (near + 1e-5)
        B = (box(B * (1 - a), radius) + 1e-5 * B) / (1 - near + 1e-5)
        F = move_to_fit(F_mean, B, small, a)
    for top in range(0, H, STRIP):
        rows = slice(top, top + STRIP)
        original, a = floats(photo[rows]), matte[rows][..., None]
        F = move_to_fit(resize(F_mean, W, H, rows), resize(B, W, H, rows), original, a)
        yield rows, np.where(a == 1, original, F)


def move_to_fit(F: np.ndarray, B: np.ndarray, photo: np.ndarray, a: np.ndarray) -> np.ndarray:
    """F moved towards photo = a F + (1 - a) B."""
    return np.clip(F + a * (photo - a * F - (1 - a) * B), 0, 1)

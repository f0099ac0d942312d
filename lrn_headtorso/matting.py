"""Soft edges: what turns a segmentation into a cut-out that can be put on another background.

All pictures are float32 arrays in 0..1, H x W x 3, and all mattes H x W; radii are in pixels.
"""

import numpy as np
import scipy
from PIL import Image

from lrn_headtorso.model import FOUND_ABOVE

WORKING_SIDE = 1024  # the guided filter's coefficients are computed on a picture no larger than this


def box(x: np.ndarray, radius: int) -> np.ndarray:
    """The mean over (2 radius + 1)^2 pixels of H x W or H x W x C, edges repeated."""
    size = (2 * radius + 1, 2 * radius + 1, 1)[: x.ndim]
    return scipy.ndimage.uniform_filter(x, size, mode="nearest")


def resize(x: np.ndarray, width: int, height: int) -> np.ndarray:
    """H x W (x C) float32 -> height x width (x C), bilinear, antialiased when it shrinks."""
    channels = np.atleast_3d(x).transpose(2, 0, 1)
    resized = [Image.fromarray(c).resize((width, height), Image.Resampling.BILINEAR) for c in channels]
    return np.stack(resized, axis=-1).reshape(height, width, *x.shape[2:])


def guided_filter(guide: np.ndarray, matte: np.ndarray, radius: int, eps: float = 1e-4) -> np.ndarray:
    """H x W x 3, H x W -> H x W: the matte as a locally linear function of the guide's colours (He et al. 2013).

    So the matte's edges move to the picture's. For a large picture the function is fitted on a reduced copy and applied
    to every pixel (He and Sun 2015). eps: a difference in colour (squared) well below this counts as none.
    """
    H, W, _ = guide.shape
    scale = min(1, WORKING_SIDE / max(H, W))
    w, h, r = max(1, round(W * scale)), max(1, round(H * scale)), max(1, round(radius * scale))
    x, p = (guide, matte) if scale == 1 else (resize(guide, w, h), resize(matte, w, h))
    mean_x, mean_p = box(x, r), box(p, r)
    covariance_xp = box(x * p[..., None], r) - mean_x * mean_p[..., None]  # h w 3
    products = (x[..., :, None] * x[..., None, :]).reshape(h, w, 9)
    covariance_x = box(products, r).reshape(h, w, 3, 3) - mean_x[..., :, None] * mean_x[..., None, :]
    a = np.linalg.solve(covariance_x + eps * np.eye(3, dtype=np.float32), covariance_xp[..., None])[..., 0]  # h w 3
    b = mean_p - (a * mean_x).sum(-1)
    a, b = box(a.astype(np.float32), r), box(b.astype(np.float32), r)
    if scale < 1:
        a, b = resize(a, W, H), resize(b, W, H)
    return (a * guide).sum(-1) + b


def refine(photo: np.ndarray, probability: np.ndarray, band: int) -> np.ndarray:
    """Photo and the network's probability at the photo's size -> matte, H x W in 0..1.

    Only a band along the contour is soft: farther than `band` pixels inside the person it is 1, farther outside 0, so
    that the filter, which would let a shirt shine through that looks like the wall, cannot reach there.
    """
    person = (probability > FOUND_ABOVE).astype(np.float32)
    share = box(person, band)  # of the person around each pixel: 0 or 1 away from the contour, 1/2 on it
    # the filter seldom gets to 0 and 1 by itself; cutting more from below than from above leaves no haze outside
    soft = (guided_filter(photo, person, max(1, round(0.6 * band))) - 0.35) / 0.55
    away = np.clip(np.abs(2 * share - 1), 0, 1) ** 3  # lets the soft edge end gently where the band ends
    matte = (1 - away) * np.clip(soft, 0, 1) + away * person
    matte[share > 1 - 1e-4] = 1
    matte[share < 1e-4] = 0
    return matte


def foreground_colours(photo: np.ndarray, matte: np.ndarray) -> np.ndarray:
    """H x W x 3, H x W -> H x W x 3: the person's own colours, also where the old background shines through the edge.

    photo = matte * F + (1 - matte) * B at every pixel; F and B are first taken to be the means of what surrounds it,
    weighted by the matte, then F is moved to fit the equation (blur fusion: Forte 2021, a wide pass and a narrow one).
    Where the matte is 1 the result is the photo.
    """
    side = max(matte.shape)
    a = matte[..., None]
    F = B = photo
    for radius in (max(4, side // 12), max(2, side // 150)):
        near = box(matte, radius)[..., None]
        # far from the person, and deep inside, there is nothing to average: the estimate stays what it was
        F_mean = (box(F * a, radius) + 1e-5 * F) / (near + 1e-5)
        B = (box(B * (1 - a), radius) + 1e-5 * B) / (1 - near + 1e-5)
        F = np.clip(F_mean + a * (photo - a * F_mean - (1 - a) * B), 0, 1)
    return np.where(a == 1, photo, F)


def composite(colours: np.ndarray, matte: np.ndarray, background: np.ndarray) -> np.ndarray:
    """The person on another background: H x W x 3, H x W, H x W x 3 (or a colour) -> H x W x 3."""
    a = matte[..., None]
    return a * colours + (1 - a) * background

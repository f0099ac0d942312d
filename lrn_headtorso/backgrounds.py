"""New backgrounds as augmentation, one of the paper's next steps (Sec. 5): what goes behind, and what in front."""

from pathlib import Path

import numpy as np
import scipy
from PIL import Image, ImageOps

from common.cache import Arrays, cache_key, open_cache
from common.images import list_photos, read_photo

CACHE_VERSION = 1  # counts up when read_background() changes
RIM = 2 / 224  # of the picture's side: a cut-out's outermost pixels still hold some of the old background
REACH = 3  # rims: how far from the inside colours are replaced; thin parts beyond keep theirs


def foreground(image: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """H x W x 3 and H x W, both uint8 -> H x W x 3: the person's colours, continued over the edge to the outside.

    Each pixel near the contour takes the colour of the nearest one that lies a rim's width inside, so that no rim of
    the old background tells a network where the person ends.
    """
    rim = max(1, round(RIM * max(alpha.shape)))
    inside = scipy.ndimage.minimum_filter(alpha, 2 * rim + 1) == 255
    if not inside.any():
        return image
    distance, (y, x) = scipy.ndimage.distance_transform_edt(~inside, return_indices=True)
    near = (distance > 0) & (distance <= REACH * rim)
    return np.where(near[..., None], image[y, x], image)


def read_background(path: Path, size: int) -> np.ndarray:
    """A picture cut to a square of size x size x 3."""
    return np.asarray(ImageOps.fit(read_photo(path), (size, size), Image.Resampling.BILINEAR))


def load_backgrounds(folder: Path, size: int, cache: Path) -> Arrays:
    """The pictures of a folder for --backgrounds: "images", N x size x size x 3."""
    paths = list_photos(folder)
    fields = {"images": ((size, size, 3), "uint8")}
    key = cache_key(paths, "backgrounds", size, CACHE_VERSION)

    def decode(i: int) -> dict[str, np.ndarray]:
        return {"images": read_background(paths[i], size)}

    return open_cache(cache, key, len(paths), fields, decode, "decoding backgrounds")

"""One face: its photo and its label map at the network's size, from either layout's files."""

import numpy as np
from PIL import Image

from common.celebamask import PARTS
from common.cli import InputError
from common.images import read_mask, read_photo
from masked_ssl import lapa
from masked_ssl.splits import Face

CACHE_VERSION = 3  # counts up when decode() changes
IGNORED = 255  # label of the pixels beyond a photo's edge


def decode(face: Face, size: int, classes: tuple[str, ...]) -> dict[str, np.ndarray]:
    """images: size x size x 3 uint8, antialiased; labels: size x size uint8, nearest, 255 beyond the photo's edge.

    Raises InputError, naming the file, for what cannot be used.
    """
    photo = read_photo(face.photo)
    if "" in dict(face.labels):  # LaPa's label map
        label = lapa.read_label(face.labels[0][1], (photo.height, photo.width))
    else:
        label = merge(face, photo, classes)
    top, left, h, w = fitted(photo.size, size)
    labels = np.full((size, size), IGNORED, np.uint8)
    labels[top : top + h, left : left + w] = Image.fromarray(label).resize((w, h), Image.Resampling.NEAREST)
    return {"images": square(photo, size), "labels": labels}


def merge(face: Face, photo: Image.Image, classes: tuple[str, ...]) -> np.ndarray:
    """CelebAMask-HQ's part masks -> H x W uint8, later parts over earlier ones; background where a part is no class."""
    masks, label = dict(face.labels), None
    for part in PARTS:
        if part not in masks:
            continue
        mask = read_mask(masks[part], None if label is None else label.shape)
        label = np.zeros(mask.shape, np.uint8) if label is None else label
        label[mask] = classes.index(part) if part in classes else 0
        if photo.width * mask.shape[0] != photo.height * mask.shape[1]:
            raise InputError(
                f"{masks[part]}: is {mask.shape[1]} x {mask.shape[0]} px, another shape than its photo of "
                f"{photo.width} x {photo.height}; give both the same width to height"
            )
    if label is None:
        raise InputError(f"{face.photo}: has no mask; add masks to CelebAMask-HQ-mask-anno or remove the photo")
    return label


def fitted(photo_size: tuple[int, int], size: int) -> tuple[int, int, int, int]:
    """top, left, h, w of a photo of (W, H) scaled to fit into size x size, in its middle."""
    W, H = photo_size
    h, w = max(1, round(H * size / max(W, H))), max(1, round(W * size / max(W, H)))
    return (size - h) // 2, (size - w) // 2, h, w


def square(photo: Image.Image, size: int) -> np.ndarray:
    """size x size x 3 uint8: the photo scaled to fit, in the middle, its edge repeated around it."""
    top, left, h, w = fitted(photo.size, size)
    scaled = np.asarray(photo.resize((w, h), Image.Resampling.BILINEAR))  # Pillow widens the kernel when it shrinks
    return np.pad(scaled, ((top, size - h - top), (left, size - w - left), (0, 0)), mode="edge")

"""Step 1 (Approach: "Pretraining Under Self-Supervision"): its photos, which pixels it hides, its loss.

photos   the train and val photos of the labelled data, without their labels, and those of any other folders
region   the central two thirds of the picture, or all of it
patches  squares of 32 to 64 px in a picture of 512 px, wholly inside the region, until --mask-ratio of it is hidden
loss     L1 over the region
"""

import hashlib
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.celebamask import MASKS
from common.cli import InputError
from common.data import open_cache, stat
from common.images import PHOTO_SUFFIXES, files_below, read_photo, square
from masked_ssl.dataset import CACHE_VERSION
from masked_ssl.splits import Data

CENTRE = 2 / 3  # of each side: "two-thirds of the entire picture" may also mean of the area, which is 82 % of a side
PATCH = (32, 64)  # px, at PATCH_SIZE px
PATCH_SIZE = 512
MAX_RATIO = 0.95  # whole patches at random find the last corners of the region only after a very long time

# ---- The pool of photos --------------------------------------------------------------------------------------------


def photos_below(folder: Path) -> list[Path]:
    """Every photo in a folder and its subfolders, sorted, but for what lies below LaPa's or CelebAMask-HQ's
    folders of labels.

    Raises InputError if there is none.
    """
    if not folder.is_dir():
        raise InputError(f"--photos {folder}: no such folder; give folders of photos")
    found = [path for path in files_below(folder) if path.suffix.lower() in PHOTO_SUFFIXES]
    found = [path for path in found if not {MASKS, "labels"} & {*path.relative_to(folder).parts[:-1]}]
    if not found:
        raise InputError(f"--photos {folder}: holds no photo ({', '.join(PHOTO_SUFFIXES)}); give another folder")
    return found


def gather(data: Data | None, folders: list[Path], limit: int | None) -> tuple[list[Path], str]:
    """The pool, the first `limit` of each source, and in words how many come from where.

    Photos that will be tested on are kept out, wherever a copy of the file lies. Raises InputError for fewer than two
    photos.
    """
    sources, tested = {str(folder): photos_below(folder) for folder in folders}, []
    if data:
        sources = {data.words: [face.photo for part in ("train", "val") for face in data.parts[part]], **sources}
        tested = [face.photo for face in data.parts["test"]]
    sizes, digests = {stat(photo).st_size for photo in tested}, {digest(photo) for photo in tested}
    pool, words, left_out = {}, [], 0
    for source, photos in sources.items():
        new = [photo for photo in photos if os.path.realpath(photo) not in pool]  # a folder may be named twice
        kept = [p for p in new if stat(p).st_size not in sizes or digest(p) not in digests]
        left_out += len(new) - len(kept)
        pool |= {os.path.realpath(photo): photo for photo in kept[:limit]}
        words.append(f"{len(kept[:limit])} of {source}")
    if len(pool) < 2:
        raise InputError(f"{len(pool)} photo(s) are too few for batch norm; give more, or a larger --limit")
    copies = f", {left_out} copies of its test photos left out" if left_out else ""
    return list(pool.values()), " + ".join(words) + copies


def digest(photo: Path) -> bytes:
    """The SHA-256 of a file."""
    return hashlib.sha256(photo.read_bytes()).digest()


def load(photos: list[Path], size: int, cache: Path) -> np.ndarray:
    """The decoded photos, memory-mapped, N x size x size x 3 uint8. Raises InputError for unusable files."""
    facts = ["masked_ssl pool", size, CACHE_VERSION]
    decode = lambda i: {"images": square(read_photo(photos[i]), size)}  # noqa: E731
    return open_cache(cache, photos, facts, len(photos), decode, "decoding photos")["images"]


# ---- What is hidden ------------------------------------------------------------------------------------------------


def find_region(size: int, region: str = "center") -> tuple[int, int]:
    """first, last + 1: the rows, and columns, of the square in which patches lie, in a picture of size x size."""
    side = size if region == "whole" else round(CENTRE * size)
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


class MaskedPhotos:
    """Photos, each with patches hidden. Patches, and which half is mirrored (ours), depend on seed, epoch and photo."""

    def __init__(self, images: np.ndarray, names: list[str], region: tuple[int, int], ratio: float, seed: int):
        self.images, self.names, self.region, self.ratio, self.seed = images, names, region, ratio, seed

    def __len__(self) -> int:
        return len(self.names)

    def batch(self, indices: list[int] | np.ndarray, epoch: int) -> tuple[Tensor, Tensor]:
        """B indices -> images B x 3 x size x size uint8 and masks B x 1 x size x size bool, True where hidden."""
        images = self.images[indices]  # B H W 3
        masks = np.empty((len(indices), 1, *images.shape[1:3]), bool)
        for b, i in enumerate(indices):
            rng = np.random.default_rng([self.seed, epoch, i])
            if rng.random() < 0.5:
                images[b] = images[b, :, ::-1]
            masks[b, 0] = draw_mask(rng, images.shape[1], self.region, self.ratio)
        return torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(masks)


def hide(images: Tensor, masks: Tensor) -> Tensor:
    """Normalised images B x C x H x W, masks B x 1 x H x W bool -> the images with 0, the mean colour, where hidden."""
    return images.masked_fill(masks, 0)


# ---- The loss ------------------------------------------------------------------------------------------------------


def reconstruction_loss(output: Tensor, images: Tensor, region: tuple[int, int]) -> Tensor:
    """B x C x H x W twice -> scalar float32: L1 over the region, hidden or not."""
    inside = (..., slice(*region), slice(*region))
    return (output[inside].float() - images[inside].float()).abs().mean(1).mean()


def error_where_hidden(output: Tensor, images: Tensor, masks: Tensor) -> Tensor:
    """B x C x H x W twice, B x 1 x H x W bool -> scalar float32: the mean absolute error of all hidden pixels."""
    error = (output.float() - images.float()).abs().mean(1, keepdim=True)
    return (error * masks).sum() / masks.sum().clamp(min=1)

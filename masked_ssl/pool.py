"""The photos without labels that step 1 learns from, each with the patches that are hidden in this epoch.

The pool is the train and val photos of the labelled data, without their labels, and those of any other folders. Photos
that will be tested on are kept out, wherever a copy of the file lies: files of one size are compared by their SHA-256.
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
from common.images import PHOTO_SUFFIXES, files_below, read_photo
from masked_ssl.layouts import CACHE_VERSION, square
from masked_ssl.masking import draw_mask
from masked_ssl.splits import Data

LABELS = {"labels": "images", MASKS: ""}  # folder of labels -> of photos beside it


def photos_below(folder: Path) -> list[Path]:
    """Every photo in a folder and its subfolders, sorted; CelebAMask-HQ's and LaPa's labels are left out.

    Raises InputError if there is none.
    """
    if not folder.is_dir():
        raise InputError(f"--photos {folder}: no such folder; give folders of photos")

    def is_label(path: Path) -> bool:
        above = [parent for parent in path.parents if parent.is_relative_to(folder)]
        return any(parent.name in LABELS and (parent.parent / LABELS[parent.name]).is_dir() for parent in above)

    found = [path for path in files_below(folder) if path.suffix.lower() in PHOTO_SUFFIXES and not is_label(path)]
    if not found:
        raise InputError(f"--photos {folder}: holds no photo ({', '.join(PHOTO_SUFFIXES)}); give another folder")
    return found


def gather(data: Data | None, folders: list[Path], limit: int | None) -> tuple[list[Path], str]:
    """The pool, the first `limit` of each source, and in words how many come from where.

    Raises InputError for fewer than two photos.
    """
    sources, tested = {str(folder): photos_below(folder) for folder in folders}, []
    if data:
        sources = {data.words: [face.photo for part in ("train", "val") for face in data.parts[part]], **sources}
        tested = [face.photo for face in data.parts["test"]]
    sizes, digests = {stat(photo).st_size for photo in tested}, {_digest(photo) for photo in tested}
    pool, words, left_out = {}, [], 0
    for source, photos in sources.items():
        new = [photo for photo in photos if os.path.realpath(photo) not in pool]  # a folder may be named twice
        kept = [p for p in new if stat(p).st_size not in sizes or _digest(p) not in digests]
        left_out += len(new) - len(kept)
        pool |= {os.path.realpath(photo): photo for photo in kept[:limit]}
        words.append(f"{len(kept[:limit])} of {source}")
    if len(pool) < 2:
        raise InputError(f"{len(pool)} photo(s) are too few for batch norm; give more, or a larger --limit")
    copies = f", {left_out} copies of its test photos left out" if left_out else ""
    return list(pool.values()), " + ".join(words) + copies


def _digest(photo: Path) -> bytes:
    return hashlib.sha256(photo.read_bytes()).digest()


def load(photos: list[Path], size: int, cache: Path) -> np.ndarray:
    """The decoded photos, memory-mapped, N x size x size x 3 uint8. Raises InputError for unusable files."""
    facts = ["masked_ssl pool", size, CACHE_VERSION]
    decode = lambda i: {"images": square(read_photo(photos[i]), size)}  # noqa: E731
    return open_cache(cache, photos, facts, len(photos), decode, "decoding photos")["images"]


class MaskedPhotos:
    """Photos, each with patches hidden. Patches, and which half is mirrored (ours), depend on seed, epoch and photo."""

    def __init__(
        self, images: np.ndarray, names: list[str], region: tuple[int, int], ratio: float, *, flip: bool, seed: int
    ):
        self.images, self.names, self.region, self.ratio = images, names, region, ratio
        self.flip, self.seed = flip, seed

    def __len__(self) -> int:
        return len(self.names)

    def batch(self, indices: list[int] | np.ndarray, epoch: int) -> tuple[Tensor, Tensor]:
        """B indices -> images B x 3 x size x size uint8 and masks B x 1 x size x size bool, True where hidden."""
        images = self.images[indices]  # B H W 3
        masks = np.empty((len(indices), 1, *images.shape[1:3]), bool)
        for b, i in enumerate(indices):
            rng = np.random.default_rng([self.seed, epoch, i])
            if rng.random() < 0.5 and self.flip:
                images[b] = images[b, :, ::-1]
            masks[b, 0] = draw_mask(rng, images.shape[1], self.region, self.ratio)
        return torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(masks)

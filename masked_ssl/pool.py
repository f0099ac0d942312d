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
from torch.utils.data import Dataset

from common.cache import Arrays, cache_key, open_cache, stat
from common.cli import InputError
from common.images import PHOTO_SUFFIXES, cannot_list, read_photo
from masked_ssl.dataset import Data
from masked_ssl.masking import draw_mask
from masked_ssl.reading import CACHE_VERSION, square


def photos_below(folder: Path) -> list[Path]:
    """Every photo in a folder and its subfolders, sorted; CelebAMask-HQ's and LaPa's labels are left out.

    Linked folders count, as long as they do not lead back to where they are. Raises InputError if there is none.
    """
    if not folder.is_dir():
        raise InputError(f"--photos {folder}: no such folder; give folders of photos")
    only = {"CelebA-HQ-img", "images"}  # beside CelebAMask-HQ-mask-anno/ and labels/
    found, seen = [], set()
    for root, folders, names in os.walk(folder, onerror=cannot_list, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        if only & set(folders) and {"CelebAMask-HQ-mask-anno", "labels"} & set(folders):
            folders[:] = only & set(folders)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [
            Path(root, name)
            for name in sorted(names)
            if not name.startswith(".") and Path(name).suffix.lower() in PHOTO_SUFFIXES
        ]
    if not found:
        raise InputError(f"--photos {folder}: holds no photo ({', '.join(PHOTO_SUFFIXES)}); give another folder")
    return found


def gather(data: Data | None, folders: list[Path]) -> tuple[list[Path], int]:
    """The pool, and how many photos were left out because they are test photos of `data`, or copies of them."""
    photos = [face.photo for part in ("train", "val") for face in data.parts[part]] if data else []
    for folder in folders:
        photos += photos_below(folder)
    photos = list({os.path.realpath(photo): photo for photo in photos}.values())  # a folder may be named twice
    tested = [face.photo for face in data.parts["test"]] if data else []
    sizes = {stat(photo).st_size for photo in tested}
    digests = {_digest(photo) for photo in tested}
    pool = [p for p in photos if stat(p).st_size not in sizes or _digest(p) not in digests]
    return pool, len(photos) - len(pool)


def _digest(photo: Path) -> bytes:
    return hashlib.sha256(photo.read_bytes()).digest()


def identity(photo: Path) -> str:
    """By what train.py recognises a photo that step 1 has seen: its name and size in bytes."""
    return f"{photo.name}:{stat(photo).st_size}"


def load(photos: list[Path], size: int, cache: Path) -> Arrays:
    """The decoded photos, memory-mapped; builds their cache if need be. Raises InputError for unusable files."""
    key = cache_key(photos, "masked_ssl pool", size, CACHE_VERSION)
    fields = {"images": ((size, size, 3), "uint8")}
    decode = lambda i: {"images": square(read_photo(photos[i]), size)}  # noqa: E731
    return open_cache(cache, key, len(photos), fields, decode, "decoding photos")


class MaskedPhotos(Dataset):
    """dataset[[i, j, ...]] -> images B x 3 x size x size uint8 and masks B x 1 x size x size bool, True where hidden.

    Patches, and which half of the photos is mirrored (ours), depend on seed, epoch and photo alone, so neither the
    number of loader processes nor a resumed run changes them. Set `epoch` before each pass.
    """

    def __init__(
        self,
        arrays: dict[str, np.ndarray],
        photos: list[Path],
        region: tuple[int, int],
        ratio: float,
        *,
        flip: bool = False,
        seed: int = 0,
    ):
        self.arrays, self.photos, self.region, self.ratio = arrays, photos, region, ratio
        self.flip, self.seed, self.epoch = flip, seed, 0

    def __len__(self) -> int:
        return len(self.photos)

    def name(self, i: int) -> str:
        """For messages."""
        return self.photos[i].name

    def __getitem__(self, batch: list[int]) -> tuple[Tensor, Tensor]:
        images = self.arrays["images"][batch]  # B H W 3
        masks = np.empty((len(batch), 1, *images.shape[1:3]), bool)
        for b, i in enumerate(batch):
            rng = np.random.default_rng([self.seed, self.epoch, i])
            if rng.random() < 0.5 and self.flip:
                images[b] = images[b, :, ::-1]
            masks[b, 0] = draw_mask(rng, images.shape[1], self.region, self.ratio)
        return torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(masks)

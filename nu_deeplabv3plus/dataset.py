"""Faces with 18 binary part masks at 128 x 128 px (Sec. 3.1, 3.2), read from CelebAMask-HQ's own layout:

    CelebAMask-HQ/
      CelebA-HQ-img/0.jpg, 1.jpg, ...                              photos
      CelebAMask-HQ-mask-anno/0/00000_skin.png, 00000_nose.png ... masks, 0 or 255; a part that is absent has no file

The paper does not name its 4,000 images; its table lists CelebAMask-HQ's 18 parts in that data set's order, three of them
under another name (README). Get it from https://github.com/switchablenorms/CelebAMask-HQ: 30,000 faces, non-commercial
research and education only, no redistribution. Unpack it to data/CelebAMask-HQ in this folder or give its path:

    python nu_deeplabv3plus/dataset.py --data PATH     verify and describe a folder, draw figures 1-3
    python nu_deeplabv3plus/dataset.py                 the same for data/CelebAMask-HQ or, without it, generated faces
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from common import celebamask, cli, pictures
from common.cache import cache_key, open_cache
from common.celebamask import FLIP_PAIRS, FaceFiles
from common.cli import InputError
from common.data import split_in_two
from common.faces import PARTS, write_celebamask
from common.images import read_mask, read_photo

HERE = Path(__file__).resolve().parent
SIZE = 128  # Sec. 3.1
VAL_FRACTION = 0.2  # Sec. 3.2
N_GENERATED = 500  # ours: faces painted when there is no data
CACHE_VERSION = 1  # counts up when decode() changes

PALETTE = np.array(
    [(0, 0, 0), (236, 188, 160), (214, 120, 92), (70, 70, 80), (40, 120, 220), (60, 200, 240), (120, 80, 30), (190, 140, 60),
     (250, 130, 190), (200, 70, 140), (120, 20, 40), (230, 60, 70), (170, 20, 90), (120, 70, 200), (240, 220, 60),
     (90, 240, 200), (150, 240, 80), (240, 150, 40), (60, 140, 90)],
    np.uint8,
)  # background, then PARTS


def locate(data: Path | None) -> tuple[Path, str]:
    """The folder to read and a line that says which it is: --data, else data/CelebAMask-HQ, else generated faces."""
    if data is not None:
        return data, str(data)
    if (HERE / "data" / "CelebAMask-HQ").is_dir():
        return HERE / "data" / "CelebAMask-HQ", "data/CelebAMask-HQ of this folder"
    try:
        folder = write_celebamask(HERE / "data" / "generated", n=N_GENERATED, size=SIZE)
    except (OSError, ValueError) as error:
        raise InputError(f"generated faces: {error}; give real ones with --data") from None
    return folder, f"{N_GENERATED} GENERATED faces (no --data and no {HERE.name}/data/CelebAMask-HQ)"


def decode(face: FaceFiles, size: int, mask_shape: tuple[int, int] | None = None) -> dict[str, np.ndarray]:
    """image: size x size x 3 uint8, antialiased; masks: 18 x size x size / 8 uint8, nearest, eight pixels a byte.

    `mask_shape`: H, W that every mask file must have. Raises InputError, naming the file, for what cannot be used.
    """
    photo = read_photo(face.photo)
    image = photo.resize((size, size), Image.Resampling.BILINEAR)  # Pillow widens the kernel when it shrinks
    masks = np.zeros((len(PARTS), size, size), bool)
    for part, path in face.masks.items():
        mask = read_mask(path, mask_shape)
        if photo.width * mask.shape[0] != photo.height * mask.shape[1]:
            raise InputError(f"{path}: is {mask.shape[1]} x {mask.shape[0]} px, another shape than its photo of "
                             f"{photo.width} x {photo.height}; give both the same width to height")
        masks[PARTS.index(part)] = np.asarray(Image.fromarray(mask).resize((size, size), Image.Resampling.NEAREST))
    return {"images": np.asarray(image), "masks": np.packbits(masks, axis=-1)}


def first_mask_shape(faces: list[FaceFiles]) -> tuple[int, int]:
    """H, W of the first mask: CelebAMask-HQ's are 512 x 512, all of one size."""
    return read_mask(next(iter(next(face for face in faces if face.masks).masks.values()))).shape


class FaceParts(Dataset):
    """dataset[[i, j, ...]] -> images B x 3 x size x size and masks B x 18 x size x size, both uint8 (0..255 and 0/1).

    A whole batch is one gather from the memory-mapped cache; images come out channels_last.

    augment (Sec. 3.2, "Data Augmentation"): `flip` adds the mirrored faces to the set, which doubles it, and leaves each
    mask in its channel, as the paper does: a mirrored left eye stays in channel l_eye, though it now looks like a right eye.
    `flip-swap` also swaps the left and right channels. `none` is the paper's better run.
    """

    def __init__(self, cache: dict[str, np.ndarray], positions: list[int], ids: list[int], augment: str = "none"):
        self.images, self.masks = cache["images"], cache["masks"]
        self.positions, self.ids, self.augment = np.array(positions, dtype=np.int64), ids, augment
        self.swapped = np.arange(len(PARTS))
        for left, right in FLIP_PAIRS:
            self.swapped[[left, right]] = right, left

    def __len__(self) -> int:
        return len(self.positions) * (1 if self.augment == "none" else 2)

    def name(self, i: int) -> str:
        """For messages: `1234.jpg`, or `1234.jpg mirrored`."""
        n = len(self.positions)
        return f"{self.ids[self.positions[i % n]]}.jpg" + (" mirrored" if i >= n else "")

    def __getitem__(self, batch: list[int]) -> tuple[Tensor, Tensor]:
        batch = np.asarray(batch)
        positions = self.positions[batch % len(self.positions)]
        images = self.images[positions]  # B H W 3
        masks = np.unpackbits(self.masks[positions], axis=-1)  # B 18 H W
        mirrored = batch >= len(self.positions)
        if mirrored.any():
            images[mirrored] = images[mirrored, :, ::-1]
            flipped = masks[mirrored][..., ::-1]
            masks[mirrored] = flipped[:, self.swapped] if self.augment == "flip-swap" else flipped
        return torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(masks)


def load(folder: Path, size: int, cache: Path, limit: int | None = None) -> tuple[dict[str, np.ndarray], list[int]]:
    """The decoded cache of a folder and the ids of its faces; builds the cache if it is not there.

    Raises InputError for unusable folders and files; the first face without any mask is named.
    """
    faces = celebamask.list_celebamask(folder)[:limit]
    bare = [face for face in faces if not face.masks]
    if bare:
        raise InputError(f"{bare[0].photo}: has no mask at all, like {len(bare)} of {len(faces)} photos; add its masks to "
                         "CelebAMask-HQ-mask-anno or remove the photo")
    mask_shape = first_mask_shape(faces)
    files = [path for face in faces for path in (face.photo, *face.masks.values())]
    fields = {"images": ((size, size, 3), "uint8"), "masks": ((len(PARTS), size, size // 8), "uint8")}
    key = cache_key(files, size, PARTS, CACHE_VERSION)
    arrays = open_cache(cache, key, len(faces), fields, lambda i: decode(faces[i], size, mask_shape))
    return arrays, [face.id for face in faces]


def split(ids: list[int], seed: int) -> dict[str, list[int]]:
    """train and val positions, 80/20 at random (Sec. 3.2); raises InputError if a side would be too small."""
    train, val = split_in_two(len(ids), VAL_FRACTION, seed)
    if len(train) < 2 or not val:
        raise InputError(f"{len(ids)} faces are too few for an 80/20 split; at least 3 are needed")
    return {"train": train, "val": val, "all": list(range(len(ids)))}

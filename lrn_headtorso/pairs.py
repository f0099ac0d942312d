"""Photos and their masks on disk: which file belongs to which, and what has no partner.

    FOLDER/
      photos/NAME.jpg      photos; also in subfolders, and LFW's own lfw/First_Last/First_Last_0001.jpg
      cutouts/NAME.png     RGBA cut-outs, alpha = mask; also NAME-removebg-preview.png; or masks, 8-bit grey

A CelebAMask-HQ folder will do too: there the union of all parts is the person.
"""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from common.celebamask import celebamask_root, list_celebamask
from common.cli import InputError
from common.data import identity
from common.images import PHOTO_SUFFIXES, files_below, name_of, read_mask, read_photo, reason

PHOTO_FOLDERS = ("photos", "lfw", "lfw-deepfunneled", "lfw_funneled")
CUTOUT_FOLDERS = ("cutouts", "masks")


class Pair(NamedTuple):
    """A photo and the one cut-out, or the part masks, that its mask is made of."""

    name: str  # of the photo, without suffix
    photo: Path
    masks: tuple[Path, ...]

    @property
    def identity(self) -> str:
        """How a run recognises the picture (common/data.py)."""
        return identity(self.photo, self.masks)


def list_pairs(folder: Path) -> tuple[list[Pair], list[Path]]:
    """The photos of a folder with their masks, by name (CelebAMask-HQ: by id), and the files without a partner.

    Raises InputError if there is no pair, or if two files share a name.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give the one with photos/ and cutouts/ in it, or CelebAMask-HQ")
    if celebamask_root(folder):
        faces = list_celebamask(folder)
        pairs = [Pair(str(face.id), face.photo, tuple(face.masks.values())) for face in faces if face.masks]
        return pairs, [face.photo for face in faces if not face.masks]
    photos, cutouts = _by_name(folder, PHOTO_FOLDERS), _by_name(folder, CUTOUT_FOLDERS)
    pairs = [Pair(name, photos[name], (cutouts[name],)) for name in sorted(photos.keys() & cutouts.keys())]
    if not pairs:
        raise InputError(
            f"{folder}: {len(photos)} photo(s) in {' or '.join(PHOTO_FOLDERS[:2])}/ and {len(cutouts)} cut-out(s) in "
            "cutouts/, but no two of the same name; give a folder with photos/NAME.jpg and cutouts/NAME.png"
        )
    without_cutout, without_photo = sorted(photos.keys() - cutouts.keys()), sorted(cutouts.keys() - photos.keys())
    return pairs, [photos[name] for name in without_cutout] + [cutouts[name] for name in without_photo]


def _by_name(folder: Path, subfolders: tuple[str, ...]) -> dict[str, Path]:
    """name -> file of every picture below folder/subfolder; raises InputError if two share a name."""
    found: dict[str, Path] = {}
    files = [path for sub in subfolders for path in files_below(folder / sub)]
    for path in (path for path in files if path.suffix.lower() in PHOTO_SUFFIXES):
        name = re.sub(r"(-removebg(-preview)?)+( ?\(\d+\))?$", "", name_of(path))  # remove.bg's and browsers'
        if name in found:
            raise InputError(f"{path}: has the name of {found[name]}; pairs go by name, rename one of them")
        found[name] = path
    return found


def read_alpha(path: Path) -> np.ndarray:
    """A cut-out's alpha channel, H x W uint8; of a grey picture, or one whose alpha is 255 throughout, the mask itself:
    grey values are alpha. Raises InputError for anything else."""
    try:
        with Image.open(path) as image:
            if image.has_transparency_data:
                alpha = np.asarray(image.convert("RGBA").getchannel("A"))
                if alpha.min() < 255:
                    return alpha
            if image.mode == "L" and image.format != "JPEG":
                grey = np.asarray(image)
                if grey.max() >= 20:  # else 0 and 1, or class numbers of a merged mask: read_mask() says so
                    return grey
    except Exception as error:  # decoders of broken files raise a dozen kinds
        raise InputError(f"{path}: cannot be read as an image ({reason(path, error)})") from None
    return read_mask(path) * np.uint8(255)


def read_pair(pair: Pair) -> tuple[Image.Image, np.ndarray]:
    """The photo and its alpha, h x w uint8: of the photo's proportions, but often smaller.

    Raises InputError, naming the file, for what cannot be used.
    """
    photo, alpha = read_photo(pair.photo), None
    for path in pair.masks:
        if len(pair.masks) == 1:
            part = read_alpha(path)
        else:
            part = read_mask(path, None if alpha is None else alpha.shape) * np.uint8(255)
        h, w = part.shape
        if abs(photo.width * h / photo.height - w) > 1 + photo.width / photo.height:  # remove.bg's previews are rounded
            raise InputError(
                f"{path}: is {w} x {h} px, another shape than its photo of {photo.width} x {photo.height}; give both "
                "the same width to height"
            )
        alpha = part if alpha is None else np.maximum(alpha, part)
    return photo, alpha

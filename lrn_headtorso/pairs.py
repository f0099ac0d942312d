"""Photos and their masks on disk: which file belongs to which, and what has no partner."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from common.celebamask import list_whole_faces, unused_files
from common.cli import InputError
from common.images import PHOTO_SUFFIXES, files_below

PHOTO_FOLDERS = ("photos", "lfw", "lfw-deepfunneled", "lfw_funneled")
CUTOUT_FOLDERS = ("cutouts", "masks")


class Pair(NamedTuple):
    """A photo and the one cut-out, or the part masks, that its mask is made of."""

    name: str  # of the photo, without suffix
    photo: Path
    masks: tuple[Path, ...]  # the cut-out, or CelebAMask-HQ's parts, whose union is the person


class Listing(NamedTuple):
    """What a folder holds."""

    pairs: list[Pair]  # sorted by name (CelebAMask-HQ: by id)
    photos_alone: list[Path]  # without a cut-out
    cutouts_alone: list[Path]  # without a photo


def files(pairs: list[Pair]) -> list[Path]:
    """All that the pictures are decoded from."""
    return [path for pair in pairs for path in (pair.photo, *pair.masks)]


def list_pairs(folder: Path) -> Listing:
    """The photos of a folder with their masks, and what has no partner. Raises InputError if there is no pair."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give the one with photos/ and cutouts/ in it, or CelebAMask-HQ")
    if (folder / "CelebA-HQ-img").is_dir() or (folder / "CelebAMask-HQ").is_dir():
        found = list_whole_faces(folder)
        pairs = [Pair(str(face.id), face.photo, tuple(face.masks.values())) for face in found if face.masks]
        alone = [face.photo for face in found if not face.masks]
        return Listing(pairs, alone, unused_files(folder, found))
    photos = _by_name(folder, PHOTO_FOLDERS)
    cutouts = _by_name(folder, CUTOUT_FOLDERS)  # of a JPEG read_mask() says what is wrong with it
    pairs = [Pair(name, photos[name], (cutouts[name],)) for name in sorted(photos.keys() & cutouts.keys())]
    if not pairs:
        raise InputError(
            f"{folder}: {len(photos)} photo(s) in {' or '.join(PHOTO_FOLDERS[:2])}/ and {len(cutouts)} cut-out(s) in "
            "cutouts/, but no two of the same name; give a folder with photos/NAME.jpg and cutouts/NAME.png"
        )
    return Listing(
        pairs,
        [photos[name] for name in sorted(photos.keys() - cutouts.keys())],
        [cutouts[name] for name in sorted(cutouts.keys() - photos.keys())],
    )


def _by_name(folder: Path, subfolders: Iterable[str]) -> dict[str, Path]:
    """name -> file of every picture below folder/subfolder; raises InputError if two share a name."""
    found: dict[str, Path] = {}
    paths = [path for sub in subfolders for path in files_below(folder / sub)]
    for path in paths:
        if path.suffix.lower() not in PHOTO_SUFFIXES:
            continue
        name = re.sub("(-removebg(-preview)?)+$", "", path.stem)  # what remove.bg appends to its downloads
        if name in found:
            raise InputError(f"{path}: has the name of {found[name]}; pairs go by name, rename one of them")
        found[name] = path
    return found

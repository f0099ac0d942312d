"""CelebAMask-HQ's layout on disk: what several of the papers train on, and the others can be tried on.

    CelebAMask-HQ/
      CelebA-HQ-img/0.jpg ... 29999.jpg                            photos, 1024 x 1024
      CelebAMask-HQ-mask-anno/0/00000_skin.png ... 14/29999_*.png  masks, 512 x 512, black and white, folder id // 2000

A part that a face lacks has no file. The raw masks overlap: skin lies under eyes, brows, nose and lips.
Get it from https://github.com/switchablenorms/CelebAMask-HQ; non-commercial research and education only, and the data
may not be passed on. Lee et al., "MaskGAN", CVPR 2020.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from common.cli import InputError
from common.images import files_below

PARTS = ("skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear", "mouth", "u_lip", "l_lip",
         "hair", "hat", "ear_r", "neck_l", "neck", "cloth")  # fmt: skip
# (index, index) of the left/right pairs in PARTS: a mirrored left eye is a right eye
FLIP_PAIRS = tuple((PARTS.index(f"l_{part}"), PARTS.index(f"r_{part}")) for part in ("eye", "brow", "ear"))
UNUSED_SHOWN = 20  # of the files that belong to no face


class FaceFiles(NamedTuple):
    """A face's photo, and the masks that it has by part."""

    id: int
    photo: Path
    masks: dict[str, Path]  # part -> file, only the parts that this face has


def list_celebamask(folder: Path) -> list[FaceFiles]:
    """The faces of a CelebAMask-HQ folder (or of the folder that holds it), sorted by id.

    Raises InputError if there are no photos or no masks. Faces without any mask are listed with an empty dict; masks
    without a photo are left out (`unused_files` names them).
    """
    folder = _root(folder)
    if not folder.is_dir():
        raise InputError(
            f"{folder}: no such folder; give the one with CelebA-HQ-img/ and CelebAMask-HQ-mask-anno/ in it"
        )
    photos = {}
    for name in _listdir(folder / "CelebA-HQ-img"):
        stem, suffix = os.path.splitext(name)
        if stem.isdecimal() and suffix.lower() in (".jpg", ".jpeg", ".png"):
            photos[int(stem)] = folder / "CelebA-HQ-img" / name
    if not photos:
        raise InputError(
            f"{folder}: looked for CelebA-HQ-img/0.jpg, 1.jpg, ... and found none; give CelebAMask-HQ's folder"
        )
    masks: dict[int, dict[str, Path]] = {id: {} for id in photos}
    for id, part, path in _mask_files(folder):
        if id in masks:
            masks[id][part] = path
    if not any(masks.values()):
        raise InputError(
            f"{folder}: has photos, but of CelebAMask-HQ-mask-anno/0/00000_skin.png, ... not a mask of any of them; "
            "unpack the annotations too"
        )
    return [FaceFiles(id, photos[id], masks[id]) for id in sorted(photos)]


def list_whole_faces(folder: Path) -> list[FaceFiles]:
    """list_celebamask() for those who need all parts; raises InputError too if no face at all has a mask of skin."""
    faces = list_celebamask(folder)
    if not any("skin" in face.masks for face in faces):
        parts = sorted({part for face in faces for part in face.masks})
        raise InputError(
            f"{folder}: not one of its {len(faces)} faces has a mask of skin, only of {', '.join(parts)}; unpack the "
            "annotations of all parts"
        )
    return faces


def unused_files(folder: Path, faces: list[FaceFiles]) -> list[Path]:
    """The files of the two folders that belong to none of `faces`: masks without a photo, unknown names, duplicates."""
    used = {path for face in faces for path in (face.photo, *face.masks.values())}
    folder = _root(folder)
    photos = [folder / "CelebA-HQ-img" / name for name in _listdir(folder / "CelebA-HQ-img")]
    return [path for path in photos + files_below(folder / "CelebAMask-HQ-mask-anno") if path not in used]


def print_unused(folder: Path) -> None:
    """Name the files that belong to no face of the folder, the first UNUSED_SHOWN one by one."""
    unused = unused_files(folder, list_celebamask(folder))
    for path in unused[:UNUSED_SHOWN]:
        print(f"{path}: not used (its photo is missing, its name is unknown, or another file is in its place)")
    if len(unused) > UNUSED_SHOWN:  # all annotations beside a part of the photos
        print(f"... and {len(unused) - UNUSED_SHOWN} more files that are not used")


def _root(folder: Path) -> Path:
    return folder / "CelebAMask-HQ" if (folder / "CelebAMask-HQ").is_dir() else folder


def _mask_files(folder: Path) -> Iterator[tuple[int, str, Path]]:
    """id, part, path of every file that is named like a mask, whatever subfolder it is in."""
    for path in files_below(folder / "CelebAMask-HQ-mask-anno"):
        id, _, part = path.stem.partition("_")
        if id.isdecimal() and part in PARTS and path.suffix.lower() == ".png":
            yield int(id), part, path


def _listdir(folder: Path) -> list[str]:
    """Sorted names in `folder`, hidden ones left out; none if it is not a folder. Raises InputError if unreadable."""
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith(".")) if folder.is_dir() else []
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror}; make it readable") from None

"""Reading photos and masks from disk, with errors that name the file."""

import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from common.cli import InputError

# Pillow warns above 89 megapixels, which some phones have, and refuses twice as many, which read_photo() reports
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def read_photo(path: Path) -> Image.Image:
    """The photo as RGB, turned upright by its EXIF orientation; raises InputError if it cannot be decoded."""
    try:
        with Image.open(path) as image:
            image = ImageOps.exif_transpose(image)
            if image.mode == "F":
                raise ValueError("its pixels are floats, of which nothing says what is white: save it with 8 bits")
            if image.mode.startswith("I"):  # 16 bits a pixel: Pillow would clip them to white
                image = Image.fromarray((np.asarray(image).astype(np.float32) / 257).clip(0, 255).astype(np.uint8))
            return image.convert("RGB")
    except Exception as error:  # decoders of broken files raise a dozen kinds
        raise InputError(f"{path}: cannot be read as an image ({reason(error)}); replace or remove it") from None


def read_mask(path: Path, shape: tuple[int, int] | None = None) -> np.ndarray:
    """A black and white mask -> H x W bool. Grey (8 and 16 bits), palette and three-channel files are all accepted.

    Raises InputError if the file cannot be decoded, holds a value besides 0 and 255 (16 bits: 65535) or anything
    transparent, or is not of `shape` (H, W).
    """
    alpha = None
    try:
        with Image.open(path) as image:
            if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
                alpha = np.asarray(image.convert("RGBA"))[..., 3]
            mask = np.asarray(image if image.mode.startswith("I") else image.convert("L"))
    except Exception as error:  # as above
        raise InputError(f"{path}: cannot be read as an image ({reason(error)}); replace or remove it") from None
    if shape is not None and mask.shape != shape:
        raise InputError(
            f"{path}: is {mask.shape[1]} x {mask.shape[0]} px, the folder's other masks are {shape[1]} x "
            f"{shape[0]}; resize it (nearest) or remove it"
        )
    if alpha is not None and alpha.min() < 255:
        raise InputError(f"{path}: is transparent in places; a mask is black and white, save it without transparency")
    white = (mask == 255) | (mask == 65535)
    grey = mask[~white & (mask != 0)]
    if grey.size:
        raise InputError(
            f"{path}: has the value {grey[0]}; a mask holds 0 and 255 alone (was it saved as JPEG or resized "
            "smoothly? save it as PNG, resize with nearest)"
        )
    return white


def cannot_list(error: OSError) -> None:
    """For os.walk, which would pass over a folder that it cannot read and leave its masks out in silence."""
    if not isinstance(error, FileNotFoundError):
        raise InputError(f"{error.filename}: {error.strerror}; make it readable, or give another folder") from None


def files_below(folder: Path) -> list[Path]:
    """Every file below a folder, sorted, hidden ones left out; raises InputError if a folder cannot be read.

    Linked folders count, as long as they do not lead back to where they are.
    """
    found, seen = [], set()
    for root, folders, names in os.walk(folder, onerror=cannot_list, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        found += [Path(root, name) for name in names if not name.startswith(".")]
    return sorted(found)


def files_in(folder: Path) -> list[Path]:
    """What is in a folder, sorted by name, hidden files left out; raises InputError if it cannot be read."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror}; make it readable, or give another folder") from None


def list_photos(path: Path) -> list[Path]:
    """The photo itself, or the photos of a folder, sorted by name; raises InputError if there is none."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(f"{path}: no such file or folder; give a photo or a folder of photos")
    photos = [photo for photo in files_in(path) if photo.suffix.lower() in PHOTO_SUFFIXES]
    if not photos:
        raise InputError(f"{path}: holds no photo ({', '.join(PHOTO_SUFFIXES)}); give another folder")
    return photos


class OwnPhotos:
    """A user's photos, for the scripts that make pictures of them: `for name, photo in photos`, with a progress bar.

    name: the file's without its suffix, with it if two photos have one name; photo: RGB, upright. One that cannot
    be read is passed over; call raise_unreadable() at the end. Raises InputError at once if there is no photo, or if
    `out` is where they lie: pictures could replace them, or be taken for photos the next time.
    """

    def __init__(self, path: Path, out: Path):
        self.paths, self.unreadable = list_photos(path), []
        found = files_in(path) if path.is_dir() else []
        others = [file.name for file in found if file.suffix.lower() not in PHOTO_SUFFIXES and file.is_file()]
        if others:
            more = f" and {len(others) - 1} more files" if len(others) > 1 else ""
            print(f"{others[0]}{more}: left out, for photos are {', '.join(PHOTO_SUFFIXES)}")
        if out.resolve() in {path.resolve(), *(photo.resolve().parent for photo in self.paths)}:
            raise InputError(f"--out {out}: is the folder of the photos; give another one")

    def __iter__(self) -> Iterator[tuple[str, Image.Image]]:
        stems = {path.stem.casefold() for path in self.paths}  # disks of Windows and Macs take a and A for one name
        unique = len(stems) == len(self.paths)
        for path in tqdm(self.paths, "photos", disable=None):
            try:
                photo = read_photo(path)
            except InputError as error:
                self.unreadable.append(str(error))
                continue
            yield path.stem if unique else path.name, photo

    @property
    def done(self) -> int:
        """How many could be read."""
        return len(self.paths) - len(self.unreadable)

    def raise_unreadable(self) -> None:
        """Raise InputError with the names of those that could not be read, if there are any."""
        if self.unreadable:
            raise InputError("; ".join(self.unreadable))


def reason(error: Exception) -> str:
    """What an error says, in a few words and without the path that Pillow puts into it."""
    text = (getattr(error, "strerror", None) or str(error)).split("\n")[0]
    return "not an image file" if "cannot identify" in text else text[:80] or type(error).__name__

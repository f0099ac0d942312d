"""Reading photos and masks from disk, with errors that name the file; a user's own photos, and what is made of them."""

import io
import os
import sys
import unicodedata
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps
from tqdm import tqdm

from common.cli import InputError, Parser, add_machine_arguments, number, out_of_memory
from common.device import keep_freed_memory
from common.pictures import make_folder, overlay, save_grid, save_image, save_label

# Pillow warns above 89 megapixels, which some phones have, and refuses twice as many, which read_photo() reports
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
PHOTO_SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".webp", ".avif", ".tif", ".tiff")
LEAST_SHARE = 0.01  # of a photo: what covers less counts as not found


def read_photo(path: Path) -> Image.Image:
    """The photo as RGB in sRGB, turned upright by its EXIF orientation; transparent parts become white, and their alpha
    (L, 0..255) is kept as .info["alpha"]. Raises InputError if it cannot be decoded."""
    try:
        with Image.open(path) as image:
            ImageOps.exif_transpose(image, in_place=True)
            image.load()
        if image.mode == "F":
            raise ValueError("its pixels are floats, of which nothing says what is white: save it with 8 bits")
        if image.mode.startswith("I"):  # 16 bits a pixel: Pillow would clip them to white
            image = Image.fromarray((np.asarray(image).astype(np.float32) / 257).clip(0, 255).astype(np.uint8))
        alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
        photo = to_srgb(image)
        if alpha is not None and alpha.getextrema()[0] < 255:
            photo = Image.composite(photo, Image.new("RGB", photo.size, "white"), alpha)
            photo.info["alpha"] = alpha
        return photo
    except Exception as error:  # decoders of broken files raise a dozen kinds
        raise InputError(f"{path}: cannot be read as an image ({reason(path, error)})") from None


def to_srgb(image: Image.Image) -> Image.Image:
    """RGB, by the embedded colour profile if there is one: Display P3 of a phone, Adobe RGB, a printer's CMYK."""
    profile = image.info.get("icc_profile")
    colours = {"RGBA": "RGB", "P": "RGB", "LA": "L", "PA": "RGB"}.get(image.mode, image.mode)
    if profile:
        try:
            source, target = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
            return ImageCms.profileToProfile(image.convert(colours), source, target, outputMode="RGB")
        except (ImageCms.PyCMSError, OSError):  # broken, or of another number of channels: as good as none
            pass
    return image if image.mode == "RGB" else image.convert("RGB")


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


def reason(path: Path, error: Exception) -> str:
    """What an error of Pillow's says, in a few words, and what to do about it."""
    text = (getattr(error, "strerror", None) or str(error)).split("\n")[0]
    if isinstance(error, MemoryError):
        return "too large for the memory: make it smaller"
    if isinstance(error, Image.DecompressionBombError):
        return f"larger than {2 * Image.MAX_IMAGE_PIXELS / 1e6:.0f} megapixels: make it smaller"
    if "cannot identify" in text:
        with open(path, "rb") as file:
            start = file.read(12)
        if start[4:8] == b"ftyp" and start[8:11] in (b"hei", b"hev", b"mif", b"msf"):
            return "HEIC, which Pillow does not read: export it as JPEG"
        return "not an image file; replace or remove it"
    return f"{text[:80] or type(error).__name__}; replace or remove it"


def read_mask(path: Path, shape: tuple[int, int] | None = None) -> np.ndarray:
    """A black and white mask -> H x W bool. Grey (8 and 16 bits), palette and three-channel files, and masks of 0 and 1
    are all accepted.

    Raises InputError if the file cannot be decoded, holds another colour or anything transparent, or is not of `shape`
    (H, W).
    """
    try:
        with Image.open(path) as file:
            clear = file.has_transparency_data and file.convert("RGBA").getchannel("A").getextrema()[0] < 255
            grey = file.mode in ("1", "L") or file.mode.startswith("I")
            mask = np.asarray(file if grey else file.convert("RGB"))
    except Exception as error:  # as above
        raise InputError(f"{path}: cannot be read as an image ({reason(path, error)})") from None
    if shape is not None and mask.shape[:2] != shape:
        raise InputError(
            f"{path}: is {mask.shape[1]} x {mask.shape[0]} px, the folder's other masks are {shape[1]} x "
            f"{shape[0]}; resize it (nearest) or remove it"
        )
    if clear:
        raise InputError(f"{path}: is transparent in places; a mask is black and white, save it without transparency")
    if mask.max() == 1:
        mask = mask * np.uint8(255)
    white, black = (mask == 255) | (mask == 65535), mask == 0
    if mask.ndim == 3:
        white, black = white.all(-1), black.all(-1)
    other = mask[~white & ~black]
    if other.size:
        if mask.ndim == 2 and mask.max() < 20:
            raise InputError(
                f"{path}: has values up to {mask.max()}, the class numbers of a merged mask; give the masks of single "
                "parts, black and white"
            )
        what = f"value {other[0]}" if mask.ndim == 2 else f"colour {tuple(other[0].tolist())}"
        raise InputError(
            f"{path}: has the {what}; a mask holds black and white alone (was it saved as JPEG or resized smoothly? "
            "save it as PNG, resize with nearest)"
        )
    return white


# ---- Files in folders ----------------------------------------------------------------------------------------------


def files_below(folder: Path) -> list[Path]:
    """Every file below a folder, sorted, hidden ones left out; raises InputError if a folder cannot be read.

    Linked folders count, as long as they do not lead back to where they are.
    """

    def cannot_list(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise InputError(f"{error.filename}: {error.strerror}; make it readable, or give another folder") from None

    found, seen = [], set()
    for root, folders, names in os.walk(folder, onerror=cannot_list, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(root, name) for name in names if not name.startswith(".")]
    return sorted(found)


def name_of(path: Path) -> str:
    """A file's name without its suffix, by which photos and masks go together: macOS writes accents as letters of their
    own, others do not."""
    return unicodedata.normalize("NFC", path.stem)


def list_photos(path: Path) -> list[Path]:
    """The photo itself, or the photos of a folder, sorted by name; raises InputError if there is none."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(f"{path}: no such file or folder; give a photo or a folder of photos")
    below = [p for p in files_below(path) if p.suffix.lower() in PHOTO_SUFFIXES]
    photos = [p for p in below if p.parent == path]
    if not photos:
        inside = f", but {below[0].parent} does; give that" if below else f" ({', '.join(PHOTO_SUFFIXES)})"
        raise InputError(f"{path}: holds no photo{inside}")
    return photos


# ---- A user's photos -----------------------------------------------------------------------------------------------


def add_crop_argument(add: Callable) -> None:
    """--crop, for an argument group's add_argument."""
    add("--crop", nargs=4, type=number(float, 0, 1), default=[0.0, 0.0, 1.0, 1.0], metavar=("L", "T", "R", "B"),
        help="use this part of each photo alone: left, top, right, bottom, as fractions of its sides (default: all; "
        "frame the faces as the training photos do)")  # fmt: skip


def check_crop(crop: list[float]) -> None:
    """Raises InputError for a --crop without area."""
    left, top, right, bottom = crop
    if left >= right or top >= bottom:
        text = " ".join(f"{part:g}" for part in crop)
        raise InputError(f"--crop {text}: keeps nothing; give left < right and top < bottom")


def cropped(photo: Image.Image, crop: list[float]) -> Image.Image:
    """The part of a photo, and of its alpha, that --crop keeps; at least one pixel."""
    if crop == [0, 0, 1, 1]:
        return photo  # without a copy: it may be large
    left, top, right, bottom = (round(part * side) for part, side in zip(crop, 2 * photo.size, strict=True))
    left, top = min(left, photo.width - 1), min(top, photo.height - 1)
    box = (left, top, max(right, left + 1), max(bottom, top + 1))
    part = photo.crop(box)
    if "alpha" in photo.info:
        part.info["alpha"] = photo.info["alpha"].crop(box)
    return part


def add_photo_arguments(parser: Parser, what: str, out: str, picture: str) -> Callable:
    """CHECKPOINT PHOTO..., --crop, --out and the machine's arguments -> the group's add_argument, for the script's own.

    what: of the group's title; out: the default folder; picture: which one --out FILE.png is.
    """
    add = parser.add_argument_group(f"{what} (ours)").add_argument
    add("checkpoint", type=Path, metavar="CHECKPOINT", help="best.pt of a run")
    add("photos", type=Path, nargs="*", metavar="PHOTO", help="photos and folders of photos")
    add_crop_argument(add)
    add("--out", type=Path, default=Path(out), metavar="OUT",
        help=f"a folder; or, for one photo, a file that ends in .png: {picture} (default: ./{out})")  # fmt: skip
    add_machine_arguments(parser)
    return add


class OwnPhotos:
    """A user's photos, for the scripts that make pictures of them: photos.each(work), then photos.end(...).

    `out` is a folder or, for one photo, a file: then .file is its name, else None. Raises InputError at once if there
    is no photo, or if pictures could replace the photos or be taken for photos the next time.
    """

    def __init__(self, paths: list[Path], out: Path, crop: list[float]):
        check_crop(crop)
        if not paths:
            raise InputError(f"no photo is given; type: {Path(sys.argv[0]).name} CHECKPOINT PHOTO [PHOTO ...]")
        self.out, self.crop, self.without, self.failed = out, crop, [], []
        self.paths = [photo for path in paths for photo in list_photos(path)]
        named = {path.name.casefold(): path for path in self.paths}  # some disks: a and A are one
        for path in self.paths:
            if (other := named[path.name.casefold()]) != path:
                why = "have one name, so that the results of one would replace the other's"
                raise InputError(f"{path} and {other}: {why}; give them one by one, each with an --out of its own")
        for folder in filter(Path.is_dir, paths):
            others = sorted({*files_below(folder)} - {*self.paths})
            if others:
                print(f"{folder}: {len(others)} other file(s) are left out, such as {others[0]} (photos are "
                      f"{', '.join(PHOTO_SUFFIXES)}; give subfolders by name)")  # fmt: skip
        self.file = out if out.suffix.lower() in PHOTO_SUFFIXES and not out.is_dir() else None
        if self.file and out.suffix.lower() != ".png":
            raise InputError(f"--out {out}: pictures are written as PNG; give a name that ends in .png, or a folder")
        if self.file and len(self.paths) > 1:
            raise InputError(f"--out {out}: is one file, but there are {len(self.paths)} photos; give a folder")
        if self.file and out.resolve() == self.paths[0].resolve():
            raise InputError(f"--out {out}: is the photo itself; give another name")
        if out.resolve() in {path.resolve().parent for path in self.paths}:
            raise InputError(f"--out {out}: is the folder of the photos; give another one")

    def each(self, work: Callable[[str, Image.Image], float]) -> None:
        """work(name, photo) for each, with a progress bar; it returns which share of the photo was found.

        name: the file's without its suffix, with it if two photos have one name; photo: as read_photo() and --crop give
        it. One that cannot be read, or is too large for the memory, is passed over until the end.
        """
        make_folder(self.file.parent if self.file else self.out)
        keep_freed_memory(False)
        unique = len({path.stem.casefold() for path in self.paths}) == len(self.paths)  # some disks: a and A are one
        for path in tqdm(self.paths, "photos", disable=None):
            try:
                photo = read_photo(path)
            except InputError as error:
                self.failed.append(str(error))
                continue
            try:
                share = work(path.stem if unique else path.name, cropped(photo, self.crop))
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                size = f"{photo.width} x {photo.height} px"
                self.failed.append(f"{path}: out of memory at {size}; make it smaller, or --crop to the face")
                continue
            if share < LEAST_SHARE:
                self.without.append(path.name)

    def save_labels(self, name: str, photo: Image.Image, label: np.ndarray, palette: np.ndarray, legend: dict) -> None:
        """NAME_label.png, NAME_overlay.png and NAME_legend.png, or the overlay alone as --out FILE."""
        image = np.asarray(photo)
        painted = overlay(image, label, palette)
        picture = Image.fromarray(painted)
        if "alpha" in photo.info:  # what was erased stays erased
            picture.putalpha(photo.info["alpha"])
        save_image(self.file or self.out / f"{name}_overlay.png", picture)
        if not self.file:
            save_label(self.out / f"{name}_label.png", label, palette)
            titles = ["photo", "classes"]
            save_grid(self.out / f"{name}_legend.png", [[image, painted]], column_titles=titles, legend=legend, cell=3)

    def end(self, kinds: str, what: str) -> None:
        """Say where the pictures are and in which photos no `what` was found; InputError for those passed over."""
        done = len(self.paths) - len(self.failed)
        if done:
            print(f"{done} photo(s) -> {self.file or f'{self.out}: {kinds}'}")
        if self.without:
            print(f"no {what} covers {LEAST_SHARE:.0%} of {', '.join(self.without)}: crop to the face "
                  "(--crop LEFT TOP RIGHT BOTTOM, as --crop 0.2 0 0.8 0.7)")  # fmt: skip
        if self.failed:
            raise InputError("; ".join(self.failed))

"""The files of one face, in LaPa's or CelebAMask-HQ's layout: listed, read into arrays, and painted as a stand-in.

    LaPa/
      train/images/NAME.jpg     photos of any size: 18,176, and 2,000 in val/, 2,168 in test/
      train/labels/NAME.png     of the same size, one channel, a class of 0 to 10 in each pixel
      val/..., test/...

Names end in _0, _1, ...: HELEN_137346980_1_5.jpg is the sixth warped copy of HELEN's 137346980_1.jpg (likewise AFW_,
IBUG_ and LFPW_), 12708537734_6.jpg the seventh face in the photo 12708537734. So what stands before the last
underscore names a source photo. Liu et al., "A New Dataset and Boundary-Attention Semantic Segmentation for Face
Parsing", AAAI 2020. CelebAMask-HQ's layout is described in common/celebamask.py.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from common import faces
from common.celebamask import PARTS
from common.cli import InputError
from common.data import identity
from common.images import PHOTO_SUFFIXES, files_below, name_of, read_mask, read_photo, reason
from masked_ssl.classes import LAPA, mirrored_classes

SPLITS = ("train", "val", "test")  # LaPa's folders
CACHE_VERSION = 3  # counts up when decode() changes
IGNORED = 255  # label of the pixels beyond a photo's edge


class Face(NamedTuple):
    """A face's photo and its labels."""

    name: str
    photo: Path
    labels: dict[str, Path]  # {"": the label map} of LaPa, {part: mask} of CelebAMask-HQ
    source: str  # faces of one source photo are never parted

    @property
    def files(self) -> list[Path]:
        """The photo, its label map or masks."""
        return [self.photo, *self.labels.values()]

    @property
    def identity(self) -> str:
        """By what a run knows the face again (common/data.py)."""
        return identity(self.photo, self.labels.values())


def list_lapa(folder: Path, part: str) -> list[Face]:
    """The photos in folder/part with their labels, sorted by name; InputError if one has no label, or there is none."""
    images, labels = folder / part / "images", folder / part / "labels"
    photos = {name_of(path): path for path in files_below(images) if path.suffix.lower() in PHOTO_SUFFIXES}
    found = {name_of(path): path for path in files_below(labels) if path.suffix == ".png"}
    if not photos:
        raise InputError(f"{images}: holds no photo; LaPa has {part}/images/NAME.jpg and {part}/labels/NAME.png")
    for name, photo in photos.items():
        if name not in found:
            raise InputError(f"{photo}: has no label {labels / name}.png; unpack the labels too or remove the photo")
    return [Face(name, photos[name], {"": found[name]}, source_of(name)) for name in sorted(photos)]


def source_of(name: str) -> str:
    """HELEN_137346980_1_5 -> HELEN_137346980_1: the photo that a picture was warped, or cut, from."""
    source, _, number = name.rpartition("_")
    return source if source and number.isdecimal() else name


# ---- From files to arrays ------------------------------------------------------------------------------------------


def decode(face: Face, size: int, classes: tuple[str, ...]) -> dict[str, np.ndarray]:
    """images: size x size x 3 uint8, antialiased; labels: size x size uint8, nearest, 255 beyond the photo's edge.

    Raises InputError, naming the file, for what cannot be used.
    """
    photo = read_photo(face.photo)
    label = read_label(face.labels[""], photo) if "" in face.labels else read_parts(face, photo, classes)
    top, left, h, w = fitted(photo.size, size)
    labels = np.full((size, size), IGNORED, np.uint8)
    labels[top : top + h, left : left + w] = Image.fromarray(label).resize((w, h), Image.Resampling.NEAREST)
    return {"images": square(photo, size), "labels": labels}


def read_label(path: Path, photo: Image.Image) -> np.ndarray:
    """LaPa's label file -> H x W uint8; InputError unless it has one channel, its photo's size and classes 0..10."""
    try:
        with Image.open(path) as image:
            label = np.asarray(image)
    except Exception as error:  # decoders of broken files raise a dozen kinds
        raise InputError(f"{path}: cannot be read as an image ({reason(path, error)})") from None
    if label.ndim != 2:
        raise InputError(f"{path}: has {label.shape[2]} channels; LaPa's labels have one, of classes 0..10")
    h, w = label.shape
    if (w, h) != photo.size:
        raise InputError(f"{path}: is {w} x {h} px, its photo {photo.width} x {photo.height}; resize it (nearest)")
    wrong = label[(label < 0) | (label >= len(LAPA))]
    if wrong.size:
        raise InputError(
            f"{path}: has the value {wrong[0]}; expected 0..{len(LAPA) - 1}, LaPa's classes (was it saved as a "
            "picture? save class numbers as PNG)"
        )
    return label.astype(np.uint8)


def read_parts(face: Face, photo: Image.Image, classes: tuple[str, ...]) -> np.ndarray:
    """CelebAMask-HQ's masks of a face -> H x W uint8; raises InputError for masks of several sizes, or none."""
    masks, shape = {}, None
    for part, path in ((part, face.labels[part]) for part in PARTS if part in face.labels):
        masks[part] = read_mask(path, shape)
        h, w = shape = masks[part].shape
        if photo.width * h != photo.height * w:
            raise InputError(
                f"{path}: is {w} x {h} px, another shape than its photo of {photo.width} x {photo.height}; give both "
                "the same width to height"
            )
    if not masks:
        raise InputError(f"{face.photo}: has no mask; add masks to CelebAMask-HQ-mask-anno or remove the photo")
    return merge(masks, classes)


def merge(masks: dict[str, np.ndarray], classes: tuple[str, ...]) -> np.ndarray:
    """Part -> H x W bool, in the order of PARTS -> H x W uint8: later parts lie over earlier ones.

    A part that is no class is background: in LaPa's classes ears, neck, clothes, glasses, hats and jewellery.
    """
    label = np.zeros(next(iter(masks.values())).shape, np.uint8)
    for part, mask in masks.items():
        label[mask] = classes.index(part) if part in classes else 0
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


# ---- Painted faces in LaPa's layout --------------------------------------------------------------------------------


def write_lapa(folder: Path, n: int, size: int) -> Path:
    """n painted faces as LaPa lays them out, and `folder`: eight in ten to train with, one each for val and test.

    Sizes differ around `size`, and not all are square, as LaPa's are; every third face to train with comes again,
    mirrored, as a copy of the same source (see also common/faces.py: write_once).
    """

    def paint(draft: Path) -> None:
        for part in SPLITS:
            (draft / part / "images").mkdir(parents=True)
            (draft / part / "labels").mkdir()
        for i in tqdm(range(n), f"painting {folder.name}", unit="face", disable=None):
            part = "train" if i % 10 < 8 else SPLITS[1 + i % 2]
            rng = np.random.default_rng([i, 1])
            face = faces.generate_face(i, round(size * rng.uniform(0.8, 1.3)))
            image, label = face.image, merge(dict(zip(PARTS, face.masks, strict=False)), LAPA)
            cut = int(rng.integers(0, len(image) // 10))  # a stripe less below or at the side: not square
            image, label = (a[: len(a) - cut] if i % 2 else a[:, cut:] for a in (image, label))
            turned = image[:, ::-1], mirrored_classes(LAPA)[label[:, ::-1]]
            copies = [(image, label), turned] if part == "train" and i % 3 == 0 else [(image, label)]
            for k, (image, label) in enumerate(copies):
                name = f"PAINTED_{i:05d}_{k}"
                Image.fromarray(image.copy()).save(draft / part / "images" / f"{name}.jpg", quality=95)
                Image.fromarray(label.copy()).save(draft / part / "labels" / f"{name}.png")

    return faces.write_once(folder, {"n": n, "size": size, "seed": 0, "version": [faces.VERSION, 2]}, paint)

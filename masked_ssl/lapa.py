"""LaPa's layout on disk, and a painted stand-in for it.

    LaPa/
      train/images/NAME.jpg     photos of any size: 18,176, and 2,000 in val/, 2,168 in test/
      train/labels/NAME.png     of the same size, one channel, a class of 0 to 10 in each pixel
      train/landmarks/NAME.txt  106 points, not used here
      val/..., test/...

Names end in _0, _1, ...: HELEN_137346980_1_5.jpg is the sixth warped copy of HELEN's 137346980_1.jpg (likewise AFW_,
IBUG_ and LFPW_), 12708537734_6.jpg the seventh face in the photo 12708537734. So what stands before the last
underscore names a source photo. Get it from https://github.com/jd-opensource/lapa-dataset; for non-commercial research
and education. Liu et al., "A New Dataset and Boundary-Attention Semantic Segmentation for Face Parsing", AAAI 2020.
"""

from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from common import faces
from common.cli import InputError
from common.faces import write_once
from common.images import PHOTO_SUFFIXES, files_below, reason
from masked_ssl.splits import SPLITS, Face

# left and right by CelebAMask-HQ's names of the same parts; mouth is the inner mouth
CLASSES = ("background", "skin", "l_brow", "r_brow", "l_eye", "r_eye", "nose", "u_lip", "mouth", "l_lip", "hair")


def is_lapa(folder: Path) -> bool:
    """Whether a folder has one of train, val, test with images in it."""
    return any((folder / part / "images").is_dir() for part in SPLITS)


def list_part(folder: Path, part: str) -> list[Face]:
    """The photos in folder/part with their labels, sorted by name; InputError if one has no label, or there is none."""
    images, labels = folder / part / "images", folder / part / "labels"
    names = {path.stem: path for path in files_below(images) if path.suffix.lower() in PHOTO_SUFFIXES}
    found = []
    for name in sorted(names):
        label = labels / f"{name}.png"
        if not label.is_file():
            raise InputError(f"{names[name]}: has no label {label}; unpack the labels too or remove the photo")
        found.append(Face(name, names[name], (("", label),), source_of(name)))
    if not found:
        raise InputError(f"{images}: holds no photo; LaPa has {part}/images/NAME.jpg and {part}/labels/NAME.png")
    return found


def source_of(name: str) -> str:
    """HELEN_137346980_1_5 -> HELEN_137346980_1: the photo that a picture was warped, or cut, from."""
    source, _, number = name.rpartition("_")
    return source if source and number.isdecimal() else name


def read_label(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """A label file -> H x W uint8; raises InputError unless it has one channel, `shape` (H, W) and classes 0..10."""
    try:
        with Image.open(path) as image:
            mode, label = image.mode, np.asarray(image)
    except Exception as error:  # decoders of broken files raise a dozen kinds
        raise InputError(f"{path}: cannot be read as an image ({reason(path, error)})") from None
    if label.ndim != 2:
        raise InputError(f"{path}: has {label.shape[2]} channels ({mode}); LaPa's labels have one, of classes 0..10")
    if label.shape != shape:
        raise InputError(
            f"{path}: is {label.shape[1]} x {label.shape[0]} px, its photo {shape[1]} x {shape[0]}; resize it (nearest)"
        )
    high = len(CLASSES) - 1
    wrong = label[(label < 0) | (label > high)]
    if wrong.size:
        raise InputError(
            f"{path}: has the value {wrong[0]}; expected 0..{high}, LaPa's classes (was it saved as a picture? save "
            "class numbers as PNG)"
        )
    return label.astype(np.uint8)


# ---- Painted faces in this layout ----------------------------------------------------------------------------------


def merge_parts(masks: np.ndarray) -> np.ndarray:
    """18 x H x W bool, CelebAMask-HQ's parts -> H x W uint8 of LaPa's classes, later parts over earlier ones.

    Ears, neck, clothes, glasses, hats and jewellery have no class of their own: they are background.
    """
    label = np.zeros(masks.shape[1:], np.uint8)
    for part, mask in zip(faces.PARTS, masks, strict=True):
        label[mask] = CLASSES.index(part) if part in CLASSES else 0
    return label


def write_generated(folder: Path, n: int, size: int, seed: int = 0) -> Path:
    """n painted faces as LaPa lays them out, and `folder`: eight in ten to train with, one each for val and test.

    Sizes differ around `size`, and not all are square, as LaPa's are; every third face to train with comes again,
    mirrored, as a copy of the same source (see also write_once).
    """

    def paint(draft: Path) -> None:
        for i in tqdm(range(n), f"painting {folder.name}", unit="face", disable=None):
            part = SPLITS[0] if i % 10 < 8 else SPLITS[1 + i % 2]
            _write_face(draft / part, seed + i, size, copies=2 if part == "train" and i % 3 == 0 else 1)

    return write_once(folder, {"n": n, "size": size, "seed": seed, "version": [faces.VERSION, 2]}, paint)


def _write_face(folder: Path, seed: int, size: int, copies: int) -> None:
    rng = np.random.default_rng([seed, 1])
    face = faces.generate_face(seed, round(size * rng.uniform(0.8, 1.3)))
    image, label = face.image, merge_parts(face.masks[: len(faces.PARTS)])
    cut = int(rng.integers(0, image.shape[0] // 10))  # a stripe less below or at the side: not square
    image, label = (a[: a.shape[0] - cut] if seed % 2 else a[:, cut:] for a in (image, label))
    for copy in range(copies):
        if copy:  # the mirror image; what was a left eye is a right one
            image, label = image[:, ::-1], np.array([0, 1, 3, 2, 5, 4, 6, 7, 8, 9, 10], np.uint8)[label[:, ::-1]]
        for sub, array, ending in (("images", image, ".jpg"), ("labels", label, ".png")):
            (folder / sub).mkdir(parents=True, exist_ok=True)
            options = {"quality": 95} if sub == "images" else {}
            Image.fromarray(np.ascontiguousarray(array)).save(
                folder / sub / f"PAINTED_{seed:05d}_{copy}{ending}", **options
            )

"""Faces with a hair mask at 256 x 256 px (Sec. II), read from CelebAMask-HQ's own layout:

    CelebAMask-HQ/
      CelebA-HQ-img/0.jpg, 1.jpg, ...                photos
      CelebAMask-HQ-mask-anno/0/00000_hair.png ...   masks, 0 or 255; a face without hair has no file: its mask is empty

Get it from https://github.com/switchablenorms/CelebAMask-HQ: 30,000 faces, non-commercial research and education only,
no redistribution. Unpack it to data/CelebAMask-HQ in this folder or give its path, or those of several such folders:

    python hair_transfer/dataset.py --data PATH [PATH ...]    verify and describe folders, draw a histogram and samples
    python hair_transfer/dataset.py                           the same for data/CelebAMask-HQ, else generated faces

The paper took 2,600 of the faces, about 2,000 to train and 600 to test; which ones it does not say.
"""

import os
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from common import celebamask, cli, pictures
from common.cache import Arrays, cache_key, open_cache
from common.celebamask import PARTS
from common.checkpoint import make_folder
from common.cli import InputError
from common.device import to_device
from common.faces import write_celebamask
from common.images import list_photos, read_mask, read_photo

HERE = Path(__file__).resolve().parent
CACHE = HERE / "data" / "cache"
SIZE = 256  # Sec. II
N_TRAIN, N_TEST = 2000, 600  # Sec. II
N_GENERATED = 52  # ours: 40 to train and 12 to test, so that the bare command ends in minutes on two CPU cores
CACHE_VERSION = 2  # counts up when decode() changes
# ImageNet's (ours: the paper says "normalized")
MEAN = torch.tensor((0.485, 0.456, 0.406))[:, None, None]
STD = torch.tensor((0.229, 0.224, 0.225))[:, None, None]
# ids of CelebAMask-HQ that show the same photo twice: a random split would test on what it trained on
DUPLICATES = (
    (234, 235), (3329, 3330), (5162, 5163), (6770, 6771), (7384, 7385), (7561, 7562), (12444, 12445), (12885, 12886),
    (13825, 13826), (15506, 15507), (19199, 19200), (20134, 20135), (24646, 24647),
)  # fmt: skip
FIRST_OF_PAIR = {second: first for first, second in DUPLICATES}
PALETTE = np.array([(0, 0, 0), (60, 170, 240)], np.uint8)  # background, hair


class Face(NamedTuple):
    """A face's photo and the mask of one part."""

    root: int  # which of the --data folders
    id: int
    photo: Path
    mask: Path | None  # None: nothing of the part on this face

    @property
    def key(self) -> list[int]:
        """What the checkpoint keeps of the split: ids of different folders may be equal."""
        return [self.root, self.id]


# ---- Which faces ---------------------------------------------------------------------------------------------------


def locate(data: list[str | Path] | None) -> tuple[list[Path], str]:
    """The folders to read and a line that says which: --data, else data/CelebAMask-HQ, else generated faces."""
    if data:
        return [Path(folder) for folder in data], ", ".join(str(folder) for folder in data)
    if (HERE / "data" / "CelebAMask-HQ").is_dir():
        return [HERE / "data" / "CelebAMask-HQ"], "data/CelebAMask-HQ of this folder"
    folder = write_celebamask(HERE / "data" / "generated", n=N_GENERATED, size=SIZE)
    return [folder], f"{N_GENERATED} GENERATED faces (no --data and no {HERE.name}/data/CelebAMask-HQ)"


def list_faces(folders: list[Path], part: str = "hair") -> list[Face]:
    """The faces of all folders, by folder and id; raises InputError for a folder without a single mask of `part`.

    And for a face without any mask where others have masks of other parts: it is not bald, its annotation is missing.
    """
    faces = []
    for root, folder in enumerate(folders):
        listed = celebamask.list_celebamask(folder)
        bare = [f for f in listed if not f.masks] if any(set(f.masks) - {part} for f in listed) else []
        if bare:
            others = f" (nor have {len(bare) - 1} others)" if len(bare) > 1 else ""
            raise InputError(
                f"{bare[0].photo}: has no mask of any part{others}; unpack all of the annotations or remove the photo"
            )
        found = [Face(root, f.id, f.photo, f.masks.get(part)) for f in listed]
        if not any(face.mask for face in found):
            raise InputError(
                f"{folder}: none of its {len(found)} faces has a mask NNNNN_{part}.png; unpack all of the annotations"
            )
        faces += found
    return faces


def list_pairs(folder: Path) -> list[Face]:
    """folder/photos/NAME.jpg with folder/masks/NAME.png, for faces of any other origin.

    Raises InputError for a photo without a mask: here every mask must exist.
    """
    photos = list_photos(folder / "photos")
    masks = {path.stem: path for path in list_photos(folder / "masks")}
    for photo in photos:
        if photo.stem not in masks:
            raise InputError(f"{photo}: has no mask {folder / 'masks' / photo.stem}.png; add one (all black: no hair)")
    return [Face(0, i, photo, masks[photo.stem]) for i, photo in enumerate(photos)]


def split(faces: list[Face], seed: int) -> tuple[list[Face], list[Face]]:
    """2,000 faces to train and 600 to test, at random; of fewer than 2,600 faces 10 train for 3 that test.

    Both photos of a known pair of duplicates, and equal ids of several folders, fall on the same side. Raises
    InputError if a side is too small.
    """
    inseparable = {}  # by the first one's id
    for face in faces:
        inseparable.setdefault(FIRST_OF_PAIR.get(face.id, face.id), []).append(face)
    n_test = min(N_TEST, round(len(faces) * N_TEST / (N_TRAIN + N_TEST)))
    train, test = [], []
    for first in np.random.default_rng(seed).permutation(list(inseparable)).tolist():
        if len(test) + len(inseparable[first]) <= n_test:
            test += inseparable[first]
        elif len(train) + len(inseparable[first]) <= N_TRAIN:
            train += inseparable[first]
    if len(train) < 2 or not test:
        raise InputError(
            f"{len(faces)} face(s) are too few to train on 10 for 3 that test; give --data at least 3 different ones, "
            "or a larger --limit"
        )
    return sorted(train), sorted(test)


# ---- Reading them --------------------------------------------------------------------------------------------------


def decode(face: Face, size: int) -> dict[str, np.ndarray]:
    """images: size x size x 3 uint8, antialiased; masks: size x size / 8 uint8, nearest, eight pixels a byte.

    A photo that is not square is cut to the square in its middle. Raises InputError, naming the file, for what cannot
    be used.
    """
    photo = read_photo(face.photo)
    mask = np.zeros((photo.height, photo.width), bool) if face.mask is None else read_mask(face.mask)
    if abs(photo.width * mask.shape[0] - photo.height * mask.shape[1]) > max(photo.size):  # more than a pixel off
        raise InputError(
            f"{face.mask}: is {mask.shape[1]} x {mask.shape[0]} px, another shape than its photo of "
            f"{photo.width} x {photo.height}; give both the same width to height"
        )
    # Pillow widens the bilinear kernel when it shrinks
    image = central_square(photo).resize((size, size), Image.Resampling.BILINEAR)
    mask = central_square(Image.fromarray(mask)).resize((size, size), Image.Resampling.NEAREST)
    return {"images": np.asarray(image), "masks": np.packbits(np.asarray(mask), axis=-1)}


def central_square(image: Image.Image) -> Image.Image:
    """The largest square in the middle of a picture."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def load(faces: list[Face], size: int, cache: Path) -> Arrays:
    """The decoded faces, memory-mapped; builds their cache if it is not there. Raises InputError for unusable files."""
    fields = {"images": ((size, size, 3), "uint8"), "masks": ((size, size // 8), "uint8")}
    key = cache_key(files(faces), "hair_transfer", size, CACHE_VERSION, [face.mask is None for face in faces])
    return open_cache(cache, key, len(faces), fields, lambda i: decode(faces[i], size), "decoding faces")


def files(faces: list[Face]) -> list[Path]:
    """The photos and masks of the faces."""
    return [path for face in faces for path in (face.photo, face.mask) if path]


class HairMasks(Dataset):
    """dataset[[i, j, ...]] -> images B x 3 x size x size and masks B x 1 x size x size, both uint8 (0..255 and 0/1).

    A whole batch is one gather from the memory-mapped cache; images come out channels_last. Nothing is augmented: the
    paper mentions nothing of the kind.
    """

    def __init__(self, faces: list[Face], size: int, cache: Path):
        self.faces, self.arrays = faces, load(faces, size, cache)

    def __len__(self) -> int:
        return len(self.faces)

    def name(self, i: int) -> str:
        """For messages: the file's name and its folder's, `CelebAMask-HQ/1234.jpg`."""
        photo = self.faces[i].photo
        return f"{photo.parent.parent.name}/{photo.name}"

    def __getitem__(self, batch: list[int]) -> tuple[Tensor, Tensor]:
        images = self.arrays["images"][batch]  # B H W 3
        masks = np.unpackbits(self.arrays["masks"][batch], axis=-1)  # B H W
        return torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(masks)[:, None]


def normalize(images: Tensor, device: torch.device) -> Tensor:
    """B x 3 x H x W uint8 -> float32 on the device, with ImageNet's mean and standard deviation."""
    return (to_device(images, device).contiguous().float() / 255 - to_device(MEAN, device)) / to_device(STD, device)


# ---- python hair_transfer/dataset.py: verify, describe, draw -------------------------------------------------------


class Report(NamedTuple):
    """What verify() found."""

    usable: list[Face]
    share: np.ndarray  # of each usable face: part of the picture that the mask covers
    black: list[Path]  # masks without a white pixel: such a face counts as one without a file
    sizes: Counter  # of photos, in words
    problems: list[str]  # one line each


def verify(faces: list[Face], size: int) -> Report:
    """Decode every face, with all cores, and say what is there and what cannot be used."""
    usable, share, black, sizes, problems = [], [], [], Counter(), []

    def attempt(face: Face) -> tuple[float, tuple[int, int]] | tuple[None, str]:
        try:
            covered = np.unpackbits(decode(face, size)["masks"], axis=-1).mean()
            with Image.open(face.photo) as photo:
                return covered, photo.size
        except InputError as error:
            return None, str(error)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = tqdm(pool.map(attempt, faces), "verifying", len(faces), disable=None, unit="face")
        for face, (covered, found) in zip(faces, results, strict=True):
            if covered is None:
                problems.append(found)
                continue
            usable.append(face)
            share.append(covered)
            if face.mask and not covered and not read_mask(face.mask).any():  # at `size` a small mask may be lost
                black.append(face.mask)
            sizes[f"photos of {found[0]} x {found[1]} px"] += 1
    return Report(usable, np.array(share), black, sizes, problems)


def draw_share(path: Path, share: np.ndarray, part: str) -> None:
    """Histogram of the share of the picture that the mask covers."""
    figure, axis = pictures.subplots(figsize=(5, 3.2))
    axis.hist(100 * share, bins=np.arange(0, 101, 4), color=PALETTE[1] / 255)
    axis.set_xlabel(f"{part}, % of the picture")
    axis.set_ylabel("faces")
    axis.grid(alpha=0.3)
    pictures.save_figure(path, figure)


def draw_samples(path: Path, faces: list[Face], size: int, part: str) -> None:
    """Photos, and below each the same with its mask painted over."""
    decoded = [decode(face, size) for face in faces]
    photos = [sample["images"] for sample in decoded]
    masks = [np.unpackbits(sample["masks"], axis=-1) for sample in decoded]
    painted = [pictures.overlay(photo, mask, PALETTE) for photo, mask in zip(photos, masks, strict=True)]
    pictures.save_grid(path, [photos, painted], row_titles=["photo", part], column_titles=[f.photo.name for f in faces])


def main() -> None:
    parser = cli.Parser(__doc__)
    add = parser.add_argument_group("what to look at").add_argument
    add("--data", type=Path, nargs="+", metavar="PATH", help="CelebAMask-HQ folders (default: as in train.py)")
    add("--part", choices=PARTS, default="hair", metavar="PART", help="which mask, as in train.py (hair: the paper's)")
    add("--size", type=cli.number(int, 16), default=SIZE, metavar="N", help="image side, in 8s (256: Sec. II)")
    add(
        "--seed",
        type=cli.number(int, 0),
        default=0,
        metavar="N",
        help="of the split that is counted and of the samples",
    )
    add("--limit", type=cli.number(int, 1), metavar="N", help="look at the first N faces only")
    add("--out", type=Path, default=HERE / "runs" / "dataset", metavar="DIR", help="default: runs/dataset here")
    args = parser.parse_args()
    if args.size % 8:
        parser.error(f"--size {args.size} must be a multiple of 8")
    folders, source = locate(args.data)
    faces = list_faces(folders, args.part)[: args.limit]
    make_folder(args.out)
    report = verify(faces, args.size)
    without = sum(face.mask is None for face in faces)
    ids = {(face.root, face.id) for face in faces}
    pairs = [pair for root in range(len(folders)) for pair in DUPLICATES if {(root, id) for id in pair} <= ids]
    print(f"{source}: {len(faces)} faces, {without} without {args.part} ({without / len(faces):.1%}), "
          f"{len(report.black)} more whose mask is all black")  # fmt: skip
    print(", ".join(f"{count} {what}" for what, count in report.sizes.items()))
    print(f"{len(pairs)} of the {len(DUPLICATES)} known pairs of duplicates", *(f"{a}/{b}" for a, b in pairs))
    if len(report.share):
        quantiles = np.quantile(report.share, [0, 0.1, 0.5, 0.9, 1])
        print(f"{args.part} covers {report.share.mean():.1%} of the pixels; of a picture at least, 10 %, median, 90 %, "
              "at most: " + ", ".join(f"{q:.1%}" for q in quantiles))  # fmt: skip
        chosen = np.random.default_rng(args.seed).permutation(len(report.usable))[:8]
        draw_share(args.out / "share.png", report.share, args.part)
        draw_samples(args.out / "samples.png", [report.usable[i] for i in sorted(chosen)], args.size, args.part)
        print(f"share.png, samples.png -> {args.out}")
    for path in report.black:
        print(f"{path}: all black, so this face counts as one without {args.part}")
    for folder in folders:
        celebamask.print_unused(folder)
    for problem in report.problems:
        print(problem)
    if report.problems:
        raise InputError(
            f"{source}: {len(report.problems)} problem(s) in {len(faces)} faces, the lines above name them"
        )
    if len(faces) > 2:
        train, test = split(faces, args.seed)
        print(f"--seed {args.seed} splits them into {len(train)} to train and {len(test)} to test")
    print("every photo and every mask can be read")


if __name__ == "__main__":
    cli.run(main)

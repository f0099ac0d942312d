"""Faces with 18 binary part masks at 128 x 128 px (Sec. 3.1, 3.2), read from CelebAMask-HQ's own layout:

    CelebAMask-HQ/
      CelebA-HQ-img/0.jpg, 1.jpg, ...                              photos
      CelebAMask-HQ-mask-anno/0/00000_skin.png, 00000_nose.png ... masks, 0 or 255; a part that is absent has no file

The paper does not name its 4,000 images; its table lists CelebAMask-HQ's 18 parts in that data set's order, three of
them under another name (README). Get it from https://github.com/switchablenorms/CelebAMask-HQ: 30,000 faces,
non-commercial research and education only, no redistribution. Unpack it to data/CelebAMask-HQ in this folder or give
its path:

    python nu_deeplabv3plus/dataset.py --data PATH     verify and describe a folder, draw figures 1-3
    python nu_deeplabv3plus/dataset.py                 the same for data/CelebAMask-HQ or, without it, generated faces
"""

import contextlib
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
from common.celebamask import FLIP_PAIRS, PARTS, FaceFiles
from common.checkpoint import make_folder
from common.cli import InputError
from common.faces import write_celebamask
from common.images import read_mask, read_photo

HERE = Path(__file__).resolve().parent
CACHE = HERE / "data" / "cache"
SIZE = 128  # Sec. 3.1
VAL_FRACTION = 0.2  # Sec. 3.2
N_FACES = 4000  # Sec. 3.1; which of the data set is ours: the lowest ids
N_GENERATED = 500  # ours: faces painted when there is no data
CACHE_VERSION = 2  # counts up when decode() changes

PALETTE = np.array(
    [
        (0, 0, 0),
        (236, 188, 160),
        (214, 120, 92),
        (70, 70, 80),
        (40, 120, 220),
        (60, 200, 240),
        (120, 80, 30),
        (190, 140, 60),
        (250, 130, 190),
        (200, 70, 140),
        (120, 20, 40),
        (230, 60, 70),
        (170, 20, 90),
        (120, 70, 200),
        (240, 220, 60),
        (90, 240, 200),
        (150, 240, 80),
        (240, 150, 40),
        (60, 140, 90),
    ],
    np.uint8,
)  # background, then PARTS
LEGEND = dict(zip(PARTS, PALETTE[1:], strict=True))


def locate(data: Path | None) -> tuple[Path, str]:
    """The folder to read and a line that says which it is: --data, else data/CelebAMask-HQ, else generated faces."""
    if data is not None:
        return data, str(data)
    if (HERE / "data" / "CelebAMask-HQ").is_dir():
        return HERE / "data" / "CelebAMask-HQ", "data/CelebAMask-HQ of this folder"
    folder = write_celebamask(HERE / "data" / "generated", n=N_GENERATED, size=SIZE)
    return folder, f"{N_GENERATED} GENERATED faces (no --data and no {HERE.name}/data/CelebAMask-HQ)"


def decode(face: FaceFiles, size: int, mask_shape: tuple[int, int] | None = None) -> dict[str, np.ndarray]:
    """images: size x size x 3 uint8, antialiased; masks: 18 x size x size / 8 uint8, nearest, eight pixels a byte.

    `mask_shape`: H, W that every mask file must have. Raises InputError, naming the file, for what cannot be used.
    """
    photo = read_photo(face.photo)
    image = photo.resize((size, size), Image.Resampling.BILINEAR)  # Pillow widens the kernel when it shrinks
    masks = np.zeros((len(PARTS), size, size), bool)
    for part, path in face.masks.items():
        mask = read_mask(path, mask_shape)
        if photo.width * mask.shape[0] != photo.height * mask.shape[1]:
            raise InputError(
                f"{path}: is {mask.shape[1]} x {mask.shape[0]} px, another shape than its photo of "
                f"{photo.width} x {photo.height}; give both the same width to height"
            )
        masks[PARTS.index(part)] = np.asarray(Image.fromarray(mask).resize((size, size), Image.Resampling.NEAREST))
    return {"images": np.asarray(image), "masks": np.packbits(masks, axis=-1)}


def usual_mask_shape(faces: list[FaceFiles]) -> tuple[int, int] | None:
    """H, W of most of the first masks: CelebAMask-HQ's are 512 x 512, all of one size. None if none can be read."""
    shapes = Counter()
    for path in [path for face in faces[:50] for path in face.masks.values()]:
        with contextlib.suppress(Exception), Image.open(path) as mask:  # decode() will name the broken ones
            shapes[mask.height, mask.width] += 1
    return shapes.most_common(1)[0][0] if shapes else None


def merge_masks(masks: np.ndarray) -> np.ndarray:
    """18 x H x W bool masks -> H x W uint8 labels: 0 background, c + 1 for mask c, later masks over earlier ones."""
    label = np.zeros(masks.shape[1:], np.uint8)
    for c, mask in enumerate(masks):
        label[mask.astype(bool)] = c + 1
    return label


class FaceParts(Dataset):
    """dataset[[i, j, ...]] -> images B x 3 x size x size and masks B x 18 x size x size, both uint8 (0..255 and 0/1).

    A whole batch is one gather from the memory-mapped cache; images come out channels_last.

    augment (Sec. 3.2, "Data Augmentation"): `flip` adds the mirrored faces to the set, which doubles it, and leaves
    each mask in its channel, as the paper does: a mirrored left eye, now in a right eye's place, is still l_eye's.
    `flip-swap` also swaps the left and right channels. `none` is the paper's better run.
    """

    def __init__(
        self, arrays: dict[str, np.ndarray], positions: list[int], faces: list[FaceFiles], augment: str = "none"
    ):
        self.arrays, self.positions, self.augment = arrays, np.array(positions, dtype=np.int64), augment
        self.photos = [face.photo for face in faces]
        self.swapped = np.arange(len(PARTS))
        for left, right in FLIP_PAIRS:
            self.swapped[[left, right]] = right, left

    def __len__(self) -> int:
        return len(self.positions) * (1 if self.augment == "none" else 2)

    def name(self, i: int) -> str:
        """For messages: `1234.jpg`, or `1234.jpg mirrored`."""
        n = len(self.positions)
        return self.photos[self.positions[i % n]].name + (" mirrored" if i >= n else "")

    def __getitem__(self, batch: list[int]) -> tuple[Tensor, Tensor]:
        batch = np.asarray(batch)
        positions = self.positions[batch % len(self.positions)]
        images = self.arrays["images"][positions]  # B H W 3
        masks = np.unpackbits(self.arrays["masks"][positions], axis=-1)  # B 18 H W
        mirrored = batch >= len(self.positions)
        if mirrored.any():
            images[mirrored] = images[mirrored, :, ::-1]
            flipped = masks[mirrored][..., ::-1]
            masks[mirrored] = flipped[:, self.swapped] if self.augment == "flip-swap" else flipped
        return torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(masks)


def files(faces: list[FaceFiles]) -> list[Path]:
    """The photos and masks of the faces."""
    return [path for face in faces for path in (face.photo, *face.masks.values())]


def load(folder: Path, size: int, cache: Path, limit: int | None = None) -> tuple[Arrays, list[FaceFiles]]:
    """The first `limit` faces of a folder (all: None) and their decoded cache, which is built if it is not there.

    Raises InputError for unusable folders and files; the first face without any mask is named.
    """
    faces = celebamask.list_whole_faces(folder)[:limit]
    bare = [face for face in faces if not face.masks]
    if bare:
        others = f" (nor have {len(bare) - 1} others)" if len(bare) > 1 else ""
        raise InputError(
            f"{bare[0].photo}: has no mask{others}; add masks to CelebAMask-HQ-mask-anno or remove the photo"
        )
    shape = usual_mask_shape(faces)
    fields = {"images": ((size, size, 3), "uint8"), "masks": ((len(PARTS), size, size // 8), "uint8")}
    key = cache_key(files(faces), size, PARTS, CACHE_VERSION)
    return open_cache(cache, key, len(faces), fields, lambda i: decode(faces[i], size, shape), "decoding faces"), faces


def split(n: int, seed: int) -> tuple[list[int], list[int]]:
    """train and val positions among n faces, 80/20 at random (Sec. 3.2); raises InputError if a side is too small."""
    order = np.random.default_rng(seed).permutation(n).tolist()
    cut = n - round(VAL_FRACTION * n)
    train, val = sorted(order[:cut]), sorted(order[cut:])
    if len(train) < 2 or not val:
        raise InputError(
            f"{n} face(s) are too few for an 80/20 split, which needs 3; give a folder with more, or a larger --limit"
        )
    return train, val


# ---- python nu_deeplabv3plus/dataset.py: verify, describe, draw figures 1-3 ------------------------------------------


class Report(NamedTuple):
    """What verify() found."""

    usable: list[FaceFiles]
    share: np.ndarray  # usable x 18, part of the picture that each mask covers
    sizes: Counter  # of photos and masks, in words
    problems: list[str]  # one line each


def verify(faces: list[FaceFiles], size: int) -> Report:
    """Decode every face, with all cores, and say what is there and what cannot be used."""
    problems = [f"{face.photo}: has no mask" for face in faces if not face.masks]
    usable, share, sizes = [], [], Counter()
    with_masks = [face for face in faces if face.masks]
    mask_shape = usual_mask_shape(with_masks)

    def attempt(face: FaceFiles) -> tuple[np.ndarray, tuple[int, int]] | tuple[None, str]:
        try:
            masks = np.unpackbits(decode(face, size, mask_shape)["masks"], axis=-1)
            with Image.open(face.photo) as photo:
                return masks.mean((1, 2)), photo.size
        except InputError as error:
            return None, str(error)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = tqdm(pool.map(attempt, with_masks), "verifying", len(with_masks), disable=None, unit="face")
        for face, (covered, found) in zip(with_masks, results, strict=True):
            if covered is None:
                problems.append(found)
                continue
            usable.append(face)
            share.append(covered)
            sizes[f"photos of {found[0]} x {found[1]} px"] += 1
            if mask_shape:
                sizes[f"masks of {mask_shape[1]} x {mask_shape[0]} px"] += len(face.masks)
            sizes["faces whose masks are all black"] += not covered.any()
    return Report(usable, np.array(share).reshape(-1, len(PARTS)), sizes, problems)


def draw_figures(report: Report, size: int, out: Path) -> None:
    """Figure 1: faces with all masks. Figure 2: the 18 masks apart. Figure 3: the flip, and what it does to l_eye."""
    richest = int((report.share > 0).sum(1).argmax())  # the face with the most parts has the most to show
    chosen = [report.usable[richest]] + [face for face in report.usable[:5] if face != report.usable[richest]][:4]
    decoded = [decode(face, size) for face in chosen]
    cache = {name: np.stack([sample[name] for sample in decoded]) for name in ("images", "masks")}
    n = len(chosen)

    images, masks = FaceParts(cache, list(range(n)), chosen)[list(range(n))]
    photos, masks = images.permute(0, 2, 3, 1).numpy(), masks.numpy().astype(bool)
    labels = [merge_masks(face) for face in masks]
    painted = [pictures.overlay(photo, label, PALETTE, 0.8) for photo, label in zip(photos, labels, strict=True)]
    pictures.save_grid(out / "figure1.png", [list(photos), painted], row_titles=["image", "18 masks"], legend=LEGEND)
    cells, titles = [photos[0], *masks[0], None], [chosen[0].photo.name, *PARTS, ""]
    pictures.save_grid(out / "figure2.png", [cells[:10], cells[10:]], titles=[titles[:10], titles[10:]], cell=1.1)

    skin, l_eye = PARTS.index("skin"), PARTS.index("l_eye")
    rows, titles = [], []
    for augment in ("flip", "flip-swap"):
        images, masks = FaceParts(cache, list(range(n)), chosen, augment)[[0, n]]  # the face and its mirror image
        photos, masks = images.permute(0, 2, 3, 1).numpy(), masks.numpy().astype(bool)
        rows.append([photos[0], masks[0, skin], masks[0, l_eye], photos[1], masks[1, skin], masks[1, l_eye]])
        titles.append(["image", "skin", "l_eye", f"--augment {augment}", "skin", "l_eye"])
    pictures.save_grid(out / "figure3.png", rows, titles=titles)


def main() -> None:
    parser = cli.Parser(__doc__)
    add = parser.add_argument_group("what to look at").add_argument
    add("--data", type=Path, metavar="PATH", help="CelebAMask-HQ folder (default: as in train.py)")
    add("--size", type=cli.number(int, 16), default=SIZE, metavar="N", help="image side (128: Sec. 3.1)")
    add("--limit", type=cli.number(int, 1), metavar="N", help="look at the first N faces only")
    add("--out", type=Path, default=HERE / "runs" / "dataset", metavar="DIR", help="default: runs/dataset here")
    args = parser.parse_args()
    if args.size % 8:
        parser.error(f"--size {args.size} must be a multiple of 8")
    folder, source = locate(args.data)
    everything = celebamask.list_whole_faces(folder)
    make_folder(args.out)
    faces = everything[: args.limit]
    report = verify(faces, args.size)
    print(f"{source}: {len(faces)} faces")
    print(", ".join(f"{count} {what}" for what, count in report.sizes.items() if count))
    print(f"{'part':8s} {'faces':>6s} {'of all':>8s} {'pixels':>8s} {'where present':>14s}")
    for part, share in zip(PARTS, report.share.T, strict=True):
        present = share > 0
        everywhere, there = (share.mean(), share[present].mean()) if present.any() else (0, 0)
        print(f"{part:8s} {present.sum():6d} {present.sum() / len(faces):8.1%} {everywhere:8.2%} {there:14.2%}")
    if report.usable:
        draw_figures(report, args.size, args.out)
        print(f"figure1.png, figure2.png, figure3.png -> {args.out}")
    celebamask.print_unused(folder)
    for problem in report.problems:
        print(problem)
    if report.problems:
        raise InputError(
            f"{folder}: {len(report.problems)} problem(s) in {len(faces)} faces, the lines above name them"
        )
    print("every photo and every mask can be read")


if __name__ == "__main__":
    cli.run(main)

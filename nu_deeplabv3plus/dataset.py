"""Faces with 18 binary part masks at 128 x 128 px (Sec. 3.1, 3.2), read from CelebAMask-HQ's own layout:

    CelebAMask-HQ/
      CelebA-HQ-img/0.jpg, 1.jpg, ...                              photos
      CelebAMask-HQ-mask-anno/0/00000_skin.png, 00000_nose.png ... masks, 0 or 255; a part that is absent has no file

The paper does not name its data; its table lists these 18 parts in this order, three under another name (NOTES.md).
Get it from https://github.com/switchablenorms/CelebAMask-HQ: 30,000 faces, non-commercial research and education only,
no redistribution. Unpack it to data/CelebAMask-HQ in this folder or give its path:

    python nu_deeplabv3plus/dataset.py --data PATH     verify and describe a folder, draw figures 1-3
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from common import cli, pictures
from common.celebamask import FLIP_PAIRS, NAMES, PARTS, FaceFiles, check_masks, list_celebamask
from common.cli import InputError
from common.data import open_cache, try_all
from common.faces import write_celebamask
from common.images import read_mask, read_photo

HERE = Path(__file__).resolve().parent
CACHE = HERE / "data" / "cache"
SIZE = 128  # Sec. 3.1
VAL_FRACTION = 0.2  # Sec. 3.2
N_FACES = 4000  # Sec. 3.1; which of the data set is ours: the lowest ids
N_GENERATED = 500  # ours: faces painted when there is no data
CACHE_VERSION = 3  # counts up when decode() changes
PALETTE = np.array([
    (0, 0, 0), (236, 188, 160), (214, 120, 92), (70, 70, 80), (40, 120, 220), (60, 200, 240), (120, 80, 30),
    (190, 140, 60), (250, 130, 190), (200, 70, 140), (120, 20, 40), (230, 60, 70), (170, 20, 90), (120, 70, 200),
    (240, 220, 60), (90, 240, 200), (150, 240, 80), (240, 150, 40), (60, 140, 90),
], np.uint8)  # background, then PARTS  # fmt: skip
LEGEND = dict(zip(NAMES.values(), PALETTE[1:], strict=True))
SWAPPED = np.arange(len(PARTS))  # the channel of each part's mirror image
SWAPPED[np.array(FLIP_PAIRS)] = np.array(FLIP_PAIRS)[:, ::-1]


def locate(data: str | None) -> tuple[Path, str]:
    """The folder to read and a line that says which it is: --data, else data/CelebAMask-HQ, else generated faces."""
    if data is not None:
        return Path(data), data
    if (HERE / "data" / "CelebAMask-HQ").is_dir():
        return HERE / "data" / "CelebAMask-HQ", "data/CelebAMask-HQ of this folder"
    folder = write_celebamask(HERE / "data" / "generated", n=N_GENERATED, size=SIZE)
    return folder, f"{N_GENERATED} GENERATED faces (no --data and no {HERE.name}/data/CelebAMask-HQ)"


def decode(face: FaceFiles, size: int) -> dict[str, np.ndarray]:
    """images: size x size x 3 uint8, antialiased; masks: 18 x size x size / 8 uint8, nearest, eight pixels a byte.

    Raises InputError, naming the file, for what cannot be used.
    """
    photo = read_photo(face.photo)
    image = photo.resize((size, size), Image.Resampling.BILINEAR)  # Pillow widens the kernel when it shrinks
    masks = np.zeros((len(PARTS), size, size), bool)
    for part, path in face.masks.items():
        mask = Image.fromarray(read_mask(path))
        if abs(photo.width * mask.height - photo.height * mask.width) > max(photo.size):  # more than a pixel off
            sizes = f"is {mask.width} x {mask.height} px, its photo {photo.width} x {photo.height} px"
            raise InputError(f"{path}: {sizes}; give both the same width to height")
        masks[PARTS.index(part)] = np.asarray(mask.resize((size, size), Image.Resampling.NEAREST))
    return {"images": np.asarray(image), "masks": np.packbits(masks, axis=-1)}


class FaceParts:
    """Faces in memory-mapped arrays; `augment` (Sec. 3.2, "Data Augmentation") adds their mirror images to the set.

    flip leaves each mask in its channel, as the paper does: a mirrored left eye, now in a right eye's place, is still
    l_eye's. flip-swap also swaps the left and right channels. none is the paper's better run.
    """

    def __init__(self, arrays: dict[str, np.ndarray], positions: list[int], names: list[str], augment: str = "none"):
        self.arrays, self.positions, self.augment = arrays, np.array(positions, dtype=np.int64), augment
        self.names = [names[i] for i in positions]

    def __len__(self) -> int:
        return len(self.positions) * (1 if self.augment == "none" else 2)

    def batch(self, indices: list[int] | np.ndarray) -> tuple[Tensor, Tensor]:
        """B indices -> images B x 3 x size x size and masks B x 18 x size x size, both uint8 (0..255 and 0/1)."""
        indices, n = np.asarray(indices), len(self.positions)
        images = self.arrays["images"][self.positions[indices % n]]  # B H W 3
        masks = np.unpackbits(self.arrays["masks"][self.positions[indices % n]], axis=-1)  # B 18 H W
        mirrored = indices >= n
        if mirrored.any():
            images[mirrored] = images[mirrored, :, ::-1]
            flipped = masks[mirrored][..., ::-1]
            masks[mirrored] = flipped[:, SWAPPED] if self.augment == "flip-swap" else flipped
        return torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(masks)


def load(faces: list[FaceFiles], size: int, cache: Path) -> dict[str, np.ndarray]:
    """The decoded faces, memory-mapped; raises InputError for unusable files and for a face without any mask."""
    check_masks(faces)
    files, facts = [path for face in faces for path in face.files], ["nu", size, PARTS, CACHE_VERSION]
    return open_cache(cache, files, facts, len(faces), lambda i: decode(faces[i], size), "decoding faces")


def split(n: int, seed: int) -> tuple[list[int], list[int]]:
    """train and val positions among n faces, 80/20 (Sec. 3.2), at random (ours); InputError if a side is too small."""
    order = np.random.default_rng(seed).permutation(n).tolist()
    cut = n - round(VAL_FRACTION * n)
    train, val = sorted(order[:cut]), sorted(order[cut:])
    if len(train) < 2 or not val:
        raise InputError(f"{n} face(s) are too few for an 80/20 split, which needs 3; give --data or --limit more")
    return train, val


def merge_masks(masks: np.ndarray) -> np.ndarray:
    """18 x H x W bool masks -> H x W uint8 labels: 0 background, c + 1 for mask c, later masks over earlier ones."""
    label = np.zeros(masks.shape[1:], np.uint8)
    for c, mask in enumerate(masks):
        label[mask] = c + 1
    return label


def draw_figures(faces: list[FaceFiles], out: Path) -> None:
    """Figure 1: faces with all masks. Figure 2: the 18 masks apart. Figure 3: the flip, and what it does to l_eye."""
    names, n, samples = [face.photo.name for face in faces], len(faces), [decode(face, SIZE) for face in faces]
    arrays = {name: np.stack([sample[name] for sample in samples]) for name in ("images", "masks")}

    def read(indices: list[int], augment: str) -> tuple[np.ndarray, np.ndarray]:
        images, masks = FaceParts(arrays, list(range(n)), names, augment).batch(indices)
        return images.permute(0, 2, 3, 1).numpy(), masks.numpy().astype(bool)

    photos, masks = read(list(range(n)), "none")
    painted = [pictures.overlay(photo, merge_masks(m), PALETTE, 0.8) for photo, m in zip(photos, masks, strict=True)]
    pictures.save_grid(out / "figure1.png", [list(photos), painted], row_titles=["image", "18 masks"], legend=LEGEND)
    cells, titles = [photos[0], *masks[0], None], [names[0], *NAMES.values(), ""]
    pictures.save_grid(out / "figure2.png", [cells[:10], cells[10:]], titles=[titles[:10], titles[10:]], cell=1.1)
    rows, titles, shown = [], [], [PARTS.index("skin"), PARTS.index("l_eye")]
    for augment in ("flip", "flip-swap"):
        photos, masks = read([0, n], augment)  # a face and its mirror image
        rows.append([photos[0], *masks[0, shown], photos[1], *masks[1, shown]])
        titles.append(["image", "skin", "left eye", f"--augment {augment}", "skin", "left eye"])
    pictures.save_grid(out / "figure3.png", rows, titles=titles)


def main() -> None:
    parser = cli.Parser(__doc__)
    add = parser.add_argument_group("what to look at").add_argument
    add("--data", metavar="PATH", help="CelebAMask-HQ folder (default: as in train.py)")
    add("--limit", type=cli.number(int, 1), metavar="N", help="look at the first N faces only")
    add("--out", type=Path, default=HERE / "runs" / "dataset", metavar="DIR", help="default: runs/dataset here")
    args = parser.parse_args()
    folder, source = locate(args.data)
    faces = list_celebamask(folder)[: args.limit]
    pictures.make_folder(args.out)

    def look(i: int) -> np.ndarray:
        check_masks([faces[i]])
        return np.unpackbits(decode(faces[i], SIZE)["masks"], axis=-1).mean((1, 2))

    found, problems = try_all(look, len(faces))
    print(f"{source}: {len(faces)} faces")
    if found:
        shares = np.array(list(found.values()))  # faces 18, part of the picture that a mask covers
        for part, share in zip(PARTS, shares.T, strict=True):
            print(f"{part:6s} in {(share > 0).mean():6.1%} of the faces, {share.mean():6.2%} of the pixels")
        richest = sorted(found, key=lambda i: -(found[i] > 0).sum())  # the most parts have the most to show
        draw_figures([faces[i] for i in richest[:5]], args.out)
        print(f"figure1.png, figure2.png, figure3.png -> {args.out}")
    if problems:
        print(*problems, sep="\n")
        raise InputError(f"{folder}: {len(problems)} problem(s) in {len(faces)} faces, the lines above name them")
    print("every photo and every mask can be read")


if __name__ == "__main__":
    cli.run(main)

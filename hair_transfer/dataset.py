"""Faces with a hair mask at 256 x 256 px (Sec. II), read from CelebAMask-HQ's own layout:

    CelebAMask-HQ/
      CelebA-HQ-img/0.jpg, 1.jpg, ...                photos
      CelebAMask-HQ-mask-anno/0/00000_hair.png ...   masks, 0 or 255; a face without hair has no file: its mask is empty

Get it from https://github.com/switchablenorms/CelebAMask-HQ: 30,000 faces, non-commercial research and education only,
no redistribution. Unpack it to data/CelebAMask-HQ in this folder or give its path, or those of several such folders:

    python hair_transfer/dataset.py --data PATH [PATH ...]    verify and describe folders, draw samples

The paper took 2,600 of the faces, about 2,000 to train and 600 to test; which ones it does not say.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from common import cli, pictures
from common.celebamask import DUPLICATES, PARTS, FaceFiles, check_masks, list_celebamask
from common.cli import InputError
from common.data import open_cache, try_all
from common.device import to_device
from common.faces import write_celebamask
from common.images import list_photos, name_of, read_mask, read_photo

HERE = Path(__file__).resolve().parent
CACHE = HERE / "data" / "cache"
SIZE = 256  # Sec. II
N_TRAIN, N_TEST = 2000, 600  # Sec. II
N_GENERATED = 200  # ours: 154 to train and 46 to test, so that the bare command ends in minutes on a CPU
ZOOM, SHIFT = 1.25, 0.1  # ours: 1/1.25 to 1.25 times as large, shifted by up to a tenth of the side
ONE_SIDED = [part for part in PARTS if part[:2] in ("l_", "r_") and part != "l_lip"]  # l: left, or lower
CACHE_VERSION = 3  # counts up when decode() changes
# ImageNet's (ours: the paper says "normalized")
MEAN = torch.tensor((0.485, 0.456, 0.406))[:, None, None]
STD = torch.tensor((0.229, 0.224, 0.225))[:, None, None]
PALETTE = np.array([(0, 0, 0), (60, 170, 240)], np.uint8)  # background, hair


def locate(data: list[str] | None) -> tuple[list[Path], str]:
    """The folders to read and a line that says which: --data, else data/CelebAMask-HQ, else generated faces."""
    if data:
        return [Path(folder) for folder in data], ", ".join(data)
    if (HERE / "data" / "CelebAMask-HQ").is_dir():
        return [HERE / "data" / "CelebAMask-HQ"], "data/CelebAMask-HQ of this folder"
    folder = write_celebamask(HERE / "data" / "generated", n=N_GENERATED, size=SIZE)
    return [folder], f"{N_GENERATED} GENERATED faces (no --data and no {HERE.name}/data/CelebAMask-HQ)"


def list_faces(folders: list[Path], part: str = "hair") -> list[FaceFiles]:
    """The faces of all folders, by folder and id, with their mask of `part` if they have one. InputError for a face
    without any mask where others have masks of other parts: it is not bald, its annotation is missing."""
    faces = []
    for folder in folders:
        listed = list_celebamask(folder, part)
        if any(set(face.masks) - {part} for face in listed):
            check_masks(listed)
        faces += [face._replace(masks={part: face.masks[part]} if part in face.masks else {}) for face in listed]
    return faces


def list_pairs(folder: Path) -> list[FaceFiles]:
    """folder/photos/NAME.jpg with folder/masks/NAME.png, for faces of any other origin; here every mask must exist."""
    photos = list_photos(folder / "photos")
    masks = {name_of(path): path for path in list_photos(folder / "masks")}
    for photo in photos:
        if name_of(photo) not in masks:
            raise InputError(f"{photo}: has no mask {folder / 'masks' / photo.stem}.png; add one (all black: no hair)")
    return [FaceFiles(i, photo, {"hair": masks[name_of(photo)]}) for i, photo in enumerate(photos)]


def split(ids: list[int], seed: int) -> tuple[list[int], list[int]]:
    """Positions of 2,000 faces to train and 600 to test, at random; of fewer than 2,600, 10 train for 3 that test. Both
    photos of a known pair of duplicates, and equal ids of several folders, fall on the same side."""
    inseparable = {}  # positions by the first one's id
    for i, id in enumerate(ids):
        inseparable.setdefault(DUPLICATES.get(id, id), []).append(i)
    n_test = min(N_TEST, round(len(ids) * N_TEST / (N_TRAIN + N_TEST)))
    train, test = [], []
    for first in np.random.default_rng(seed).permutation(list(inseparable)).tolist():
        if len(test) + len(inseparable[first]) <= n_test:
            test += inseparable[first]
        elif len(train) + len(inseparable[first]) <= N_TRAIN:
            train += inseparable[first]
    if len(train) < 2 or not test:
        raise InputError(f"{len(ids)} face(s) are too few to train and test on; give --data or --limit at least 3")
    return sorted(train), sorted(test)


def decode(face: FaceFiles, size: int) -> dict[str, np.ndarray]:
    """images: size x size x 3 uint8, antialiased; masks: size x size / 8 uint8, nearest, eight pixels a byte.

    A photo that is not square is cut to the square in its middle. Raises InputError for what cannot be used.
    """
    photo = read_photo(face.photo)
    path = next(iter(face.masks.values()), None)
    mask = Image.fromarray(read_mask(path)) if path else Image.new("1", photo.size)
    if abs(photo.width * mask.height - photo.height * mask.width) > max(photo.size):  # more than a pixel off
        sizes = f"is {mask.width} x {mask.height} px, its photo {photo.width} x {photo.height} px"
        raise InputError(f"{path}: {sizes}; give both the same width to height")
    image = ImageOps.fit(photo, (size, size), Image.Resampling.BILINEAR)  # Pillow widens the kernel when it shrinks
    mask = ImageOps.fit(mask, (size, size), Image.Resampling.NEAREST)
    return {"images": np.asarray(image), "masks": np.packbits(np.asarray(mask), axis=-1)}


class HairMasks:
    """Faces in memory-mapped arrays, decoded if they are not yet."""

    def __init__(self, faces: list[FaceFiles], size: int, cache: Path):
        files = [path for face in faces for path in face.files]
        facts = ["hair_transfer", size, CACHE_VERSION]
        self.arrays = open_cache(cache, files, facts, len(faces), lambda i: decode(faces[i], size), "decoding faces")
        self.names = [f"{face.photo.parent.parent.name}/{face.photo.name}" for face in faces]

    def __len__(self) -> int:
        return len(self.names)

    def batch(self, indices: list[int] | np.ndarray) -> tuple[Tensor, Tensor]:
        """B indices -> images B x 3 x size x size and masks B x 1 x size x size, both uint8 (0..255 and 0/1)."""
        images = self.arrays["images"][indices]  # B H W 3
        masks = np.unpackbits(self.arrays["masks"][indices], axis=-1)  # B H W
        return torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(masks)[:, None]


def augment(images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """B x 3 x H x W and B x 1 x H x W, both uint8 -> the same: half of them mirrored, each zoomed and shifted
    (ours, for --recipe ours; the paper mentions no augmentation).

    Beyond its edges a picture repeats its outermost pixels; masks are taken from the nearest pixel.
    """
    B = len(images)
    mirror, zoom = 1 - 2 * torch.randint(2, (B,)), ZOOM ** torch.empty(B).uniform_(-1, 1)
    theta = torch.zeros(B, 2, 3)  # from where in the picture, -1 to 1, a pixel comes
    theta[:, 0, 0], theta[:, 1, 1] = mirror / zoom, 1 / zoom
    theta[:, :, 2].uniform_(-2 * SHIFT, 2 * SHIFT)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    images = F.grid_sample(images.float(), grid, "bilinear", "border", align_corners=False)
    masks = F.grid_sample(masks.float(), grid, "nearest", "border", align_corners=False)
    return images.round().byte(), masks.byte()


def normalize(images: Tensor, device: torch.device) -> Tensor:
    """B x 3 x H x W uint8 -> float32 on the device, with ImageNet's mean and standard deviation."""
    return (to_device(images, device).contiguous().float() / 255 - to_device(MEAN, device)) / to_device(STD, device)


def main() -> None:
    parser = cli.Parser(__doc__)
    add = parser.add_argument_group("what to look at").add_argument
    add("--data", nargs="+", metavar="PATH", help="CelebAMask-HQ folders (default: as in train.py)")
    add("--part", choices=PARTS, default="hair", metavar="PART", help="which mask, as in train.py (hair: the paper's)")
    add("--limit", type=cli.number(int, 1), metavar="N", help="look at the first N faces only")
    add("--out", type=Path, default=HERE / "runs" / "dataset", metavar="DIR", help="default: runs/dataset here")
    args = parser.parse_args()
    folders, source = locate(args.data)
    faces = list_faces(folders, args.part)[: args.limit]
    pictures.make_folder(args.out)
    found, problems = try_all(lambda i: np.unpackbits(decode(faces[i], SIZE)["masks"], axis=-1).mean(), len(faces))
    if found:
        shares = np.array(list(found.values()))
        low, high = np.quantile(shares, [0.1, 0.9])
        print(f"{source}: {len(faces)} faces, {(shares == 0).sum()} without {args.part} (no mask, or an all black one)")
        print(f"{args.part} covers {shares.mean():.1%} of the pixels, in eight pictures of ten {low:.1%} to {high:.1%}")
        samples = [decode(faces[i], SIZE) for i in list(found)[:8]]
        photos = [sample["images"] for sample in samples]
        painted = [pictures.overlay(s["images"], np.unpackbits(s["masks"], axis=-1), PALETTE) for s in samples]
        pictures.save_grid(args.out / "samples.png", [photos, painted], row_titles=["photo", args.part])
        print(f"samples.png -> {args.out}")
    if problems:
        print(*problems, sep="\n")
        raise InputError(f"{source}: {len(problems)} problem(s) in {len(faces)} faces, the lines above name them")
    print("every photo and every mask can be read")


if __name__ == "__main__":
    cli.run(main)

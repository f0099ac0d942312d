"""Faces with label images in Mut1ny's 11 colours at 256 x 256 px (Sec. III-B, III-D).

    --data FOLDER is Mut1ny's (prepare.py shows its layout) with the manifest.csv that prepare.py writes; without one,
    prepare.py's steps are run first. Or it is CelebAMask-HQ's: its part masks are painted in Mut1ny's colours; it has
    no teeth and no facial hair, and does not say who is who. Without --data: data/mut1ny or data/CelebAMask-HQ in this
    folder, else generated pictures in Mut1ny's layout.

    python mut1ny_fairness/dataset.py --data PATH     verify and describe a folder, count the classes, draw samples
    python mut1ny_fairness/dataset.py                 the same without --data

Mut1ny's community edition: https://store.mut1ny.com, 16,557 images. CelebAMask-HQ:
https://github.com/switchablenorms/CelebAMask-HQ, non-commercial research and education only, no redistribution.
"""

import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from common import cli, pictures
from common.celebamask import celebamask_root, check_masks, list_celebamask
from common.cli import InputError
from common.data import identity, open_cache, try_all
from common.device import to_device
from common.images import cropped, read_mask, read_photo
from mut1ny_fairness.groups import Photo
from mut1ny_fairness.palette import CLASSES, LEGEND, PAINTED, PALETTE, celebamask_to_mut1ny, to_classes
from mut1ny_fairness.prepare import HERE, Pair, locate, prepare
from mut1ny_fairness.tables import inside, read_table

CACHE = HERE / "data" / "cache"
SIZE = 256  # Sec. III-D
TEST_FRACTION = 0.2  # ours (the public template's): the paper gives no ratio
WHOLE = [0.0, 0.0, 1.0, 1.0]  # --crop that leaves out nothing
ZOOM, SHIFT = 1.25, 0.1  # ours: of augment(), 1/1.25 to 1.25 times as large, by up to a tenth of the side
CACHE_VERSION = 3  # counts up when decode() changes
# ImageNet's (ours: the paper says "normalizing")
MEAN = torch.tensor((0.485, 0.456, 0.406))[:, None, None]
STD = torch.tensor((0.229, 0.224, 0.225))[:, None, None]


class Sample(NamedTuple):
    """A photo and its label, of either data set."""

    name: str  # its path in the data folder
    image: Path
    labels: dict[str, Path]  # {"": label image in Mut1ny's colours}, or CelebAMask-HQ's part -> mask
    person: str  # empty if unknown
    category: str

    @property
    def identity(self) -> str:
        """How a run recognises it; with its path, for in Mut1ny every folder has a 0001.png."""
        return self.name.removesuffix(self.image.name) + identity(self.image, self.labels.values())


# ---- Which images --------------------------------------------------------------------------------------------------


def list_samples(data: str | None, manifest: str | None = None) -> tuple[list[Sample], str]:
    """The samples that --data and --manifest name, and a line that says where they come from.

    A Mut1ny folder without a manifest is prepared first, and it is said. Raises InputError for what cannot be used.
    """
    root, source = locate(data)
    if celebamask_root(root):
        if manifest:
            raise InputError(f"--manifest {manifest}: {root} is CelebAMask-HQ's folder, which has none; leave it out")
        faces = list_celebamask(root)
        check_masks(faces)
        samples = [Sample(face.photo.name, face.photo, face.masks, "", "real") for face in faces]
        return samples, f"{source}, CelebAMask-HQ painted in Mut1ny's colours"
    path = Path(manifest) if manifest else root / "manifest.csv"
    if not manifest and not path.is_file():
        if root.is_dir():
            print(f"manifest   {path} is missing: running prepare.py's steps", flush=True)
        prepare(root, path)
    samples = []
    for where, row in read_table(path, list(Pair._fields))[1]:
        image, label = (inside(root, row[column], where) for column in ("image", "label"))
        samples.append(Sample(row["image"], image, {"": label}, row["person"], row["category"]))
    return samples, source


def split(samples: list[Sample], by: str, seed: int) -> tuple[list[int], list[int]]:
    """Positions of train and test, 80/20 at random: over images, as in the paper, or with no person on both sides.

    Of `real` nobody knows who is who: there every image counts as a person. All of `multi` stays on one side; whom
    it shows, and whether they are on the other side as well, nobody knows either. Raises InputError if a side is too
    small.
    """
    wanted = round(TEST_FRACTION * len(samples))
    if by == "images":
        order = np.random.default_rng(seed).permutation(len(samples)).tolist()
        train, test = order[: len(samples) - wanted], order[len(samples) - wanted :]
    else:
        if not any(sample.person for sample in samples):
            raise InputError("--split person: nobody is known by name in these images; give --split images")
        people: dict[str, list[int]] = {}
        for i, sample in enumerate(samples):
            unknown = "several people" if sample.category == "multi" else sample.name
            people.setdefault(sample.person or unknown, []).append(i)
        train, test = [], []
        for person in np.random.default_rng(seed).permutation(sorted(people)).tolist():
            (test if len(test) + len(people[person]) <= wanted else train).extend(people[person])
    if len(train) < 2 or not test:
        raise InputError(
            f"{len(samples)} image(s) cannot be split 80/20 by {by}; give a folder with more, or no --limit"
        )
    return sorted(train), sorted(test)


# ---- Reading them --------------------------------------------------------------------------------------------------


def decode(sample: Sample | Photo, size: int, crop: list[float] = WHOLE) -> dict[str, np.ndarray]:
    """images: size x size x 3 uint8, antialiased; labels: size x size uint8 classes, nearest; off: off-palette pixels.

    Images that are not square are squeezed (Sec. III-D: "resizing them to 256x256"). crop: as --crop of fairness.py.
    Without a label file every pixel is background. Raises InputError, naming the file, for what cannot be used.
    """
    image, labels, off = read_photo(sample.image), sample.labels, 0
    if "" in labels:
        label, off = to_classes(np.asarray(read_photo(labels[""])))
    else:
        masks, shape = {}, None
        for part, path in labels.items():
            if part in PAINTED:
                masks[part] = read_mask(path, shape)
                shape = masks[part].shape
        label = celebamask_to_mut1ny(masks, shape or (image.height, image.width))
    H, W = label.shape
    if abs(image.width * H - image.height * W) > max(image.size):  # more than a pixel off
        raise InputError(
            f"{next(iter(labels.values()))}: is {W} x {H} px, another shape than its photo of {image.width} x "
            f"{image.height}; give both the same width to height"
        )
    # Pillow widens the bilinear kernel when it shrinks
    image = cropped(image, crop).resize((size, size), Image.Resampling.BILINEAR)
    label = cropped(Image.fromarray(label), crop).resize((size, size), Image.Resampling.NEAREST)
    return {"images": np.asarray(image), "labels": np.asarray(label), "off": np.array(off)}


def load(samples: list[Sample], size: int, cache: Path) -> dict[str, np.ndarray]:
    """The decoded samples, memory-mapped; raises InputError for unusable files."""
    files = [path for sample in samples for path in (sample.image, *sample.labels.values())]
    facts = [HERE.name, size, CLASSES, PALETTE.tolist(), PAINTED, CACHE_VERSION]
    return open_cache(cache, files, facts, len(samples), lambda i: decode(samples[i], size), "decoding images")


class LabelledFaces:
    """Faces and their labels in memory-mapped arrays. Nothing is augmented here: the paper mentions nothing of it."""

    def __init__(self, arrays: dict[str, np.ndarray], positions: list[int], samples: list[Sample]):
        self.arrays, self.positions = arrays, np.array(positions, dtype=np.int64)
        self.names = [samples[i].name for i in positions]

    def __len__(self) -> int:
        return len(self.names)

    def batch(self, indices: list[int] | np.ndarray) -> tuple[Tensor, Tensor]:
        """B indices -> images B x 3 x size x size (0..255) and labels B x size x size (classes), both uint8."""
        positions = self.positions[indices]
        images = torch.from_numpy(self.arrays["images"][positions])  # B H W 3
        return images.permute(0, 3, 1, 2), torch.from_numpy(self.arrays["labels"][positions])


def augment(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """B x 3 x H x W and B x H x W, both uint8 -> the same (ours): half of them mirrored, each zoomed and shifted.

    Beyond its edges a picture repeats its outermost pixels; labels are taken from the nearest pixel.
    """
    B = len(images)
    mirror, zoom = 1 - 2 * torch.randint(2, (B,)), ZOOM ** torch.empty(B).uniform_(-1, 1)
    theta = torch.zeros(B, 2, 3)  # from where in the picture, -1 to 1, a pixel comes
    theta[:, 0, 0], theta[:, 1, 1] = mirror / zoom, 1 / zoom
    theta[:, :, 2].uniform_(-2 * SHIFT, 2 * SHIFT)
    grid = F.affine_grid(theta, [B, 1, *labels.shape[1:]], align_corners=False)
    images = F.grid_sample(images.float(), grid, "bilinear", "border", align_corners=False)
    labels = F.grid_sample(labels[:, None].float(), grid, "nearest", "border", align_corners=False)
    return images.round().byte(), labels[:, 0].byte()


def normalize(images: Tensor, device: torch.device) -> Tensor:
    """B x 3 x H x W uint8 -> float32 on the device, with ImageNet's mean and standard deviation."""
    return (to_device(images, device).contiguous().float() / 255 - to_device(MEAN, device)) / to_device(STD, device)


# ---- python mut1ny_fairness/dataset.py: verify, describe, draw -------------------------------------------------------


def main() -> None:
    parser = cli.Parser(__doc__)
    add = parser.add_argument_group("what to look at").add_argument
    add("--data", metavar="PATH", help="Mut1ny's or CelebAMask-HQ's folder (default: as in train.py)")
    add("--manifest", metavar="FILE", help="default: manifest.csv in the data folder")
    add("--out", type=Path, default=HERE / "runs" / "dataset", metavar="DIR", help="default: runs/dataset here")
    args = parser.parse_args()
    samples, source = list_samples(args.data, args.manifest)
    pictures.make_folder(args.out)

    def look(i: int) -> tuple[np.ndarray, int]:
        decoded = decode(samples[i], SIZE)
        return np.bincount(decoded["labels"].ravel(), minlength=len(CLASSES)) / SIZE**2, int(decoded["off"])

    found, problems = try_all(look, len(samples))
    categories, people = Counter(sample.category for sample in samples), {sample.person for sample in samples} - {""}
    kinds = ", ".join(f"{count} {category}" for category, count in sorted(categories.items()))
    print(f"{source}: {len(samples)} images ({kinds}), with {len(people)} known people")
    if found:
        shares, off = (np.array(of_all) for of_all in zip(*found.values(), strict=True))  # n 11, n
        print(f"{off.sum():,} label pixels in {(off > 0).sum()} images have none of the 11 colours, so the nearest")
        rows = [["class", "images", "pixels", "where present"]]
        for name, share in zip(CLASSES, shares.T, strict=True):
            there = share[share > 0].mean() if share.any() else 0
            rows.append([name, str((share > 0).sum()), f"{share.mean():.2%}", f"{there:.2%}"])
        pictures.print_table(rows)
        chosen = [samples[i] for i in np.random.default_rng(0).permutation(list(found))[:8]]
        decoded = [decode(sample, SIZE) for sample in chosen]
        rows = [[one["images"] for one in decoded], [PALETTE[one["labels"]] for one in decoded]]
        titles = [f"{sample.person or sample.category}\n{sample.image.name}" for sample in chosen]
        pictures.save_grid(args.out / "samples.png", rows, column_titles=titles, legend=LEGEND)
        print(f"samples.png -> {args.out}")
    if problems:
        print(*problems, sep="\n")
        raise InputError(f"{source}: {len(problems)} problem(s) in {len(samples)} images, the lines above name them")
    print("every image and every label can be read")


if __name__ == "__main__":
    cli.run(main)

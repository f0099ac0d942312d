"""Faces with label images in Mut1ny's 11 colours at 256 x 256 px (Sec. III-B, III-D).

    --data FOLDER is one of
      Mut1ny's folder with the manifest.csv that prepare.py writes (without one, prepare.py's steps are run first):
        training.xml    pairs of an image and its label, as paths below the folder; without it they are matched by name
        samples/PERSON_SCENE/0001.png, ...    labels/PERSON/0001.png, ...;
      CelebAMask-HQ (CelebA-HQ-img/, CelebAMask-HQ-mask-anno/): its part masks are painted in Mut1ny's colours. It has
      no teeth and no facial hair, and does not say who is who.
    Without --data: data/mut1ny or data/CelebAMask-HQ in this folder, else generated pictures in Mut1ny's layout.

    python mut1ny_fairness/dataset.py --data PATH     verify and describe a folder, count the classes, draw samples
    python mut1ny_fairness/dataset.py                 the same without --data

Mut1ny's community edition: https://store.mut1ny.com, 16,557 images. CelebAMask-HQ:
https://github.com/switchablenorms/CelebAMask-HQ, non-commercial research and education only, no redistribution.
"""

import csv
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

from common import cli, pictures
from common.cache import Arrays, cache_key, fingerprint, open_cache
from common.celebamask import list_whole_faces
from common.checkpoint import make_folder
from common.cli import InputError
from common.device import to_device
from common.images import read_mask, read_photo
from mut1ny_fairness.palette import CLASSES, PAINTED, PALETTE, celebamask_to_mut1ny, to_classes, to_colours
from mut1ny_fairness.prepare import COLUMNS, inside, is_celebamask, locate, prepare

HERE = Path(__file__).resolve().parent
CACHE = HERE / "data" / "cache"
SIZE = 256  # Sec. III-D
TEST_FRACTION = 0.2  # ours (the public template's): the paper gives no ratio
CACHE_VERSION = 2  # counts up when decode() changes
# ImageNet's (ours: the paper says "normalizing")
MEAN = torch.tensor((0.485, 0.456, 0.406))[:, None, None]
STD = torch.tensor((0.229, 0.224, 0.225))[:, None, None]
LEGEND = dict(zip(CLASSES, PALETTE, strict=True))


class Sample(NamedTuple):
    """A photo and its label, of either data set."""

    key: str  # path in the data folder, what the checkpoint keeps of the split
    photo: Path
    label: Path | None  # label image in Mut1ny's colours, or None:
    masks: dict[str, Path] | None  # CelebAMask-HQ's part -> mask
    person: str  # empty if unknown
    category: str


# ---- Which images --------------------------------------------------------------------------------------------------


def list_samples(data: Path | None, manifest: Path | None = None) -> tuple[list[Sample], str]:
    """The samples that --data and --manifest name, and a line that says where they come from.

    Raises InputError for what cannot be used. A Mut1ny folder without a manifest is prepared first, and it is said.
    """
    root, source = locate(data)
    if is_celebamask(root):
        if manifest:
            raise InputError(f"--manifest {manifest}: {root} is CelebAMask-HQ, which has none; leave it out")
        faces = list_whole_faces(root)
        bare = [face for face in faces if not face.masks]
        if bare:
            raise InputError(
                f"{bare[0].photo}: has no mask ({len(bare)} of {len(faces)} photos have none); add masks to "
                "CelebAMask-HQ-mask-anno or remove the photos"
            )
        samples = [Sample(f.photo.name, f.photo, None, f.masks, "", "real") for f in faces]
        return samples, f"{source}, CelebAMask-HQ painted in Mut1ny's colours"
    path = manifest or root / "manifest.csv"
    if not path.is_file():
        if manifest:
            raise InputError(f"--manifest {path}: no such file; write it with prepare.py --manifest")
        if root.is_dir() and not os.access(root, os.W_OK):
            raise InputError(f"{path}: cannot be written; give prepare.py --manifest FILE, then the same flag here")
        print(f"manifest   {path} is missing: running prepare.py's steps", flush=True)
        prepare(root, path)
    return read_manifest(path, root), source


def read_manifest(path: Path, root: Path) -> list[Sample]:
    """The samples of a manifest, whose paths lie in `root`; raises InputError for a broken one."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read ({error}); write it again with prepare.py") from None
    if not rows or not set(COLUMNS[:5]) <= set(rows[0]) or any(None in row.values() for row in rows):
        raise InputError(f"{path}: has no rows of {', '.join(COLUMNS[:5])}; write it again with prepare.py")
    samples = []
    for row in rows:
        photo, label = inside(root, row["image"], path), inside(root, row["label"], path)
        samples.append(Sample(row["image"], photo, label, None, row["person"], row["category"]))
    return samples


def split(samples: list[Sample], by: str, seed: int) -> tuple[list[Sample], list[Sample]]:
    """train and test, 80/20 at random: over images, as in the paper, or so that no person is on both sides.

    Of `real` nobody knows who is who: there every image counts as a person. All of `multi` stays on one side; whom
    it shows, and whether they are on the other side as well, nobody knows either. Raises InputError if a side is too
    small.
    """
    if by == "images":
        order = np.random.default_rng(seed).permutation(len(samples)).tolist()
        cut = len(samples) - round(TEST_FRACTION * len(samples))
        train, test = order[:cut], order[cut:]
    else:
        if not any(sample.person for sample in samples):
            raise InputError("--split person: nobody is known by name in these images; give --split images")
        people: dict[str, list[int]] = {}
        for i, sample in enumerate(samples):
            unknown = "several people" if sample.category == "multi" else sample.key
            people.setdefault(sample.person or unknown, []).append(i)
        train, test, wanted = [], [], round(TEST_FRACTION * len(samples))
        for person in np.random.default_rng(seed).permutation(sorted(people)).tolist():
            (test if len(test) + len(people[person]) <= wanted else train).extend(people[person])
    if len(train) < 2 or not test:
        raise InputError(
            f"{len(samples)} image(s){' of too few people' if by == 'person' else ''} cannot be split 80/20; give a "
            "folder with more, or a larger --limit"
        )
    return [samples[i] for i in sorted(train)], [samples[i] for i in sorted(test)]


def fingerprint_of(samples: list[Sample]) -> str:
    """Of the photos and of their label files or masks, by name and size (common/cache.py)."""
    labels = [s.label for s in samples if s.label]
    masks = [path for s in samples if s.masks for path in s.masks.values()]
    return fingerprint([sample.photo for sample in samples] + labels + masks)


# ---- Reading them --------------------------------------------------------------------------------------------------


def read_label(path: Path, photo: Image.Image) -> tuple[np.ndarray, int]:
    """A label image in Mut1ny's colours -> H x W classes and the number of pixels that are in none of the colours."""
    image = read_photo(path)
    check_shape(path, image.size, photo)
    return to_classes(np.asarray(image))


def check_shape(path: Path, size: tuple[int, int], photo: Image.Image) -> None:
    """Raise InputError unless a label of `size` (width, height) is as wide to its height as the photo."""
    width, height = size
    if photo.width * height != photo.height * width:
        raise InputError(
            f"{path}: is {width} x {height} px, another shape than its photo of {photo.width} x {photo.height}; give "
            "both the same width to height"
        )


def decode(sample: Sample, size: int) -> dict[str, np.ndarray]:
    """images: size x size x 3 uint8, antialiased; labels: size x size uint8 classes, nearest; off: off-palette pixels.

    Images that are not square are squeezed (Sec. III-D: "resizing them to 256x256"). Raises InputError, naming the
    file, for what cannot be used.
    """
    photo = read_photo(sample.photo)
    if sample.label is not None:
        label, off = read_label(sample.label, photo)
    else:
        masks = {part: read_mask(path) for part, path in sample.masks.items() if part in PAINTED}
        shape = next((mask.shape for mask in masks.values()), (photo.height, photo.width))
        for part, mask in masks.items():
            check_shape(sample.masks[part], mask.shape[::-1], photo)
            if mask.shape != shape:
                raise InputError(f"{sample.masks[part]}: has another size than the face's other masks; resize it")
        label, off = celebamask_to_mut1ny(masks, shape), 0
    # Pillow widens the bilinear kernel when it shrinks
    image = photo.resize((size, size), Image.Resampling.BILINEAR)
    label = Image.fromarray(label).resize((size, size), Image.Resampling.NEAREST)
    return {"images": np.asarray(image), "labels": np.asarray(label), "off": np.int64(off)}


def load(samples: list[Sample], size: int, cache: Path) -> Arrays:
    """The decoded samples, memory-mapped; builds their cache if it is not there. InputError for unusable files."""
    files = [p for s in samples for p in (s.photo, *([s.label] if s.label else s.masks.values()))]
    fields = {"images": ((size, size, 3), "uint8"), "labels": ((size, size), "uint8"), "off": ((), "int64")}
    key = cache_key(files, HERE.name, size, CLASSES, PALETTE.tolist(), PAINTED, CACHE_VERSION)
    return open_cache(cache, key, len(samples), fields, lambda i: decode(samples[i], size), "decoding images")


class LabelledFaces(Dataset):
    """dataset[[i, j, ...]] -> images B x 3 x size x size and labels B x size x size, uint8 (0..255 and classes).

    A whole batch is one gather from the memory-mapped cache; images come out channels_last. Nothing is augmented: the
    paper mentions nothing of the kind.
    """

    def __init__(self, samples: list[Sample], size: int, cache: Path):
        self.samples, self.arrays = samples, load(samples, size, cache)

    def __len__(self) -> int:
        return len(self.samples)

    def name(self, i: int) -> str:
        """For messages."""
        return self.samples[i].key

    @property
    def off_palette(self) -> int:
        """How many pixels of the label files were in none of the 11 colours."""
        return int(self.arrays["off"].sum())

    def __getitem__(self, batch: list[int]) -> tuple[Tensor, Tensor]:
        images = torch.from_numpy(self.arrays["images"][batch])  # B H W 3
        return images.permute(0, 3, 1, 2), torch.from_numpy(self.arrays["labels"][batch])


def normalize(images: Tensor, device: torch.device) -> Tensor:
    """B x 3 x H x W uint8 -> float32 on the device, with ImageNet's mean and standard deviation."""
    return (to_device(images, device).contiguous().float() / 255 - to_device(MEAN, device)) / to_device(STD, device)


# ---- python mut1ny_fairness/dataset.py: verify, describe, draw -------------------------------------------------------


class Report(NamedTuple):
    """What verify() found."""

    usable: list[Sample]
    share: np.ndarray  # usable x 11, part of the picture that each class covers
    off: list[int]  # pixels off the palette
    sizes: Counter
    problems: list[str]  # one line each


def verify(samples: list[Sample], size: int) -> Report:
    """Decode every sample, with all cores, and say what is there and what cannot be used."""
    usable, share, off, sizes, problems = [], [], [], Counter(), []

    def attempt(sample: Sample) -> tuple[dict[str, np.ndarray] | None, tuple[int, int] | str]:
        try:
            decoded = decode(sample, size)
            with Image.open(sample.photo) as photo:
                return decoded, photo.size
        except InputError as error:
            return None, str(error)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = tqdm(pool.map(attempt, samples), "verifying", len(samples), disable=None, unit="image")
        for sample, (decoded, found) in zip(samples, results, strict=True):
            if decoded is None:
                problems.append(found)
                continue
            usable.append(sample)
            share.append(np.bincount(decoded["labels"].ravel(), minlength=len(CLASSES)) / size**2)
            off.append(int(decoded["off"]))
            sizes[f"{found[0]} x {found[1]} px"] += 1
    return Report(usable, np.array(share).reshape(-1, len(CLASSES)), off, sizes, problems)


def draw_samples(path: Path, samples: list[Sample], size: int) -> None:
    """Up to 8 images above their labels, with the legend of the colours."""
    decoded = [decode(sample, size) for sample in samples]
    rows = [[sample["images"] for sample in decoded], [to_colours(sample["labels"]) for sample in decoded]]
    titles = [f"{sample.person or sample.category}\n{Path(sample.key).name}" for sample in samples]
    pictures.save_grid(path, rows, row_titles=["image", "label"], column_titles=titles, legend=LEGEND)


def main() -> None:
    parser = cli.Parser(__doc__)
    add = parser.add_argument_group("what to look at").add_argument
    add("--data", type=Path, metavar="PATH", help="Mut1ny's or CelebAMask-HQ's folder (default: as in train.py)")
    add("--manifest", type=Path, metavar="FILE", help="default: manifest.csv in the data folder")
    add("--size", type=cli.number(int, 16), default=SIZE, metavar="N", help="image side (256: Sec. III-D)")
    add("--seed", type=cli.number(int, 0), default=0, metavar="N", help="which samples are drawn (default 0: ours)")
    add("--limit", type=cli.number(int, 1), metavar="N", help="look at the first N images only")
    add("--out", type=Path, default=HERE / "runs" / "dataset", metavar="DIR", help="default: runs/dataset here")
    args = parser.parse_args()
    samples, source = list_samples(args.data, args.manifest)
    samples = samples[: args.limit]
    make_folder(args.out)
    report = verify(samples, args.size)
    categories = Counter(sample.category for sample in samples)
    people = {sample.person for sample in samples} - {""}
    print(f"{source}: {len(samples)} images of {len(people)} known people")
    print(", ".join(f"{count} {category}" for category, count in sorted(categories.items())))
    print(", ".join(f"{count} of {what}" for what, count in report.sizes.most_common(6)))
    print(f"{sum(report.off):,} label pixels in none of the 11 colours, taken as the nearest, in "
          f"{sum(n > 0 for n in report.off)} images")  # fmt: skip
    print(f"{'class':12s} {'images':>6s} {'pixels':>8s} {'where present':>14s}")
    for name, share in zip(CLASSES, report.share.T, strict=True):
        present = share > 0
        everywhere, there = (share.mean(), share[present].mean()) if present.any() else (0, 0)
        print(f"{name:12s} {present.sum():6d} {everywhere:8.2%} {there:14.2%}")
    if report.usable:
        chosen = np.random.default_rng(args.seed).permutation(len(report.usable))[:8]
        draw_samples(args.out / "samples.png", [report.usable[i] for i in sorted(chosen)], args.size)
        print(f"samples.png -> {args.out}")
    for problem in report.problems:
        print(problem)
    if report.problems:
        raise InputError(
            f"{source}: {len(report.problems)} problem(s) in {len(samples)} images, the lines above name them"
        )
    print("every image and every label can be read")


if __name__ == "__main__":
    cli.run(main)

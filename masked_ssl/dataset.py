"""Faces with one exclusive label map each, from LaPa's or CelebAMask-HQ's own folders, as arrays and batches.

    LaPa/                                                    11 classes
      {train,val,test}/images/NAME.jpg, labels/NAME.png
    CelebAMask-HQ/                                           19 classes, background and 18 parts
      CelebA-HQ-img/0.jpg, ...
      CelebAMask-HQ-mask-anno/0/00000_skin.png, ...          merged into one map, later parts over earlier ones
      CelebA-HQ-to-CelebA-mapping.txt                        for the official split of 24,183 / 2,993 / 2,824

`--data` takes either folder and looks which it is. Without it: data/LaPa or data/CelebAMask-HQ in this folder, else
generated faces. Both data sets are for non-commercial research and education:
https://github.com/jd-opensource/lapa-dataset (18,176 / 2,000 / 2,168 faces) and
https://github.com/switchablenorms/CelebAMask-HQ (30,000 faces).

    python masked_ssl/dataset.py --data PATH      verify and describe a folder, draw samples, count the label fractions
    python masked_ssl/dataset.py                  the same for generated faces

Photos that are not square are scaled to fit and their edge is repeated up to the square; no label is learned or
scored there.
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
from common.celebamask import PARTS
from common.cli import InputError
from common.data import open_cache, try_all
from common.device import to_device
from common.images import fitted, read_mask, read_photo, reason, square
from masked_ssl.classes import LAYOUTS, PAPER_SHARE, legend, mirrored_classes, palette
from masked_ssl.splits import GENERATED_SIZE, HERE, PAPER_FRACTIONS, Face, locate, take_fraction

CACHE = HERE / "data" / "cache"
CACHE_VERSION = 3  # counts up when decode() changes
SIZE = 512  # Approach
IGNORED = 255  # label of the pixels beyond a photo's edge
MEAN = torch.tensor((0.485, 0.456, 0.406))[:, None, None]  # ImageNet's (ours: the paper does not say)
STD = torch.tensor((0.229, 0.224, 0.225))[:, None, None]

# ---- From files to arrays ------------------------------------------------------------------------------------------


def load(faces: list[Face], size: int, classes: tuple[str, ...], cache: Path, what: str = "faces") -> dict:
    """The decoded faces, memory-mapped: images N x size x size x 3 and labels N x size x size, uint8. Raises InputError
    for unusable files."""
    files = [path for face in faces for path in (face.photo, *face.labels.values())]
    facts = ["masked_ssl", size, classes, CACHE_VERSION]
    return open_cache(cache, files, facts, len(faces), lambda i: decode(faces[i], size, classes), f"decoding {what}")


def decode(face: Face, size: int, classes: tuple[str, ...]) -> dict[str, np.ndarray]:
    """images: size x size x 3 uint8, antialiased; labels: size x size uint8, nearest, 255 beyond the photo's edge.

    Raises InputError, naming the file, for what cannot be used.
    """
    photo = read_photo(face.photo)
    label = read_label(face.labels[""], photo, classes) if "" in face.labels else read_parts(face, photo, classes)
    top, left, h, w = fitted(photo.size, size)
    labels = np.full((size, size), IGNORED, np.uint8)
    labels[top : top + h, left : left + w] = Image.fromarray(label).resize((w, h), Image.Resampling.NEAREST)
    return {"images": square(photo, size), "labels": labels}


def read_label(path: Path, photo: Image.Image, classes: tuple[str, ...]) -> np.ndarray:
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
    if label.max() >= len(classes):
        raise InputError(
            f"{path}: has the value {label.max()}; expected 0..{len(classes) - 1}, LaPa's classes (was it saved as a "
            "picture? save class numbers as PNG)"
        )
    return label.astype(np.uint8)


def read_parts(face: Face, photo: Image.Image, classes: tuple[str, ...]) -> np.ndarray:
    """CelebAMask-HQ's masks of a face -> H x W uint8, later parts over earlier ones; raises InputError for masks of
    several sizes, or none."""
    label = None
    for part in PARTS:
        if part not in face.labels:
            continue
        mask = read_mask(face.labels[part], None if label is None else label.shape)
        h, w = mask.shape
        if photo.width * h != photo.height * w:
            raise InputError(
                f"{face.labels[part]}: is {w} x {h} px, another shape than its photo of {photo.width} x "
                f"{photo.height}; give both the same width to height"
            )
        label = np.zeros((h, w), np.uint8) if label is None else label
        label[mask] = classes.index(part)
    if label is None:
        raise InputError(f"{face.photo}: has no mask; add masks to CelebAMask-HQ-mask-anno or remove the photo")
    return label


# ---- From arrays to batches ----------------------------------------------------------------------------------------


class FaceLabels:
    """Faces in memory-mapped arrays; `repeat` lists them so many times an epoch, for sets of a few labels."""

    def __init__(
        self, arrays: dict[str, np.ndarray], names: list[str], classes: tuple[str, ...], *,
        flip: bool = False, repeat: int = 1, seed: int = 0,
    ):  # fmt: skip
        self.arrays, self.names = arrays, names
        self.mirrored, self.flip, self.repeat, self.seed = mirrored_classes(classes), flip, repeat, seed

    def __len__(self) -> int:
        return len(self.names) * self.repeat

    def batch(self, indices: list[int] | np.ndarray, epoch: int = 0) -> tuple[Tensor, Tensor]:
        """B indices -> images B x 3 x size x size and labels B x size x size, both uint8.

        With `flip`, one half of the samples is mirrored, left and right classes swapped; which half depends on seed,
        epoch and index alone.
        """
        faces = np.asarray(indices) % len(self.names)
        images, labels = self.arrays["images"][faces], self.arrays["labels"][faces]  # B H W 3, B H W
        if self.flip:
            turn = np.array([np.random.default_rng([self.seed, epoch, i]).random() < 0.5 for i in indices])
            images[turn] = images[turn, :, ::-1]
            labels[turn] = self.mirrored[labels[turn, :, ::-1]]
        return torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(labels)


def normalize(images: Tensor, device: torch.device) -> Tensor:
    """B x 3 x H x W uint8 -> float32 on the device, with ImageNet's mean and standard deviation."""
    return (to_device(images, device).contiguous().float() / 255 - to_device(MEAN, device)) / to_device(STD, device)


def denormalize(images: Tensor) -> np.ndarray:
    """The inverse: B x 3 x H x W float -> B x H x W x 3 uint8."""
    images = images.float().cpu() * STD + MEAN
    return (images.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()


# ---- python masked_ssl/dataset.py: verify, describe, draw ----------------------------------------------------------


def draw_samples(path: Path, faces: list[Face], size: int, classes: tuple[str, ...]) -> None:
    """Photos, their labels, and both mirrored: the colours of left and right stay on their sides of the picture."""
    columns = []
    for face in faces:
        photo, labels = decode(face, size, classes).values()
        labels = np.where(labels == IGNORED, 0, labels)
        turned = mirrored_classes(classes)[labels[:, ::-1]]
        painted = pictures.overlay(photo, labels, palette(classes), 0.75)
        columns.append([photo, painted, pictures.overlay(photo[:, ::-1], turned, palette(classes), 0.75)])
    rows = [list(row) for row in zip(*columns, strict=True)]
    pictures.save_grid(path, rows, row_titles=["photo", "labels", "mirrored"], legend=legend(classes))


def share_table(pixels: np.ndarray, classes: tuple[str, ...]) -> list[list[str]]:
    """Pixels, faces x classes -> a header and one row per class: faces that have it, share of pixels, the paper's."""
    rows = [["class", "faces", "pixels, %", "paper, %"]]
    share = 100 * pixels.sum(0) / pixels.sum()
    for c, name in enumerate(classes):
        printed = f"{PAPER_SHARE.get(name, '')}" + (" (a misprint)" if name == "hair" else "")
        rows.append([name, str((pixels[:, c] > 0).sum()), f"{share[c]:.3f}", printed])
    return rows if classes == LAYOUTS["celebamask"] else [row[:3] for row in rows]


def add_data_arguments(parser: cli.Parser, what: str = "") -> None:
    """--data and --size: the same in every script that reads faces to train with."""
    add = parser.add_argument_group("data").add_argument
    add("--data", type=cli.path, metavar="PATH",
        help=f"LaPa's or CelebAMask-HQ's folder{what} (default: data/LaPa or data/CelebAMask-HQ here, else generated "
             "faces)")  # fmt: skip
    add("--size", type=cli.number(int, 32), metavar="N",
        help=f"image side ({SIZE}: Approach; generated faces {GENERATED_SIZE})")  # fmt: skip


def main() -> None:
    parser = cli.Parser(__doc__)
    add_data_arguments(parser)
    add = parser.add_argument_group("what to look at").add_argument
    add("--limit", type=cli.number(int, 1), metavar="N", help="look at the first N faces of each part only")
    add("--out", type=Path, default=HERE / "runs" / "dataset", metavar="DIR", help="default: runs/dataset here")
    args = parser.parse_args()
    data = locate(args.data, args.limit)
    size, classes = args.size or (GENERATED_SIZE if data.generated else SIZE), LAYOUTS[data.layout]
    counts = ", ".join(f"{len(faces)} {part}" for part, faces in data.parts.items())
    print(f"{data.words}: {data.layout}'s layout, {len(classes)} classes, {counts}, {data.split_words}")

    def count_pixels(face: Face) -> np.ndarray:
        labels = decode(face, size, classes)["labels"]
        return np.bincount(labels[labels != IGNORED], minlength=len(classes))

    problems = []
    for part, faces in data.parts.items():
        found, wrong = try_all(lambda i, faces=faces: count_pixels(faces[i]), len(faces))
        problems += wrong
        if part == "train" and found:
            pictures.print_table(share_table(np.array(list(found.values())), classes))
            path = pictures.make_folder(args.out) / "samples.png"
            draw_samples(path, [faces[i] for i in list(found)[:8]], size, classes)
            print(f"samples.png -> {args.out}")
    train = data.parts["train"]
    print(f"{len({face.source for face in train})} source photos; labels to train with, --seed 0:")
    for fraction in PAPER_FRACTIONS:
        try:
            found = len(take_fraction(train, fraction, seed=0))
        except InputError:
            found = "too few"
        print(f"  --fraction {fraction:<6g} {found} of {len(train)}")
    if problems:
        print(*problems, sep="\n")
        raise InputError(f"{data.folder}: {len(problems)} problem(s), the lines above name them")
    print("every photo and every label can be read")


if __name__ == "__main__":
    cli.run(main)

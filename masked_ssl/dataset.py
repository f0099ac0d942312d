"""Faces with one exclusive label map each, from LaPa's or CelebAMask-HQ's own folders, as arrays and batches.

    LaPa/                                                    11 classes
      {train,val,test}/images/NAME.jpg, labels/NAME.png
    CelebAMask-HQ/                                           19 classes, background and 18 parts
      CelebA-HQ-img/0.jpg, ...
      CelebAMask-HQ-mask-anno/0/00000_skin.png, ...          merged into one map, later parts over earlier ones
      CelebA-HQ-to-CelebA-mapping.txt                        for the official split of 24,183 / 2,993 / 2,824,
      list_eval_partition.txt                                CelebA's, if at hand

`--data` takes either folder and looks which it is. Without it: data/LaPa or data/CelebAMask-HQ in this folder, else
painted faces in the layout that `--layout` names. Both data sets are for non-commercial research and education:
https://github.com/jd-opensource/lapa-dataset (18,176 / 2,000 / 2,168 faces) and
https://github.com/switchablenorms/CelebAMask-HQ (30,000 faces).

    python masked_ssl/dataset.py --data PATH      verify and describe a folder, draw samples, count the label fractions
    python masked_ssl/dataset.py                  the same for painted faces

Photos that are not square are scaled to fit and their edge is repeated up to the square; no label is learned or
scored there. `--limit N` takes the first N photos of each of train, val and test.
"""

import sys
from collections import Counter
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from common import cli, pictures
from common.cli import InputError
from common.data import open_cache, try_all
from common.device import to_device
from masked_ssl.classes import LAYOUTS, PAPER_SHARE, legend, mirrored_classes, palette
from masked_ssl.layouts import CACHE_VERSION, IGNORED, Face, decode
from masked_ssl.splits import GENERATED_SIZE, HERE, PAPER_FRACTIONS, Data, locate, take_fraction

CACHE = HERE / "data" / "cache"
SIZE = 512  # Approach
DEMONSTRATION = "a demonstration, small so that it ends within minutes on a CPU; the paper's recipe: --data"
MEAN = torch.tensor((0.485, 0.456, 0.406))[:, None, None]  # ImageNet's (ours: the paper does not say)
STD = torch.tensor((0.229, 0.224, 0.225))[:, None, None]


def load(faces: list[Face], size: int, classes: tuple[str, ...], cache: Path, what: str = "faces") -> dict:
    """The decoded faces, memory-mapped: images N x size x size x 3 and labels N x size x size, uint8. Raises InputError
    for unusable files."""
    files, facts = [path for face in faces for path in face.files], ["masked_ssl", size, classes, CACHE_VERSION]
    return open_cache(cache, files, facts, len(faces), lambda i: decode(faces[i], size, classes), f"decoding {what}")


class FaceLabels:
    """Faces in memory-mapped arrays; `repeat` lists them so many times an epoch, for sets of a few labels."""

    def __init__(
        self,
        arrays: dict[str, np.ndarray],
        positions: list[int],
        names: list[str],
        classes: tuple[str, ...],
        *,
        flip: bool = False,
        repeat: int = 1,
        seed: int = 0,
    ):
        self.arrays, self.positions = arrays, np.array(positions, dtype=np.int64)
        self.names = [names[i] for i in positions]
        self.mirrored, self.flip, self.repeat, self.seed = mirrored_classes(classes), flip, repeat, seed

    def __len__(self) -> int:
        return len(self.positions) * self.repeat

    def batch(self, indices: list[int] | np.ndarray, epoch: int = 0) -> tuple[Tensor, Tensor]:
        """B indices -> images B x 3 x size x size and labels B x size x size, both uint8.

        With `flip`, one half of the samples is mirrored, left and right classes swapped; which half depends on seed,
        epoch and index alone.
        """
        positions = self.positions[np.asarray(indices) % len(self.positions)]
        images, labels = self.arrays["images"][positions], self.arrays["labels"][positions]  # B H W 3, B H W
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


def verify(data: Data, size: int, classes: tuple[str, ...], out: Path) -> list[str]:
    """Decode every face, describe and draw those to train with; a line for each file that cannot be used."""

    def look(face: Face) -> tuple[np.ndarray, str]:
        labels = decode(face, size, classes)["labels"]
        with Image.open(face.photo) as photo:
            found = f"{photo.width} x {photo.height}"
        return np.bincount(labels[labels != IGNORED], minlength=len(classes)), found

    problems, blank = [], []
    for part, faces in data.parts.items():
        found, wrong = try_all(lambda i, faces=faces: look(faces[i]), len(faces))
        problems += wrong
        blank += [faces[i].photo for i, (pixels, _) in found.items() if not pixels[1:].any()]
        if part == "train" and found:
            sizes = Counter(words for _, words in found.values()).most_common(5)
            print("most frequent sizes of the photos to train with, in px:", ", ".join(f"{w} ({n})" for w, n in sizes))
            pictures.print_table(share_table(np.array([pixels for pixels, _ in found.values()]), classes))
            draw_samples(pictures.make_folder(out) / "samples.png", [faces[i] for i in list(found)[:8]], size, classes)
            print(f"samples.png -> {out}")
    if blank:
        print(f"{len(blank)} face(s) with no class but the background, as if all masks were black; the first is "
              f"{blank[0]}: leave them out, or they teach and count as background")  # fmt: skip
    return problems


# fmt: off
def add_data_arguments(parser: cli.Parser, what: str = "", labels: bool = True, cache: bool = True) -> None:
    """--data, --layout, --size, where labels are read --classes, and --cache: the same in every script."""
    add = parser.add_argument_group("data").add_argument
    add("--data", type=cli.path, metavar="PATH",
        help=f"LaPa's or CelebAMask-HQ's folder{what} (default: data/LaPa or data/CelebAMask-HQ here, else painted "
             "faces)")
    add("--layout", choices=sorted(LAYOUTS), default="celebamask",
        help="of the painted faces, where there is no data (ours; default celebamask)")
    if labels:
        add("--classes", choices=["own", "lapa"], default="own",
            help="own: the data's, 11 or 19 with the background; lapa: CelebAMask-HQ's merged into LaPa's 11 (ours)")
    add("--size", type=cli.number(int, 32), metavar="N",
        help=f"image side ({SIZE}: Approach; painted faces {GENERATED_SIZE})")
    if cache:
        add("--cache", type=Path, default=CACHE, metavar="DIR", help="decoded pictures (default: data/cache here)")
# fmt: on


def main() -> None:
    parser = cli.Parser(__doc__)
    add_data_arguments(parser, cache=False)
    add = parser.add_argument_group("what to look at").add_argument
    add("--seed", type=cli.number(int, 0), default=0, metavar="N", help="of the fractions that are counted")
    add("--limit", type=cli.number(int, 1), metavar="N", help="look at the first N faces of each part only")
    add("--out", type=Path, default=HERE / "runs" / "dataset", metavar="DIR", help="default: runs/dataset here")
    args = parser.parse_args()
    data = locate(args.data, args.layout, args.limit)
    size = args.size or (GENERATED_SIZE if data.generated else SIZE)
    classes = LAYOUTS[data.layout if args.classes == "own" else "lapa"]
    counts = ", ".join(f"{len(faces)} {part}" for part, faces in data.parts.items())
    print(f"{data.words}: {data.layout}'s layout, {len(classes)} classes, {counts}, {data.split_words}")
    problems = verify(data, size, classes, args.out)
    train = data.parts["train"]
    print(f"{len({face.source for face in train})} source photos; labels to train with, --seed {args.seed}:")
    for fraction in PAPER_FRACTIONS:
        try:
            found = len(take_fraction(train, fraction, args.seed))
        except InputError:
            found = "too few"
        print(f"  --fraction {fraction:<6g} {found} of {len(train)}")
    for problem in problems:
        print(problem)
    if problems:
        raise InputError(f"{data.folder}: {len(problems)} problem(s), the lines above name them")
    print("every photo and every label can be read")


if __name__ == "__main__":
    cli.run(main)

"""Faces with one exclusive label map each, in LaPa's or CelebAMask-HQ's own layout (one of them: reading.py).

    LaPa/                                                    11 classes; lapa.py says more
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
from typing import NamedTuple

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from common import celebamask, cli, pictures
from common.cli import InputError
from common.data import open_cache, try_all
from common.device import to_device
from common.faces import write_celebamask
from masked_ssl import lapa, splits
from masked_ssl.classes import LAYOUTS, PAPER_SHARE, classes_of, legend, mirrored_classes, palette
from masked_ssl.reading import CACHE_VERSION, IGNORED, decode
from masked_ssl.splits import Face

HERE = Path(__file__).resolve().parent
CACHE = HERE / "data" / "cache"
SIZE = 512  # Approach
N_GENERATED, GENERATED_SIZE = 200, 64  # ours: half an hour for both steps on one core in float32
DEMONSTRATION = "a demonstration, small so that it ends within minutes on a CPU; the paper's recipe: --data"
MEAN = torch.tensor((0.485, 0.456, 0.406))[:, None, None]  # ImageNet's (ours: the paper does not say)
STD = torch.tensor((0.229, 0.224, 0.225))[:, None, None]


# ---- Which faces ---------------------------------------------------------------------------------------------------


class Data(NamedTuple):
    """A data set that was found, with its faces by part of the split."""

    folder: Path
    layout: str  # a key of LAYOUTS
    words: str  # for the first lines of a run: which folder
    split_words: str  # and which split
    generated: bool
    parts: dict[str, list[Face]]  # train, val, test


def locate(data: str | None, layout: str = "celebamask", limit: int | None = None, *, labels: bool = True) -> Data:
    """The labelled faces: of --data, else of data/LaPa or data/CelebAMask-HQ here, else painted in `layout`.

    limit: the first so many of each part; labels: False for the photos alone, whatever masks they have. Raises
    InputError if the folder is neither or cannot be used.
    """
    own = [HERE / "data" / name for name in ("LaPa", "CelebAMask-HQ")]
    folder = Path(data) if data else next((path for path in own if path.is_dir()), None)
    words, generated = data or f"data/{folder.name if folder else ''} of this folder", folder is None
    if folder is None:
        folder, words = _painted(layout), f"{N_GENERATED} GENERATED faces (no --data, no data set in {HERE.name}/data)"
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give --data LaPa's or CelebAMask-HQ's")
    for name in ("LaPa", "CelebAMask-HQ"):  # the folder that holds it will do
        folder = folder / name if (folder / name).is_dir() else folder
    if lapa.is_lapa(folder):
        parts = {part: lapa.list_part(folder, part) for part in splits.SPLITS}
        layout, split_words = "lapa", "LaPa's own split"
    elif (folder / "CelebA-HQ-img").is_dir():
        found = celebamask.list_celebamask(folder, "skin" if labels else "")
        parts, split_words = splits.split_celebamask(folder, found)
        layout = "celebamask"
    else:
        raise InputError(f"{folder}: has neither train/images (LaPa) nor CelebA-HQ-img (CelebAMask-HQ); give either")
    return Data(folder, layout, words, split_words, generated, {p: faces[:limit] for p, faces in parts.items()})


def _painted(layout: str) -> Path:
    folder = HERE / "data" / f"generated-{layout}"
    if layout == "lapa":
        return lapa.write_generated(folder, N_GENERATED, GENERATED_SIZE)
    return write_celebamask(folder, N_GENERATED, GENERATED_SIZE)


# ---- Their arrays --------------------------------------------------------------------------------------------------


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
    arrays = [decode(face, size, classes) for face in faces]
    photos = [sample["images"] for sample in arrays]
    labels = [np.where(sample["labels"] == IGNORED, 0, sample["labels"]) for sample in arrays]
    turned = [mirrored_classes(classes)[label[:, ::-1]] for label in labels]
    painted = [pictures.overlay(p, label, palette(classes), 0.75) for p, label in zip(photos, labels, strict=True)]
    mirror = [pictures.overlay(p[:, ::-1], t, palette(classes), 0.75) for p, t in zip(photos, turned, strict=True)]
    titles = ["photo", "labels", "mirrored"]
    pictures.save_grid(path, [photos, painted, mirror], row_titles=titles, legend=legend(classes))


def share_table(pixels: np.ndarray, classes: tuple[str, ...]) -> list[list[str]]:
    """Pixels, faces x classes -> a header and one row per class: faces that have it, share of pixels, the paper's."""
    with_paper = classes == LAYOUTS["celebamask"]
    rows = [["class", "faces", "pixels, %"] + (["paper, %"] if with_paper else [])]
    share = 100 * pixels.sum(0) / pixels.sum()
    for c, name in enumerate(classes):
        printed = f"{PAPER_SHARE.get(name, '')}" + (" (a misprint)" if name == "hair" else "")
        rows.append([name, str((pixels[:, c] > 0).sum()), f"{share[c]:.3f}"] + ([printed] if with_paper else []))
    return rows


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
    size, classes = args.size or (GENERATED_SIZE if data.generated else SIZE), classes_of(data.layout, args.classes)
    counts = ", ".join(f"{len(faces)} {part}" for part, faces in data.parts.items())
    print(f"{data.words}: {data.layout}'s layout, {len(classes)} classes, {counts}, {data.split_words}")
    problems = verify(data, size, classes, args.out)
    train = data.parts["train"]
    print(f"{len({face.source for face in train})} source photos; labels to train with, --seed {args.seed}:")
    for fraction in splits.PAPER_FRACTIONS:
        try:
            found = len(splits.take_fraction(train, fraction, args.seed))
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

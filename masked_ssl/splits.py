"""Which faces: those of LaPa's or CelebAMask-HQ's folder, on which side of the split each is, whose labels are used.

LaPa's names end in _0, _1, ...: HELEN_137346980_1_5.jpg is the sixth warped copy of HELEN's 137346980_1.jpg (likewise
AFW_, IBUG_ and LFPW_), 12708537734_6.jpg the seventh face in the photo 12708537734. So what stands before the last
underscore names a source photo. Liu et al., "A New Dataset and Boundary-Attention Semantic Segmentation for Face
Parsing", AAAI 2020. Both layouts are described in dataset.py, CelebAMask-HQ's also in common/celebamask.py.
"""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.celebamask import DUPLICATES, FaceFiles, celebamask_root, list_celebamask
from common.cli import InputError
from common.data import identity
from common.faces import write_celebamask
from common.images import PHOTO_SUFFIXES, files_below, name_of

HERE = Path(__file__).resolve().parent
N_GENERATED, GENERATED_SIZE = 200, 64  # ours: both steps within minutes on a CPU
SPLITS = ("train", "val", "test")  # LaPa's folders
SPLIT_SEED = 0  # of the 80/10/10: the same test photos whatever --seed is, so that no run has seen another's
PAPER_FRACTIONS = (0.002, 0.005, 0.01, 0.1, 1.0)  # the paper's first two and its last; between: ours


class Face(NamedTuple):
    """A face's photo and its labels."""

    name: str
    photo: Path
    labels: dict[str, Path]  # {"": the label map} of LaPa, {part: mask} of CelebAMask-HQ
    source: str  # faces of one source photo are never parted

    @property
    def identity(self) -> str:
        """How a run recognises the face (common/data.py)."""
        return identity(self.photo, self.labels.values())


class Data(NamedTuple):
    """A data set that was found, with its faces by part of the split."""

    folder: Path
    layout: str  # a key of classes.LAYOUTS
    words: str  # for the first lines of a run: which folder
    split_words: str  # and which split
    generated: bool
    parts: dict[str, list[Face]]  # train, val, test


def locate(data: str | None, limit: int | None = None, *, labels: bool = True) -> Data:
    """The labelled faces: of --data, else of data/LaPa or data/CelebAMask-HQ here, else generated ones.

    limit: the first so many of each part; labels: False for the photos alone, whatever masks they have. Raises
    InputError if the folder is neither or cannot be used.
    """
    own = [HERE / "data" / name for name in ("LaPa", "CelebAMask-HQ")]
    folder = Path(data) if data else next((path for path in own if path.is_dir()), None)
    generated = folder is None
    if generated:
        folder = write_celebamask(HERE / "data" / "generated-celebamask", N_GENERATED, GENERATED_SIZE)
        words = f"{N_GENERATED} GENERATED faces (no --data, no data set in {HERE.name}/data)"
    else:
        words = data or f"data/{folder.name} of this folder"
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give --data LaPa's or CelebAMask-HQ's")
    folder = folder / "LaPa" if (folder / "LaPa").is_dir() else celebamask_root(folder) or folder
    if any((folder / part / "images").is_dir() for part in SPLITS):
        parts = {part: list_lapa(folder, part, labels) for part in SPLITS}
        layout, split_words = "lapa", "LaPa's own split"
    elif celebamask_root(folder):
        parts, split_words = split_celebamask(folder, list_celebamask(folder, "skin" if labels else ""))
        layout = "celebamask"
    else:
        raise InputError(f"{folder}: has neither train/images (LaPa) nor CelebA-HQ-img (CelebAMask-HQ); give either")
    return Data(folder, layout, words, split_words, generated, {p: faces[:limit] for p, faces in parts.items()})


# ---- LaPa ----------------------------------------------------------------------------------------------------------


def list_lapa(folder: Path, part: str, labelled: bool = True) -> list[Face]:
    """The photos in folder/part with their labels, sorted by name; InputError if there is none, or one has no label."""
    images, labels = folder / part / "images", folder / part / "labels"
    photos = {name_of(path): path for path in files_below(images) if path.suffix.lower() in PHOTO_SUFFIXES}
    found = {name_of(path): path for path in files_below(labels) if path.suffix == ".png"}
    if not photos:
        raise InputError(f"{images}: holds no photo; LaPa has {part}/images/NAME.jpg and {part}/labels/NAME.png")
    for name, photo in photos.items():
        if labelled and name not in found:
            raise InputError(f"{photo}: has no label {labels / name}.png; unpack the labels too or remove the photo")
    label = {name: {"": path} for name, path in found.items()}
    return [Face(name, photos[name], label.get(name, {}), source_of(name)) for name in sorted(photos)]


def source_of(name: str) -> str:
    """HELEN_137346980_1_5 -> HELEN_137346980_1: the photo that a picture was warped, or cut, from."""
    source, _, number = name.rpartition("_")
    return source if source and number.isdecimal() else name


# ---- CelebAMask-HQ's split -----------------------------------------------------------------------------------------


def split_celebamask(folder: Path, found: list[FaceFiles]) -> tuple[dict[str, list[Face]], str]:
    """train, val and test of CelebAMask-HQ's faces, and in words by what: its official split, else 80/10/10 at random.

    Both photos of a known pair of duplicates fall on the same side of the random split.
    """
    faces = {f.id: Face(str(f.id), f.photo, f.masks, str(DUPLICATES.get(f.id, f.id))) for f in found}
    mapping = folder / "CelebA-HQ-to-CelebA-mapping.txt"
    if mapping.is_file():
        sides, words = official_sides(mapping, list(faces)), "official, by the photos' numbers in CelebA"
    else:
        sources = sorted({face.source for face in faces.values()}, key=int)
        order = [sources[i] for i in np.random.default_rng(SPLIT_SEED).permutation(len(sources))]
        tenth = max(1, round(len(order) / 10))
        side_of = {source: 2 if k < tenth else 1 if k < 2 * tenth else 0 for k, source in enumerate(order)}
        sides = {id: side_of[face.source] for id, face in faces.items()}
        words = f"80/10/10 at random (seed {SPLIT_SEED}; no {mapping.name})"
    parts = {part: [face for id, face in faces.items() if sides[id] == k] for k, part in enumerate(SPLITS)}
    for part, members in parts.items():
        if not members:
            raise InputError(f"{folder}: {len(faces)} face(s), of which none is for {part}; give more")
    return parts, words


def official_sides(mapping: Path, ids: list[int]) -> dict[int, int]:
    """id -> 0 train, 1 val, 2 test: CelebA's photos up to 162770.jpg are for training, up to 182637.jpg for validation.

    Raises InputError if a face is not in the mapping.
    """
    number = {}
    for line in mapping.read_text("utf-8", "replace").splitlines():
        words = line.split()  # idx orig_idx orig_file ...; orig_idx counts from 0, the files from 1
        if len(words) >= 3 and words[0].isdecimal() and words[2].partition(".")[0].isdecimal():  # not the header
            number[int(words[0])] = int(words[2].partition(".")[0])
    for id in ids:
        if id not in number:
            raise InputError(f"{mapping}: has no line for {id}.jpg; get it whole, or remove it for a random split")
    return {id: int(number[id] > 162770) + int(number[id] > 182637) for id in ids}


# ---- Whose labels, and who was seen --------------------------------------------------------------------------------


def take_fraction(faces: list[Face], fraction: float, seed: int) -> list[Face]:
    """The labels to learn from: `fraction` of the faces, drawn with `seed`, sorted as before.

    Larger fractions of a seed hold the smaller ones. All pictures of a source photo come together, so the count is
    the nearest that whole sources allow. Raises InputError if fewer than two are left: batch norm needs two.
    """
    sizes = Counter(face.source for face in faces)
    sources = sorted(sizes)
    order = [sources[i] for i in np.random.default_rng([seed, 1]).permutation(len(sources))]
    counts = np.cumsum([sizes[source] for source in order])
    nearest = int(np.abs(counts - fraction * len(faces)).argmin())
    chosen = set(order[: nearest + 1])
    subset = [face for face in faces if face.source in chosen]
    if len(subset) < 2:
        raise InputError(
            f"--fraction {fraction:g} of {len(faces)} labels is {fraction * len(faces):.1f}; give {2 / len(faces):.2g} "
            "or more, or more data: batch norm needs two"
        )
    return subset

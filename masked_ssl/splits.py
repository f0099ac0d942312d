"""Who is trained on, validated on and tested on, and whose labels are used: official splits and label fractions."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.celebamask import DUPLICATES, FaceFiles
from common.cli import InputError
from common.data import identity

SPLITS = ("train", "val", "test")
SPLIT_SEED = 0  # of the 80/10/10: the same test photos whatever --seed is, so that no run has seen another's
PAPER_FRACTIONS = (0.002, 0.005, 0.01, 0.1, 1.0)  # the paper's first two and its last; between: ours


class Face(NamedTuple):
    """A face's photo and its labels."""

    name: str
    photo: Path
    labels: tuple[tuple[str, Path], ...]  # ("", the label map) of LaPa, (part, mask) of CelebAMask-HQ
    source: str  # faces of one source photo are never parted

    @property
    def files(self) -> list[Path]:
        """The photo, its label map or masks."""
        return [self.photo, *(path for _, path in self.labels)]

    @property
    def identity(self) -> str:
        """By what a run knows the face again (common/data.py)."""
        return identity(self.photo, [path for _, path in self.labels])


def split_celebamask(folder: Path, found: list[FaceFiles]) -> tuple[dict[str, list[Face]], str]:
    """train, val and test of CelebAMask-HQ's faces, and in words by what: its official split, else 80/10/10 at random.

    Both photos of a known pair of duplicates fall on the same side of the random split.
    """
    faces = {f.id: Face(str(f.id), f.photo, tuple(f.masks.items()), str(DUPLICATES.get(f.id, f.id))) for f in found}
    whole = Path(os.path.abspath(folder))  # `--data .` has a name too, and a link keeps its own
    outer = [whole.parent] if whole.name == "CelebAMask-HQ" else []  # the list is CelebA's
    mapping, partition = (
        next((root / name for root in (folder, *outer) if (root / name).is_file()), None)
        for name in ("CelebA-HQ-to-CelebA-mapping.txt", "list_eval_partition.txt")
    )
    if mapping:
        sides, words = official_sides(mapping, partition, sorted(faces))
    else:
        sources = sorted({face.source for face in faces.values()}, key=int)
        order = [sources[i] for i in np.random.default_rng(SPLIT_SEED).permutation(len(sources))]
        tenth = max(1, round(len(order) / 10))
        side_of = {source: 2 if k < tenth else 1 if k < 2 * tenth else 0 for k, source in enumerate(order)}
        sides = {id: side_of[face.source] for id, face in faces.items()}
        words = f"80/10/10 at random (seed {SPLIT_SEED}; no CelebA-HQ-to-CelebA-mapping.txt)"
    parts = {part: [faces[id] for id in sorted(faces) if sides[id] == k] for k, part in enumerate(SPLITS)}
    if not all(parts.values()):
        raise InputError(
            f"{folder}: {len(faces)} face(s), of which none is for {next(p for p in parts if not parts[p])}; give more"
        )
    return parts, words


def official_sides(mapping: Path, partition: Path | None, ids: list[int]) -> tuple[dict[int, int], str]:
    """id -> 0 train, 1 val, 2 test: from the mapping to CelebA and its partition list, or without it from its bounds.

    Raises InputError if a face is not in the files.
    """
    rows = {}
    for line in mapping.read_text("utf-8", "replace").splitlines():
        words = line.split()
        if len(words) >= 3 and words[0].isdecimal() and words[1].isdecimal():  # not the header
            rows[int(words[0])] = int(words[1]), words[2]
    for id in ids:
        if id not in rows:
            raise InputError(f"{mapping}: has no line for {id}.jpg; get it whole, or remove it for a random split")
    if partition is None:  # the usual rule; orig_idx counts from 0, so it may be one photo off the list at each bound
        return {id: int(rows[id][0] >= 162771) + int(rows[id][0] >= 182638) for id in ids}, "official, by orig_idx"
    lines = [line.split() for line in partition.read_text("utf-8", "replace").splitlines()]
    side = {words[0]: words[1] for words in lines if len(words) >= 2}
    for id in ids:
        if side.get(rows[id][1]) not in ("0", "1", "2"):
            raise InputError(f"{partition}: has no line with 0, 1 or 2 for {rows[id][1]} ({id}.jpg); get it again")
    return {id: int(side[rows[id][1]]) for id in ids}, f"official, {partition.name}"


def among(identities: Iterable[str], known: Iterable[str]) -> list[str]:
    """Those of the identities whose photos are among the known ones, whatever their masks were then."""
    photos = {one.rsplit(":", 2)[0] for one in known}
    return [one for one in identities if one.rsplit(":", 2)[0] in photos]


def take_fraction(faces: list[Face], fraction: float, seed: int) -> list[Face]:
    """The labels to learn from: `fraction` of the faces, drawn with `seed`, sorted as before.

    Larger fractions of a seed hold the smaller ones. All pictures of a source photo come together, so the count is
    the nearest that whole sources allow. Raises InputError if fewer than two are left: batch norm needs two.
    """
    if len(faces) < 2:
        raise InputError(f"{len(faces)} label(s) are too few to learn from; give more data, or a larger --limit")
    members: dict[str, list[Face]] = {}
    for face in faces:
        members.setdefault(face.source, []).append(face)
    names = sorted(members)
    order = [names[i] for i in np.random.default_rng([seed, 1]).permutation(len(names))]
    counts = np.cumsum([len(members[source]) for source in order])
    nearest = int(np.abs(counts - fraction * len(faces)).argmin())
    chosen = set(order[: nearest + 1])
    subset = [face for face in faces if face.source in chosen]
    if len(subset) < 2:
        raise InputError(
            f"--fraction {fraction:g} of {len(faces)} labels is {fraction * len(faces):.1f}; give {2 / len(faces):.2g} "
            "or more, for two"
        )
    return subset

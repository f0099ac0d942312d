"""groups.csv: whose photos these are, and which of them form a group.

Who belongs to which group is read from the file, as people have said it of themselves; nothing guesses it from a photo.
"""

import csv
import io
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.cli import InputError
from mut1ny_fairness.group_stats import MIN_NARROW, MIN_RANKED
from mut1ny_fairness.prepare import inside

NOT_GIVEN = "(not given)"  # an empty cell: shown, never ranked


class Photo(NamedTuple):
    """A row of groups.csv."""

    image: Path
    label: Path | None
    person: str
    row: dict[str, str]


def read_groups(path: Path, by: list[str]) -> tuple[list[Photo], list[str]]:
    """The photos of a groups.csv and its columns; commas, semicolons and tabs all separate.

    Raises InputError for a file without `image` or a column of `by`, for paths that leave its folder, and for files
    that are not there.
    """
    try:
        raw = path.read_bytes()
        text = raw.decode("utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except OSError as error:
        raise InputError(f"--groups {path}: {error.strerror}; give a CSV file with a column image") from None
    except UnicodeDecodeError:
        raise InputError(f"--groups {path}: is not UTF-8 text; save it as CSV UTF-8") from None
    head = text.split("\n", 1)[0]
    separator = max(",;\t", key=head.count)
    try:
        lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator))
    except csv.Error as error:
        raise InputError(f"--groups {path}: cannot be read as CSV ({error}); save it again") from None
    columns = [name.strip().lower() for name in lines[0]] if lines else []
    for name in ["image", *by]:
        if name not in columns:
            raise InputError(f"--groups {path}: has no column {name}; its columns are {', '.join(columns) or 'none'}")
    photos, seen = [], {}
    for line_number, cells in enumerate(lines[1:], start=2):
        row = dict(zip(columns, (cell.strip() for cell in cells), strict=False))
        if not any(row.values()):
            continue
        where = f"{path}, line {line_number}"
        if len(cells) > len(columns) or not row.get("image"):
            raise InputError(f"{where}: has {'too many cells' if row.get('image') else 'no image'}; correct it")
        image = inside(path.parent, row["image"], where)
        label = inside(path.parent, row["label"], where) if row.get("label") else None
        for file in (image, label):
            if file is not None and not file.is_file():
                raise InputError(f"{where}: {file} does not exist; correct the path or remove the line")
        if image in seen:
            raise InputError(f"{where}: {row['image']} stands in line {seen[image]} already; remove one of them")
        seen[image] = line_number
        photos.append(Photo(image, label, row.get("person") or str(image), row))
    if not photos:
        raise InputError(f"--groups {path}: has no rows; add one for each photo")
    return photos, columns


def group_of(photo: Photo, by: list[str]) -> tuple[str, ...]:
    """What stands in the columns of --by."""
    return tuple(photo.row.get(column) or NOT_GIVEN for column in by)


class Groups(NamedTuple):
    """The labelled photos by group: codes for the statistics, names for people to read."""

    names: list[str]
    people: list[int]  # in each group
    images: list[int]
    ranked: np.ndarray  # G bool: 10 people or more
    of_image: np.ndarray  # n group numbers
    person: np.ndarray  # n person numbers
    columns: list[np.ndarray]  # of each column of --by, n codes
    table: np.ndarray  # group number of each combination of codes, -1 if there is none

    @property
    def tested(self) -> np.ndarray:
        """n bool: the images of ranked groups, which the test of the gap is about; all where there is no test because
        fewer than two groups are ranked."""
        return self.ranked[self.of_image] | (self.ranked.sum() < 2)

    def note(self, g: int) -> str:
        """What must be said beside group g: not ranked, or a wide interval."""
        if not self.ranked[g]:
            return "not ranked" if NOT_GIVEN in self.names[g] else f"not ranked (under {MIN_RANKED} people)"
        return f"wide (under {MIN_NARROW} people)" if self.people[g] < MIN_NARROW else ""


def find_groups(photos: list[Photo], by: list[str]) -> Groups:
    """The groups of n labelled photos, sorted by name."""
    keys = [group_of(photo, by) for photo in photos]
    values = [sorted({key[c] for key in keys}) for c in range(len(by))]
    columns = [np.array([values[c].index(key[c]) for key in keys]) for c in range(len(by))]
    found = sorted(set(keys))
    of_image = np.array([found.index(key) for key in keys])
    people = sorted({photo.person for photo in photos})
    number_of = {name: i for i, name in enumerate(people)}
    person = np.array([number_of[photo.person] for photo in photos])
    sizes = [len(set(person[of_image == g])) for g in range(len(found))]
    ranked = np.array([n >= MIN_RANKED and NOT_GIVEN not in key for n, key in zip(sizes, found, strict=True)])
    table = np.full([len(v) for v in values], -1)
    for g, key in enumerate(found):
        table[tuple(values[c].index(key[c]) for c in range(len(by)))] = g
    images = np.bincount(of_image).tolist()
    return Groups([" / ".join(key) for key in found], sizes, images, ranked, of_image, person, columns, table)

"""groups.csv: whose photos these are, and which of them form a group.

Who belongs to which group is read from the file, as people have said it of themselves; nothing guesses it from a photo.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.cli import InputError
from mut1ny_fairness.tables import inside, read_table

NOT_GIVEN = "(not given)"  # an empty cell: shown, never ranked
MIN_RANKED, MIN_NARROW = 10, 30  # ours: people in a group that is ranked, and in one whose interval is not wide


class Photo(NamedTuple):
    """A row of groups.csv."""

    image: Path
    labels: dict[str, Path]  # {"": label image}, or nothing
    person: str
    row: dict[str, str]


def read_groups(path: Path, by: list[str]) -> tuple[list[Photo], list[str]]:
    """The photos of a groups.csv and its columns.

    Raises InputError for a file without `image` or a column of `by`, for paths that leave its folder, and for files
    that are not there.
    """
    columns, rows = read_table(path, ["image", *by])
    photos, seen = [], {}
    for where, row in rows:
        image = inside(path.parent, row["image"], where)
        labels = {"": inside(path.parent, row["label"], where)} if row.get("label") else {}
        for file in (image, *labels.values()):
            if not file.is_file():
                raise InputError(f"{where}: {file} is not a file; correct the path or remove the line")
        if image in seen:
            raise InputError(f"{where}: {row['image']} is also in {seen[image]}; remove one of the lines")
        seen[image] = where
        photos.append(Photo(image, labels, row.get("person") or str(image), row))
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
    varying: dict[str, list[int]]  # of each column of --by, the people whose tested images differ in it

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


def varied(person: np.ndarray, values: np.ndarray) -> list[int]:
    """n person numbers, n values -> the people whose images differ in them: of a group or gender nobody, of an emotion
    everybody."""
    people, first, index = np.unique(person, return_index=True, return_inverse=True)
    return people[np.bincount(index, values != values[first][index]) > 0].tolist()


def find_groups(photos: list[Photo], by: list[str]) -> Groups:
    """The groups of n labelled photos, sorted by name: of two columns each combination is one.

    Raises InputError if only one of two columns varies within people: no shuffling answers for both.
    """
    keys = [group_of(photo, by) for photo in photos]
    found = sorted(set(keys))
    of_image = np.array([found.index(key) for key in keys])
    person = np.unique([photo.person for photo in photos], return_inverse=True)[1]
    sizes = [len(set(person[of_image == g])) for g in range(len(found))]
    ranked = np.array([n >= MIN_RANKED and NOT_GIVEN not in key for n, key in zip(sizes, found, strict=True)])
    names = [" / ".join(key) for key in found]
    groups = Groups(names, sizes, np.bincount(of_image).tolist(), ranked, of_image, person, {})
    if ranked.sum() > 1:
        for name, values in zip(by, np.array(keys).T, strict=True):
            groups.varying[name] = varied(person[groups.tested], values[groups.tested])
    if any(groups.varying.values()) and not all(groups.varying.values()):
        one, other = sorted(by, key=lambda name: not groups.varying[name])
        who = photos[person.tolist().index(groups.varying[one][0])].person
        raise InputError(
            f"--by {' '.join(by)}: {one} differs between the photos of {who}, {other} between nobody's; give one of "
            "the two, or correct the file"
        )
    return groups

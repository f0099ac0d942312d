"""Reading manifest.csv and groups.csv, which users have made, and paths that stay in their folder."""

import csv
import io
import re
import unicodedata
from pathlib import Path, PurePosixPath

from common.cli import InputError


def read_table(path: Path, needed: list[str]) -> tuple[list[str], list[tuple[str, dict[str, str]]]]:
    """The columns of a CSV and its rows, each with its place for messages; commas, semicolons, tabs all separate.

    Raises InputError for a file without a column of `needed`, without rows, or with cells that no column has.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        separator = max(",;\t", key=text.split("\n", 1)[0].count)
        lines = list(csv.reader(io.StringIO(text), delimiter=separator))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: is not a table in UTF-8 ({error}); save it as CSV UTF-8") from None
    columns = [name.strip().lower() for name in lines[0]] if lines else []
    for name in needed:
        if name not in columns:
            raise InputError(f"{path}: has no column {name}; its columns are {', '.join(columns) or 'none'}")
    rows = []
    for line, cells in enumerate(lines[1:], start=2):
        if len(cells) > len(columns):
            raise InputError(f"{path}, line {line}: has too many cells; correct it")
        row = dict.fromkeys(columns, "") | dict(zip(columns, map(str.strip, cells), strict=False))
        if any(row.values()):
            rows.append((f"{path}, line {line}", row))
    if not rows:
        raise InputError(f"{path}: has no rows; add one for each picture")
    return columns, rows


def inside(root: Path, name: str, where: str) -> Path:
    """root/name; raises InputError if the name leads out of root: a whole path, or "..". A link in root may."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or re.match(r"[A-Za-z]:", name):
        raise InputError(f"{where}: the path {name!r} leaves {root}; correct it, or copy the file into the folder")
    spelled = (root / unicodedata.normalize(form, str(path)) for form in ("NFC", "NFD"))  # Linux', and macOS' accents
    return next((other for other in spelled if other.exists()), root / path)

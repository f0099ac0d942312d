"""Tables of text: printed in columns, and written as CSV."""

import csv
import io
from pathlib import Path

from common.checkpoint import write_atomically


def print_table(rows: list[list[str]], left: int = 1) -> None:
    """Rows of the same length in columns, the first `left` of them flush left and the others flush right."""
    widths = [max(len(row[c]) for row in rows) for c in range(len(rows[0]))]
    for row in rows:
        cells = enumerate(zip(row, widths, strict=True))
        print("  ".join(text.ljust(w) if c < left else text.rjust(w) for c, (text, w) in cells).rstrip())


def write_csv(path: Path, rows: list[list[str]]) -> None:
    """Rows as a CSV file, written whole or not at all."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_atomically(path, text.getvalue().encode("utf-8", "surrogateescape"))

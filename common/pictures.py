"""What is written: files whole or not at all, tables, pictures. Nothing here needs a display."""

import csv
import errno
import io
import json
import math
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from PIL import Image

from common.cli import InputError, hold_signals

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# ---- Files ---------------------------------------------------------------------------------------------------------


def save(path: Path, data: bytes | Callable[[BinaryIO], object]) -> None:
    """Replace `path` by `data` or by what data(file) writes; raises InputError, leaving the old file, if it cannot.

    Ctrl-C and SIGTERM wait until the file is whole.
    """
    draft = path.with_name(f".{path.name}.tmp")
    try:
        with hold_signals():
            with open(draft, "wb") as file:
                data(file) if callable(data) else file.write(data)
                file.flush()
                os.fsync(file.fileno())
            patiently(os.replace, draft, path)
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as RuntimeError
        with suppress(OSError):
            draft.unlink()
        why = getattr(error, "strerror", None) or str(error).split("\n")[0][:100]
        full = getattr(error, "errno", errno.ENOSPC) in (errno.ENOSPC, errno.EDQUOT)
        remedy = "free some space or use another folder" if full else "use another folder"
        raise InputError(f"{path}: {why}; nothing was overwritten; {remedy}") from None


def patiently(move: Callable[[Path, Path], None], draft: Path, path: Path) -> None:
    """move(draft, path); on Windows for some seconds, because readers and virus scanners hold files there."""
    for wait in (0.1, 0.3, 1, 3) if os.name == "nt" else ():
        try:
            return move(draft, path)
        except PermissionError:
            time.sleep(wait)
    move(draft, path)


def write_json(path: Path, value: dict) -> None:
    """`value` as JSON; nan and inf, which JSON does not have, as null."""

    def plain(value: object) -> object:
        if isinstance(value, dict):
            return {key: plain(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [plain(inner) for inner in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    save(path, (json.dumps(plain(value), indent=2, allow_nan=False) + "\n").encode())


def write_csv(path: Path, rows: list[list[object]]) -> None:
    """Rows as a CSV file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    save(path, text.getvalue().encode("utf-8", "surrogateescape"))


def make_folder(folder: Path) -> Path:
    """`folder`, created with its parents; raises InputError if it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {folder}: {error.strerror}; choose a folder that can be written") from None
    return folder


def print_table(rows: list[list[str]], left: int = 1) -> None:
    """Rows of the same length in columns, the first `left` of them flush left and the others flush right."""
    widths = [max(len(row[c]) for row in rows) for c in range(len(rows[0]))]
    for row in rows:
        cells = enumerate(zip(row, widths, strict=True))
        print("  ".join(text.ljust(w) if c < left else text.rjust(w) for c, (text, w) in cells).rstrip())


# ---- Pictures ------------------------------------------------------------------------------------------------------


def overlay(image: np.ndarray, label: np.ndarray, palette: np.ndarray, opacity: float = 0.55) -> np.ndarray:
    """H x W x 3 uint8 photo with its labels painted over; background (0) stays clear."""
    painted = image.copy()
    for top in range(0, len(image), 512):  # by rows: a copy of 48 megapixels is 144 MB, and there would be five
        clear, labels = image[top : top + 512], label[top : top + 512]
        mixed = Image.blend(Image.fromarray(clear), Image.fromarray(palette[labels]), opacity)
        np.copyto(painted[top : top + 512], np.asarray(mixed), where=labels[..., None] > 0)
    return painted


def save_label(path: Path, label: np.ndarray, palette: np.ndarray) -> None:
    """H x W uint8 labels as a palette PNG: the file holds the class ids and still shows colours."""
    image = Image.fromarray(label)
    image.putpalette(palette.tobytes())
    save_image(path, image)


def save_image(path: Path, image: np.ndarray | Image.Image) -> None:
    """A PNG of an image, H x W (x 3 or 4) uint8 or PIL's, written whole or not at all."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    save(path, buffer.getvalue())


def subplots(rows: int, columns: int, *, figsize: tuple[float, float], **shared: bool) -> tuple["Figure", np.ndarray]:
    """A figure and its rows x columns axes; matplotlib is imported with the first one: --help has none."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=figsize, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **shared)


def plain(name: str) -> str:
    """A folder's or group's name for a title or legend, as it stands: no formula, not hidden by a leading _."""
    return " " * name.startswith("_") + name.replace("$", r"\$")


DPI = 100  # dots per inch of figures


def save_figure(path: Path, figure: "Figure", dpi: int = DPI) -> None:
    """A matplotlib figure as PNG, written whole or not at all."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    save(path, buffer.getvalue())


def save_grid(
    path: Path,
    rows: list[list[np.ndarray | None]],
    *,
    column_titles: list[str] | None = None,
    row_titles: list[str] | None = None,
    titles: list[list[str]] | None = None,
    legend: dict[str, np.ndarray] | None = None,
    cell: float = 1.5,
) -> None:
    """Rows of pictures (H x W x 3 uint8, H x W bool, or None for a gap) with titles and a legend of names and colours.

    `cell`: the side of a picture in inches, at DPI.
    """
    height = cell * len(rows) + 0.3 + (0.22 * -(-len(legend) // 6) + 0.1 if legend else 0)
    figure, axes = subplots(len(rows), len(rows[0]), figsize=(cell * len(rows[0]) + 0.6, height))
    for r, row in enumerate(rows):
        for c, (axis, picture) in enumerate(zip(axes[r], row, strict=True)):
            axis.set(xticks=[], yticks=[])
            if column_titles and r == 0:  # names of files and groups: a $ is no formula
                axis.set_title(column_titles[c], fontsize=8, parse_math=False)
            if row_titles and c == 0:
                axis.set_ylabel(row_titles[r], fontsize=8, parse_math=False)
            if picture is None:
                axis.set_frame_on(False)
                continue
            picture = picture * np.uint8(255) if picture.dtype == bool else picture
            k = int(max(picture.shape[:2]) / (2 * DPI * cell))  # of a large photo matplotlib would make gigabytes
            picture = np.asarray(Image.fromarray(picture).reduce(k)) if k > 1 else picture
            axis.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            if titles:
                axis.set_title(titles[r][c], fontsize=7, parse_math=False)
    if legend:
        from matplotlib.patches import Patch

        patches = [
            Patch(facecolor=np.asarray(color) / 255, edgecolor="gray", label=name) for name, color in legend.items()
        ]
        figure.legend(
            handles=patches, loc="outside lower center", ncols=min(6, len(patches)), fontsize=7, frameon=False
        )
    save_figure(path, figure)


COLOURS = {"training": "C0", "validation": "C1", "test": "C2"}  # of curves, in every figure


def save_curves(
    path: Path,
    rows: list[dict],
    panels: dict[str, dict[str, str]],
    log_scale: tuple[str, ...] = (),
    columns: int | None = None,
) -> None:
    """One panel per entry of `panels` (title -> {column of rows: label}), over the column `epoch`.

    `columns`: how many panels stand in a row, a divisor of all (default: all).
    """
    columns = columns or len(panels)
    height = -(-len(panels) // columns)
    figure, axes = subplots(height, columns, figsize=(4.2 * columns, 3.2 * height))
    epochs = [row["epoch"] for row in rows]
    for axis, (title, curves) in zip(axes.flat, panels.items(), strict=True):
        for column, label in curves.items():
            look = {"label": label, "color": COLOURS.get(label), "marker": "." if len(rows) < 10 else None}
            axis.plot(epochs, [row[column] for row in rows], **look)
        axis.set_title(title)
        axis.set_xlabel("epoch")
        axis.grid(alpha=0.3)
        axis.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        if title in log_scale:
            axis.set_yscale("log")
        if len(curves) > 1:
            axis.legend()
    save_figure(path, figure)

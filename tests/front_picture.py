"""README.md's picture: generated faces as the five papers' networks see them, taken from the figures of the folders.

    python tests/front_picture.py        writes front.png here, anew

Each column is one row of a folder's figures/generated.png. The README of that folder says which command drew it.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from common.pictures import save_grid

ROWS = ["generated face", "true", "predicted"]
# folder -> title, the row of its figure, and the columns of photo, truth and output
COLUMNS = {
    "nu_deeplabv3plus": ("18 face parts", 2, (0, 1, 2)),
    "hair_transfer": ("hair", 1, (0, 1, 2)),
    "lrn_headtorso": ("head and torso", 0, (0, 1, 7)),
    "mut1ny_fairness": ("areas of a face", 3, (0, 1, 2)),
    "masked_ssl": ("19 classes", 0, (0, 2, 1)),
}


def runs(flags: np.ndarray, at_least: int) -> list[slice]:
    """The stretches of True in a vector that are at least that long."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(int)))
    return [slice(a, b) for a, b in edges.reshape(-1, 2) if b - a >= at_least]


def panels(figure: Path, smallest: int = 50) -> list[list[np.ndarray]]:
    """A picture of common/pictures.py:save_grid -> its rows of panels, each H x W x 3 uint8, without their frames.

    Each panel has a dark frame, and white lies between them; titles and legend are too thin to be one.
    """
    image = np.asarray(Image.open(figure).convert("RGB"))
    ink = image.min(2) < 250
    bands = runs(ink.mean(1) > 0.5, smallest)
    return [[image[band, part][2:-2, 2:-2] for part in runs(ink[band].any(0), smallest)] for band in bands]


def main() -> None:
    found = {folder: panels(ROOT / folder / "figures" / "generated.png") for folder in COLUMNS}
    rows = [[found[folder][row][parts[r]] for folder, (_, row, parts) in COLUMNS.items()] for r in range(len(ROWS))]
    titles = [f"{folder}\n{what}" for folder, (what, _, _) in COLUMNS.items()]
    save_grid(ROOT / "tests" / "front.png", rows, column_titles=titles, row_titles=ROWS, cell=1.6)


if __name__ == "__main__":
    main()

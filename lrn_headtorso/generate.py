"""Generated pictures in remove.bg's layout: what is trained on when there is no data."""

from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from common import faces
from common.generated import write_once

N = 298  # as many as the paper has
SIZE = 250  # LFW's
ZOOM = 0.66  # ours: how far generate_face() steps back, to the framing of a portrait


def generate_portrait(seed: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Picture size x size x 3 and alpha size x size (uint8) of a painted person, head and torso.

    Every part of the painted face and body is the person; the mask is hard, as remove.bg's mostly is.
    """
    face = faces.generate_face(seed, size, zoom=ZOOM)
    return face.image, face.masks.any(0) * np.uint8(255)


def write_generated(folder: Path, n: int, size: int = SIZE, seed: int = 0) -> Path:
    """The portraits of the seeds seed .. seed + n - 1 in remove.bg's layout, and `folder` (see write_once)."""

    def paint(draft: Path) -> None:
        for sub in ("photos", "cutouts"):
            (draft / sub).mkdir()
        for i in tqdm(range(n), f"painting {folder.name}", unit="picture", disable=None):
            image, alpha = generate_portrait(seed + i, size)
            Image.fromarray(image).save(draft / "photos" / f"{i:04d}.jpg", quality=95)
            cutout = np.dstack([np.where(alpha[..., None] > 0, image, 0), alpha])  # as remove.bg: black elsewhere
            Image.fromarray(cutout).save(draft / "cutouts" / f"{i:04d}.png")

    return write_once(folder, {"n": n, "size": size, "seed": seed, "version": [faces.VERSION, 2]}, paint)

"""Painted faces in Mut1ny's own layout, so that the whole pipeline runs with nothing downloaded."""

import io
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from common import faces
from common.generated import write_once
from mut1ny_fairness.palette import celebamask_to_mut1ny, to_colours

SIZE = 256
# labels folder -> the folder of its images, the person's number, how many pictures. 38 in all; without the 4 copies and
# with 10 of femalealison1 30 are left, 24 to train and 6 to test: what a ResNet-101 on two CPU cores can bear.
FOLDERS = {
    "femalealison1": ("femalealison1_light", 8, 14),
    "femalealison2": ("femalealison2_light", 8, 3),  # the same person as femalealison1
    "malegaberial": ("malegaberial_light", 5, 4),
    "male06_1": ("male06_light", 23, 2),
    "male06_2": ("male06_nolight", 23, 2),
    "multiperson": ("multiperson", None, 3),
    "real": ("real", None, 6),
}
COPIES = {  # ours: picture -> how it is a copy of an earlier one, for prepare.py to find
    ("real", 6): ("real", 0, "exact"),
    ("malegaberial", 4): ("malegaberial", 1, "resized"),
    ("femalealison1", 14): ("femalealison1", 2, "re-compressed"),
    ("real", 7): ("femalealison2", 0, "exact"),
}


def generate_picture(folder: str, number: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Image H x W x 3 and label image H x W x 3 (uint8) of the picture `number` of a folder."""
    person = FOLDERS[folder][1]
    seed = 1000 * (1 + list(FOLDERS).index(folder)) + 7 + number  # real/0003 wears glasses
    if folder != "multiperson":
        return _face(seed, size, person)
    halves = [_face(seed + shift, size, None) for shift in (100, 200)]  # the middle of two faces, side by side
    middle = slice(size // 4, size // 4 + size // 2)
    return tuple(np.concatenate([half[which][:, middle] for half in halves], axis=1) for which in (0, 1))


def _face(seed: int, size: int, person: int | None) -> tuple[np.ndarray, np.ndarray]:
    face = faces.generate_face(seed, size, person=person)
    masks = dict(zip(faces.PARTS + faces.EXTRA_PARTS, face.masks, strict=True))
    return face.image, to_colours(celebamask_to_mut1ny(masks, face.masks.shape[1:]))


def copy_of(image: np.ndarray, label: np.ndarray, how: str) -> tuple[np.ndarray, np.ndarray]:
    """The same picture again, as it is, at three quarters of its size, or through a JPEG of low quality."""
    if how == "exact":
        return image, label
    if how == "resized":
        side = 3 * image.shape[0] // 4
        smaller = Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR)
        return np.asarray(smaller), np.asarray(Image.fromarray(label).resize((side, side), Image.Resampling.NEAREST))
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=70)
    return np.asarray(Image.open(buffer)), label


def write_mut1ny(folder: Path, size: int = SIZE) -> Path:
    """Paint samples/, labels/ and training.xml into `folder`, and return it (see write_once)."""
    return write_once(folder, {"size": size, "version": [faces.VERSION, 1]}, lambda draft: _write(draft, size))


def _write(folder: Path, size: int) -> None:
    pictures = [(name, k) for name, (_, _, n) in FOLDERS.items() for k in range(n)]
    drawn, lines = {}, []
    for name, k in tqdm([*pictures, *COPIES], "painting", unit="picture", disable=None):
        if (name, k) in COPIES:
            source, number, how = COPIES[name, k]
            drawn[name, k] = copy_of(*drawn[source, number], how)
        else:
            drawn[name, k] = generate_picture(name, k, size)
        for root, sub, picture in zip(("samples", "labels"), (FOLDERS[name][0], name), drawn[name, k], strict=True):
            path = folder / root / sub / f"{k:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(path)
            tag = "srcimg" if root == "samples" else "labelimg"
            lines.append(f'  <{tag} name="{root}\\{sub}\\{k:04d}.png"/>')
    (folder / "training.xml").write_text("\n".join(['<?xml version="1.0"?>', "<dataset>", *lines, "</dataset>", ""]))

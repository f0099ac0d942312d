"""Painted faces in Mut1ny's own layout, so that the whole pipeline runs with nothing downloaded."""

import io
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from common.data import write_once
from common.faces import ALL_PARTS, VERSION, generate_face
from mut1ny_fairness.palette import PALETTE, celebamask_to_mut1ny

SIZE = 256
# labels folder -> the folder of its images, the person's number, how many pictures. 58 in all; without the 4 copies and
# with 10 of femalealison1 50 are left, 40 to train and 10 to test: what a ResNet-101 on two CPU cores can bear.
FOLDERS = {
    "femalealison1": ("femalealison1_light", 8, 14),
    "femalealison2": ("femalealison2_light", 8, 3),  # the same person as femalealison1
    "malegaberial": ("malegaberial_light", 5, 4),
    "male06_1": ("male06_light", 23, 2),
    "male06_2": ("male06_nolight", 23, 2),
    "multiperson": ("multiperson", None, 3),
    "real": ("real", None, 26),
}
COPIES = {  # ours: picture -> how it is a copy of an earlier one, for prepare.py to find
    ("real", 26): ("real", 0, "exact"),
    ("malegaberial", 4): ("malegaberial", 1, "resized"),
    ("femalealison1", 14): ("femalealison1", 2, "re-compressed"),
    ("real", 27): ("femalealison2", 0, "exact"),
}
Picture = tuple[Image.Image, Image.Image]  # image and label image


def paint(folder: str, number: int, size: int) -> Picture:
    """The picture `number` of a folder; of multiperson the middles of two faces, side by side."""
    seed = 1000 * (1 + list(FOLDERS).index(folder)) + 7 + number
    if folder != "multiperson":
        return paint_face(seed, size, FOLDERS[folder][1])
    middle, picture = slice(size // 4, size // 4 + size // 2), []
    for left, right in zip(paint_face(seed + 100, size, None), paint_face(seed + 200, size, None), strict=True):
        halves = [np.asarray(face)[:, middle] for face in (left, right)]
        picture.append(Image.fromarray(np.concatenate(halves, axis=1)))
    return tuple(picture)


def paint_face(seed: int, size: int, person: int | None) -> Picture:
    """One face of a person, or of anybody, on a square; near or farther, so that no two pictures are almost alike."""
    zoom = np.random.default_rng([seed, 2]).uniform(0.75, 1)
    face = generate_face(seed, size, person=person, zoom=zoom)
    label = celebamask_to_mut1ny(dict(zip(ALL_PARTS, face.masks, strict=True)), face.masks.shape[1:])
    return Image.fromarray(face.image), Image.fromarray(PALETTE[label])


def copy(image: Image.Image, label: Image.Image, how: str) -> Picture:
    """The same picture again, as it is, at three quarters of its size, or through a JPEG."""
    if how == "resized":
        smaller = (3 * image.width // 4, 3 * image.height // 4)
        return image.resize(smaller, Image.Resampling.BILINEAR), label.resize(smaller, Image.Resampling.NEAREST)
    if how == "re-compressed":
        image.save(buffer := io.BytesIO(), "JPEG", quality=85)
        return Image.open(buffer), label
    return image, label


def write_mut1ny(folder: Path, size: int = SIZE) -> Path:
    """Paint samples/, labels/ and training.xml into `folder`, and return it (see write_once)."""

    def write(draft: Path) -> None:
        painted, lines = {}, []
        names = [(name, k) for name, (_, _, n) in FOLDERS.items() for k in range(n)]
        for name, k in tqdm([*names, *COPIES], "painting", disable=None, unit="picture"):
            source, number, how = COPIES.get((name, k), (name, k, ""))
            painted[name, k] = copy(*painted[source, number], how) if how else paint(name, k, size)
            places = (f"samples/{FOLDERS[name][0]}/{k:04d}.png", f"labels/{name}/{k:04d}.png")
            for tag, place, picture in zip(("srcimg", "labelimg"), places, painted[name, k], strict=True):
                (draft / place).parent.mkdir(parents=True, exist_ok=True)
                picture.save(draft / place)
                name_in_xml = place.replace("/", "\\")  # as it is shipped
                lines.append(f'  <{tag} name="{name_in_xml}"/>')
        (draft / "training.xml").write_text("\n".join(['<?xml version="1.0"?>', "<dataset>", *lines, "</dataset>", ""]))

    return write_once(folder, {"size": size, "version": [VERSION, 3]}, write)

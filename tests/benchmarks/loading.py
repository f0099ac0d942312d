"""A training batch from CelebAMask-HQ's layout: the gather from the warm cache against the usual loop over files.

At 128, 256 and 512 px, for the papers that use these sizes: 18 binary masks, the hair mask, one map of 19 classes. A
thousand faces, so that the cache of decoded ones is larger than the processor's own caches; generated ones are 64
different faces under many names.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from benchmarks.contest import Row, compare, in_turns, timed
from PIL import Image
from torch import Tensor

import hair_transfer.dataset as hair
import masked_ssl.dataset as ssl
import nu_deeplabv3plus.dataset as nu
from common.celebamask import PARTS, FaceFiles, list_celebamask
from common.faces import write_celebamask
from masked_ssl.classes import LAYOUTS

BATCH = 16
FILES = "a loop over the files"


def many_faces(folder: Path, n: int, originals: Path) -> Path:
    """CelebAMask-HQ's layout with n faces: hard links (copies where there are none) to those of `originals`."""
    faces = list_celebamask(originals)
    (folder / "CelebA-HQ-img").mkdir(parents=True)
    for i in range(n):
        face = faces[i % len(faces)]
        annotations = folder / "CelebAMask-HQ-mask-anno" / str(i // 2000)
        annotations.mkdir(parents=True, exist_ok=True)
        pairs = [(face.photo, folder / "CelebA-HQ-img" / f"{i}.jpg")]
        pairs += [(path, annotations / f"{i:05d}_{part}.png") for part, path in face.masks.items()]
        for source, target in pairs:
            try:
                os.link(source, target)
            except OSError:
                shutil.copy(source, target)
    return folder


def decode(face: FaceFiles, size: int, target: str) -> tuple[Tensor, Tensor]:
    """What most face-parsing repositories do whenever a face is asked for: read and resize its photo and its masks.

    -> image 3 x size x size float32, target: `masks` (18), `hair` (1) or `labels` (one map).
    """
    image = np.array(Image.open(face.photo).convert("RGB").resize((size, size), Image.BILINEAR))
    image = torch.from_numpy(image).permute(2, 0, 1).float() / 255
    parts = ["hair"] if target == "hair" else PARTS
    masks = np.zeros((len(parts), size, size), np.uint8)
    for c, part in enumerate(parts):
        if part in face.masks:
            masks[c] = np.array(Image.open(face.masks[part]).convert("L").resize((size, size), Image.NEAREST)) > 0
    if target != "labels":
        return image, torch.from_numpy(masks)
    label = np.zeros((size, size), np.uint8)
    for c, mask in enumerate(masks):
        label[mask > 0] = c + 1
    return image, torch.from_numpy(label)


def cached(folder: Path, n: int, size: int, target: str, cache: Path) -> nu.FaceParts | hair.HairMasks | ssl.FaceLabels:
    """Our first n faces of a folder, decoded into a cache."""
    if target == "masks":
        faces = list_celebamask(folder)[:n]
        return nu.FaceParts(nu.load(faces, size, cache), list(range(n)), [face.photo.name for face in faces])
    if target == "hair":
        return hair.HairMasks(hair.list_faces([folder])[:n], size, cache)
    faces = [face for part in ssl.locate(str(folder)).parts.values() for face in part][:n]  # part by part of its split
    arrays = ssl.load(faces, size, LAYOUTS["celebamask"], cache)
    return ssl.FaceLabels(arrays, [face.photo.name for face in faces], LAYOUTS["celebamask"])


def a_batch(data, rng: np.random.Generator, batch: int) -> Callable[[], tuple[Tensor, Tensor]]:
    """A function that asks for a batch at random and brings it to the state of decode()'s: the image in floats, 0..1.

    Our data sets hand on bytes, copied from the cache by the gather; training makes floats of them on the device.
    """

    def run() -> tuple[Tensor, Tensor]:
        images, targets = data.batch(rng.permutation(len(data))[:batch])
        return images.float().div_(255), targets

    return run


def loading(quick: bool, data: Path | None = None) -> Iterator[Row]:
    """Rows of milliseconds a face."""
    n, sizes = (4, (32, 64, 96)) if quick else (1000, (128, 256, 512))
    with tempfile.TemporaryDirectory() as folder:
        where, kind = data, "real"
        if data is None:
            painted = write_celebamask(Path(folder) / "painted", min(n, 64), size=sizes[-1])
            where, kind = many_faces(Path(folder) / "faces", n, painted), "generated"
        faces = list_celebamask(where)[:n]
        batch, rng = min(BATCH, len(faces)), np.random.default_rng(0)
        for size, target in zip(sizes, ("masks", "hair", "labels"), strict=True):
            load = a_batch(cached(where, len(faces), size, target, Path(folder) / "cache"), rng, batch)
            runs = {
                "ours": lambda load=load: timed(load) / batch,
                FILES: lambda size=size, target=target: timed(
                    lambda: decode(faces[rng.integers(len(faces))], size, target)
                ),
            }
            found = in_turns(runs, rounds=3 if quick else 60, budget=10)
            yield from compare("loading", f"{len(faces)} {kind} faces, {size} px, {target}", "ms", found)

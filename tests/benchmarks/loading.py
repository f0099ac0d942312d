"""A training batch from CelebAMask-HQ's layout: the warm cache against the usual loop over files.

At 128, 256 and 512 px, for the papers that use these sizes: 18 binary masks, the hair mask, one map of 19 classes. A
thousand faces, so that the cache of decoded ones is larger than the processor's own caches; generated ones are 64
different faces under many names.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from benchmarks.contest import Row, compare, in_turns, timed
from benchmarks.scale import many_faces
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Subset

import hair_transfer.dataset as hair
import masked_ssl.dataset as ssl
import nu_deeplabv3plus.dataset as nu
from common.celebamask import FaceFiles, list_celebamask
from common.faces import PARTS, write_celebamask
from masked_ssl.classes import classes_of

BATCH = 16
FILES = "a loop over the files"
WORKERS = "the same with a DataLoader of 2 workers"


class PerFile(Dataset):
    """What most face-parsing repositories do: decode and resize the photo and its masks whenever a face is asked for.

    dataset[i] -> image 3 x size x size float32, target: `masks` (18), `hair` (1) or `labels` (one map).
    """

    def __init__(self, faces: list[FaceFiles], size: int, target: str):
        self.faces, self.size, self.target = faces, size, target

    def __len__(self) -> int:
        return len(self.faces)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        face, size = self.faces[i], (self.size, self.size)
        image = np.array(Image.open(face.photo).convert("RGB").resize(size, Image.BILINEAR))
        image = torch.from_numpy(image).permute(2, 0, 1).float() / 255
        parts = ["hair"] if self.target == "hair" else PARTS
        masks = np.zeros((len(parts), *size), np.uint8)
        for c, part in enumerate(parts):
            if part in face.masks:
                masks[c] = np.array(Image.open(face.masks[part]).convert("L").resize(size, Image.NEAREST)) > 0
        if self.target != "labels":
            return image, torch.from_numpy(masks)
        label = np.zeros(size, np.uint8)
        for c, mask in enumerate(masks):
            label[mask > 0] = c + 1
        return image, torch.from_numpy(label)


def cached(faces: list[FaceFiles], folder: Path, size: int, target: str, cache: Path) -> Dataset:
    """Our data set of as many of the faces (of real labels others: those of its split), decoded into a cache."""
    if target == "masks":
        arrays, listed = nu.load(folder, size, cache, len(faces))
        return nu.FaceParts(arrays, list(range(len(listed))), listed)
    if target == "hair":
        return hair.HairMasks(hair.list_faces([folder], "hair")[: len(faces)], size, cache)
    parts = ssl.locate(folder).parts
    listed, classes = [face for part in parts.values() for face in part][: len(faces)], classes_of("celebamask", None)
    arrays = ssl.load(listed, size, classes, cache)
    return ssl.FaceLabels(arrays, list(range(len(listed))), [face.photo.name for face in listed], classes)


def a_batch(dataset: Dataset, rng: np.random.Generator, batch: int) -> Callable[[], tuple[torch.Tensor, torch.Tensor]]:
    """A function that asks for a batch at random and brings it to the state of PerFile's: the image as floats in 0..1.

    Our data sets hand on bytes, copied from the cache by the gather, and training makes floats of them on the device.
    """

    def run() -> tuple[torch.Tensor, torch.Tensor]:
        images, targets = dataset[rng.permutation(len(dataset))[:batch].tolist()]
        return images.float().div_(255), targets

    return run


def workers_seconds(dataset: Dataset, batch: int) -> list[float]:
    """Seconds a face of three epochs over the data set by two loader processes, their start left out."""
    loader, seconds = DataLoader(dataset, batch, shuffle=True, num_workers=2, persistent_workers=True), []
    for _ in range(4):  # the first starts them
        started = time.perf_counter()
        for _ in loader:
            pass
        seconds.append((time.perf_counter() - started) / len(dataset))
    return seconds[1:]


def loading(quick: bool, data: Path | None = None) -> Iterator[Row]:
    """Rows of milliseconds a face."""
    with tempfile.TemporaryDirectory() as folder:
        n, sizes = (4, (32, 64, 96)) if quick else (1000, (128, 256, 512))
        where, kind = data, "real"
        if data is None:
            painted = write_celebamask(Path(folder) / "painted", min(n, 64), size=sizes[-1])
            where, kind = many_faces(Path(folder) / "faces", n, painted), "generated"
        faces = list_celebamask(where)[:n]
        for size, target in zip(sizes, ("masks", "hair", "labels"), strict=True):
            ours = cached(faces, where, size, target, Path(folder) / "cache")
            per_file, batch = PerFile(faces, size, target), min(BATCH, len(faces))
            rng = np.random.default_rng(0)
            load, order = a_batch(ours, rng, batch), np.random.default_rng(1)
            seconds = in_turns(
                {
                    "ours": lambda load=load: timed(load),
                    FILES: lambda per_file=per_file, order=order: timed(
                        lambda: per_file[int(order.integers(len(per_file)))]
                    ),
                },
                rounds=3 if quick else 60,
                budget=10,
            )
            what = f"{len(faces)} {kind} faces, {size} px, {target}"
            own = [1000 * s / batch for s in seconds["ours"]]
            yield from compare("loading", what, "ms", own, {FILES: [1000 * s for s in seconds[FILES]]})
            if not quick:
                theirs = [1000 * s for s in workers_seconds(Subset(per_file, range(128)), batch)]
                yield from compare("loading", what, "ms", own, {WORKERS: theirs})

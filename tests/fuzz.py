"""Damage files at random and read them: each is read, or refused in one line that names it; nothing else happens.

    python tests/fuzz.py                  2000 files
    python tests/fuzz.py 100000 --seed 7

Bytes are changed, taken out, doubled or put in, or the file ends early: photos, masks and labels of every kind,
Mut1ny's XML, manifests and groups, official splits, checkpoints, weights and caches. Exits with 1 and keeps the first
file that raises anything but InputError. Its last line says what it has done; tests/README.md quotes it.
"""

import argparse
import random
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np
import torch
from PIL import Image

from common.cache import open_cache
from common.checkpoint import load_checkpoint, save_checkpoint
from common.cli import InputError
from common.images import read_mask, read_photo
from common.weights import load_pretrained
from hair_transfer.weights import read_backbone
from lrn_headtorso.dataset import read_alpha
from masked_ssl.lapa import read_label
from masked_ssl.splits import official_sides
from mut1ny_fairness.dataset import read_manifest
from mut1ny_fairness.groups import read_groups
from mut1ny_fairness.prepare import read_pairs

SIZE = 24


def picture(mode: str):
    """A writer of small black and white pictures of a mode."""

    def write(path: Path) -> None:
        noise = np.repeat(np.random.default_rng(0).integers(0, 2, (SIZE, SIZE, 1), dtype=np.uint8) * 255, 3, axis=2)
        Image.fromarray(noise).convert(mode).save(path)

    return write


def class_ids(path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 11, (SIZE, SIZE), dtype=np.uint8)).save(path)


def pairs(path: Path) -> None:
    rows = [f'<srcimg name="samples\\real\\{i}.png"/><labelimg name="labels\\real\\{i}.png"/>' for i in range(4)]
    path.write_text(f"<?xml version='1.0'?><dataset>{''.join(rows)}</dataset>")


def manifest(path: Path) -> None:
    rows = [f"samples/real/{i}.png,labels/real/{i}.png,real,,real,00ff" for i in range(4)]
    path.write_text("\n".join(["image,label,folder,person,category,hash", *rows]))


def groups(path: Path) -> None:
    path.write_text("image;group;person\n" + "".join(f"samples/real/{i}.png;a;p{i}\n" for i in range(4)))


def mapping(path: Path) -> None:
    path.write_text("idx orig_idx orig_file\n" + "".join(f"{i} {i} {i:06d}.jpg\n" for i in range(4)))


def partition(path: Path) -> None:
    path.write_text("".join(f"{i:06d}.jpg {i % 3}\n" for i in range(4)))


def checkpoint(path: Path) -> None:
    content = {"paper": "a_paper", "epoch": 3, "log": [{"epoch": 1, "loss": 0.5}], "args": {"data": None, "lr": 1e-3}}
    save_checkpoint(path, content | {"model": {"weight": torch.zeros(4, 4)}, "optimizer": {"state": {}}})


def state_dict(path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(4, 4), "layer1.0.bn1.bias": torch.zeros(4)}, path)


def cached(path: Path) -> None:
    np.save(path, np.zeros((3, 4), np.uint8))


def read_cache(path: Path) -> None:
    folder = path.parent / "cache" / "key"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(path, folder / "a.npy")
    arrays = open_cache(folder.parent, "key", 3, {"a": ((4,), "uint8")}, lambda i: {"a": np.zeros(4, np.uint8)})
    assert arrays["a"].shape == (3, 4)  # of the file, or built anew in its place


def label(path: Path) -> None:
    read_label(path, (SIZE, SIZE))


KINDS = {  # name of the file -> how it is written, how it is read
    "photo.jpg": (picture("RGB"), read_photo),
    "cmyk.jpg": (picture("CMYK"), read_photo),
    "photo.png": (picture("RGBA"), read_photo),
    "photo.tif": (picture("I"), read_photo),
    "photo.webp": (picture("RGB"), read_photo),
    "mask.png": (picture("L"), read_mask),
    "palette.png": (picture("P"), read_mask),
    "bit.bmp": (picture("1"), read_mask),
    "cutout.png": (picture("RGBA"), read_alpha),
    "label.png": (class_ids, label),
    "training.xml": (pairs, lambda path: read_pairs(path.parent)),
    "manifest.csv": (manifest, lambda path: read_manifest(path, path.parent)),
    "groups.csv": (groups, lambda path: read_groups(path, ["group"])),
    "mapping.txt": (mapping, lambda path: official_sides(path, None, [0, 1, 2, 3])),
    "partition.txt": (partition, lambda path: official_sides(path.with_name("mapping.good"), path, [0, 1, 2, 3])),
    "last.pt": (checkpoint, lambda path: load_checkpoint(path, "a_paper")),
    "weights.pth": (state_dict, lambda path: load_pretrained(str(path), "ResNet50_Weights.IMAGENET1K_V1")),
    "resnet.pth": (state_dict, lambda path: read_backbone(path)),
    "a.npy": (cached, read_cache),
}


def damaged(data: bytes, rng: random.Random) -> bytes:
    """One to eight changes, half of them in the head of the file, where its structure is."""
    data = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        at = rng.randrange(max(1, min(len(data), 60) if rng.random() < 0.5 else len(data)))
        end = at + rng.randint(1, 12)
        change = rng.randrange(5)
        if change == 0:
            data[at:end] = rng.randbytes(end - at)
        elif change == 1:
            del data[at:end]
        elif change == 2:
            data[at:at] = data[at:end]
        elif change == 3:
            data[at:at] = rng.choice([b"\0", b"\n", b'"', b",", b"&x;", b"..\\..\\", b"<!DOCTYPE d>", b"\xff\xfe"])
        elif data and rng.random() < 0.3:
            del data[at:]
    return bytes(data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", nargs="?", type=int, default=2000, help="files in all (default 2000)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # Pillow's and PyTorch's, of odd files
    rng, began, outcomes = random.Random(args.seed), time.monotonic(), Counter()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        mapping(folder / "mapping.good")
        for sub in ("samples", "labels"):
            (folder / sub / "real").mkdir(parents=True)
            for i in range(4):
                picture("RGB")(folder / sub / "real" / f"{i}.png")
        whole = {}
        for name, (write, read) in KINDS.items():
            write(folder / name)
            whole[name] = (folder / name).read_bytes()
            read(folder / name)
            (folder / name).unlink()
        for i in range(args.count):
            name = rng.choice(list(KINDS))
            path = folder / name
            path.write_bytes(damaged(whole[name], rng))
            try:
                KINDS[name][1](path)
                outcome = "read"
            except InputError as error:
                outcome = "refused in one line" if str(folder) in str(error) else f"refused without its name: {error}"
            except Exception:
                kept = shutil.copy(path, Path.cwd() / f"fuzz-{args.seed}-{i}-{name}")
                print(f"file {i}, {name}, kept as {kept}:", file=sys.stderr)
                raise
            if "without" in outcome:
                kept = shutil.copy(path, Path.cwd() / f"fuzz-{args.seed}-{i}-{name}")
                raise SystemExit(f"file {i}, kept as {kept}: {outcome}")
            outcomes[outcome] += 1
            path.unlink()
    counts = ", ".join(f"{n} {outcome}" for outcome, n in sorted(outcomes.items()))
    print(f"{args.count} damaged files of {len(KINDS)} kinds: {counts}; seed {args.seed}, "
          f"{(time.monotonic() - began) / 60:.1f} min")  # fmt: skip


if __name__ == "__main__":
    main()

"""Bad input to all folders: one line that names the file, the value and the remedy, exit code 2, nothing half-written.

Every training script gets CelebAMask-HQ's layout (PHOTO and MASK below are two of its files) and is given

| what is wrong                                              | what must be named           |
|------------------------------------------------------------|------------------------------|
| no such folder, an empty one, one of another layout, a file | the folder                   |
| PHOTO truncated, empty, text, a decompression bomb          | PHOTO                        |
| MASK truncated, empty, of another size, grey, a JPEG        | MASK                         |
| flags out of range: 0 epochs, a negative rate, batch 0, ... | the flag                     |
| a checkpoint: missing, truncated, empty, of another paper,  | the checkpoint               |
|   with nan in it, of another network, with code in it       |   (and the code must not run) |
| an output folder that cannot be made                        | --out                        |

and what is harmless must simply work: grey, palette, CMYK, RGBA, 16-bit, animated and EXIF-rotated photos, masks with a
palette or an alpha channel. What only one paper can be given (a manifest, an XML file, label ids) is in its own tests.
"""

import importlib
import io
import pickle
import shutil
import sys
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import one_line_error
from PIL import Image

# folder -> what its train.py needs for a tiny run on twelve faces, and a part whose mask it reads
FOLDERS = {
    "nu_deeplabv3plus": (("--size", 32, "--weights", "none"), "skin"),
    "hair_transfer": (("--size", 32, "--init", "random"), "hair"),
    "lrn_headtorso": (("--size", 32, "--weights", "none"), "skin"),
    "masked_ssl": (("--size", 32, "--init", "random", "--min-steps", 0), "skin"),
    "mut1ny_fairness": (("--size", 32, "--weights", "none", "--model", "pspnet", "--truncated"), "skin"),
}
each_folder = pytest.mark.parametrize("folder", FOLDERS)


def module(folder: str, name: str):
    return importlib.import_module(f"{folder}.{name}")


@pytest.fixture
def broken(faces, tmp_path):
    """A copy of the twelve faces to damage: its folder, PHOTO, and MASK of a part that is there for most faces."""
    folder = shutil.copytree(faces, tmp_path / "faces")
    photo = folder / "CelebA-HQ-img" / "4.jpg"

    def mask(part):
        return next(path for path in sorted(folder.rglob(f"*_{part}.png")) if path.name.startswith("00004"))

    return SimpleNamespace(folder=folder, photo=photo, mask=mask)


@pytest.fixture
def train(call, tmp_path):
    """train(folder, "--flag", value) calls its train.py for an epoch of a tiny run -> CompletedProcess."""

    def run(folder, *args):
        tiny, _ = FOLDERS[folder]
        common = ("--epochs", 1, "--out", tmp_path / "run", "--cache", tmp_path / "cache", "--device", "cpu")
        return call(module(folder, "train"), *tiny, *common, *args)

    return run


def nothing_written(tmp_path) -> bool:
    """No run folder, and no draft of a cache; a whole cache of the training images may be there before the test's."""
    return not (tmp_path / "run").exists() and not list((tmp_path / "cache").glob(".*"))


# ---- Folders -------------------------------------------------------------------------------------------------------


def nowhere(path):
    pass


def empty(path):
    path.mkdir()


def another_layout(path):
    (path / "images").mkdir(parents=True)
    Image.new("RGB", (64, 64)).save(path / "images" / "0.jpg")


def photos_alone(path):
    (path / "CelebA-HQ-img").mkdir(parents=True)
    Image.new("RGB", (64, 64)).save(path / "CelebA-HQ-img" / "0.jpg")


def a_file(path):
    path.write_text("no folder")


@each_folder
@pytest.mark.parametrize("make", [nowhere, empty, another_layout, photos_alone, a_file])
def test_a_folder_that_cannot_be_used(make, folder, train, tmp_path):
    make(tmp_path / "given")
    assert str(tmp_path / "given") in one_line_error(train(folder, "--data", tmp_path / "given"))
    assert nothing_written(tmp_path)


# ---- Pictures ------------------------------------------------------------------------------------------------------


def truncated(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def of_no_bytes(path):
    path.write_bytes(b"")


def text(path):
    path.write_text("not a picture")


def bomb(path):
    """A PNG of a few hundred bytes that says it holds ten thousand million pixels."""
    buffer = io.BytesIO()
    Image.new("1", (1, 1)).save(buffer, "PNG")
    data = bytearray(buffer.getvalue())
    data[16:24] = (100_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    path.write_bytes(bytes(data))


@each_folder
@pytest.mark.parametrize("damage", [truncated, of_no_bytes, text, bomb])
def test_a_photo_that_cannot_be_read(damage, folder, train, broken, tmp_path):
    damage(broken.photo)
    assert f"{broken.photo}: cannot be read" in one_line_error(train(folder, "--data", broken.folder))
    assert nothing_written(tmp_path)


def of_another_size(path):
    Image.new("L", (40, 24), 255).save(path)


def grey(path):
    Image.new("L", Image.open(path).size, 37).save(path)


def a_jpeg(path):
    noise = np.random.default_rng(0).integers(0, 2, (64, 64), dtype=np.uint8) * 255
    Image.fromarray(noise).save(path, "JPEG", quality=60)


@each_folder
@pytest.mark.parametrize("damage", [truncated, of_no_bytes, of_another_size, grey, a_jpeg])
def test_a_mask_that_cannot_be_used(damage, folder, train, broken, tmp_path):
    mask = broken.mask(FOLDERS[folder][1])
    damage(mask)
    assert str(mask) in one_line_error(train(folder, "--data", broken.folder))
    assert nothing_written(tmp_path)


@each_folder
def test_harmless_variants_simply_work(folder, call, broken, tmp_path):
    """Photos of every common kind, and masks with a palette or an alpha channel: dataset.py finds nothing wrong."""
    photos = sorted((broken.folder / "CelebA-HQ-img").glob("*.jpg"), key=lambda path: int(path.stem))
    for path, kind in zip(photos, ("L", "P", "CMYK", "RGBA", "I;16", "animated", "EXIF"), strict=False):
        photo = Image.open(path).convert("RGB")
        path.unlink()
        if kind == "CMYK":
            photo.convert("CMYK").save(path)
        elif kind == "EXIF":
            exif = Image.Exif()
            exif[0x0112] = 3  # upside down
            photo.rotate(180).save(path, exif=exif)
        elif kind == "animated":
            photo.save(path.with_suffix(".png"), save_all=True, append_images=[Image.new("RGB", photo.size)])
        elif kind == "I;16":
            grey = np.asarray(photo.convert("L")).astype(np.uint16) * 257
            Image.fromarray(grey).save(path.with_suffix(".png"))
        else:
            photo.convert(kind).save(path.with_suffix(".png"))
    for path, kind in zip(sorted(broken.folder.rglob("*_*.png")), ("P", "RGBA", "1", "L") * 3, strict=False):
        Image.open(path).convert("L").convert(kind).save(path)
    arguments = ("--data", broken.folder, "--size", 32, "--out", tmp_path / "figures")
    result = call(module(folder, "dataset"), *arguments)
    assert result.returncode == 0, result.stderr + result.stdout
    assert list((tmp_path / "figures").glob("*.png"))


# ---- Flags ---------------------------------------------------------------------------------------------------------


@each_folder
@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--epochs", 0),
        ("--epochs", 1.5),
        ("--lr", -1),
        ("--lr", "nan"),
        ("--batch-size", 0),
        ("--size", 30),
        ("--size", -32),
        ("--limit", 0),
        ("--limit", 1),
        ("--workers", -1),
        ("--seed", -1),
        ("--device", "tpu"),
        ("--amp", "fp16"),
        ("--no-such-flag", 1),
    ],
)
def test_a_flag_out_of_range(flag, value, folder, train, faces, tmp_path):
    error = one_line_error(train(folder, "--data", faces, flag, value))
    assert flag in error or (flag == "--limit" and "too few" in error)
    assert not (tmp_path / "run").exists()


@each_folder
def test_an_output_folder_that_cannot_be_made(folder, train, faces, tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert f"--out {tmp_path / 'file' / 'run'}" in one_line_error(
        train(folder, "--data", faces, "--out", tmp_path / "file" / "run")
    )


# ---- Checkpoints ---------------------------------------------------------------------------------------------------


class Code:
    """What a pickle does when it is loaded by a careless reader."""

    def __reduce__(self):
        return exec, ("import builtins; builtins.code_of_a_checkpoint_ran = True",)


def missing(path, folder):
    pass


def of_another_paper(path, folder):
    torch.save({"paper": "another_paper", "model": {}}, path)


def of_no_paper(path, folder):
    torch.save({"weight": torch.zeros(3)}, path)


def cut_off(path, folder):
    torch.save({"paper": folder, "model": {"x": torch.zeros(10000)}}, path)
    truncated(path)


def with_nan(path, folder):
    torch.save({"paper": folder, "model": {"x": torch.tensor([1.0, float("nan")])}}, path)


def with_code(path, folder):
    torch.save({"paper": folder, "model": Code()}, path)


def a_bare_pickle(path, folder):
    path.write_bytes(pickle.dumps(Code()))


BAD_CHECKPOINTS = [missing, of_another_paper, of_no_paper, cut_off, with_nan, with_code, a_bare_pickle]


@each_folder
@pytest.mark.parametrize("make", BAD_CHECKPOINTS)
def test_a_checkpoint_that_cannot_be_used(make, folder, call, tmp_path):
    path = tmp_path / "given.pt"
    make(path, folder)
    for script, args in (("eval", (path,)), ("train", ("--resume", path))):
        assert f"{path}: " in one_line_error(call(module(folder, script), *args, "--device", "cpu"))
    assert not hasattr(sys.modules["builtins"], "code_of_a_checkpoint_ran")
    assert {file.name for file in tmp_path.iterdir()} <= {"given.pt"}

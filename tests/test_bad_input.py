"""Bad input to all folders: one line that names the file, the value and the remedy, exit code 2, nothing written."""

import importlib
import pickle
import random
import shutil
from functools import partial

import pytest
import torch
from conftest import Malice, one_line_error
from PIL import Image
from trainings import FOLDERS, TRAININGS, make_networks_small

from common.cli import InputError
from common.images import read_mask, read_photo
from common.run import FORMAT, load_checkpoint
from common.weights import read_state_dict

each_folder = pytest.mark.parametrize("folder", FOLDERS)
pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol")


@pytest.fixture
def train(call, tmp_path, monkeypatch):
    """train(name, "--flag", value) calls the script for an epoch of a tiny run -> CompletedProcess."""

    def run(name, *args):
        training = TRAININGS[name]
        make_networks_small(training.folder, monkeypatch.setattr)
        common = ("--epochs", 1, "--out", tmp_path / "run", "--cache", tmp_path / "cache", "--device", "cpu")
        return call(training.module, *training.arguments.split(), *common, *args)

    return run


def nothing_written(tmp_path) -> bool:
    """No run folder, and no draft of a cache; a whole cache of the training images may be there before the test's."""
    return not (tmp_path / "run").exists() and not list((tmp_path / "cache").glob(".*"))


# ---- Folders and places --------------------------------------------------------------------------------------------


@each_folder
def test_a_folder_that_cannot_be_used(folder, train, faces, tmp_path):
    """Nowhere, a file, empty, of another layout, photos alone, masks alone."""
    given = [tmp_path / name for name in ("nowhere", "file", "empty", "other", "photos", "masks")]
    given[1].write_text("no folder")
    given[2].mkdir()
    shutil.copytree(faces / "CelebA-HQ-img", given[3] / "pictures")
    shutil.copytree(faces / "CelebA-HQ-img", given[4] / "CelebA-HQ-img")
    shutil.copytree(faces, given[5], ignore=shutil.ignore_patterns("*.jpg"))
    for path in given:
        assert str(path) in one_line_error(train(folder, "--data", path))
    assert nothing_written(tmp_path)


@each_folder
def test_places_that_cannot_be_written(folder, train, faces, tmp_path):
    (tmp_path / "file").write_text("in the way")
    for flag in ("--out", "--cache"):
        error = one_line_error(train(folder, "--data", faces, flag, tmp_path / "file" / "run"))
        assert f"{flag} {tmp_path / 'file' / 'run'}: " in error
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last.pt").write_bytes(b"of another run")
    assert f"{tmp_path / 'run'} already holds a run" in one_line_error(train(folder, "--data", faces))
    assert [(path.name, path.read_bytes()) for path in (tmp_path / "run").iterdir()] == [("last.pt", b"of another run")]


# ---- Flags ---------------------------------------------------------------------------------------------------------

FLAGS = {"--epochs": (0, 1.5, "many"), "--lr": (-1, 0, "nan", "inf"), "--batch-size": (0, -4), "--size": (30, 0),
         "--limit": (0,), "--seed": (-1,), "--device": ("tpu",), "--amp": ("fp16",), "--nope": (1,)}  # fmt: skip


@each_folder
def test_flags_out_of_range(folder, train, faces, tmp_path):
    for flag, value in ((flag, value) for flag, values in FLAGS.items() for value in values):
        error = one_line_error(train(folder, "--data", faces, flag, value))
        assert flag in error and str(value) in error
    assert nothing_written(tmp_path)


# ---- Pictures ------------------------------------------------------------------------------------------------------


def a_link_to_nowhere(path):
    path.unlink()
    path.symlink_to("nowhere")


BAD_PICTURES = [
    lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    lambda path: path.write_bytes(b""),
    a_link_to_nowhere,
]
BAD_MASKS = [
    *BAD_PICTURES,
    lambda path: Image.new("L", (40, 24), 255).save(path),  # of another shape
    lambda path: Image.new("L", (64, 64), 37).save(path),  # neither black nor white
    lambda path: Image.open(path).convert("L").resize((32, 32), Image.Resampling.BILINEAR).save(path),
]


@each_folder
def test_a_photo_or_mask_that_cannot_be_used(folder, train, faces, tmp_path):
    data = shutil.copytree(faces, tmp_path / "faces")
    photo = data / "CelebA-HQ-img" / "4.jpg"
    mask = data / "CelebAMask-HQ-mask-anno" / "0" / f"00004_{'hair' if folder == 'hair_transfer' else 'skin'}.png"
    for path, damages in ((photo, BAD_PICTURES), (mask, BAD_MASKS)):
        content = path.read_bytes()
        for damage in damages:
            damage(path)
            assert f"{path}: " in one_line_error(train(folder, "--data", data))
            path.unlink()
            path.write_bytes(content)
    assert nothing_written(tmp_path)


# ---- Checkpoints ---------------------------------------------------------------------------------------------------


@each_folder
def test_a_checkpoint_that_cannot_be_used(folder, call, tmp_path):
    """Nothing pickled runs, in a checkpoint or beside it, whether for evaluation or to go on with."""
    path, marker = tmp_path / "given.pt", tmp_path / "marker"
    ours = {"paper": folder, "format": FORMAT}
    contents = [
        ("no such file; give the last.pt", None),
        ("loaded safely", pickle.dumps(Malice(marker))),
        ("loaded safely", b"PK\x03\x04"),  # cut off
        ("loaded safely", ours | {"model": Malice(marker)}),
        ("a checkpoint of another_paper, not of", {"paper": "another_paper", "model": {}}),
        ("a checkpoint of something else, not of", {"weight": torch.zeros(3)}),
        ("written by another version", {"paper": folder, "model": {}, "fingerprint": {}}),
        ("its model x holds nan or inf", ours | {"model": {"x": torch.tensor([1.0, torch.nan])}}),
        ("", ours | {"optimizer": {}}),
    ]
    for words, content in contents:
        if content:
            path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
        for script, args in (("eval", (path,)), ("train", ("--resume", path))):
            error = one_line_error(call(importlib.import_module(f"{folder}.{script}"), *args, "--device", "cpu"))
            assert f"{path}: " in error and words in error
        assert not marker.exists() and {file.name for file in tmp_path.iterdir()} <= {"given.pt"}
    pickle.loads(pickle.dumps(Malice(marker)))
    assert marker.exists()  # the trap is a working one


@each_folder
def test_weights_that_are_none_are_one_line(folder, train, faces, tmp_path):
    torch.save({"features.99.weight": torch.zeros(3)}, tmp_path / "other.pth")
    for given in (tmp_path / "lost.pth", tmp_path, tmp_path / "other.pth"):
        assert f"{given}: " in one_line_error(train(folder, "--data", faces, "--weights", given))
    assert nothing_written(tmp_path)


# ---- At random -----------------------------------------------------------------------------------------------------


def test_damaged_files_raise_nothing_but_one_line(faces, tmp_path):
    """Bytes changed, cut out and put in, in every kind of file that is read."""
    saved, damaged, rng, refusals = tmp_path / "last.pt", tmp_path / "damaged", random.Random(0), 0
    torch.save({"paper": "p", "format": FORMAT, "model": {"w": torch.zeros(9)}}, saved)
    files = min(faces.rglob("*.jpg")), min(faces.rglob("*.png")), saved, saved
    readers = read_photo, read_mask, read_state_dict, partial(load_checkpoint, paper="p")
    for path, read in zip(files, readers, strict=True):
        for _ in range(60):
            data = bytearray(path.read_bytes())
            for _ in range(rng.randint(1, 4)):
                at, n = rng.randrange(len(data)), rng.randint(1, 40)
                data[at : at + rng.choice((0, n))] = rng.randbytes(rng.choice((0, n)))
            damaged.write_bytes(data)
            try:
                read(damaged)
            except InputError as error:
                refusals += 1
                assert str(damaged) in str(error) and "\n" not in str(error)
    assert refusals > 60

"""Bad input to all folders: one line that names the file, the value and the remedy, exit code 2, nothing half-written.

What is given to them, and what is harmless and must simply work, stands in the table of tests/README.md, which is made
from the cases below:

    python tests/test_bad_input.py      write that table anew
"""

import io
import os
import pickle
import re
import shutil
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pytest
import torch
from conftest import one_line_error
from PIL import Image
from trainings import TRAININGS, make_networks_small

README = Path(__file__).with_name("README.md")
FOLDERS = [name for name in TRAININGS if "/" not in name]
each_folder = pytest.mark.parametrize("folder", FOLDERS)


def module(folder: str, name: str):
    return TRAININGS[folder]._replace(script=name).module


@pytest.fixture
def broken(faces, tmp_path):
    """A copy of the twelve faces to damage: its folder, PHOTO, and MASK of a part that is there for most faces."""
    folder = shutil.copytree(faces, tmp_path / "faces")
    photo = folder / "CelebA-HQ-img" / "4.jpg"

    def mask(part):
        return folder / "CelebAMask-HQ-mask-anno" / "0" / f"00004_{part}.png"

    return SimpleNamespace(folder=folder, photo=photo, mask=mask)


@pytest.fixture
def train(call, tmp_path, monkeypatch):
    """train(training, "--flag", value) calls the script for an epoch of a tiny run -> CompletedProcess."""

    def run(name, *args):
        training = TRAININGS[name]
        make_networks_small(training.folder, monkeypatch.setattr)
        common = ("--epochs", 1, "--out", tmp_path / "run", "--cache", tmp_path / "cache", "--device", "cpu")
        return call(training.module, *training.arguments, *common, *args)

    return run


def nothing_written(tmp_path) -> bool:
    """No run folder, and no draft of a cache; a whole cache of the training images may be there before the test's."""
    return not (tmp_path / "run").exists() and not list((tmp_path / "cache").glob(".*"))


def words(case: Callable) -> str:
    """What a case is, in the words of its docstring."""
    return case.__doc__.strip().rstrip(".")


# ---- Folders -------------------------------------------------------------------------------------------------------


def nowhere(path):
    """no such folder"""


def empty(path):
    """an empty folder"""
    path.mkdir()


def another_layout(path):
    """a folder of another layout"""
    (path / "images").mkdir(parents=True)
    Image.new("RGB", (64, 64)).save(path / "images" / "0.jpg")


def photos_alone(path):
    """photos without any mask"""
    (path / "CelebA-HQ-img").mkdir(parents=True)
    Image.new("RGB", (64, 64)).save(path / "CelebA-HQ-img" / "0.jpg")


def masks_alone(path):
    """masks without any photo"""
    (path / "CelebA-HQ-img").mkdir(parents=True)
    (path / "CelebAMask-HQ-mask-anno" / "0").mkdir(parents=True)
    Image.new("L", (64, 64)).save(path / "CelebAMask-HQ-mask-anno" / "0" / "00000_skin.png")


def a_file(path):
    """a file in the folder's place"""
    path.write_text("no folder")


WRONG_FOLDERS = [nowhere, empty, another_layout, photos_alone, masks_alone, a_file]


@each_folder
@pytest.mark.parametrize("make", WRONG_FOLDERS)
def test_a_folder_that_cannot_be_used(make, folder, train, tmp_path):
    make(tmp_path / "given")
    assert str(tmp_path / "given") in one_line_error(train(folder, "--data", tmp_path / "given"))
    assert nothing_written(tmp_path)


@each_folder
@pytest.mark.parametrize("inner", ["CelebA-HQ-img", "CelebAMask-HQ-mask-anno", "CelebAMask-HQ-mask-anno/0"])
def test_a_folder_that_may_not_be_read(inner, folder, train, broken, tmp_path, monkeypatch):
    """Of the masks, too: a part whose file is not found would silently be background."""
    closed = str(broken.folder / inner)

    def refusing(function):
        def call(path="."):
            if os.fspath(path) == closed:
                raise PermissionError(13, "Permission denied", closed)
            return function(path)

        return call

    for name in ("scandir", "listdir"):  # and not chmod: root may read everything
        monkeypatch.setattr(os, name, refusing(getattr(os, name)))
    assert f"{closed}: Permission denied" in one_line_error(train(folder, "--data", broken.folder))
    assert nothing_written(tmp_path)


# ---- Pictures ------------------------------------------------------------------------------------------------------


def truncated(path):
    """cut in the middle"""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def of_no_bytes(path):
    """of zero bytes"""
    path.write_bytes(b"")


def text(path):
    """a text file"""
    path.write_text("not a picture")


def bomb(path):
    """a decompression bomb: a few bytes that say they hold ten thousand million pixels"""
    buffer = io.BytesIO()
    Image.new("1", (1, 1)).save(buffer, "PNG")
    data = bytearray(buffer.getvalue())
    data[16:24] = (100_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    path.write_bytes(bytes(data))


def a_folder(path):
    """a folder of that name"""
    path.unlink(missing_ok=True)
    path.mkdir()


def a_link_to_nowhere(path):
    """a link to nowhere"""
    path.unlink()
    path.symlink_to("nowhere")


BAD_PHOTOS = [truncated, of_no_bytes, text, bomb, a_folder, a_link_to_nowhere]


@each_folder
@pytest.mark.parametrize("damage", BAD_PHOTOS)
def test_a_photo_that_cannot_be_read(damage, folder, train, broken, tmp_path):
    damage(broken.photo)
    assert f"{broken.photo}: " in one_line_error(train(folder, "--data", broken.folder))
    assert nothing_written(tmp_path)


def of_another_size(path):
    """of another shape than its photo"""
    Image.new("L", (40, 24), 255).save(path)


def grey(path):
    """of an unknown value"""
    Image.new("L", Image.open(path).size, 37).save(path)


def coloured(path):
    """of an unknown colour"""
    Image.new("RGB", Image.open(path).size, (200, 30, 30)).save(path)


def resized_smoothly(path):
    """resized with smooth edges"""
    Image.open(path).convert("L").resize((32, 32), Image.Resampling.BILINEAR).save(path)


def a_jpeg(path):
    """saved as JPEG"""
    noise = np.random.default_rng(0).integers(0, 2, (64, 64), dtype=np.uint8) * 255
    Image.fromarray(noise).save(path, "JPEG", quality=60)


BAD_MASKS = [
    truncated, of_no_bytes, text, bomb, a_link_to_nowhere, of_another_size, grey, coloured, resized_smoothly, a_jpeg
]  # fmt: skip


@each_folder
@pytest.mark.parametrize("damage", BAD_MASKS)
def test_a_mask_that_cannot_be_used(damage, folder, train, broken, tmp_path):
    mask = broken.mask("hair" if folder == "hair_transfer" else "skin")
    damage(mask)
    assert f"{mask}: " in one_line_error(train(folder, "--data", broken.folder))
    assert nothing_written(tmp_path)


# what is harmless: how it is called in the table -> how to make it of an RGB photo, or of a black and white mask
HARMLESS_PHOTOS = {
    "grey": lambda photo, path: photo.convert("L").save(path),
    "with a palette": lambda photo, path: photo.convert("P").save(path.with_suffix(".png")),
    "CMYK": lambda photo, path: photo.convert("CMYK").save(path),
    "RGBA": lambda photo, path: photo.convert("RGBA").save(path.with_suffix(".png")),
    "of 16 bits": lambda photo, path: Image.fromarray(
        np.asarray(photo.convert("L")).astype(np.uint16) * 257).save(path.with_suffix(".png")),
    "animated": lambda photo, path: photo.save(
        path.with_suffix(".png"), save_all=True, append_images=[Image.new("RGB", photo.size)]),
    "turned by its EXIF": lambda photo, path: photo.rotate(180).save(path, exif=upside_down()),
}  # fmt: skip
HARMLESS_MASKS = {
    "with a palette": lambda mask, path: mask.convert("P").save(path),
    "RGBA": lambda mask, path: mask.convert("RGBA").save(path),
    "grey with alpha": lambda mask, path: mask.convert("LA").save(path),
    "of one bit": lambda mask, path: mask.convert("1").save(path),
    "grey": lambda mask, path: mask.convert("L").save(path),
    "of 16 bits": lambda mask, path: Image.fromarray(np.asarray(mask).astype(np.uint16) * 257).save(path),
}


def upside_down() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 3
    return exif


@each_folder
def test_harmless_variants_simply_work(folder, call, broken, tmp_path, no_pictures):
    """dataset.py finds nothing wrong in a folder that holds them all."""
    photos = sorted((broken.folder / "CelebA-HQ-img").glob("*.jpg"), key=lambda path: int(path.stem))
    for path, save in zip(photos, HARMLESS_PHOTOS.values(), strict=False):
        photo = Image.open(path).convert("RGB")
        path.unlink()
        save(photo, path)
    masks = sorted(broken.folder.rglob("*_hair.png" if folder == "hair_transfer" else "*_skin.png"))
    for path, save in zip(masks, HARMLESS_MASKS.values(), strict=False):
        save(Image.open(path).convert("L"), path)
    result = call(module(folder, "dataset"), "--data", broken.folder, "--size", 32, "--out", tmp_path / "figures")
    assert result.returncode == 0, result.stderr + result.stdout
    assert "can be read" in result.stdout and list((tmp_path / "figures").glob("*.png"))


# ---- Flags ---------------------------------------------------------------------------------------------------------

FLAGS = {
    "--epochs": (0, 1.5, "many"),
    "--lr": (-1, 0, "nan", "inf"),
    "--batch-size": (0, -4),
    "--size": (30, 0, -32),
    "--limit": (0, 1),
    "--workers": (-1,),
    "--seed": (-1,),
    "--device": ("tpu",),
    "--amp": ("fp16",),
    "--no-such-flag": (1,),
}
FLAGS_OF_ONE = [
    ("nu_deeplabv3plus", "--patience", -1),
    ("nu_deeplabv3plus", "--augment", "mirror"),
    ("hair_transfer", "--aux", -1),
    ("hair_transfer", "--part", "chin"),
    ("lrn_headtorso", "--lr-unfrozen", 0),
    ("lrn_headtorso", "--n-train", 1),
    ("lrn_headtorso", "--n-test", 99),
    ("masked_ssl", "--fraction", 0),
    ("masked_ssl", "--fraction", 1.5),
    ("masked_ssl", "--encoder-lr", 0),
    ("masked_ssl/pretrain", "--mask-ratio", 0),
    ("masked_ssl/pretrain", "--mask-ratio", 1),
    ("mut1ny_fairness", "--aux", "nan"),
    ("mut1ny_fairness", "--target", "hsv"),
]


@pytest.mark.parametrize(
    ("name", "flag", "value"),
    [(folder, flag, value) for flag, values in FLAGS.items() for value in values for folder in FOLDERS] + FLAGS_OF_ONE,
)
def test_a_flag_out_of_range(name, flag, value, train, faces, tmp_path):
    error = one_line_error(train(name, "--data", faces, flag, value))
    assert flag in error or (flag == "--limit" and "too few" in error)
    assert nothing_written(tmp_path)


# ---- Where to write ------------------------------------------------------------------------------------------------


@each_folder
@pytest.mark.parametrize("flag", ["--out", "--cache"])
def test_a_folder_that_cannot_be_made(flag, folder, train, faces, tmp_path):
    (tmp_path / "file").write_text("in the way")
    error = one_line_error(train(folder, "--data", faces, flag, tmp_path / "file" / "run"))
    assert f"{flag} {tmp_path / 'file' / 'run'}: " in error
    assert nothing_written(tmp_path)


@each_folder
def test_an_output_folder_that_holds_a_run(folder, train, faces, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last.pt").write_bytes(b"of another run")
    assert f"{tmp_path / 'run'} already holds a run" in one_line_error(train(folder, "--data", faces))
    assert [(path.name, path.read_bytes()) for path in (tmp_path / "run").iterdir()] == [("last.pt", b"of another run")]


# ---- Checkpoints ---------------------------------------------------------------------------------------------------


class Code:
    """What a pickle does when it is loaded by a careless reader."""

    def __reduce__(self):
        return exec, ("import builtins; builtins.code_of_a_checkpoint_ran = True",)


def missing(path, folder):
    """no such file"""


def another_papers(path, folder):
    """of another paper"""
    torch.save({"paper": "another_paper", "model": {}}, path)


def a_state_dict(path, folder):
    """a state dict of no paper"""
    torch.save({"weight": torch.zeros(3)}, path)


def of_a_few_entries(path, folder):
    """without most of what it should hold"""
    torch.save({"paper": folder, "optimizer": {}}, path)


def cut_off(path, folder):
    """cut in the middle"""
    torch.save({"paper": folder, "model": {"x": torch.zeros(10000)}}, path)
    truncated(path)


def of_nothing(path, folder):
    """of zero bytes"""
    path.write_bytes(b"")


def in_a_folders_place(path, folder):
    """a folder of that name"""
    path.mkdir()


def with_nan(path, folder):
    """nan in a weight"""
    torch.save({"paper": folder, "model": {"x": torch.tensor([1.0, float("nan")])}}, path)


def with_inf(path, folder):
    """inf in a weight"""
    torch.save({"paper": folder, "encoder": {"x": torch.tensor([float("inf"), 1.0])}}, path)


def with_nan_in_the_optimizer(path, folder):
    """nan in the optimiser's state"""
    state = {"state": {0: {"exp_avg": torch.tensor([float("nan")])}}}
    torch.save({"paper": folder, "model": {}, "optimizer": state}, path)


def with_code(path, folder):
    """with a pickled object inside: it must not run"""
    torch.save({"paper": folder, "model": Code()}, path)


def a_bare_pickle(path, folder):
    """a bare pickle: it must not run"""
    path.write_bytes(pickle.dumps(Code()))


BAD_CHECKPOINTS = [
    missing, another_papers, a_state_dict, of_a_few_entries, cut_off, of_nothing, in_a_folders_place, with_nan,
    with_inf, with_nan_in_the_optimizer, with_code, a_bare_pickle,
]  # fmt: skip


@each_folder
@pytest.mark.parametrize("make", BAD_CHECKPOINTS)
def test_a_checkpoint_that_cannot_be_used(make, folder, call, tmp_path):
    path = tmp_path / "given.pt"
    make(path, folder)
    for script, args in (("eval", (path,)), ("train", ("--resume", path))):
        assert f"{path}: " in one_line_error(call(module(folder, script), *args, "--device", "cpu"))
    assert not hasattr(sys.modules["builtins"], "code_of_a_checkpoint_ran")
    assert {file.name for file in tmp_path.iterdir()} <= {"given.pt"}


@each_folder
def test_a_checkpoint_of_another_number_of_classes(folder, train, call, faces, tmp_path, monkeypatch):
    """A whole one, of a run that was stopped in its first epoch, with one more channel in the last layer."""

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TRAININGS[folder].module, "train_epoch", stop)
        assert train(folder, "--data", faces).returncode == 130
    path = tmp_path / "run" / "last.pt"
    saved = torch.load(path, weights_only=True)
    for name in list(saved["model"])[-2:]:  # weight and bias of the layer that gives the classes
        saved["model"][name] = torch.cat([saved["model"][name], saved["model"][name][:1]])
    torch.save(saved, path)
    before = {file: file.read_bytes() for file in (tmp_path / "run").iterdir()}
    for script, args in (("eval", (path,)), ("train", ("--resume", path))):
        result = call(module(folder, script), *args, "--device", "cpu", "--cache", tmp_path / "cache")
        assert f"{path}: does not fit this code" in one_line_error(result)
    assert {file: file.read_bytes() for file in (tmp_path / "run").iterdir()} == before
    path.unlink()


# ---- What only one paper can be given ------------------------------------------------------------------------------


def lapa(path: Path) -> Path:
    """Two faces in each part of LaPa's layout; returns the label of a face to train with."""
    for part in ("train", "val", "test"):
        for sub in ("images", "labels"):
            (path / part / sub).mkdir(parents=True)
        for name in "ab":
            Image.new("RGB", (32, 32)).save(path / part / "images" / f"{name}.jpg")
            Image.new("L", (32, 32), 1).save(path / part / "labels" / f"{name}.png")
    return path / "train" / "labels" / "a.png"


def a_label_id_out_of_range(path):
    """a label id out of range"""
    label = lapa(path)
    Image.new("L", (32, 32), 11).save(label)
    return ("--data", path), f"{label}: has the value 11; expected 0..10"


def a_label_of_16_bits(path):
    """a 16-bit label out of range"""
    label = lapa(path)
    Image.fromarray(np.full((32, 32), 300, np.uint16)).save(label)
    return ("--data", path), f"{label}: has the value 300; expected 0..10"


def a_label_in_colours(path):
    """a label in colours"""
    label = lapa(path)
    Image.new("RGB", (32, 32)).save(label)
    return ("--data", path), f"{label}: has 3 channels"


def a_label_of_another_size(path):
    """a label of another size than its photo"""
    label = lapa(path)
    Image.new("L", (16, 32)).save(label)
    return ("--data", path), f"{label}: is 16 x 32 px, its photo 32 x 32"


def a_label_as_jpeg(path):
    """a label saved as JPEG"""
    label = lapa(path)
    label.rename(label.with_suffix(".jpg"))
    return ("--data", path), "a.jpg: has no label"


def a_mapping_that_is_cut_off(path, faces):
    """an official split that lacks faces"""
    shutil.copytree(faces, path)
    (path / "CelebA-HQ-to-CelebA-mapping.txt").write_text("idx orig_idx orig_file\n0 0 000000.jpg\n")
    return ("--data", path), f"{path / 'CelebA-HQ-to-CelebA-mapping.txt'}: has no line for 1.jpg"


def no_hair(path, faces):
    """not one mask of the part that is asked for"""
    shutil.copytree(faces, path)
    for mask in path.rglob("*_hair.png"):
        mask.unlink()
    return ("--data", path), f"{path}: none of its 12 faces has a mask NNNNN_hair.png"


def hair_alone(path, faces):
    """masks of hair alone, without any of skin"""
    shutil.copytree(faces, path)
    for mask in (path / "CelebAMask-HQ-mask-anno").rglob("*.png"):
        if not mask.name.endswith("_hair.png"):
            mask.unlink()
    return ("--data", path), f"{path}: not one of its 12 faces has a mask of skin, only of hair"


def two_photos_of_a_name(path):
    """two photos of one name"""
    for name in ("photos/a.jpg", "photos/more/a.jpg", "cutouts/a.png"):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32)).save(path / name)
    return ("--data", path), f"{path / 'photos' / 'more' / 'a.jpg'}: has the name of"


def no_backgrounds(path, faces):
    """no such folder of backgrounds"""
    return ("--data", faces, "--backgrounds", path), f"{path}: no such file or folder"


def no_pool(path, faces):
    """no such folder of photos to pretrain on"""
    return ("--photos", path), f"--photos {path}: no such folder"


def mut1ny(path: Path) -> Path:
    """Six pairs in Mut1ny's layout without a list of them; returns its training.xml, which is not there."""
    for sub in ("samples", "labels"):
        (path / sub / "real").mkdir(parents=True)
        for i in range(6):
            noise = np.random.default_rng(i).integers(0, 256, (8, 9, 3), dtype=np.uint8)
            picture = Image.fromarray(noise) if sub == "samples" else Image.new("RGB", (9, 8))
            picture.resize((36, 32)).save(path / sub / "real" / f"{i}.png")
    return path / "training.xml"


def xml(path: Path, pair: str, before: str = "") -> Path:
    file = mut1ny(path)
    file.write_text(f'{before}<d><srcimg name="{pair}"/><labelimg name="labels/real/0.png"/></d>')
    return file


def an_xml_that_climbs_out(path):
    """an XML file that leaves the data folder by `..`"""
    file = xml(path, "samples\\..\\..\\secret.png")
    return ("--data", path), f"{file}: the path 'samples\\\\..\\\\..\\\\secret.png' leaves {path}"


def an_xml_of_whole_paths(path):
    """an XML file of absolute paths"""
    return ("--data", path), f"{xml(path, '/etc/hostname')}: the path '/etc/hostname' leaves {path}"


def an_xml_through_a_link(path):
    """an XML file that leaves the data folder through a link"""
    file = xml(path, "samples/link/0.png")
    (path / "samples" / "link").symlink_to(path.parent)
    return ("--data", path), f"{file}: the path 'samples/link/0.png' leaves {path}"


def an_xml_that_explodes(path):
    """an XML file with an entity expansion"""
    entities = '<!ENTITY a "aaaaaaaaaa">' + "".join(
        f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    file = xml(path, "&i;", f"<!DOCTYPE d [{entities}]>")
    return ("--data", path), f"{file}: has a document type or entities"


def an_xml_that_reads_files(path):
    """an XML file with an external entity"""
    file = xml(path, "&x;", '<!DOCTYPE d [<!ENTITY x SYSTEM "file:///etc/hostname">]>')
    return ("--data", path), f"{file}: has a document type or entities"


HEAD = "image,label,folder,person,category\n"
ROW = "samples/real/{0}.png,labels/real/{0}.png,real,,real\n"


def manifest(path: Path, text: str | bytes) -> tuple:
    mut1ny(path)
    file = path / "manifest.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return ("--data", path), f"{file}: "


def a_manifest_that_climbs_out(path):
    """a manifest that leaves the data folder"""
    arguments, named = manifest(path, HEAD + "../secret.png,labels/real/0.png,real,,real\n")
    return arguments, f"{named}the path '../secret.png' leaves {path}"


def a_manifest_of_lost_files(path):
    """a manifest that names a file that is not there"""
    arguments, _ = manifest(path, HEAD + "".join(ROW.format(i) for i in range(7)))
    return arguments, f"{path / 'samples' / 'real' / '6.png'}: No such file"


def a_manifest_without_columns(path):
    """a manifest with missing columns"""
    return manifest(path, "image,label\nsamples/real/0.png,labels/real/0.png\n")


def a_manifest_of_semicolons(path):
    """a manifest with another separator"""
    return manifest(path, (HEAD + ROW.format(0)).replace(",", ";"))


def a_manifest_of_no_rows(path):
    """a manifest without rows"""
    return manifest(path, HEAD)


def a_manifest_of_bytes(path):
    """a manifest that is no text"""
    return manifest(path, b"\xff\xfe\x00\x01")


def no_manifest(path):
    """no such manifest"""
    mut1ny(path)
    return ("--data", path, "--manifest", path / "list.csv"), f"--manifest {path / 'list.csv'}: no such file"


CASES_OF_ONE = {
    "nu_deeplabv3plus": [hair_alone],
    "masked_ssl": [
        hair_alone,
        a_label_id_out_of_range, a_label_of_16_bits, a_label_in_colours, a_label_of_another_size, a_label_as_jpeg,
        a_mapping_that_is_cut_off,
    ],
    "masked_ssl/pretrain": [no_pool],
    "hair_transfer": [no_hair],
    "lrn_headtorso": [hair_alone, two_photos_of_a_name, no_backgrounds],
    "mut1ny_fairness": [
        hair_alone, an_xml_that_climbs_out, an_xml_of_whole_paths, an_xml_through_a_link, an_xml_that_explodes,
        an_xml_that_reads_files, a_manifest_that_climbs_out, a_manifest_of_lost_files, a_manifest_without_columns,
        a_manifest_of_semicolons, a_manifest_of_no_rows, a_manifest_of_bytes, no_manifest,
    ],
}  # fmt: skip


@pytest.mark.parametrize(("name", "make"), [(name, make) for name, cases in CASES_OF_ONE.items() for make in cases])
def test_what_only_one_paper_can_be_given(name, make, train, faces, tmp_path):
    given = tmp_path / "given"
    Image.new("RGB", (32, 32)).save(tmp_path / "secret.png")
    arguments, named = make(given, faces) if make.__code__.co_argcount == 2 else make(given)
    before = sorted(given.rglob("*"))
    assert named in one_line_error(train(name, *arguments))
    assert nothing_written(tmp_path) and sorted(given.rglob("*")) == before


@pytest.mark.parametrize("folder", [name for name, cases in CASES_OF_ONE.items() if hair_alone in cases])
def test_masks_of_hair_alone_do_not_pass_for_verified(folder, call, faces, tmp_path):
    arguments, named = hair_alone(tmp_path / "given", faces)
    assert named in one_line_error(call(module(folder, "dataset"), *arguments, "--out", tmp_path / "out"))


def test_photos_with_masks_of_hair_alone_can_be_reconstructed(train, faces, tmp_path):
    arguments, _ = hair_alone(tmp_path / "given", faces)
    result = train("masked_ssl/pretrain", *arguments)
    assert result.returncode == 0, result.stderr


def without_group(path):
    """groups.csv with missing columns"""
    return "image;name\n0.png;x\n", "has no column group; its columns are image, name"


def leaving(path):
    """groups.csv that leaves its folder"""
    return "image,group\n../secret.png,x\n", "line 2: the path '../secret.png' leaves"


def with_lost_photos(path):
    """groups.csv that names a file that is not there"""
    return "image,group\nlost.png,x\n", "lost.png does not exist"


def of_bytes(path):
    """groups.csv that is no text"""
    return b"image,group\n\xff\xfa,x\n", "is not UTF-8 text"


BAD_GROUPS = [without_group, leaving, with_lost_photos, of_bytes]


@pytest.mark.parametrize("make", BAD_GROUPS)
def test_groups_that_cannot_be_used(make, call, tmp_path):
    content, named = make(tmp_path)
    Image.new("RGB", (32, 32)).save(tmp_path / "secret.png")
    (tmp_path / "own").mkdir()
    path = tmp_path / "own" / "groups.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    error = one_line_error(call(module("mut1ny_fairness", "fairness"), tmp_path / "best.pt", "--groups", path))
    assert str(path) in error and named in error
    assert [file.name for file in path.parent.iterdir()] == ["groups.csv"]


def test_a_manifest_with_a_byte_order_mark_and_quotes_simply_works(tmp_path):
    mut1ny(tmp_path / "given")
    text = "\ufeff" + HEAD + '"samples/real/0.png","labels\\real\\0.png",real,,real\r\n'
    (tmp_path / "given" / "manifest.csv").write_text(text, encoding="utf-8")
    (sample,), _ = module("mut1ny_fairness", "dataset").list_samples(tmp_path / "given")
    assert sample.photo.is_file() and sample.label.is_file()


# ---- The table -----------------------------------------------------------------------------------------------------


def table() -> list[tuple[str, str, str]]:
    """Rows of: what is given, what is wrong with it (or harmless), to how many of the folders."""
    rows = [("a folder", words(case), "all") for case in WRONG_FOLDERS]
    rows.append(("a folder", "that may not be read, of photos or of masks", "all"))
    rows += [("a photo", words(case), "all") for case in BAD_PHOTOS]
    rows += [("a mask", words(case), "all") for case in BAD_MASKS]
    rows += [("a checkpoint", words(case), "all") for case in BAD_CHECKPOINTS]
    rows.append(("a checkpoint", "of another number of classes", "all"))
    rows += [("`--out`, `--cache`", "a folder that cannot be made", "all"), ("`--out`", "that holds a run", "all")]
    rows += [("a flag", f"`{flag} {value}`", "all") for flag, values in FLAGS.items() for value in values]
    rows += [("a flag", f"`{flag} {value}`", name) for name, flag, value in FLAGS_OF_ONE]
    rows += [("data", words(case), name) for name, cases in CASES_OF_ONE.items() for case in cases]
    rows += [("fairness.py", words(case), "mut1ny_fairness") for case in BAD_GROUPS]
    rows += [("a photo", f"{kind}: works", "all") for kind in HARMLESS_PHOTOS]
    rows += [("a mask", f"{kind}: works", "all") for kind in HARMLESS_MASKS]
    return [*rows, ("a manifest", "with a byte order mark and quotes: works", "mut1ny_fairness")]


def render(readme: str) -> str:
    """The README with the table in it."""
    rows = [f"| {given} | {what} | {folders} |" for given, what, folders in table()]
    lines = "\n".join(["| given | what about it | to |", "|---|---|---|", *rows])
    mark = r"(<!-- table: bad input -->\n).*?(\n<!-- /table -->)"
    assert re.search(mark, readme, flags=re.DOTALL)
    return re.sub(mark, lambda found: found[1] + lines + found[2], readme, flags=re.DOTALL)


def test_the_readme_lists_every_case():
    readme = README.read_text()
    assert render(readme) == readme, "write it anew with: python tests/test_bad_input.py"
    assert len(table()) == len(set(table())) and sum("works" not in what for _, what, _ in table()) >= 60


if __name__ == "__main__":
    README.write_text(render(README.read_text()))

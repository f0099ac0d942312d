"""lrn_headtorso as its users run it, with a narrow VGG-16, on data in remove.bg's layout."""

import csv
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import leave_out_pictures, one_line_error, succeed
from PIL import Image
from scipy.ndimage import maximum_filter
from test_scripts import differences
from trainings import TRAININGS, make_networks_small

from lrn_headtorso import cut_backgrounds, dataset, eval, train, whiten
from lrn_headtorso.pairs import Pair, list_pairs

TINY = ("--size", 32, "--device", "cpu", "--amp", "off")
CPU = torch.device("cpu")
N = 14  # pictures: 11 train, 1 val, 2 test


@pytest.fixture(scope="module", autouse=True)
def narrow():
    """All that runs in this process has a VGG-16 with few channels."""
    with pytest.MonkeyPatch.context() as patch:
        make_networks_small("lrn_headtorso", patch.setattr)
        yield


@pytest.fixture(autouse=True)
def here(no_pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """Fourteen generated pictures in remove.bg's layout. Tests that change files copy it first."""
    return dataset.write_portraits(tmp_path_factory.mktemp("data") / "people", N, size=64)


@pytest.fixture(scope="module")
def trained(people, tmp_path_factory):
    """Two epochs of an LRN and of a U-Net, and their cache: runs/lrn, runs/unet, cache."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        leave_out_pictures(patch.setattr)
        for name in ("lrn", "unet"):
            args = ("--model", name, "--data", people, "--epochs", 2, "--lr", 0.003, "--cache", folder / "cache")
            patch.setattr(sys, "argv", ["train.py", *map(str, args), "--out", str(folder / name), *map(str, TINY)])
            train.main()
    return folder


def read(path):
    return torch.load(path, weights_only=True)


# ---- Training ------------------------------------------------------------------------------------------------------


def test_the_bare_command_trains_on_generated_pictures(call, tmp_path, monkeypatch):
    for module in (dataset, train):
        monkeypatch.setattr(module, "HERE", tmp_path / "lrn_headtorso")
    monkeypatch.setattr(dataset, "N_GENERATED", 10)
    monkeypatch.setattr(train, "GENERATED", {"size": 32, "epochs": 1, "lr": 3e-4})
    assert "10 GENERATED pictures" in succeed(call(train, "--cache", "cache"))
    assert (tmp_path / "lrn_headtorso" / "runs" / "lrn-32-generated" / "best.pt").exists()


def test_both_phases_and_a_resumed_one_are_the_same_bit_for_bit(call, people, trained, monkeypatch):
    """A learning rate of nearly nothing makes a plateau of epochs 2 and 3; the encoder is unfrozen in epoch 4."""
    source = trained / "lrn" / "last.pt"
    args = ("--data", people, "--cache", trained / "cache", "--weights", source, "--patience", 2, "--lr", 1e-20, *TINY)
    monkeypatch.setattr(train, "LR_UNFROZEN", 1e-3)
    out = succeed(call(train, *args, "--epochs", 5, "--out", "whole"))
    succeed(call(train, *args, "--epochs", 2, "--out", "parts"))
    first, start = read("parts/last.pt"), read(source)["model"]
    encoder = [name for name in start if name.startswith("encoder.")]
    assert len(encoder) == 26 and all(torch.equal(first["model"][name], start[name]) for name in encoder)
    assert len(first["optimizer"]["state"]) == len(start) - 26  # nothing of the encoder
    for epochs in (3, 4, 5):  # within phase one, at its end, within phase two
        succeed(call(train, "--resume", "parts/last.pt", "--epochs", epochs, "--cache", trained / "cache"))
    whole = read("whole/last.pt")
    assert [row["phase"] for row in whole["log"]] == ["frozen encoder"] * 3 + ["everything"] * 2
    assert [row["lr"] for row in whole["log"]] == [1e-20] * 3 + [1e-3] * 2
    losses = [row["val_loss"] for row in whole["log"]]
    assert f"best       epoch {1 + losses.index(min(losses))}, everything\n" in out
    assert not any(torch.equal(whole["model"][name], start[name]) for name in encoder if name.endswith("weight"))
    assert differences(Path("parts"), Path("whole"), TRAININGS["lrn_headtorso"]) == []


def test_what_the_paper_proposes_next_trains_and_evaluates(call, people, real_pictures, tmp_path):
    behind = shutil.copytree(people / "photos", tmp_path / "behind")
    args = ("--data", people, "--cache", "cache", "--epochs", 1, "--channel-reduction", "--backgrounds", behind)
    succeed(call(train, *args, "--device", "cpu", "--size", 64, "--out", "run"))
    assert "LRN (channel reduction, 64 px, backgrounds)" in succeed(call(eval, "run/best.pt", "--cache", "cache"))
    assert Image.open("run/best-test/maps-run.png").size[0] > 100
    (behind / "0003.jpg").unlink()
    error = one_line_error(call(train, "--resume", "run/last.pt", "--epochs", 2, "--cache", "cache"))
    assert "the backgrounds pictures, or their masks, are not those" in error


def test_backgrounds_are_cut_from_training_pictures_and_hold_no_person(call, tmp_path):
    """Painted photos, red where the person and the margin are; the masks are smaller, and their size is rounded."""
    for i in range(8):
        person, x = np.zeros((47, 83), bool), np.arange(83) / 83
        person[(i % 4) * 10 :, (x > 0.62, x < 0.38, abs(x - 0.4) < 0.1, abs(x - 0.8) < 0.1)[i % 4]] = True
        alpha = Image.fromarray(person * np.uint8(255))
        near = maximum_filter(np.asarray(alpha.resize((320, 180), Image.Resampling.NEAREST)) > 0, 11)
        photo = np.where(near[..., None], (200, 0, 0), (0, 90, 0)).astype(np.uint8)
        for folder, picture in (("photos", Image.fromarray(photo)), ("cutouts", alpha)):
            (tmp_path / "people" / folder).mkdir(parents=True, exist_ok=True)
            picture.save(tmp_path / "people" / folder / f"{i}.png")
    succeed(call(cut_backgrounds, "--data", "people", "--out", "squares"))
    squares = {path.stem: np.asarray(Image.open(path)) for path in Path("squares").iterdir()}
    assert squares.keys() == set(map(str, dataset.split(8)["train"]))
    assert max(map(len, squares.values())) >= 170
    for square in squares.values():
        assert square.shape[0] == square.shape[1] >= 45 and (square == (0, 90, 0)).all()


# ---- Evaluation ----------------------------------------------------------------------------------------------------


def test_eval_of_several_checkpoints_is_table_1(call, trained, real_pictures):
    paths = [trained / name / "best.pt" for name in ("lrn", "unet")]
    succeed(call(eval, *paths, "--cache", trained / "cache", "--out", "both"))
    rows = list(csv.DictReader(open("both/table1.csv")))
    assert [row["method"] for row in rows] == [*eval.TABLE_1, "LRN (32 px)", "UNET (32 px)"]
    names = {path.name for path in Path("both").iterdir()}
    assert names == {"results.json", "table1.csv", "figure2.png", "maps-lrn.png"}
    found = json.loads(Path("both/results.json").read_text())["lrn"]
    pictures = found["pictures"].values()
    assert found["jaccard"] == pytest.approx(np.mean([picture["jaccard"] for picture in pictures]), abs=1e-4)
    succeed(call(eval, paths[0], "--split", "val", "--cache", trained / "cache", "--out", "val"))
    (found,) = json.loads(Path("val/results.json").read_text()).values()
    logged = read(paths[0])["log"][-1]
    assert found["loss"] == pytest.approx(logged["val_loss"], abs=1e-5)
    assert found["jaccard"] == pytest.approx(logged["val_jaccard"], abs=1e-4)


def test_a_network_that_finds_nobody_is_said(call, people, trained, tmp_path):
    shutil.copytree(people, tmp_path / "people")
    for name in ("0003", "0008"):
        Image.new("RGBA", (64, 64)).save(tmp_path / "people" / "cutouts" / f"{name}.png")
    saved = read(trained / "unet" / "best.pt")
    saved["model"]["classifier.weight"].zero_()
    saved["model"]["classifier.bias"].fill_(-9)
    torch.save(saved, "nobody.pt")
    succeed(call(eval, "nobody.pt", "--data", "people", "--split", "all", "--cache", "cache", "--out", "all"))
    (found,) = json.loads(Path("all/results.json").read_text()).values()
    assert (found["empty_predicted"], found["empty_true"], found["jaccard"]) == (14, 2, pytest.approx(200 / 14))
    out = succeed(call(whiten, "nobody.pt", people / "photos" / "0004.jpg", "--out", "white", "--device", "cpu"))
    assert "no person covers 1% of 0004.jpg: crop to the face" in out
    assert (np.asarray(Image.open("white/0004.png")) == 255).all()


def test_who_was_trained_on_is_counted_and_other_pictures_refused(call, people, trained, faces):
    best, cache = trained / "lrn" / "best.pt", ("--cache", "cache")
    out = succeed(call(eval, best, "--split", "all", "--out", "all", *cache))
    assert f"best.pt: WAS TRAINED ON 11 OF THESE {N} PICTURES" in out
    error = one_line_error(call(eval, best, "--data", faces, *cache))
    assert f"{faces}: 2 of the checkpoint's 2 pictures are missing" in error
    args = ("--data", people, *cache, "--weights", best, "--epochs", 1, "--limit", N - 2, *TINY)
    out = succeed(call(train, *args, "--out", "other split"))
    first, other = read(best)["split"], read("other split/best.pt")
    known = set(first["train"]) & set(other["split"]["test"])
    assert known and f"; IT WAS TRAINED ON {len(known)} OF THE 2 TEST PICTURES" in out
    assert f"WAS TRAINED ON {len(known)} OF THESE 2" in succeed(call(eval, "other split/best.pt", *cache))
    error = one_line_error(call(eval, best, "other split/best.pt", *cache))
    assert "other split/best.pt: its test pictures are not those of" in error


# ---- Whitening, the data set ---------------------------------------------------------------------------------------


def test_whiten_keeps_size_and_transparency(call, people, trained, tmp_path, monkeypatch):
    """With a network that finds a person everywhere."""
    monkeypatch.setattr(whiten, "predict", lambda network, photo: np.ones((photo.height, photo.width), np.float32))
    photos, best = tmp_path / "photos", trained / "lrn" / "best.pt"
    photos.mkdir()
    cutout = Image.open(people / "photos" / "0000.jpg").resize((70, 40)).convert("RGBA")
    cutout.putalpha(Image.fromarray(np.tile(np.arange(70) > 35, (40, 1)).astype(np.uint8) * 255))
    cutout.save(photos / "cutout.png")
    (photos / "bad.jpg").write_bytes(b"no picture")
    assert "bad.jpg" in one_line_error(call(whiten, best, photos, "--device", "cpu"))
    found = np.asarray(Image.open(tmp_path / "whitened" / "cutout.png"))
    assert found.shape == (40, 70, 3) and (found[:, 45:] == np.asarray(cutout)[:, 45:, :3]).all()
    for background, mode in (("transparent", "RGBA"), (people / "photos" / "0001.jpg", "RGB"), ("#204060", "RGB")):
        succeed(call(whiten, best, photos / "cutout.png", "--background", background, "--out", "other"))
        assert Image.open(tmp_path / "other" / "cutout.png").mode == mode
    assert (np.asarray(Image.open("other/cutout.png"))[:, :30] == (32, 64, 96)).all()  # what was erased stays erased
    error = one_line_error(call(whiten, best, photos / "cutout.png", "--background", "whit"))
    assert "--background whit: neither a file nor a colour" in error


def test_whiten_shows_the_network_what_training_showed_it(trained, people, tmp_path):
    """A photo that is neither square nor of the network's size: reshaped as for training, and the map brought back."""
    pair = list_pairs(people)[0][0]
    photo, mask = (Image.open(path).resize((100, 70)) for path in (pair.photo, pair.masks[0]))
    photo.save(tmp_path / "a.png")
    mask.save(tmp_path / "mask.png")
    sample = dataset.decode(Pair("a", tmp_path / "a.png", (tmp_path / "mask.png",)), 32)
    data = dataset.HeadTorso({name: value[None] for name, value in sample.items()}, ["a"])
    network = whiten.load(trained / "lrn" / "best.pt", "cpu")
    _, _, maps = eval.predict_maps(network.model, data, [0], CPU, False)
    expected = F.interpolate(torch.from_numpy(maps[-1])[None], size=(70, 100), mode="bilinear", align_corners=False)
    found = whiten.predict(network, Image.open(tmp_path / "a.png"))
    assert found.shape == (70, 100) and np.ptp(found) > 0.01
    assert np.abs(found - expected[0, 0].numpy()).max() < 1e-5


def test_dataset_names_every_bad_file(call, people, tmp_path, real_pictures):
    folder = shutil.copytree(people, tmp_path / "people")
    (folder / "photos" / "0003.jpg").write_bytes(b"no picture")
    Image.new("RGB", (64, 64), (9, 9, 9)).save(folder / "cutouts" / "0005.png")
    Image.new("RGBA", (64, 64)).save(folder / "cutouts" / "0006.png")
    (folder / "cutouts" / "0007.png").unlink()
    result = call(dataset, "--data", folder, "--size", 32, "--out", "figures")
    assert "2 problem(s) in 13 pictures" in one_line_error(result)
    assert "0003.jpg: cannot be read" in result.stdout and "0005.png: has the colour (9, 9, 9)" in result.stdout
    assert "0006.jpg: its mask is empty" in result.stdout and "0007.jpg: has no partner" in result.stdout
    assert Image.open("figures/samples.png").size[0] > 100

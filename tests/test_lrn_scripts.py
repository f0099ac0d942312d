"""lrn_headtorso as its users run it. The scripts run in this process with a narrow VGG-16, which is quick, and once as
subprocesses, from another folder, as they are."""

import csv
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT, leave_out_pictures, one_line_error, succeed
from PIL import Image
from scipy.ndimage import maximum_filter

from common import cli
from lrn_headtorso import checkpoints, cut_backgrounds, dataset, eval, generate, model, train, whiten
from lrn_headtorso.pairs import Pair

TINY = ("--size", 32, "--device", "cpu", "--amp", "off")
TRAIN, EVAL, WHITEN = (f"lrn_headtorso/{name}.py" for name in ("train", "eval", "whiten"))
CHANNELS = model.CHANNELS  # of the real VGG-16
pytestmark = pytest.mark.usefixtures("no_pictures")
N = 14  # pictures: 11 train, 1 val, 2 test


@pytest.fixture(scope="module", autouse=True)
def narrow():
    """All that runs in this process has a VGG-16 with few channels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "CHANNELS", (4, 8, 8, 16, 16))
        yield


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """Fourteen generated pictures in remove.bg's layout. Tests that change files copy it first."""
    return generate.write_generated(tmp_path_factory.mktemp("data") / "people", N, size=64)


@pytest.fixture
def here(capsys, tmp_path, monkeypatch):
    """here(train, "--flag", value) runs a script's main in this process -> returncode, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(script, *args):
        monkeypatch.setattr(sys, "argv", [f"{script.__name__.split('.')[-1]}.py", *map(str, args)])
        code = 0
        try:
            cli.run(script.main)
        except SystemExit as end:
            code = end.code
        out = capsys.readouterr()
        return SimpleNamespace(returncode=code, stdout=out.out, stderr=out.err)

    return run


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


def load(path):
    return torch.load(path, weights_only=True)


def same_tensors(a, b):
    assert a.keys() == b.keys()
    return all(torch.equal(value, b[name]) for name, value in a.items())


# ---- Training ------------------------------------------------------------------------------------------------------


def test_a_run_folder_holds_what_the_readme_says(trained):
    run = trained / "lrn"
    assert {path.name for path in run.iterdir()} == {
        "last.pt", "best.pt", "log.csv", "curves.png", "samples.png", "run.json"
    }  # fmt: skip
    rows = list(csv.DictReader(open(run / "log.csv")))
    assert [(row["epoch"], row["phase"]) for row in rows] == [("1", "everything"), ("2", "everything")]
    assert all(np.isfinite(float(value)) for row in rows for name, value in row.items() if name != "phase")
    facts = json.loads((run / "run.json").read_text())
    assert facts["weights"].startswith("random") and facts["environment"]["torch"] == torch.__version__
    assert [len(facts["split"][part]) for part in ("train", "val", "test")] == [11, 1, 2]
    assert load(run / "best.pt")["paper"] == "lrn_headtorso"


def test_the_bare_command_trains_on_generated_pictures(here, tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "HERE", tmp_path / "folder")
    monkeypatch.setattr(generate, "N", 10)
    monkeypatch.setattr(train, "GENERATED", {"size": 32, "epochs": 1, "lr": 3e-4})
    out = succeed(here(train, "--cache", tmp_path / "cache"))
    assert "10 GENERATED pictures" in out
    assert (tmp_path / "folder" / "runs" / "lrn-32-generated" / "best.pt").exists()
    assert len(list((tmp_path / "folder" / "data" / "generated" / "photos").iterdir())) == 10
    first = tmp_path / "folder" / "runs" / "lrn-32-generated" / "last.pt"
    second = succeed(here(train, *TINY, "--cache", tmp_path / "cache", "--weights", first))
    assert (tmp_path / "folder" / "runs" / "lrn-own-32-generated" / "best.pt").exists()
    assert "lrn, epoch 1, 10 GENERATED pictures" in second  # where the encoder comes from


def test_resuming_in_both_phases_equals_the_uninterrupted_run_bit_for_bit(here, people, trained, tmp_path):
    """A learning rate of nearly nothing makes a plateau of epochs 2 and 3; the encoder is unfrozen in epoch 4."""
    source = trained / "lrn" / "last.pt"
    args = ("--data", people, "--cache", trained / "cache", "--weights", source, "--patience", 2, "--lr", 1e-20, *TINY)
    args += ("--lr-unfrozen", 1e-3)
    out = succeed(here(train, *args, "--epochs", 5, "--out", "whole"))
    assert "phase 2    everything" in out
    succeed(here(train, *args, "--epochs", 2, "--out", "parts"))
    first = load("parts/last.pt")
    start = load(source)["model"]
    encoder = [name for name in start if name.startswith("encoder.")]
    assert len(encoder) == 26 and all(torch.equal(first["model"][name], start[name]) for name in encoder)
    assert len(first["optimizer"]["state"]) == len(start) - 26  # nothing of the encoder
    for epochs in (3, 4, 5):  # within phase one, at its end, within phase two
        succeed(here(train, "--resume", "parts/last.pt", "--epochs", epochs, "--cache", trained / "cache"))
    whole, parts = load("whole/last.pt"), load("parts/last.pt")
    assert [row["phase"] for row in whole["log"]] == ["frozen encoder"] * 3 + ["everything"] * 2
    losses = [row["val_loss"] for row in whole["log"]]
    assert min(losses) < losses[0] and f"best       epoch {1 + losses.index(min(losses))}, everything\n" in out
    assert same_tensors(whole["model"], parts["model"])
    assert not any(torch.equal(whole["model"][name], start[name]) for name in encoder if name.endswith("weight"))
    for i, state in whole["optimizer"]["state"].items():
        assert same_tensors(state, parts["optimizer"]["state"][i])
    for a, b in zip(whole["log"], parts["log"], strict=True):
        assert {k: v for k, v in a.items() if k != "seconds"} == {k: v for k, v in b.items() if k != "seconds"}
    rows = list(csv.DictReader(open(tmp_path / "parts" / "log.csv")))
    assert [row["lr"] for row in rows] == ["1e-20"] * 3 + ["0.001"] * 2
    assert whole["optimizer"]["param_groups"][0]["lr"] == 1e-3


def test_the_second_phase_counts_its_own_plateau_and_is_marked_in_the_curves(
    here, people, trained, monkeypatch, real_pictures
):
    marked = []
    monkeypatch.setattr("matplotlib.axes.Axes.axvline", lambda self, x, **_: marked.append(x))
    args = ("--data", people, "--cache", trained / "cache", "--weights", trained / "lrn" / "last.pt", "--patience", 2)
    out = succeed(here(train, *args, "--lr", 1e-20, "--lr-unfrozen", 1e-20, "--epochs", 9, "--out", "run", *TINY))
    log = load("run/last.pt")["log"]
    assert [row["phase"] for row in log] == ["frozen encoder"] * 3 + ["everything"] * 3  # in both the first is the best
    assert "stopped" in out and set(marked) == {3.5}
    assert load("run/best.pt")["epoch"] == 1 and load("run/last.pt")["epoch"] == 6


@pytest.mark.parametrize(("kind", "weights"), [("lrn", "imagenet"), ("unet", "vgg16-397923af.pth")])
def test_imagenets_weights_give_the_papers_names(kind, weights, here, people, trained, tmp_path, monkeypatch):
    """From torchvision's cache, or its file. Nothing gets better, so best.pt is of the first phase, last.pt not."""
    hub = tmp_path / "checkpoints"
    hub.mkdir()
    torch.save(model.VGG16().state_dict(), hub / "vgg16-397923af.pth")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(dataset, "HERE", tmp_path / "folder")
    monkeypatch.setattr(checkpoints, "SIZE", 32)  # the paper's size is not added to the name
    args = ("--model", kind, "--weights", weights if weights == "imagenet" else hub / weights, "--patience", 1, *TINY)
    args += ("--lr", 1e-20, "--lr-unfrozen", 1e-20, "--epochs", 3, "--data", people, "--cache", trained / "cache")
    out = succeed(here(train, *args))
    assert "best       epoch 1, frozen encoder\nnext " in out
    run, name = tmp_path / "folder" / "runs" / f"{kind}-vgg", f"{kind.upper()}-VGG"
    succeed(here(eval, run / "best.pt", run / "last.pt", "--cache", trained / "cache", "--out", "both"))
    rows = list(csv.DictReader(open("both/table1.csv")))[4:]
    assert [row["method"] for row in rows] == [f"{name} (frozen encoder)", name] and name in eval.TABLE_1


def test_an_encoder_that_was_never_unfrozen_is_not_passed_over(here, people, trained):
    args = ("--data", people, "--cache", trained / "cache", "--weights", trained / "lrn" / "last.pt", *TINY)
    assert "never unfrozen" in succeed(here(train, *args, "--epochs", 1, "--out", "run"))
    assert "--patience 0: without a plateau" in one_line_error(here(train, *args, "--patience", 0, "--out", "never"))


def test_a_run_is_not_resumed_with_other_masks_or_backgrounds(here, people, tmp_path):
    shutil.copytree(people, tmp_path / "people")
    shutil.copytree(people / "photos", tmp_path / "behind")
    args = ("--data", "people", "--backgrounds", "behind", "--cache", "cache", "--epochs", 1, "--out", "run", *TINY)
    succeed(here(train, *args))
    resume = ("--resume", "run/last.pt", "--epochs", 2, "--cache", "cache")
    (tmp_path / "behind" / "0003.jpg").rename(tmp_path / "taken away.jpg")
    assert "not the pictures, masks or backgrounds" in one_line_error(here(train, *resume))
    (tmp_path / "taken away.jpg").rename(tmp_path / "behind" / "0003.jpg")
    Image.new("RGBA", (64, 64)).save(tmp_path / "people" / "cutouts" / "0005.png")
    assert "not the pictures, masks or backgrounds" in one_line_error(here(train, *resume))


def test_a_plateau_ends_a_run_with_random_weights(here, people, trained):
    args = ("--data", people, "--cache", trained / "cache", "--patience", 1, "--lr", 1e-20, "--out", "run", *TINY)
    out = succeed(here(train, *args, "--epochs", 9))
    assert "stopped    1 epochs without a better validation loss" in out
    assert len(load("run/last.pt")["log"]) == 2
    again = succeed(here(train, "--resume", "run/last.pt", "--cache", trained / "cache"))
    assert "stopped" in again and len(load("run/last.pt")["log"]) == 2


def test_what_the_paper_proposes_next_trains_and_evaluates(here, people, trained, real_pictures):
    args = ("--data", people, "--cache", "cache", "--epochs", 1, "--channel-reduction", "--backgrounds")
    args += (people / "photos", "--device", "cpu", "--size", 64, "--out", "run")
    assert "14 other backgrounds" in succeed(here(train, *args))
    out = succeed(here(eval, "run/best.pt", "--cache", "cache"))
    assert "LRN (channel reduction, 64 px, backgrounds)" in out
    assert Image.open("run/best-test/maps-run.png").size[0] > 100


def test_backgrounds_are_cut_from_training_pictures_alone(here, people):
    out = succeed(here(cut_backgrounds, "--data", people, "--out", "squares"))
    pairs = dataset.list_pairs(people).pairs
    train = {f"{pairs[i].name}.png": pairs[i] for i in dataset.split(len(pairs), 0)["train"]}
    written = {path.name for path in Path("squares").iterdir()}
    assert written and written <= train.keys() and f"{len(written)} backgrounds from {len(train)} training" in out
    for name in written:
        square, photo = Image.open(f"squares/{name}"), Image.open(train[name].photo)
        assert square.width == square.height >= min(photo.size) // 4


LITTLE_ROOM = 3  # the photo whose largest square is too small


@pytest.mark.parametrize("mask_size", [(320, 180), (160, 90), (83, 47), (84, 47)])
def test_squares_hold_neither_a_person_nor_anything_from_beyond_the_photo(mask_size, here, tmp_path):
    """Painted photos, red where the person and the margin are; the masks are as large or, rounded, smaller."""
    for i in range(8):
        person = np.zeros(mask_size[::-1], bool)
        x = np.arange(mask_size[0]) / mask_size[0]
        places = x > 0.62, x < 0.38, abs(x - 0.4) < 0.1, abs(x - 0.8) < 0.1
        person[(i % 4) * 10 :, places[i % 4]] = True
        if i == LITTLE_ROOM:
            person[:] = x > 0.12
        alpha = Image.fromarray(person * np.uint8(255))
        near = maximum_filter(np.asarray(alpha.resize((320, 180), Image.Resampling.NEAREST)) > 0, 11)
        photo = np.where(near[..., None], (200, 0, 0), (0, 90, 0)).astype(np.uint8)
        for folder, picture in (("photos", Image.fromarray(photo)), ("cutouts", alpha)):
            (tmp_path / "people" / folder).mkdir(parents=True, exist_ok=True)
            picture.save(tmp_path / "people" / folder / f"{i}.png")
    succeed(here(cut_backgrounds, "--data", "people", "--out", "squares"))
    squares = [np.asarray(Image.open(path)) for path in Path("squares").iterdir()]
    train = dataset.split(8, 0)["train"]
    assert LITTLE_ROOM in train and len(squares) == len(train) - 1
    assert max(map(len, squares)) >= 170  # as high as the photo
    for square in squares:
        assert square.shape[0] == square.shape[1] >= 45 and (square == (0, 90, 0)).all()


def test_photos_without_room_give_no_backgrounds_and_leave_no_folder(here, people, tmp_path):
    shutil.copytree(people, tmp_path / "people")
    for path in (tmp_path / "people" / "cutouts").iterdir():
        Image.new("L", (64, 64), 255).save(path)
    error = one_line_error(here(cut_backgrounds, "--data", "people", "--out", "squares"))
    assert "no photo has room" in error and "train.py's --backgrounds" in error and not Path("squares").exists()


def test_celebamask_trains_too(here, faces):
    out = succeed(here(train, "--data", faces, "--epochs", 1, "--cache", "cache", "--out", "run", *TINY))
    assert "12 pictures, 9 train, 1 val, 2 test" in out


def test_the_unmatched_are_named(here, people, tmp_path):
    shutil.copytree(people, tmp_path / "people")
    (tmp_path / "people" / "cutouts" / "0003.png").unlink()
    (tmp_path / "people" / "photos" / "0007.jpg").unlink()
    out = succeed(here(train, "--data", "people", "--epochs", 1, "--cache", "cache", "--out", "run", *TINY))
    assert "unmatched  1 photo(s) without a cut-out, 1 cut-out(s) without a photo: 0003.jpg, 0007.png" in out
    out = succeed(here(dataset, "--data", "people", "--size", 32, "--out", "figures"))
    assert "0003.jpg: has no cut-out" in out and "0007.png: belongs to no photo" in out


# ---- Evaluation, whitening, the data set -----------------------------------------------------------------------------


def test_eval_of_several_checkpoints_is_table_1(here, trained):
    runs = [trained / "lrn" / "best.pt", trained / "unet" / "best.pt", trained / "lrn" / "last.pt"]
    out = succeed(here(eval, *runs, "--cache", trained / "cache", "--out", "all", "--worst"))
    assert "91.67 +- 5.63" in out and "44.00 +- 16.75" in out
    worst = out.split("worst of lrn: ")[1].split()[0]
    rows = list(csv.DictReader(open("all/table1.csv")))
    assert [row["method"] for row in rows] == [*eval.TABLE_1, "LRN (32 px)", "UNET (32 px)", "LRN (32 px)"]
    assert [row["run"] for row in rows[4:]] == ["lrn", "unet", "lrn-last"]
    results = json.loads(open("all/results.json").read())
    found = results["lrn"]
    per_picture = [picture["jaccard"] for picture in found["pictures"].values()]
    assert found["n"] == len(per_picture) == 2
    assert found["pictures"][worst.removesuffix(".jpg")]["jaccard"] == min(per_picture)
    assert found["jaccard"] == pytest.approx(np.mean(per_picture))
    assert found["jaccard_std"] == pytest.approx(np.std(per_picture), abs=1e-6)
    assert set(found["pictures"]) == set(load(runs[0])["split"]["test"])
    assert rows[4]["Jaccard %"] == f"{100 * found['jaccard']:.2f} +- {100 * found['jaccard_std']:.2f}"
    names = {path.name for path in Path("all").iterdir()}
    assert names == {"results.json", "table1.csv", "figure2.png", "maps-lrn.png", "maps-lrn-last.png"}


def test_eval_repeats_what_training_measured(here, trained):
    succeed(here(eval, trained / "lrn" / "best.pt", "--split", "val", "--cache", trained / "cache", "--out", "val"))
    results = json.loads(open("val/results.json").read())["lrn"]
    best = min(csv.DictReader(open(trained / "lrn" / "log.csv")), key=lambda row: float(row["val_loss"]))
    assert results["loss"] == pytest.approx(float(best["val_loss"]), abs=1e-6)
    assert results["hausdorff"] == pytest.approx(float(best["val_hausdorff"]), abs=1e-4)


@pytest.fixture
def nobody(trained, tmp_path):
    """A checkpoint whose network finds nobody anywhere."""
    checkpoint = load(trained / "lrn" / "last.pt")
    checkpoint["model"]["units.5.conv2.weight"].zero_()
    checkpoint["model"]["units.5.conv2.bias"].fill_(-9)
    (tmp_path / "nobody").mkdir()
    torch.save(checkpoint, tmp_path / "nobody" / "best.pt")
    return tmp_path / "nobody" / "best.pt"


def test_eval_says_how_empty_masks_are_counted(here, trained, nobody):
    out = succeed(here(eval, nobody, "--cache", trained / "cache"))
    assert "found nobody in 2 of 2 pictures" in out and "316.8 px" in out and "without a person" not in out
    (found,) = json.loads(open("nobody/best-test/results.json").read()).values()
    assert found["jaccard"] == 0 and found["hausdorff"] == pytest.approx(316.78, abs=0.01)
    assert found["empty_predicted"] == 2 and found["empty_true"] == 0 and found["missed"] == 1


def test_nobody_found_where_nobody_is_counts_as_right(here, people, nobody, tmp_path):
    shutil.copytree(people, tmp_path / "people")
    for name in ("0003", "0008"):
        Image.new("RGBA", (64, 64)).save(tmp_path / "people" / "cutouts" / f"{name}.png")
    args = ("--data", "people", "--split", "all", "--cache", "cache", "--out", "all")
    out = succeed(here(eval, nobody, *args))
    assert "nobody: found nobody in 12 of 12 pictures with a person; each counts as Jaccard 0 and a distance of" in out
    assert "2 picture(s) without a person: Jaccard 1 and 0 px if nobody is found, else 0 and the diagonal, 316.8" in out
    (found,) = json.loads(open("all/results.json").read()).values()
    assert (found["empty_predicted"], found["empty_true"], found["jaccard"]) == (14, 2, pytest.approx(2 / 14))
    assert (found["pictures"]["0003"]["jaccard"], found["pictures"]["0003"]["hausdorff"]) == (1, 0)


def test_eval_on_other_pictures(here, trained, faces):
    args = ("--data", faces, "--split", "all", "--cache", "cache")
    out = succeed(here(eval, trained / "unet" / "best.pt", *args))
    folder = trained / "unet" / f"best-all-{faces.name}"  # of that data folder alone
    assert "12 pictures" in out and out.endswith(f"results.json, table1.csv, figure2.png -> {folder}\n")
    shutil.rmtree(folder)
    error = one_line_error(here(eval, trained / "unet" / "best.pt", "--data", faces, "--cache", "cache"))
    assert "of the test split" in error


def test_pictures_that_were_trained_on_are_counted(here, people, trained, tmp_path):
    best, cache = trained / "lrn" / "best.pt", ("--cache", "cache")
    train_names = load(best)["split"]["train"]
    assert "TRAINED ON" not in succeed(here(eval, best, *cache))
    out = succeed(here(eval, best, "--split", "all", "--out", "all", *cache))
    assert f"best.pt: WAS TRAINED ON {len(train_names)} OF THESE {N} PICTURES" in out
    shutil.copytree(people, tmp_path / "fewer")
    for folder, suffix in (("photos", "jpg"), ("cutouts", "png")):
        (tmp_path / "fewer" / folder / f"{train_names[0]}.{suffix}").unlink()
    out = succeed(here(eval, best, "--split", "all", "--data", "fewer", "--out", "all", *cache))
    assert f"best.pt: WAS TRAINED ON {len(train_names) - 1} OF THESE {N - 1} PICTURES" in out


def test_what_an_encoder_had_seen_is_told_and_not_forgotten(here, people, trained, faces):
    args = ("--data", people, "--cache", "cache", "--weights", trained / "lrn" / "best.pt", "--epochs", 1, *TINY)
    assert "TRAINED ON" not in succeed(here(train, *args, "--out", "same split"))
    first = load(trained / "lrn" / "best.pt")
    out = succeed(here(train, *args, "--seed", 5, "--out", "other split"))
    other = load("other split/best.pt")
    known = set(first["split"]["train"]) & set(other["split"]["test"])
    assert known and f"; IT WAS TRAINED ON {len(known)} OF THE 2 TEST PICTURES" in out
    assert set(other["trained_on"]) > set(first["trained_on"])
    out = succeed(here(eval, "other split/best.pt", "--cache", "cache"))
    assert f"WAS TRAINED ON {len(known)} OF THESE 2 PICTURES" in out


def test_runs_on_copies_of_a_folder_are_compared(here, people, trained, tmp_path):
    shutil.copytree(people, tmp_path / "copy")
    saved = load(trained / "lrn" / "best.pt")
    saved["args"]["data"] = str(tmp_path / "copy")
    (tmp_path / "second").mkdir()
    torch.save(saved, tmp_path / "second" / "best.pt")
    assert "second" in succeed(here(eval, trained / "lrn" / "best.pt", "second/best.pt", "--out", "o", "--cache", "c"))


def test_runs_with_other_test_pictures_are_not_compared(here, people, trained):
    args = ("--data", people, "--cache", trained / "cache", "--epochs", 1, "--seed", 5, "--out", "other", *TINY)
    succeed(here(train, *args))
    error = one_line_error(here(eval, trained / "lrn" / "best.pt", "other/best.pt", "--cache", trained / "cache"))
    assert "other/best.pt: its test pictures are not those of" in error


def test_whiten_keeps_size_orientation_and_inner_pixels(here, people, trained, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    picture = Image.open(people / "photos" / "0000.jpg").resize((70, 40))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to see it upright
    picture.save(photos / "turned.jpg", exif=exif)
    picture.convert("L").save(photos / "grey.png")
    (photos / "bad.jpg").write_bytes(b"no picture")
    error = one_line_error(here(whiten, trained / "lrn" / "best.pt", photos, "--device", "cpu"))
    assert "bad.jpg" in error
    for name, size in (("grey", (70, 40)), ("turned", (40, 70))):
        found = Image.open(tmp_path / "whitened" / f"{name}.png")
        assert found.size == size and found.mode == "RGB"
    for background, mode in (("transparent", "RGBA"), (people / "photos" / "0001.jpg", "RGB"), ("#204060", "RGB")):
        args = (photos / "grey.png", "--background", background, "--out", "other", "--device", "cpu")
        succeed(here(whiten, trained / "lrn" / "best.pt", *args))
        assert Image.open(tmp_path / "other" / "grey.png").mode == mode
    error = one_line_error(here(whiten, trained / "lrn" / "best.pt", photos / "grey.png", "--background", "whit"))
    assert "--background whit: neither a file nor a colour" in error
    before = (photos / "grey.png").read_bytes()
    for given in (photos, photos / "grey.png"):
        error = one_line_error(here(whiten, trained / "lrn" / "best.pt", given, "--out", photos, "--device", "cpu"))
        assert "is the folder of the photos" in error and (photos / "grey.png").read_bytes() == before


def test_whiten_shows_the_network_what_training_showed_it(trained, people, tmp_path):
    """A photo that is neither square nor of the network's size: reshaped as for training, and the map brought back."""
    pair = dataset.list_pairs(people).pairs[0]
    photo, mask = (Image.open(path).resize((100, 70)) for path in (pair.photo, pair.masks[0]))
    photo.save(tmp_path / "a.png")
    mask.save(tmp_path / "mask.png")
    sample = dataset.decode(Pair("a", tmp_path / "a.png", (tmp_path / "mask.png",)), 32)
    data = dataset.HeadTorso({name: value[None] for name, value in sample.items()}, ["a"])
    network, _ = checkpoints.load_model(trained / "lrn" / "best.pt", torch.device("cpu"))
    _, _, maps = eval.predict_maps(network, data, [0], torch.device("cpu"), False)
    expected = F.interpolate(torch.from_numpy(maps[-1])[None], size=(70, 100), mode="bilinear", align_corners=False)
    found = whiten.predict(network, photo, 32, torch.device("cpu"), False)
    assert found.shape == (70, 100) and np.ptp(found) > 0.01
    assert np.abs(found - expected[0, 0].numpy()).max() < 1e-5


def test_whiten_names_the_photos_in_which_nobody_is_found(here, people, nobody):
    out = succeed(here(whiten, nobody, people / "photos" / "0004.jpg", "--out", "white", "--device", "cpu"))
    assert "nobody found in 0004: all of the picture is background" in out
    assert (np.asarray(Image.open("white/0004.png")) == 255).all()


# ---- As subprocesses -------------------------------------------------------------------------------------------------


def test_the_folder_and_common_alone_work_elsewhere_in_two_processes(script, here, people, tmp_path, monkeypatch):
    """Train and whiten with the real VGG-16, in a copy of the two folders; the first and last lines of training. Each
    picture is trained on and validated once: alone, in one process, eval.py gives the same numbers."""
    elsewhere = tmp_path / "assignment"
    skip = shutil.ignore_patterns("runs", "data", "__pycache__")
    for name in ("lrn_headtorso", "common"):
        shutil.copytree(ROOT / name, elsewhere / name, ignore=skip)
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    args = ("--data", people, "--n-train", 8, "--epochs", 1, "--cache", "cache", *TINY)
    out = succeed(script(TRAIN, *args, root=elsewhere, launcher=launcher)).splitlines()
    assert [line.split()[0] for line in out[:6]] == ["command", "device", "data", "model", "weights", "out"]
    assert "15,864,198" in out[3] and f"{N} pictures, 7 train, 1 val, 2 test" in out[2]
    run = elsewhere / "lrn_headtorso" / "runs" / "lrn-32"
    assert out[-1] == f"next       python {elsewhere / EVAL} {run / 'best.pt'}"
    log = list(csv.DictReader(open(run / "log.csv")))
    assert len(log) == 1
    monkeypatch.setattr(model, "CHANNELS", CHANNELS)
    succeed(here(eval, run / "last.pt", "--split", "val", "--cache", "cache", "--device", "cpu", "--amp", "off"))
    (results,) = json.loads((run / "last-val" / "results.json").read_text()).values()
    assert results["loss"] == pytest.approx(float(log[0]["val_loss"]), abs=1e-5)
    assert results["jaccard"] == pytest.approx(float(log[0]["val_jaccard"]), abs=1e-6)
    args = (people / "photos" / "0000.jpg", "--out", "white", "--device", "cpu")
    succeed(script(WHITEN, run / "best.pt", *args, root=elsewhere))
    assert Image.open(tmp_path / "white" / "0000.png").size == (64, 64)


NARROW = """\
import sys
sys.path[:0] = {paths!r}
from conftest import leave_out_pictures
from lrn_headtorso import model, train
model.CHANNELS = (4, 8, 8, 16, 16)
leave_out_pictures(setattr)
train.main()
"""


def test_both_phases_in_two_processes_equal_those_in_one(script, here, people, trained, tmp_path):
    """Two pictures a process where one process has four; the encoder is unfrozen in epoch 3."""
    (tmp_path / "narrow.py").write_text(NARROW.format(paths=[str(ROOT), str(ROOT / "tests")]))
    source = trained / "lrn" / "last.pt"
    args = ("--data", people, "--n-train", 9, "--cache", trained / "cache", "--weights", source, "--patience", 1, *TINY)
    args += ("--lr", 1e-20, "--lr-unfrozen", 1e-3, "--epochs", 4)
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    out = succeed(script("narrow.py", *args, "--out", "two", root=tmp_path, launcher=launcher))
    assert "2 process(es)" in out and "phase 2    everything" in out
    succeed(here(train, *args, "--out", "one"))
    start, one, two = load(source)["model"], load("one/last.pt"), load("two/last.pt")
    assert [row["phase"] for row in two["log"]] == ["frozen encoder"] * 2 + ["everything"] * 2
    for a, b in zip(one["log"], two["log"], strict=True):
        assert all(b[name] == pytest.approx(a[name], rel=1e-4) for name in ("loss", "val_loss", "lr"))
    for name, value in one["model"].items():
        torch.testing.assert_close(two["model"][name], value, rtol=1e-3, atol=1e-5)
        assert not name.endswith("weight") or not torch.equal(value, start[name]), name


def test_dataset_describes_a_folder_and_names_every_bad_file(here, people, tmp_path, real_pictures):
    folder = tmp_path / "people"
    shutil.copytree(people, folder)
    photo = folder / "photos" / "0003.jpg"
    photo.write_bytes(photo.read_bytes()[:500])
    Image.new("RGB", (64, 64), (9, 9, 9)).save(folder / "cutouts" / "0005.png")
    Image.new("RGBA", (64, 64)).save(folder / "cutouts" / "0006.png")
    result = here(dataset, "--data", folder, "--size", 32, "--out", "figures", "--backgrounds", people / "photos")
    assert "2 problem(s) in 14 pictures" in one_line_error(result)
    assert "0003.jpg: cannot be read" in result.stdout and "0005.png: has the value 9" in result.stdout
    assert "empty masks: 1, such as 0006.jpg" in result.stdout and "14 photos with their masks" in result.stdout
    assert {p.name for p in (tmp_path / "figures").iterdir()} == {"samples.png", "augmentation.png"}


# ---- Bad input: one line that names the file and the remedy, exit code 2, nothing half-written -----------------------


def truncated_photo(folder):
    (folder / "photos" / "0004.jpg").write_bytes((folder / "photos" / "0004.jpg").read_bytes()[:300])


def truncated_cutout(folder):
    (folder / "cutouts" / "0004.png").write_bytes((folder / "cutouts" / "0004.png").read_bytes()[:300])


def cutout_of_another_shape(folder):
    Image.new("RGBA", (64, 40)).save(folder / "cutouts" / "0004.png")


def cutouts_without_alpha(folder):
    Image.new("RGB", (64, 64), (255, 254, 255)).save(folder / "cutouts" / "0004.png")


def no_cutouts(folder):
    shutil.rmtree(folder / "cutouts")


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (truncated_photo, "0004.jpg: cannot be read"),
        (truncated_cutout, "0004.png: cannot be read"),
        (cutout_of_another_shape, "0004.png: is 64 x 40 px, another shape than its photo"),
        (cutouts_without_alpha, "0004.png: has the value 254"),
        (no_cutouts, "no two of the same name"),
    ],
)
def test_bad_data_is_one_clear_line(damage, named, here, people, tmp_path):
    folder = tmp_path / "people"
    shutil.copytree(people, folder)
    damage(folder)
    args = ("--data", folder, "--n-test", 1, "--epochs", 1, "--out", "run", "--cache", "cache", *TINY)
    assert named in one_line_error(here(train, *args, "--seed", 1))
    assert not (tmp_path / "run").exists() and not list((tmp_path / "cache").glob("*"))


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (("--data", "nowhere"), "nowhere: no such folder"),
        (("--data", "{people}", "--size", "100"), "--size 100 must be a multiple of 32"),
        (("--data", "{people}", "--limit", "2"), "2 picture(s) are too few"),
        (("--data", "{people}", "--n-train", "14"), "14 picture(s) are too few for 14 to train with"),
        (("--resume", "missing.pt"), "missing.pt: no such checkpoint"),
        (("--resume", "{other}"), "a checkpoint of hair_transfer, not of lrn_headtorso"),
        (("--resume", "{last}", "--model", "unet"), "--model unet differs from lrn"),
        (("--resume", "{run}/best.pt"), "would overwrite the later epochs"),
        (("--data", "{people}", "--out", "{run}"), "already holds a run"),
        (("--data", "{people}", "--lr", "nan"), "argument --lr"),
        (("--data", "{people}", "--weights", "lost.pth"), "lost.pth: no such file"),
        (("--data", "{people}", "--weights", "{other}"), "a checkpoint of hair_transfer"),
        (("--data", "{people}", "--backgrounds", "nowhere"), "nowhere: no such file or folder"),
        (("--model", "unet", "--channel-reduction"), "leave it out with --model unet"),
        (("--augment", "none", "--backgrounds", "x"), "leave --augment none out"),
        (("--epoch", "3"), "--epoch"),
    ],
)
def test_bad_arguments_are_one_clear_line(args, named, here, people, trained, tmp_path):
    other = tmp_path / "other.pt"
    torch.save({"paper": "hair_transfer"}, other)
    names = {"people": people, "other": other, "last": trained / "lrn" / "last.pt", "run": trained / "lrn"}
    args = [arg.format(**names) for arg in args]
    size = () if "--size" in args or "--resume" in args else ("--size", 32)
    error = one_line_error(here(train, *args, *size, "--cache", trained / "cache", "--device", "cpu"))
    assert named in error


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA GPU")
def test_cuda_where_there_is_none(here, people):
    assert "--device cuda" in one_line_error(here(train, "--data", people, "--device", "cuda"))

"""hair_transfer: who is in which half, what a batch holds, and its scripts as their users run them."""

import csv
import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import leave_out_pictures, one_line_error, refused, succeed
from PIL import Image
from trainings import make_networks_small

from common.celebamask import DUPLICATES, FaceFiles
from common.faces import write_celebamask
from common.run import load_checkpoint
from hair_transfer import dataset, recolor, train
from hair_transfer import eval as evaluation
from hair_transfer.dataset import HairMasks, decode, list_faces, normalize, split
from hair_transfer.train import build_model

CPU = torch.device("cpu")
TINY = ("--size", 32, "--device", "cpu", "--amp", "off")
SCORES = ("loss", "f1_01", "f1_05", "iou", "auroc", "batch_auroc")
pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture(scope="module", autouse=True)
def small():
    """All that runs in this process has one block in each layer and a head of one convolution."""
    with pytest.MonkeyPatch.context() as patch:
        make_networks_small("hair_transfer", patch.setattr)
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="module")
def trained(small, faces, tmp_path_factory):
    """A run of two epochs at 32 px: 9 of the 12 faces to train, 3 to test."""
    out = tmp_path_factory.mktemp("runs") / "two"
    where = ("--data", faces, "--epochs", 2, "--lr", 0.001, "--out", out, "--cache", out.parent / "cache")
    with pytest.MonkeyPatch.context() as patch:
        leave_out_pictures(patch.setattr)
        patch.setattr(sys, "argv", [str(arg) for arg in ("train.py", *where, *TINY)])
        train.main()
    return out


@pytest.fixture
def start(call, trained, tmp_path):
    """start("--flag", value) trains for an epoch into tmp_path / "run"."""
    where = ("--epochs", 1, "--out", tmp_path / "run", "--cache", trained.parent / "cache")
    return lambda *args: call(train, *where, *TINY, *args)


@pytest.fixture
def evaluate(call, trained):
    return lambda *args: call(evaluation, *args, "--cache", trained.parent / "cache", "--device", "cpu")


def results(folder):
    return json.loads((folder / "results.json").read_text())


# ---- The data set --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "sizes"), [(30000, [2000, 600]), (2600, [2000, 600]), (967, [744, 223]), (3, [2, 1])])
def test_sizes_of_the_split(n, sizes):
    halves = split(range(n), 0)
    assert [len(half) for half in halves] == sizes and len({*halves[0], *halves[1]}) == sum(sizes)
    assert halves == split(range(n), 0) and (n < 100 or halves != split(range(n), 1))
    assert "2 face(s) are too few" in refused(split, range(2), 0)


def test_what_shows_the_same_face_is_on_one_side():
    """Known duplicates, and equal ids of two folders."""
    ids = [*sorted({*DUPLICATES, *DUPLICATES.values(), *range(60)}), *range(30, 60)]
    assert len(DUPLICATES) == 13
    for seed in range(30):
        sides = split(ids, seed)
        assert sorted([*sides[0], *sides[1]]) == list(range(len(ids)))
        train, test = ({DUPLICATES.get(ids[i], ids[i]) for i in side} for side in sides)
        assert not train & test


def test_a_batch_is_what_lies_on_disk(faces, tmp_path):
    folder = shutil.copytree(faces, tmp_path / "faces")
    bald = folder / "CelebAMask-HQ-mask-anno" / "0" / "00002_hair.png"
    bald.unlink(missing_ok=True)
    found = list_faces([faces, folder])
    assert [face.id for face in found] == 2 * list(range(12)) and not found[14].masks
    images, masks = HairMasks(found, 64, tmp_path / "cache").batch([14, 0])
    assert images.dtype == masks.dtype == torch.uint8 and masks.shape == (2, 1, 64, 64)
    assert (images[1].permute(1, 2, 0).numpy() == np.asarray(Image.open(found[0].photo))).all()
    true = np.asarray(Image.open(found[0].masks["hair"]).convert("L")) > 0
    assert (masks[1, 0].numpy() == true).all() and true.any() and not masks[0].any()
    halved = np.unpackbits(decode(found[0], 32)["masks"], axis=-1)
    assert (halved == true[1::2, 1::2]).mean() > 0.95  # nearest: each pixel is one of the mask's
    expected = (images[1, :, 5, 7] / 255 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    assert torch.allclose(normalize(images, CPU)[1, :, 5, 7], expected)  # ImageNet's
    for path in folder.rglob("00002_*.png"):
        path.unlink()
    assert "2.jpg: has no mask" in refused(list_faces, [folder])  # not bald, but not annotated
    for path in folder.rglob("*.png"):  # hair masks alone: a face without one is bald
        path.unlink() if not path.name.endswith("_hair.png") else None
    assert not list_faces([folder])[2].masks
    assert all(list(face.masks) == ["skin"] for face in list_faces([faces], "skin"))


def test_pairs_are_cut_to_the_square_in_the_middle(evaluate, trained, tmp_path):
    photo, mask = np.zeros((40, 80, 3), np.uint8), np.zeros((40, 80), np.uint8)
    photo[:, 20:60], mask[:, 20:40] = 200, 255  # the square, and the left half of it
    for name, picture in (("photos", photo), ("masks", mask)):
        (tmp_path / "own" / name).mkdir(parents=True)
        Image.fromarray(picture).save(tmp_path / "own" / name / "a.png")
    sample = decode(dataset.list_pairs(tmp_path / "own")[0], 16)
    assert (sample["images"][:, 1:-1] == 200).all()
    assert (np.unpackbits(sample["masks"], axis=-1) == ([1] * 8 + [0] * 8)).all()
    Image.new("L", (80, 40)).save(tmp_path / "own" / "masks" / "a.png")  # no hair at all
    assert "none" in succeed(evaluate(trained / "best.pt", "--pairs", tmp_path / "own"))
    found = results(trained / "best-pairs-own")
    assert found["n"] == 1 and found["auroc"] is None and found["recall"] is None
    (tmp_path / "own" / "masks" / "a.png").rename(tmp_path / "own" / "masks" / "b.png")
    assert "a.png: has no mask" in one_line_error(evaluate(trained / "best.pt", "--pairs", tmp_path / "own"))


def test_dataset_describes_folders_draws_their_figures_and_names_every_bad_file(call, faces, tmp_path, real_pictures):
    folder = shutil.copytree(faces, tmp_path / "faces")
    masks = folder / "CelebAMask-HQ-mask-anno" / "0"
    bald = sum(not face.masks for face in list_faces([faces]))
    (masks / "00000_hair.png").unlink()
    Image.new("RGB", (64, 64)).save(masks / "00001_hair.png")
    dot = Image.new("RGB", (64, 64))
    dot.putpixel((0, 0), (255, 255, 255))  # lost at 32 px, but no black mask
    dot.save(masks / "00003_hair.png")
    where = ("--size", 32, "--out", tmp_path / "figures")
    out = succeed(call(dataset, "--data", faces, folder, *where))
    assert f"24 faces, {2 * bald + 1} without hair" in out and "1 more whose mask is all black" in out
    assert f"{masks / '00001_hair.png'}: all black" in out and "every photo and every mask can be read" in out
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"samples.png"}
    (folder / "CelebA-HQ-img" / "4.jpg").write_bytes(b"no picture")
    Image.new("RGB", (40, 60)).save(masks / "00005_hair.png")
    result = call(dataset, "--data", folder, *where)
    assert result.returncode == 2 and "2 problem(s) in 12 faces" in result.stderr
    assert "4.jpg: cannot be read" in result.stdout and "00005_hair.png: is 40 x 60 px" in result.stdout


# ---- Training ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("weights", "lr", "epochs"), [("coco", 1e-4, 15), (None, 1e-2, 6), ("a/file.pt", 1e-4, 15)])
def test_the_defaults_are_the_papers_recipes(weights, lr, epochs, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", *(["--weights", weights] if weights else [])])
    args, _ = train.parse_args()
    train.fill_in(args, generated=False)
    assert (args.weights, args.lr, args.epochs) == (weights or "none", lr, epochs)
    assert (args.batch_size, args.size, args.part, args.output, args.aux) == (6, 256, "hair", "sigmoid", 0)
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--lr", "0.5", "--epochs", "2"])
    args, _ = train.parse_args()
    train.fill_in(args, generated=True)
    assert (args.lr, args.epochs, args.size) == (0.5, 2, 64)


class TwoNumbers(torch.nn.Module):
    """In a network's place: every logit is one parameter, every auxiliary logit the other."""

    def __init__(self, aux: bool):
        super().__init__()
        self.main, self.auxiliary = torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))
        self.aux, self.activate = aux, torch.sigmoid

    def forward(self, x):
        logits, auxiliary = (value.expand(len(x), 1, *x.shape[2:]) for value in (self.main, self.auxiliary))
        return (logits, auxiliary) if self.aux else logits


@pytest.mark.parametrize("aux", [0.0, 0.5, 2.0])
def test_the_auxiliary_loss_counts_with_its_weight(aux, monkeypatch):
    """One step of plain descent on masks that are all hair: d/dx (sigmoid(x) - 1)^2 at 0 is -2 * 0.5 * 0.25."""
    model, masks = TwoNumbers(aux > 0), np.full((2, 8, 1), 255, np.uint8)
    monkeypatch.setattr(dataset, "open_cache", lambda *_: {"images": np.zeros((2, 8, 8, 3), np.uint8), "masks": masks})
    data = HairMasks([FaceFiles(i, Path(f"{i}.jpg"), {}) for i in (0, 1)], 8, None)
    run = SimpleNamespace(args=SimpleNamespace(batch_size=2, seed=0, aux=aux), device=CPU, amp=False)
    scores = train.train_epoch(model, model, data, torch.optim.SGD(model.parameters(), lr=1.0), run, 1)
    assert model.main.item() == pytest.approx(0.25) and model.auxiliary.item() == pytest.approx(0.25 * aux)
    assert scores["loss"] == pytest.approx(0.25)  # of the main output alone, whatever the weight


def test_the_log_and_the_best_epoch(trained):
    rows = list(csv.DictReader(open(trained / "log.csv")))
    assert list(rows[0]) == ["epoch", *SCORES, *(f"test_{name}" for name in SCORES), "seconds"]
    best, losses = load_checkpoint(trained / "best.pt", "hair_transfer"), [float(row["test_loss"]) for row in rows]
    assert best["epoch"] == 1 + losses.index(min(losses)) and best["classes"] == ["hair"]
    assert best["weights"] == "random (--weights none)" and [len(part) for part in best["split"].values()] == [9, 3]


def test_runs_are_named_by_their_weights_and_test_faces_without_hair_are_noted(
    call, faces, trained, tmp_path, monkeypatch
):
    monkeypatch.setattr(train, "HERE", tmp_path / "hair_transfer")
    data = shutil.copytree(faces, tmp_path / "GENERATED faces")  # given, so it counts as real
    found = list_faces([data])
    for i in split(range(12), 0)[1]:
        for path in found[i].masks.values():
            Image.new("L", (64, 64)).save(path)  # all black: no hair either
    flags = ("--data", data, "--epochs", 1, "--cache", tmp_path / "cache", *TINY)
    assert "none of the test faces has hair: AUROC is nan" in succeed(call(train, *flags))
    succeed(call(train, *flags, "--part", "skin", "--weights", trained / "best.pt"))
    assert sorted(path.name for path in (tmp_path / "hair_transfer" / "runs").iterdir()) == ["random", "skin-from-file"]


def test_what_a_start_had_seen_is_not_forgotten_on_the_way(start, evaluate, call, faces, trained, tmp_path):
    """hair on X -> skin on Y, with tanh and an auxiliary head -> hair on X, of which the first start knows 9 faces."""
    others = write_celebamask(tmp_path / "others", n=6, size=64, seed=700)
    flags = ("--weights", trained / "best.pt", "--data", others, "--part", "skin", "--output", "tanh", "--aux", 0.5)
    out = succeed(start(*flags))
    assert "hair_transfer on hair, epoch" in out and "itself from random" in out and "TEST FACES" not in out
    best = tmp_path / "run" / "best.pt"
    saved, first = load_checkpoint(best, "hair_transfer"), load_checkpoint(trained / "best.pt", "hair_transfer")
    assert saved["args"]["lr"] == 1e-4 and "aux_classifier.4.bias" in saved["model"] and saved["classes"] == ["skin"]
    assert saved["seen"] == sorted(first["split"]["train"]) and len(saved["split"]["train"]) == 5
    args = SimpleNamespace(weights=str(best), output="sigmoid", aux=0)
    _, source, seen = build_model(args, [face.identity for face in list_faces([faces])])
    assert "IT WAS TRAINED ON 9 OF THE 12 TEST FACES" in source
    assert set(seen) == {*saved["seen"], *saved["split"]["train"]}
    assert "WAS TRAINED ON 9 OF THESE 12 FACES" in succeed(evaluate(best, "--data", faces, "--split", "all"))
    assert results(tmp_path / "run" / f"best-all-{faces.name}")["part"] == "skin"
    both = (best, trained / "best.pt", "--data", faces, "--split", "all")
    assert "two/best.pt: has another --part" in one_line_error(evaluate(*both))
    photo = others / "CelebA-HQ-img" / "0.jpg"
    error = one_line_error(call(recolor, best, photo, "--color", "teal", "--out", tmp_path / "dyed"))
    assert "run/best.pt: was trained to find skin, not hair" in error and not (tmp_path / "dyed").exists()
    torch.save(saved | {"format": 1}, tmp_path / "older.pt")
    assert "older.pt: was written by another version" in one_line_error(start("--weights", tmp_path / "older.pt"))


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (("--size", "100"), "--size 100 must be a multiple of 8, such as 104"),
        (("--limit", "2"), "2 face(s) are too few"),
        (("--weights", "auto"), "give coco or none"),
        (("--part", "necklace"), "--part"),
    ],
)
def test_bad_arguments_are_one_clear_line(args, named, start, faces, tmp_path):
    assert named in one_line_error(start("--data", faces, *args)) and not (tmp_path / "run").exists()


# ---- Evaluation ----------------------------------------------------------------------------------------------------


def test_eval_gives_table_numbers_figure_3_error_maps_and_the_mean_mask(
    evaluate, faces, trained, tmp_path, real_pictures
):
    out = tmp_path / "out"
    flags = ("--error-map", "--mean-mask", "--out", out)
    said = succeed(evaluate(trained / "best.pt", trained / "last.pt", *flags))
    assert "0.981631" in said and "(0.991447)" in said and "boundary F1" in said and "split test, 3 faces" in said
    assert {path.name for path in out.iterdir() if path.is_file()} == {"table.csv", "figure3.png", "errors.png"}
    # the scores of the best epoch, as train.py logged them: both call the same evaluate()
    best = min(csv.DictReader(open(trained / "log.csv")), key=lambda row: float(row["test_loss"]))
    found = results(out / "two-best")
    logged = {name: float(best[f"test_{name}"]) for name in SCORES}
    assert {name: found[name] for name in SCORES} == pytest.approx(logged, abs=5e-3)  # layouts round logits apart
    assert found["n"] == 3 and 0 < found["auroc_error"] < 0.1

    masks = [np.unpackbits(decode(face, 32)["masks"], axis=-1) for face in list_faces([faces])]
    trains, tests = (np.stack([masks[i] for i in side]) for side in split(range(12), 0))
    mean, found = trains.mean(0), results(out / "mean-mask")
    assert found["loss"] == pytest.approx(((tests - mean) ** 2).mean(), rel=1e-5)
    assert found["recall"] == pytest.approx((tests * (mean > 0.5)).sum() / tests.sum())
    header, *rows = csv.reader(open(out / "table.csv"))
    assert header[1:4] == ["two/best", "two/last", "mean training mask"] and rows[-1][3] == f"{found['loss']:.6f}"


def test_eval_on_other_faces_and_the_mean_mask_of_faces_that_have_moved(evaluate, faces, trained, tmp_path):
    saved = torch.load(trained / "best.pt", weights_only=True)
    saved["args"] |= {"data": ["nowhere"], "batch_size": 2}
    moved = tmp_path / "moved" / "best.pt"
    moved.parent.mkdir()
    torch.save(saved, moved)
    others = write_celebamask(tmp_path / "others", n=3, size=64, seed=700)
    out = ("--split", "all", "--out", tmp_path / "out")
    said = succeed(evaluate(moved, trained / "best.pt", "--data", faces, *out, "--mean-mask"))
    assert "WAS TRAINED ON 9 OF THESE 12 FACES" in said and "12 faces, all in batches of 2" in said
    found = [results(tmp_path / "out" / name) for name in ("moved-best", "two-best", "mean-mask")]
    assert [one["batch_size"] for one in found] == [2, 2, 2] and found[0]["batch_auroc"] == found[1]["batch_auroc"]
    assert found[2]["weights"].startswith("mean mask of the 9 training faces of")
    succeed(evaluate(trained / "best.pt", "--data", others, *out, "--mean-mask"))  # of those where they were
    error = one_line_error(evaluate(moved, "--data", others, *out, "--mean-mask"))
    assert "--mean-mask needs the training faces" in error and "nowhere" in error


def test_changed_faces_are_refused_and_flags_that_exclude_each_other(evaluate, faces, trained, tmp_path):
    folder = shutil.copytree(faces, tmp_path / "faces")
    for path in folder.rglob("*_hair.png"):
        path.unlink() if path.name != "00000_hair.png" else None
    error = one_line_error(evaluate(trained / "best.pt", "--data", folder))
    assert f"{folder}: " in error and "their photos or masks have changed" in error
    error = one_line_error(evaluate(trained / "best.pt", "--pairs", tmp_path, "--split", "all"))
    assert "--pairs and --split" in error


# ---- Changing the colour -------------------------------------------------------------------------------------------


def test_recolor_keeps_size_orientation_alpha_and_whatever_is_no_hair(call, trained, tmp_path, monkeypatch):
    photos = tmp_path / "photos"
    photos.mkdir()
    picture = np.full((120, 200, 3), (100, 70, 50), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to see it upright
    Image.fromarray(picture).save(photos / "turned.jpg", exif=exif)
    alpha = np.full((120, 200, 1), 255, np.uint8)
    alpha[:, 150:] = 0
    Image.fromarray(np.concatenate([picture, alpha], axis=2)).save(photos / "cut.png")
    (photos / "bad.jpg").write_bytes(b"no picture")
    Image.new("RGB", (50, 50)).save(tmp_path / "bald.png")

    def the_left_fifth(network, photo):
        left = np.arange(photo.width) < photo.width // 5 * (photo.width > 50)
        return np.repeat(left[None], photo.height, axis=0).astype(np.float32)

    monkeypatch.setattr(recolor, "predict", the_left_fifth)
    given, out = (trained / "best.pt", photos, tmp_path / "bald.png"), tmp_path / "out"
    result = call(recolor, *given, "--color", "blond", "#3050C0", "--out", out, "--device", "cpu")
    assert "bad.jpg" in one_line_error(result) and "3 photo(s)" in result.stdout
    assert "no hair covers 1% of bald.png: crop to the face" in result.stdout
    kinds = ("blond", "3050c0", "strip", "mask")
    assert {path.name for path in out.iterdir()} == {f"{a}_{b}.png" for a in ("turned", "cut", "bald") for b in kinds}
    turned = Image.open(out / "turned_blond.png")
    assert turned.size == (120, 200) and turned.mode == "RGB"
    dyed = np.asarray(Image.open(out / "cut_3050c0.png"))
    assert (dyed[..., 3:] == alpha).all()
    assert (dyed[:, 60:150, :3] == picture[:, 60:150]).all() and (dyed[:, :35, :3] != picture[:, :35]).any(-1).all()


def test_recolor_with_the_network_itself(call, faces, trained, tmp_path):
    photo, out = faces / "CelebA-HQ-img" / "0.jpg", tmp_path / "out"
    flags = ("--strength", 0, "--out", out, "--device", "cpu", "--color", "teal")
    succeed(call(recolor, trained / "best.pt", *flags, photo))  # in the order in which one may think of it
    assert (np.asarray(Image.open(out / "0_teal.png")) == np.asarray(Image.open(photo))).all()
    output = recolor.predict(recolor.load(trained / "best.pt", "cpu"), photo)
    assert output.shape == (64, 64) and output.dtype == np.float32 and 0 <= output.min() < output.max() <= 1
    assert "no such colour" in one_line_error(call(recolor, trained / "best.pt", photo, "--color", "hairy"))
    assert "no photo is given; type:" in one_line_error(call(recolor, trained / "best.pt", "--color", "teal"))
    one = (trained / "best.pt", photo, "--out", tmp_path / "one.png")
    succeed(call(recolor, *one, "--crop", 0, 0, 1, 0.5, "--color", "teal"))
    assert Image.open(tmp_path / "one.png").size == (64, 32)
    assert "is one file, but there are 2 colours" in one_line_error(call(recolor, *one, "--color", "teal", "red"))
    assert "no colour; give one before the photos" in one_line_error(call(recolor, *one, "--color", photo))

"""masked_ssl as its users run it, on painted faces of 32 px; but for the last tests with a narrow ResNet."""

import argparse
import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, leave_out_pictures, one_line_error, refused, succeed
from PIL import Image
from trainings import make_networks_small, write_small_script

from masked_ssl import dataset, eval, label_fractions, lapa, predict, pretrain, train, weights
from masked_ssl import model as ssl_model
from masked_ssl.classes import LAYOUTS
from masked_ssl.reading import square

TINY = ("--size", 32, "--device", "cpu", "--amp", "off", "--batch-size", 4)
pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture(scope="module", autouse=True)
def narrow():
    """All that runs in this process has a small encoder."""
    with pytest.MonkeyPatch.context() as patch:
        make_networks_small("masked_ssl", patch.setattr)
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def pretrained(faces, runs):
    """Two epochs of step 1 from random weights, with a learning rate that shows within six steps."""
    arguments = ("--data", faces, "--init", "random", "--epochs", 2, "--lr", 0.003, "--cache", runs / "cache", *TINY)
    with pytest.MonkeyPatch.context() as patch:
        leave_out_pictures(patch.setattr)
        pretrain.main([str(arg) for arg in (*arguments, "--out", runs / "pretrain")])
    return runs / "pretrain"


@pytest.fixture(scope="module")
def trained(faces, runs, pretrained):
    """Two epochs of step 2 from it, each face twice an epoch."""
    arguments = ("--data", faces, "--init", pretrained / "pretrain.pt", "--epochs", 2, "--min-steps", 10, "--lr", 0.003)
    with pytest.MonkeyPatch.context() as patch:
        leave_out_pictures(patch.setattr)
        train.main([str(arg) for arg in (*arguments, "--cache", runs / "cache", *TINY, "--out", runs / "pretrained")])
    return runs / "pretrained"


def load(path):
    return torch.load(path, weights_only=True)


def same_tensors(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def interrupted(monkeypatch, module, epoch):
    """Ctrl-C in the middle of that epoch."""
    original = module.train_epoch

    def stop(*args, **kwargs):
        if args[-1] == epoch:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    monkeypatch.setattr(module, "train_epoch", stop)


# ---- Both steps ----------------------------------------------------------------------------------------------------


def test_what_step_1_leaves_behind(pretrained):
    names = {path.name for path in pretrained.iterdir()}
    assert names == {"last.pt", "pretrain.pt", "log.csv", "curves.png", "samples.png", "run.json"}
    rows = list(csv.DictReader(open(pretrained / "log.csv")))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert float(rows[1]["loss"]) < float(rows[0]["loss"]) and float(rows[1]["lr"]) < float(rows[0]["lr"])
    saved = load(pretrained / "pretrain.pt")
    assert saved["paper"] == "masked_ssl" and saved["start"] == "random" and "optimizer" not in saved
    assert len(saved["pool"]) == 11  # of 12: the test photo is not in it
    assert same_tensors(saved["encoder"], load(pretrained / "last.pt")["encoder"])


def test_what_step_2_leaves_behind(trained, pretrained):
    names = {path.name for path in trained.iterdir() if path.is_file()}
    assert names == {"last.pt", "best.pt", "log.csv", "curves.png", "samples.png", "run.json"}
    rows = list(csv.DictReader(open(trained / "log.csv")))
    assert [(row["epoch"], row["steps"]) for row in rows] == [("1", "5"), ("2", "10")]
    assert all(0 <= float(row[name]) <= 100 for row in rows for name in row if "miou" in name or "f1" in name)
    run, saved = json.loads((trained / "run.json").read_text()), load(trained / "best.pt")
    split = run["split"]
    assert [len(split[part]) for part in ("train", "val", "test")] == [10, 1, 1] and saved["split"] == split
    assert len({id for part in split.values() for id in part}) == 12
    assert str(pretrained / "pretrain.pt") in run["weights"] and "itself from random" in run["weights"]
    assert saved["best"] == pytest.approx(max(float(row["val_miou"]) for row in rows) / 100)
    assert "optimizer" not in saved and saved["classes"] == list(LAYOUTS["celebamask"])
    assert run["arguments"]["encoder_lr"] == pytest.approx(run["arguments"]["lr"] / 10)


def test_the_encoder_of_step_2_begins_as_that_of_step_1_tensor_by_tensor(pretrained, trained, faces):
    network = ssl_model.Network(19)
    before = {name: tensor.clone() for name, tensor in network.decoder.state_dict().items()}
    path = pretrained / "pretrain.pt"
    args = argparse.Namespace(init=str(path), data=str(faces), layout="celebamask")
    start, words, seen = train.start_from(network, args, dataset.locate(faces))
    assert same_tensors(network.encoder.state_dict(), load(path)["encoder"])
    assert len(seen) == 11 and seen == load(path)["pool"] == load(trained / "best.pt")["pool"]
    assert same_tensors(network.decoder.state_dict(), before) and start == "pretrained" and "2 epochs" in words
    keys = {name.removeprefix("encoder.") for name in load(trained / "last.pt")["model"] if name.startswith("encoder.")}
    assert keys == set(load(path)["encoder"])
    broken = load(path)
    broken["encoder"].pop("nodes.x_1_2.conv1.0.weight")
    torch.save(broken, path.with_name("broken.pt"))
    args.init = str(path.with_name("broken.pt"))
    with pytest.raises(train.InputError, match="broken.pt: does not fit this code"):
        train.start_from(network, args, dataset.locate(faces))
    path.with_name("broken.pt").unlink()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), "50% of rows and columns 5 to 25, L1 on the region"),
        (("--region", "whole"), "50% of rows and columns 0 to 31, L1 on the region"),
        (("--two-thirds", "area"), "50% of rows and columns 3 to 28, L1 on the region"),
        (("--loss-on", "masked"), "50% of rows and columns 5 to 25, L1 on the masked"),
        (("--loss", "l2"), "50% of rows and columns 5 to 25, L2 on the region"),
        (("--mask-ratio", 0.3), "30% of rows and columns 5 to 25, L1 on the region"),
    ],
)
def test_each_flag_of_step_1_changes_its_loss(flags, words, call, faces, runs, pretrained, tmp_path, monkeypatch):
    """The run of `pretrained` with one flag more, for one epoch; without any it is that run again."""
    interrupted(monkeypatch, pretrain, epoch=2)
    arguments = ("--data", faces, "--init", "random", "--epochs", 2, "--lr", 0.003, "--cache", runs / "cache", *TINY)
    result = call(pretrain, *arguments, *flags, "--out", tmp_path / "run")
    assert result.returncode == 130 and f" px over {words}\n" in result.stdout
    loss, other = (next(csv.DictReader(open(run / "log.csv")))["loss"] for run in (pretrained, tmp_path / "run"))
    assert (loss == other) == (not flags)


def test_checkpointing_trains_the_same(call, faces, runs, pretrained, tmp_path, monkeypatch):
    interrupted(monkeypatch, pretrain, epoch=2)
    flags = ("--data", faces, "--init", "random", "--epochs", 2, "--lr", 0.003, "--checkpointing", *TINY)
    assert call(pretrain, *flags, "--cache", runs / "cache", "--out", tmp_path / "run").returncode == 130
    plain, thrifty = (next(csv.DictReader(open(run / "log.csv"))) for run in (pretrained, tmp_path / "run"))
    assert float(plain["loss"]) == pytest.approx(float(thrifty["loss"]), rel=1e-3)


def test_checkpointing_does_not_go_with_what_cannot_follow_it(call, faces, runs, pretrained, tmp_path):
    """Nor in a resumed run, whose own arguments are in the checkpoint."""
    fresh = ("--data", faces, "--init", "random", "--cache", runs / "cache", "--out", tmp_path / "run", *TINY)
    assert "leave it or --compile out" in one_line_error(call(train, *fresh, "--checkpointing", "--compile"))
    assert "must not" in one_line_error(call(pretrain, *fresh, "--checkpointing", "--sync-batch-norm"))
    assert not (tmp_path / "run").exists()
    resumed = ("--resume", pretrained / "last.pt", "--epochs", 9, "--checkpointing", "--compile")
    assert "leave it or --compile out" in one_line_error(call(pretrain, *resumed))


def test_lapa_both_steps_from_photos_of_other_folders(call, faces, runs, tmp_path):
    folder = lapa.write_generated(tmp_path / "LaPa", n=20, size=40)
    common = ("--data", folder, "--cache", runs / "cache", "--epochs", 1, *TINY)
    photos = faces / "CelebA-HQ-img"
    out = succeed(call(pretrain, *common, "--photos", photos, "--init", "random", "--out", tmp_path / "pre"))
    assert "35 photos" in out and str(photos) in out  # 21 for training and 2 for validation, 12 of the other folder
    flags = ("--init", tmp_path / "pre" / "pretrain.pt", "--fraction", 0.5, "--min-steps", 0)
    out = succeed(call(train, *common, *flags, "--out", tmp_path / "fine"))
    assert "of 21 train, 2 val, 2 test" in out and "11 classes" in out
    assert len(load(tmp_path / "fine" / "last.pt")["learned"]) in (10, 11)
    out = succeed(call(eval, tmp_path / "fine" / "last.pt", "--device", "cpu", "--cache", runs / "cache"))
    assert "74.41" in out and "94.0" in out and "l_brow" in out


# ---- Where the weights come from -----------------------------------------------------------------------------------


def test_auto_takes_the_encoder_of_the_same_data_only(pretrained, faces, monkeypatch):
    monkeypatch.setattr(weights, "RUNS", pretrained.parent)
    monkeypatch.setattr("common.weights._unreachable", lambda url: "no route to host")
    data, network = dataset.locate(faces), ssl_model.Network(19)
    args = argparse.Namespace(init="auto", data=str(faces), layout="celebamask")
    assert train.start_from(network, args, data)[1].startswith("encoder of")
    start, words, seen = train.start_from(network, args, data._replace(folder=faces.parent))
    assert start == "random" and "RANDOM" in words and "made with other data" in words and seen == []


def test_an_encoder_that_has_seen_the_test_photos_is_refused(call, faces, runs, tmp_path):
    photos = faces / "CelebA-HQ-img"
    arguments = ("--photos", photos, "--init", "random", "--epochs", 1, "--cache", runs / "cache", *TINY)
    assert "12 photos" in succeed(call(pretrain, *arguments, "--out", tmp_path / "pre"))
    result = call(train, "--data", faces, "--init", tmp_path / "pre" / "pretrain.pt", "--cache", runs / "cache", *TINY)
    assert "was pretrained on 1 of the test photos" in one_line_error(result)


# ---- Evaluation, own photos ----------------------------------------------------------------------------------------


def test_scores_of_a_matrix_worked_out_by_hand():
    #                      predicted: background, skin, hat, hair (row = truth); hat is nowhere, hair is never found
    matrix = torch.tensor([[50, 10, 0, 0], [5, 25, 0, 0], [0, 0, 0, 0], [8, 2, 0, 0]])
    summary = eval.summarize(matrix, ("background", "skin", "hat", "hair"))
    iou = [50 / 73, 25 / 42, 0]
    assert summary["miou"] == pytest.approx(np.mean(iou)) and summary["absent"] == 1
    assert summary["miou_foreground"] == pytest.approx(np.mean(iou[1:]))
    assert summary["f1"] == pytest.approx(np.mean([50 / 67, 0])) and summary["accuracy"] == 0.75
    assert summary["per_class"]["hat"] == {"f1": None, "iou": None, "support": 0}
    assert summary["per_class"]["hair"] == {"f1": 0.0, "iou": 0.0, "support": 10}


def test_eval_gives_the_numbers_that_training_logged_tables_and_figures(call, trained, runs, real_pictures):
    out = succeed(call(eval, trained / "last.pt", "--device", "cpu", "--cache", runs / "cache"))
    assert "mean, foreground" in out and "89.6" in out and "poor without pretraining" in out
    folder = trained / "last-test"
    assert {p.name for p in folder.iterdir()} == {"results.json", "table.csv", "figure4.png", "figure5.png", "faces"}
    results = json.loads((folder / "results.json").read_text())
    log = list(csv.DictReader(open(trained / "log.csv")))[-1]
    assert 100 * results["miou"] == pytest.approx(float(log["test_miou"]))
    assert 100 * results["f1"] == pytest.approx(float(log["test_f1"])) and results["labels"] == 10
    assert results["seen_in_step_1"] == 0 and "step 1 has seen" not in out
    assert list(results["per_class"]) == list(LAYOUTS["celebamask"])
    labels = [np.asarray(Image.open(p)) for p in (folder / "faces").glob("*_label.png")]
    assert len(labels) == 1 and labels[0].shape == (32, 32) and labels[0].max() < 19
    shutil.rmtree(folder)


def test_eval_of_two_checkpoints_side_by_side(call, trained, runs, tmp_path):
    arguments = (trained / "last.pt", trained / "best.pt", "--split", "all", "--out", tmp_path / "both")
    out = succeed(call(eval, *arguments, "--device", "cpu", "--cache", runs / "cache"))
    assert "side by side" in out and (tmp_path / "both" / "figure4.png").exists()
    rows = list(csv.reader(open(tmp_path / "both" / "comparison.csv")))
    assert rows[0] == ["class", "pretrained/last", "pretrained/best"] and len(rows) == 1 + 19 + 3


def test_a_comparison_that_is_refused_writes_nothing(call, trained, runs, tmp_path):
    saved = load(trained / "last.pt")
    saved["args"]["size"] *= 2
    torch.save(saved, tmp_path / "larger.pt")
    flags = ("--split", "all", "--out", tmp_path / "both", "--device", "cpu", "--cache", runs / "cache")
    error = one_line_error(call(eval, trained / "last.pt", tmp_path / "larger.pt", *flags))
    assert "larger.pt: has another --size" in error and not (tmp_path / "both").exists()


def test_eval_refuses_faces_that_were_learned_from(call, trained, faces, runs, tmp_path):
    folder = tmp_path / "faces"
    shutil.copytree(faces, folder)
    sides = [2] * 6 + [0] * 4 + [1, 1]  # another split of the same faces: some of those learned from would be tested
    mapping = [f"{i} {i} {i:06d}.jpg" for i in range(12)]
    (folder / "CelebA-HQ-to-CelebA-mapping.txt").write_text("\n".join(mapping))
    (folder / "list_eval_partition.txt").write_text("\n".join(f"{i:06d}.jpg {s}" for i, s in enumerate(sides)))
    result = call(eval, trained / "last.pt", "--data", folder, "--cache", runs / "cache", "--out", tmp_path / "out")
    assert "was trained on" in one_line_error(result) and not (tmp_path / "out").exists()
    everything = ("--data", folder, "--split", "all", "--device", "cpu", "--cache", runs / "cache")
    succeed(call(eval, trained / "last.pt", *everything, "--out", tmp_path / "out"))


def test_eval_refuses_test_photos_that_step_1_has_seen(call, trained, faces, runs, tmp_path):
    """The validation photo, which step 2 has not learned from: here it is the test photo of another split."""
    folder = tmp_path / "faces"
    shutil.copytree(faces, folder)
    parts = {part: [int(face.name) for face in found] for part, found in dataset.locate(faces).parts.items()}
    ids = [*parts["val"], *parts["test"], *parts["train"]]
    mapping = [f"{i} {k} {k:06d}.jpg" for k, i in enumerate(ids)]
    (folder / "CelebA-HQ-to-CelebA-mapping.txt").write_text("\n".join(mapping))
    sides = "\n".join(f"{k:06d}.jpg {s}" for k, s in enumerate([2, 1, *[0] * 10]))
    (folder / "list_eval_partition.txt").write_text(sides)
    where = ("--device", "cpu", "--cache", runs / "cache", "--out", tmp_path / "out")
    error = one_line_error(call(eval, trained / "last.pt", "--data", folder, *where))
    assert f"has seen 1 of its test photos, such as {parts['val'][0]}.jpg" in error and not (tmp_path / "out").exists()
    for split, arguments, learned, seen in (
        ("all", ("--data", folder), 10, 1), ("val", (), 0, 1), ("train", (), 10, 0)
    ):  # fmt: skip
        out = succeed(call(eval, trained / "last.pt", *arguments, "--split", split, *where))
        assert (f"; {learned} OF THEM IT LEARNED FROM" in out) is (learned > 0)
        assert (f"; step 1 has seen {seen} of them, without their labels" in out) is (seen > 0)
        results = json.loads((tmp_path / "out" / "results.json").read_text())
        assert (results["learned_in_step_2"], results["seen_in_step_1"]) == (learned, seen)
    older = load(trained / "last.pt")
    del older["pool"]
    torch.save(older, tmp_path / "older.pt")
    assert "older.pt: holds no 'pool'; use a checkpoint" in one_line_error(call(eval, tmp_path / "older.pt", *where))


def test_predict_keeps_size_and_orientation_and_names_what_cannot_be_read(call, trained, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    picture = np.random.default_rng(0).integers(0, 256, (40, 70, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to see it upright
    Image.fromarray(picture).save(photos / "turned.jpg", exif=exif)
    Image.fromarray(picture[..., 0]).save(photos / "grey.png")
    (photos / "bad.jpg").write_bytes(b"no picture")
    result = call(predict, trained / "best.pt", photos, "--out", tmp_path / "out", "--device", "cpu")
    assert "bad.jpg" in one_line_error(result) and "2 photo(s)" in result.stdout
    names = {f"{photo}_{what}.png" for photo in ("turned", "grey") for what in ("label", "overlay", "legend")}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    label = Image.open(tmp_path / "out" / "turned_label.png")
    assert label.size == (40, 70) and label.mode == "P" and np.asarray(label).max() < 19


def test_predict_is_the_argmax_of_the_enlarged_logits(trained):
    model, _ = eval.load_model(trained / "best.pt", torch.device("cpu"))
    photo = Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    label = predict.predict(model, photo, 32, torch.device("cpu"), amp=False)
    image = torch.from_numpy(square(photo, 32)).permute(2, 0, 1)[None]
    with torch.no_grad():
        logits = model(dataset.normalize(image, torch.device("cpu")))
    large = torch.nn.functional.interpolate(logits, size=(64, 64), mode="bilinear", align_corners=False)
    assert (label == large.argmax(1)[0].numpy()).all() and len(np.unique(label)) > 1


@pytest.mark.parametrize("turned", [False, True])
def test_predict_finds_a_photo_that_is_not_square_where_it_lies(turned):
    """A network that names the strongest colour, and a photo of stripes of colour: 96 x 48 px, then 48 x 96."""
    truth = np.repeat(np.array([0, 1, 2, 0, 2], np.uint8), [12, 6, 9, 15, 6])[:, None].repeat(96, axis=1)
    truth[:, :30] = (truth[:, :30] + 1) % 3
    truth = truth.T if turned else truth
    photo = Image.fromarray(np.eye(3, dtype=np.uint8)[truth] * 255)
    label = predict.predict(torch.nn.Identity(), photo, 32, torch.device("cpu"), amp=False)
    assert label.shape == truth.shape and (label != truth).mean() < 0.005  # where three colours meet


# ---- Fractions and seeds -------------------------------------------------------------------------------------------


def test_fractions_are_compared_once_and_gone_on_with(call, faces, runs, pretrained, tmp_path, monkeypatch):
    out = tmp_path / "fractions"
    arguments = (
        "--pretrained", pretrained / "pretrain.pt", "--fractions", 0.3, 1, "--seeds", 0, 1, "--out", out,
        "--data", faces, "--cache", runs / "cache", "--epochs", 2, "--min-steps", 0, "--lr", 0.003, *TINY,
    )  # fmt: skip
    with monkeypatch.context() as patch:
        interrupted(patch, train, epoch=2)
        assert call(label_fractions, *arguments).returncode == 130
    assert load(out / "random-0.3-seed0" / "last.pt")["epoch"] == 1
    moved = tmp_path / "moved" / "CelebAMask-HQ"  # the same data in another place, for another kind of machine
    shutil.copytree(faces, moved)
    there = ("--fractions", 0.3, "--seeds", 0, "--data", moved.parent, "--checkpointing")
    succeed(call(label_fractions, *arguments, *there))
    for method in ("random", "pretrain"):  # one that was gone on with, and a new one
        saved = load(out / f"{method}-0.3-seed0" / "last.pt")
        assert saved["args"]["checkpointing"] is True and saved["args"]["data"] == str(moved.parent)
        assert saved["epoch"] == 2
    # stopped between its last epoch and its test, and the data are back where they were
    shutil.rmtree(out / "random-0.3-seed0" / "last-test")
    moved = (tmp_path / "moved").rename(tmp_path / "away") / "CelebAMask-HQ"
    text = succeed(call(label_fractions, *arguments))
    assert "gain, pretrain" in text and "+-" in text
    assert {p.name for p in out.iterdir() if p.is_file()} == {
        "settings.json", "results.json", "table.csv", "fractions.png", "figure3.png",
    }  # fmt: skip
    results = json.loads((out / "results.json").read_text())
    found = {(r["method"], r["fraction"], r["seed"]): r for r in results["runs"]}
    assert len(found) == 8 and {r["labels"] for r in results["runs"]} == {3, 10}
    assert results["settings"]["encoder_lr"] == pytest.approx(0.0003)  # what was not typed is recorded too
    assert found["random", 1.0, 0]["weights"].startswith("random")
    assert found["pretrain", 1.0, 0]["weights"].startswith("encoder of")
    rows = list(csv.reader(open(out / "table.csv")))
    row = next(row for row in rows if row[:3] == ["1", "10", "mIoU"])
    gains = [100 * (found["pretrain", 1.0, s]["miou"] - found["random", 1.0, s]["miou"]) for s in (0, 1)]
    assert row[5] == f"{np.mean(gains):+.2f} +- {np.std(gains, ddof=1):.2f}"
    assert any("neck_l" in row[2] for row in rows)
    assert (out / "random-1-seed0" / "last.pt").exists() and not (out / "random-1-seed1" / "last.pt").exists()
    assert len((out / "random-0.3-seed0" / "log.csv").read_text().splitlines()) == 3  # the one that was stopped

    def never(*args):
        raise AssertionError("a finished run was run again")

    monkeypatch.setattr(train, "train_epoch", never)
    settings = json.loads((out / "settings.json").read_text())
    assert settings["flags"]["data"].startswith("12 faces in celebamask's layout, ")
    settings["flags"]["data"] = str(faces)  # as older files have it
    (out / "settings.json").write_text(json.dumps(settings))
    again = succeed(call(label_fractions, *arguments, "--keep", "none"))
    assert again.split("\nfraction ")[1] == text.split("\nfraction ")[1]
    assert not list(out.glob("*/*.pt"))
    for flag, was, now in (("--lr", 0.003, 0.1), ("--limit", None, 8)):
        error = one_line_error(call(label_fractions, *arguments, flag, now))
        assert f"its runs have {flag} {was}, not {now}" in error
    next(moved.glob("CelebAMask-HQ-mask-anno/0/*_nose.png")).unlink()
    error = one_line_error(call(label_fractions, *arguments, "--data", moved))
    assert "its runs have --data 12 faces in celebamask's layout, " in error and "not 12 faces in" in error
    other = load(pretrained / "pretrain.pt")
    other["log"][-1]["loss"] = 0.125
    (tmp_path / "pretrain").mkdir()
    torch.save(other, tmp_path / "pretrain" / "pretrain.pt")
    error = one_line_error(call(label_fractions, *arguments, "--pretrained", tmp_path / "pretrain" / "pretrain.pt"))
    assert "its pretrain is of 2 epochs, loss" in error and "this one of 2 epochs, loss 0.125000" in error
    (out / "settings.json").write_text("broken")
    assert "settings.json: is no JSON" in one_line_error(call(label_fractions, *arguments))


def test_a_run_whose_results_were_damaged_and_removed_is_made_again(faces, pretrained, tmp_path, call, runs):
    arguments = (
        "--pretrained", pretrained / "pretrain.pt", "--fractions", 1, "--seeds", 0, "--out", tmp_path / "out",
        "--keep", "none", "--data", faces, "--cache", runs / "cache", "--epochs", 1, "--min-steps", 0, *TINY,
    )  # fmt: skip
    first = succeed(call(label_fractions, *arguments))
    assert "next  " not in first  # of train.py: its best.pt is gone
    results = tmp_path / "out" / "random-1-seed0" / "last-test" / "results.json"
    whole = json.loads(results.read_text())
    results.write_text("damaged")
    assert f"{results}: is no JSON" in one_line_error(call(label_fractions, *arguments))
    results.unlink()
    assert succeed(call(label_fractions, *arguments)).split("\nfraction ")[1] == first.split("\nfraction ")[1]
    assert json.loads(results.read_text()) == whole


@pytest.fixture
def without_training(monkeypatch):
    """train.py and eval.py leave files and numbers at once -> the arguments that train.py was started with."""
    started, scores = [], dict.fromkeys(("miou", "miou_foreground", "f1"), 0.5)

    def train_main(argv):
        started.append(argv)
        folder = Path(argv[argv.index("--out") + 1])
        folder.mkdir(parents=True)
        (folder / "last.pt").touch()
        (folder / "best.pt").touch()
        (folder / "log.csv").write_text("epoch,loss,val_miou,test_miou\n1,0.5,50,50\n")

    def eval_main(argv):
        results = {"labels": 10, **scores, "weights": "", "data": "", "per_class": {}}
        (Path(argv[0]).parent / "last-test").mkdir()
        (Path(argv[0]).parent / "last-test" / "results.json").write_text(json.dumps(results))

    monkeypatch.setattr(train, "main", train_main)
    monkeypatch.setattr(eval, "main", eval_main)
    return started


@pytest.fixture
def two_pretrained(pretrained, tmp_path):
    """Copies of it in run folders a and b; b says that it started from ImageNet's weights."""
    paths = []
    for name, start in (("a", "random"), ("b", "imagenet")):
        (tmp_path / name).mkdir()
        paths.append(tmp_path / name / "pretrain.pt")
        torch.save(load(pretrained / "pretrain.pt") | {"start": start}, paths[-1])
    return paths


@pytest.mark.parametrize(("keep", "kept"), [("none", ()), ("first", (3,)), ("all", (3, 4))])
def test_one_baseline_for_several_pretrainings(keep, kept, call, faces, without_training, two_pretrained, tmp_path):
    out = tmp_path / "fractions"
    arguments = ("--data", faces, "--fractions", 1, "--seeds", 3, 4, "--out", out, "--pretrained", *two_pretrained)
    succeed(call(label_fractions, *arguments, "--baseline", "imagenet", "--keep", keep))
    starts = {"imagenet": "imagenet"} | {path.parent.name: str(path) for path in two_pretrained}
    assert [argv[argv.index("--init") + 1] for argv in without_training] == [*starts.values()] * 2
    assert json.loads((out / "results.json").read_text())["methods"] == starts
    with open(out / "table.csv") as file:
        assert next(csv.reader(file))[3:] == ["imagenet", "a", "b", "gain, a", "gain, b"]
    found = {str(path.relative_to(out)) for path in out.glob("*/*.pt")}
    assert found == {f"{m}-1-seed{s}/{file}.pt" for m in starts for s in kept for file in ("last", "best")}


def test_what_cannot_be_one_comparison(call, faces, without_training, two_pretrained, tmp_path):
    arguments = ("--data", faces, "--out", tmp_path / "fractions", "--pretrained")
    a, b = two_pretrained
    assert "and one from random ones; give --baseline" in one_line_error(call(label_fractions, *arguments, a, b))
    assert "there is another run folder named a" in one_line_error(call(label_fractions, *arguments, a, a))
    random = shutil.copytree(a.parent, tmp_path / "random") / "pretrain.pt"
    assert "a run folder is named random, as the" in one_line_error(call(label_fractions, *arguments, random))
    torch.save(load(a) | {"log": []}, a)
    assert "has not finished an epoch yet" in one_line_error(call(label_fractions, *arguments, a))
    assert not without_training


def test_the_newest_pretraining_is_compared_on_its_own_data_alone(pretrained, faces, monkeypatch):
    """Unless it is named: then the photos that it has seen decide, in train.py."""
    monkeypatch.setattr(weights, "RUNS", pretrained.parent)
    data = dataset.locate(faces)
    args = argparse.Namespace(pretrained=None, baseline="same")
    expected = {"random": "random", "pretrain": str(pretrained / "pretrain.pt")}
    assert label_fractions.find_methods(args, data)[0] == expected
    elsewhere = data._replace(folder=faces.parent)
    message = refused(label_fractions.find_methods, args, elsewhere)
    assert "pretrain.pt: the newest in runs/, was made with" in message and "give --pretrained FILE" in message
    args.pretrained = [pretrained / "pretrain.pt"]
    assert label_fractions.find_methods(args, elsewhere)[0] == expected


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (("--pretrained", "nothing.pt"), "nothing.pt: no such file; python masked_ssl/pretrain.py"),
        (("--fraction", "0.5"), "--fraction is set by this script"),
        (("--epoch", "0"), "unrecognized arguments: --epoch"),
        (("--fractions", "2"), "argument --fractions"),
    ],
)
def test_bad_arguments_of_the_comparison(args, named, call, tmp_path):
    assert named in one_line_error(call(label_fractions, *args, "--out", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


# ---- Data ----------------------------------------------------------------------------------------------------------


def test_dataset_describes_both_layouts(call, faces, tmp_path, real_pictures):
    out = succeed(call(dataset, "--data", faces, "--size", 32, "--out", tmp_path / "a"))
    assert "19 classes, 10 train, 1 val, 1 test" in out and "0.017" in out and "misprint" in out
    assert "every photo and every label can be read" in out and (tmp_path / "a" / "samples.png").exists()
    assert "no class but the background" not in out
    folder = lapa.write_generated(tmp_path / "LaPa", n=20, size=40)
    out = succeed(call(dataset, "--data", folder, "--size", 32, "--out", tmp_path / "b"))
    assert "11 classes, 21 train, 2 val, 2 test" in out and "16 source photos" in out
    labels = sorted((folder / "test" / "labels").iterdir())
    Image.fromarray(np.full_like(np.asarray(Image.open(labels[0])), 99)).save(labels[0])
    result = call(dataset, "--data", folder, "--size", 32, "--out", tmp_path / "b")
    assert result.returncode == 2 and "has the value 99; expected 0..10" in result.stdout


def test_dataset_counts_faces_without_any_label(call, faces, tmp_path):
    """As CelebAMask-HQ's 4790: its masks are there, and black."""
    shutil.copytree(faces, tmp_path / "faces")
    for path in (tmp_path / "faces").glob("CelebAMask-HQ-mask-anno/0/00003_*.png"):
        Image.new("RGB", Image.open(path).size).save(path)
    out = succeed(call(dataset, "--data", tmp_path / "faces", "--size", 32, "--out", tmp_path / "a"))
    assert "1 face(s) with no class but the background" in out and "CelebA-HQ-img/3.jpg" in out


# ---- Bad input: one line that names the file and the remedy, exit code 2 ---------------------------------------------


@pytest.mark.parametrize(
    ("module", "args", "named"),
    [
        (train, ("--data", "nowhere"), "nowhere: no such folder"),
        (train, ("--data", "{faces}", "--size", "100"), "--size 100 must be a multiple of 32"),
        (train, ("--data", "{faces}", "--fraction", "0.01"), "--fraction 0.01 of 10 labels is 0.1"),
        (train, ("--data", "{faces}", "--fraction", "0"), "argument --fraction"),
        (train, ("--data", "{faces}", "--init", "lost.pt"), "lost.pt: no such file"),
        (train, ("--data", "{faces}", "--init", "{other}"), "a checkpoint of hair_transfer, not of masked_ssl"),
        (train, ("--data", "{faces}", "--init", "{last}"), "a checkpoint of train.py; give a file of"),
        (train, ("--data", "{faces}", "--batch-size", "1"), "argument --batch-size"),
        (train, ("--resume", "{pre}"), "a checkpoint of pretrain.py"),
        (train, ("--resume", "{best}"), "would overwrite the later epochs"),
        (train, ("--resume", "{last}", "--lr", "0.5"), "--lr 0.5 differs from 0.003"),
        (train, ("--resume", "{last}", "--out", "elsewhere"), "a resumed run goes on in the folder"),
        (train, ("--data", "{faces}", "--init", "random", "--size", "32", "--out", "{run}"), "already holds a run"),
        (pretrain, ("--photos", "nowhere"), "--photos nowhere: no such folder"),
        (pretrain, ("--data", "{faces}", "--limit", "1"), "1 photo(s) are too few for batch norm"),
        (pretrain, ("--data", "{faces}", "--mask-ratio", "1"), "argument --mask-ratio"),
        (pretrain, ("--data", "{faces}", "--size", "48"), "--size 48 must be a multiple of 32"),
        (pretrain, ("--resume", "{pre}"), "would overwrite the later epochs"),
        (pretrain, ("--resume", "{last}"), "a checkpoint of train.py"),
        (pretrain, ("--data", "{faces}", "--init", "coco"), "argument --init"),
        (eval, ("{pre}",), "a checkpoint of pretrain.py, which has learned no classes"),
        (eval, ("missing.pt",), "missing.pt: no such checkpoint"),
        (predict, ("{last}", "nowhere.jpg"), "nowhere.jpg: no such file or folder"),
    ],
)
def test_bad_arguments_are_one_clear_line(module, args, named, call, faces, pretrained, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"paper": "hair_transfer"}, tmp_path / "other.pt")
    names = {"faces": faces, "other": tmp_path / "other.pt", "pre": pretrained / "pretrain.pt", "run": trained}
    names |= {name: trained / f"{name}.pt" for name in ("last", "best")}
    arguments = [arg.format(**names) for arg in args]
    where = [] if module is predict else ["--cache", trained.parent / "cache"]
    assert named.replace("nowhere:", f"{tmp_path}/nowhere:") in one_line_error(call(module, *arguments, *where))


def test_other_photos_or_faces_are_not_resumed_on(call, faces, pretrained, trained, runs, tmp_path):
    folder = tmp_path / "faces"
    shutil.copytree(faces, folder)
    photo = folder / "CelebA-HQ-img" / "5.jpg"
    Image.open(photo).rotate(90).save(photo, quality=60)
    for module, run, named in ((pretrain, pretrained, "not the photos of"), (train, trained, "not the faces of")):
        arguments = ("--resume", run / "last.pt", "--epochs", 3, "--data", folder, "--cache", runs / "cache")
        assert named in one_line_error(call(module, *arguments))


def test_help_names_every_flag_and_its_source(call):
    out = succeed(call(pretrain, "--help"))
    for flag in ("--photos", "--mask-ratio", "--region", "--two-thirds", "--loss-on", "--init", "--checkpointing"):
        assert flag in out
    assert "--classes" not in out and str(ROOT) not in out and out.count("ours") >= 5
    out = succeed(call(train, "--help"))
    for flag in ("--fraction", "--init", "--min-steps", "--encoder-lr", "--schedule", "--classes", "--layout"):
        assert flag in out


# ---- From the shell ------------------------------------------------------------------------------------------------


def test_pretrain_and_train_in_two_processes_and_eval(script, call, faces, tmp_path, monkeypatch):
    """Each face is trained on and tested once: alone, in one process, eval.py gives the same numbers."""
    common = ("--data", faces, "--epochs", 1, "--cache", tmp_path / "cache", *TINY)
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    for name in ("pretrain", "train"):
        write_small_script(tmp_path / f"{name}.py", "masked_ssl", name)
    arguments = (*common, "--init", "random", "--out", "pre")
    out = succeed(script("pretrain.py", *arguments, root=tmp_path, launcher=launcher)).splitlines()
    assert [line.split()[0] for line in out[:7]] == ["command", "device", "data", "masking", "model", "weights", "out"]
    assert "2 process(es)" in out[1] and "11 photos" in out[2]
    assert out[-1].startswith("next") and "train.py --init pre/pretrain.pt" in out[-1]
    flags = ("--init", "pre/pretrain.pt", "--min-steps", 0, "--out", "fine")
    out = succeed(script("train.py", *common, *flags, root=tmp_path, launcher=launcher)).splitlines()
    assert [line.split()[0] for line in out[:7]] == ["command", "device", "data", "model", "weights", "out", "steps"]
    assert "2 process(es)" in out[1] and "10 of 10 train, 1 val, 1 test" in out[2]
    assert out[-1].startswith("next") and out[-1].endswith("eval.py fine/best.pt")
    log = list(csv.DictReader(open(tmp_path / "fine" / "log.csv")))
    assert len(log) == 1 and log[0]["steps"] == "3"
    make_networks_small("masked_ssl", monkeypatch.setattr)
    out = succeed(call(eval, tmp_path / "fine" / "best.pt", "--cache", tmp_path / "cache", "--device", "cpu"))
    results = json.loads((tmp_path / "fine" / "best-test" / "results.json").read_text())
    assert "mean, all classes" in out and (tmp_path / "fine" / "best-test" / "figure5.png").exists()
    assert 100 * results["miou"] == pytest.approx(float(log[0]["test_miou"]))

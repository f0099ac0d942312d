"""masked_ssl as its users run it, on painted faces of 32 px and with a narrow ResNet."""

import csv
import json
import shutil
import sys
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from conftest import leave_out_pictures, one_line_error, succeed
from PIL import Image
from test_ssl_data import write_lapa
from trainings import make_networks_small

from common.run import Trained
from masked_ssl import eval, label_fractions, predict, pretrain, recipe, train
from masked_ssl import model as ssl_model
from masked_ssl.classes import LAYOUTS
from masked_ssl.splits import locate

TINY = ("--size", 32, "--device", "cpu", "--amp", "off", "--batch-size", 4, "--epochs", 2, "--lr", 0.003)
pytestmark = pytest.mark.usefixtures("no_pictures")


def start(module, *args) -> None:
    """main() with this command line, which stays what it was for everybody else."""
    with pytest.MonkeyPatch.context() as patch:
        leave_out_pictures(patch.setattr)
        patch.setattr(sys, "argv", [module.__file__, *map(str, args)])
        module.main()


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
    start(pretrain, "--data", faces, "--weights", "none", "--cache", runs / "cache", *TINY, "--out", runs / "pretrain")
    return runs / "pretrain"


@pytest.fixture(scope="module")
def trained(faces, runs, pretrained):
    """Two epochs of step 2 from it, each face twice an epoch."""
    arguments = ("--data", faces, "--weights", pretrained / "pretrain.pt", "--min-steps", 10, "--cache", runs / "cache")
    start(train, *arguments, *TINY, "--out", runs / "pretrained")
    return runs / "pretrained"


def load(path):
    return torch.load(path, weights_only=True)


def rows_of(path):
    with open(path) as file:
        return list(csv.DictReader(file))


def test_what_the_two_steps_leave_behind(pretrained, trained):
    files = {"last.pt", "log.csv", "curves.png", "samples.png", "run.json"}
    assert {path.name for path in pretrained.iterdir()} == files | {"pretrain.pt"}
    first, second = rows_of(pretrained / "log.csv")
    assert float(second["loss"]) < float(first["loss"]) and float(second["lr"]) < float(first["lr"])
    saved = load(pretrained / "pretrain.pt")
    assert saved["start"] == "random" and saved["epoch"] == 2 and "optimizer" not in saved
    assert len(saved["split"]["pool"]) == 11  # of 12: the test photo is not in it

    assert {path.name for path in trained.iterdir()} == files | {"best.pt"}
    rows, saved = rows_of(trained / "log.csv"), load(trained / "best.pt")
    run = json.loads((trained / "run.json").read_text())
    assert [row["steps"] for row in rows] == ["5", "10"]
    assert [len(run["split"][part]) for part in ("train", "val", "test")] == [10, 1, 1]
    assert str(pretrained / "pretrain.pt") in run["weights"] and "itself from random" in run["weights"]
    best = max(rows, key=lambda row: float(row["val_miou"]))
    assert saved["epoch"] == int(best["epoch"]) and saved["classes"] == list(LAYOUTS["celebamask"])


def test_each_flag_of_step_1_changes_its_loss(call, faces, runs, tmp_path):
    """And without any it is the same run again."""
    losses, arguments = [], ("--data", faces, "--weights", "none", "--cache", runs / "cache", *TINY, "--epochs", 1)
    for k, flags in enumerate(("", "", "--region whole", "--mask-ratio 0.3")):
        succeed(call(pretrain, *arguments, *flags.split(), "--out", tmp_path / str(k)))
        losses.append(rows_of(tmp_path / str(k) / "log.csv")[0]["loss"])
    assert losses[0] == losses[1] and len({*losses}) == 3


def test_lapa_both_steps_from_photos_of_other_folders(call, faces, runs, tmp_path):
    folder = write_lapa(tmp_path / "LaPa", faces)
    shared = ("--data", folder, "--cache", runs / "cache", *TINY, "--epochs", 1)
    photos = ("--photos", faces / "CelebA-HQ-img", "--limit", 9)
    out = succeed(call(pretrain, *shared, *photos, "--weights", "none", "--out", tmp_path / "pre"))
    assert f"18 photos of 32 px without labels: 9 of {folder} + 9 of {faces / 'CelebA-HQ-img'}\n" in out
    flags = ("--weights", tmp_path / "pre" / "pretrain.pt", "--fraction", 0.5, "--min-steps", 0)
    out = succeed(call(train, *shared, *flags, "--out", tmp_path / "fine"))
    assert "5 of 10 train, 1 val, 1 test" in out and "11 classes" in out
    assert "l_brow" in succeed(call(eval, tmp_path / "fine" / "last.pt", "--device", "cpu", "--cache", runs / "cache"))


def test_the_encoder_goes_from_step_1_to_step_2_whole_and_auto_finds_that_of_the_same_data(
    pretrained, trained, faces, tmp_path, monkeypatch
):
    network, saved, data = ssl_model.Network(19), load(pretrained / "pretrain.pt"), locate(faces)
    own = {name: x.clone() for name, x in network.state_dict().items()}
    kind, _, seen = recipe.start_from(network, str(pretrained / "pretrain.pt"), data)
    assert kind == "pretrained" and seen == saved["split"]["pool"] == load(trained / "best.pt")["pool"]
    for name, x in network.state_dict().items():
        assert torch.equal(x, (saved["model"] if name.startswith("encoder.") else own)[name])
    shutil.copytree(pretrained, tmp_path / "masked_ssl" / "runs" / "pretrain")
    monkeypatch.setattr(recipe, "HERE", tmp_path / "masked_ssl")
    assert recipe.start_from(network, "auto", data)[::2] == ("pretrained", seen)
    monkeypatch.setattr(recipe, "load_weights", lambda choice, name: (None, "RANDOM", {}))
    kind, words, seen = recipe.start_from(network, "auto", data._replace(folder=faces.parent))
    assert kind == "random" and "made with other data" in words and not seen


def test_an_encoder_that_has_seen_the_test_photos_is_refused(call, faces, runs, tmp_path):
    arguments = ("--photos", faces / "CelebA-HQ-img", "--weights", "none", "--cache", runs / "cache", *TINY)
    assert "12 photos" in succeed(call(pretrain, *arguments, "--epochs", 1, "--out", tmp_path / "pre"))
    weights = ("--weights", tmp_path / "pre" / "pretrain.pt")
    result = call(train, "--data", faces, *weights, "--cache", runs / "cache", *TINY)
    assert "was pretrained on 1 of the test photos" in one_line_error(result)


def test_scores_of_a_matrix_worked_out_by_hand():
    #                      predicted: background, skin, hat, hair (row = truth); hat is nowhere, hair is never found
    matrix = torch.tensor([[50, 10, 0, 0], [5, 25, 0, 0], [0, 0, 0, 0], [8, 2, 0, 0]])
    summary = eval.summarize(matrix, ("background", "skin", "hat", "hair"))
    iou = [100 * 50 / 73, 100 * 25 / 42, 0]
    assert summary["miou"] == pytest.approx(np.mean(iou)) and summary["absent"] == 1
    assert summary["miou_foreground"] == pytest.approx(np.mean(iou[1:]))
    assert summary["f1"] == pytest.approx(np.mean([100 * 50 / 67, 0]))
    assert np.isnan(summary["per_class"]["hat"]["f1"]) and eval.table(summary)[3][1] == "absent"


def test_eval_gives_the_numbers_that_training_logged_and_checkpoints_side_by_side(
    call, trained, runs, real_pictures, tmp_path
):
    where = ("--device", "cpu", "--cache", runs / "cache", "--out", tmp_path / "out")
    assert "mean, foreground" in succeed(call(eval, trained / "last.pt", *where))
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {"results.json", "table.csv", "figure4.png", "figure5.png"}
    results, log = json.loads((tmp_path / "out" / "results.json").read_text()), rows_of(trained / "log.csv")[-1]
    for key in ("miou", "f1"):
        assert results[key] == pytest.approx(float(log[f"test_{key}"]))
    assert "side by side" in succeed(call(eval, trained / "last.pt", trained / "best.pt", "--split", "all", *where))
    rows = list(csv.reader(open(tmp_path / "out" / "comparison.csv")))
    assert rows[0] == ["class", "pretrained/last", "pretrained/best"] and len(rows) == 1 + 19 + 3


def test_eval_refuses_test_faces_that_either_step_has_seen_and_counts_others(call, trained, faces, runs, tmp_path):
    """Other splits of the same faces: ten of those learned from are tested, then the one that step 1 alone has seen."""
    folder = shutil.copytree(faces, tmp_path / "faces")
    parts = {part: [face.name for face in found] for part, found in locate(faces).parts.items()}
    ids = [*parts["val"], *parts["test"], *parts["train"]]
    where = ("--device", "cpu", "--cache", runs / "cache", "--out", tmp_path / "out")
    for sides, words in (
        ([0, 1, *[2] * 10], f"was trained on 10 of its test faces, such as {parts['train'][0]}.jpg"),
        ([2, 1, *[0] * 10], f"saw in step 1 1 of its test faces, such as {parts['val'][0]}.jpg"),
    ):
        numbers = [(1, 162771, 182638)[side] + k for k, side in enumerate(sides)]
        mapping = "\n".join(f"{i} {number - 1} {number:06d}.jpg" for i, number in zip(ids, numbers, strict=True))
        (folder / "CelebA-HQ-to-CelebA-mapping.txt").write_text(mapping)
        error = one_line_error(call(eval, trained / "last.pt", "--data", folder, *where))
        assert words in error and not (tmp_path / "out").exists()
    out = succeed(call(eval, trained / "last.pt", "--data", folder, "--split", "all", *where))
    assert "; 10 OF THEM IT LEARNED FROM" in out and "; step 1 has seen 1 of them, without their labels" in out


def test_predict_writes_each_photo_at_its_own_size(call, trained, tmp_path):
    (tmp_path / "photos").mkdir()
    Image.effect_noise((70, 40), 99).save(tmp_path / "photos" / "wide.jpg")
    succeed(call(predict, trained / "best.pt", tmp_path / "photos", "--out", tmp_path / "out", "--device", "cpu"))
    names = {f"wide_{what}.png" for what in ("label", "overlay", "legend")}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    label = Image.open(tmp_path / "out" / "wide_label.png")
    assert label.size == (70, 40) and label.mode == "P" and np.asarray(label).max() < 19


@pytest.mark.parametrize("turned", [False, True])
def test_predict_finds_a_photo_that_is_not_square_where_it_lies(turned):
    """A network that names the strongest colour, and a photo of stripes of colour: 96 x 48 px, then 48 x 96."""
    truth = np.repeat(np.array([0, 1, 2, 0, 2], np.uint8), [12, 6, 9, 15, 6])[:, None].repeat(96, axis=1)
    truth[:, :30] = (truth[:, :30] + 1) % 3
    truth = truth.T if turned else truth
    photo = Image.fromarray(np.eye(3, dtype=np.uint8)[truth] * 255)
    label = predict.predict(Trained(torch.nn.Identity(), {"args": {"size": 32}}, torch.device("cpu"), False), photo)
    assert label.shape == truth.shape and (label != truth).mean() < 0.005  # where three colours meet


def test_fractions_are_compared_once_and_gone_on_with(call, faces, runs, pretrained, tmp_path, monkeypatch):
    """Its scripts run in this process, with the small network."""
    out, started = tmp_path / "fractions", []

    def run(script, *flags):
        started.append(flags)
        start({"train.py": train, "eval.py": eval}[script], *flags)

    monkeypatch.setattr(label_fractions, "start", run)
    arguments = (
        "--pretrained", pretrained / "pretrain.pt", "--fractions", 1, "--seeds", 0, 1, "--out", out,
        "--data", faces, "--cache", runs / "cache", "--min-steps", 0, *TINY,
    )  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(train, "train_epoch", Mock(side_effect=KeyboardInterrupt))
        assert call(label_fractions, *arguments).returncode == 130
    text = succeed(call(label_fractions, *arguments))
    saved = load(out / "random-1-seed0" / "last.pt")  # the one that was stopped
    assert saved["epoch"] == 2 and len(saved["starts"]) == 2
    names = {"settings.json", "results.json", "table.csv", "figure3.png"}
    assert {path.name for path in out.iterdir() if path.is_file()} == names
    assert {path.parent.name for path in out.rglob("*.pt")} == {
        "random-1-seed0",
        "pretrain-1-seed0",
    }  # the first seed's
    results, rows = json.loads((out / "results.json").read_text()), list(csv.reader(open(out / "table.csv")))
    found = {(r["method"], r["seed"]): r for r in results["runs"]}
    assert len(found) == 4 and {r["labels"] for r in results["runs"]} == {10}
    gains = [found["pretrain", seed]["miou"] - found["random", seed]["miou"] for seed in (0, 1)]
    row = next(row for row in rows if row[:3] == ["1", "10", "mIoU"])
    half = 12.7062 * abs(gains[1] - gains[0]) / 2  # Student's t of one degree of freedom, s / sqrt(2)
    assert row[5] == f"{np.mean(gains):+.2f} +- {half:.2f}" and row[5] in text
    started.clear()
    again = succeed(call(label_fractions, *arguments))
    assert again.split("\nfraction ")[1] == text.split("\nfraction ")[1] and not started
    assert "its runs have flags" in one_line_error(call(label_fractions, *arguments, "--lr", 0.1))


@pytest.mark.parametrize(
    ("module", "args", "named"),
    [
        (train, ("--data", "{faces}", "--fraction", "0.01"), "--fraction 0.01 of 10 labels is 0.1"),
        (train, ("--data", "{faces}", "--weights", "{last}"), "a checkpoint of train.py; give the pretrain.pt"),
        (train, ("--resume", "{pre_last}"), "a checkpoint of pretrain.py"),
        (eval, ("{pre}",), "a checkpoint of pretrain.py, which has learned no classes"),
        (label_fractions, ("--data", "{faces}", "--pretrained", "lost.pt"), "lost.pt: no such file"),
        (label_fractions, ("--fraction", "0.5"), "--fraction is set by this script"),
    ],
)
def test_bad_arguments_are_one_clear_line(module, args, named, call, faces, pretrained, trained):
    names = {"pre": pretrained / "pretrain.pt", "pre_last": pretrained / "last.pt", "last": trained / "last.pt"}
    arguments = (arg.format(faces=faces, **names) for arg in args)
    assert named in one_line_error(call(module, *arguments, "--cache", trained.parent / "cache"))

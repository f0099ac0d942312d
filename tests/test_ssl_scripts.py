"""masked_ssl as its users run it, on painted faces of 32 px and with a narrow ResNet."""

import csv
import json
import shutil
import sys

import numpy as np
import pytest
import torch
from conftest import leave_out_pictures, one_line_error, succeed
from PIL import Image
from trainings import make_networks_small

from common.run import Trained
from masked_ssl import eval, label_fractions, layouts, predict, pretrain, recipe, train
from masked_ssl import model as ssl_model
from masked_ssl.classes import LAYOUTS
from masked_ssl.splits import locate

TINY = ("--size", 32, "--device", "cpu", "--amp", "off", "--batch-size", 4, "--epochs", 2, "--lr", 0.003)
CPU = torch.device("cpu")
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


def read_json(path):
    return json.loads(path.read_text())


def rows_of(path):
    with open(path) as file:
        return list(csv.DictReader(file))


def stop_in(epoch, module, monkeypatch):
    """Ctrl-C in that epoch."""
    original = module.train_epoch

    def train_epoch(*args):
        if args[-1] == epoch:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(module, "train_epoch", train_epoch)


# ---- Both steps ----------------------------------------------------------------------------------------------------


def test_what_the_two_steps_leave_behind(pretrained, trained):
    files = {"last.pt", "log.csv", "curves.png", "samples.png", "run.json"}
    assert {path.name for path in pretrained.iterdir()} == files | {"pretrain.pt"}
    first, second = rows_of(pretrained / "log.csv")
    assert float(second["loss"]) < float(first["loss"]) and float(second["lr"]) < float(first["lr"])
    saved = load(pretrained / "pretrain.pt")
    assert saved["start"] == "random" and saved["epoch"] == 2 and "optimizer" not in saved
    assert len(saved["split"]["pool"]) == 11  # of 12: the test photo is not in it

    assert {path.name for path in trained.iterdir()} == files | {"best.pt"}
    rows, run, saved = rows_of(trained / "log.csv"), read_json(trained / "run.json"), load(trained / "best.pt")
    assert [row["steps"] for row in rows] == ["5", "10"]
    assert [len(run["split"][part]) for part in ("train", "val", "test")] == [10, 1, 1]
    assert str(pretrained / "pretrain.pt") in run["weights"] and "itself from random" in run["weights"]
    best = max(rows, key=lambda row: float(row["val_miou"]))
    assert saved["epoch"] == int(best["epoch"]) and saved["classes"] == list(LAYOUTS["celebamask"])


FLAGS = ("--region whole", "--two-thirds area", "--loss-on masked", "--loss l2", "--mask-ratio 0.3", "--augment none")


@pytest.mark.parametrize("flags", ["", *FLAGS])
def test_each_flag_of_step_1_changes_its_loss(flags, call, faces, runs, pretrained, tmp_path, monkeypatch):
    """The run of `pretrained` with one flag more, for one epoch; without any it is that run again."""
    stop_in(2, pretrain, monkeypatch)
    arguments = ("--data", faces, "--weights", "none", "--cache", runs / "cache", *TINY, "--out", tmp_path / "run")
    assert call(pretrain, *arguments, *flags.split()).returncode == 130
    loss, other = (rows_of(run / "log.csv")[0]["loss"] for run in (pretrained, tmp_path / "run"))
    assert (loss == other) == (not flags)


def test_lapa_both_steps_from_photos_of_other_folders(call, faces, runs, tmp_path):
    folder = layouts.write_lapa(tmp_path / "LaPa", n=20, size=40)
    shared = ("--data", folder, "--cache", runs / "cache", *TINY, "--epochs", 1)
    photos = ("--photos", faces / "CelebA-HQ-img", "--limit", 9)
    out = succeed(call(pretrain, *shared, *photos, "--weights", "none", "--out", tmp_path / "pre"))
    assert f"18 photos of 32 px without labels: 9 of {folder} + 9 of {faces / 'CelebA-HQ-img'}\n" in out
    flags = ("--weights", tmp_path / "pre" / "pretrain.pt", "--fraction", 0.5, "--min-steps", 0)
    out = succeed(call(train, *shared, *flags, "--out", tmp_path / "fine"))
    assert "of 21 train, 2 val, 2 test" in out and "11 classes" in out
    assert "l_brow" in succeed(call(eval, tmp_path / "fine" / "last.pt", "--device", "cpu", "--cache", runs / "cache"))


# ---- Where the weights come from -----------------------------------------------------------------------------------


def test_the_encoder_goes_from_step_1_to_step_2_whole_and_auto_finds_that_of_the_same_data(
    pretrained, trained, faces, tmp_path, monkeypatch
):
    network, saved, data = ssl_model.Network(19), load(pretrained / "pretrain.pt"), locate(faces)
    before = {name: x.clone() for name, x in network.decoder.state_dict().items()}
    kind, _, seen = train.start_from(network, str(pretrained / "pretrain.pt"), data)
    assert kind == "pretrained" and seen == saved["split"]["pool"] == load(trained / "best.pt")["pool"]
    after = network.state_dict()
    encoder = [name for name in after if name.startswith("encoder.")]
    assert all(torch.equal(after[name], saved["model"][name]) for name in encoder) and len(encoder) > 50
    assert all(torch.equal(after[f"decoder.{name}"], x) for name, x in before.items())
    shutil.copytree(pretrained, tmp_path / "masked_ssl" / "runs" / "pretrain")
    monkeypatch.setattr(recipe, "HERE", tmp_path / "masked_ssl")
    assert train.start_from(network, "auto", data)[::2] == ("pretrained", seen)
    monkeypatch.setattr(recipe, "load_weights", lambda choice, name: (None, "RANDOM", {}))
    kind, words, seen = train.start_from(network, "auto", data._replace(folder=faces.parent))
    assert kind == "random" and "made with other data" in words and not seen


def test_an_encoder_that_has_seen_the_test_photos_is_refused(call, faces, runs, tmp_path):
    arguments = ("--photos", faces / "CelebA-HQ-img", "--weights", "none", "--cache", runs / "cache", *TINY)
    assert "12 photos" in succeed(call(pretrain, *arguments, "--epochs", 1, "--out", tmp_path / "pre"))
    weights = ("--weights", tmp_path / "pre" / "pretrain.pt")
    result = call(train, "--data", faces, *weights, "--cache", runs / "cache", *TINY)
    assert "was pretrained on 1 of the test photos" in one_line_error(result)


# ---- Evaluation, own photos ----------------------------------------------------------------------------------------


def test_scores_of_a_matrix_worked_out_by_hand():
    #                      predicted: background, skin, hat, hair (row = truth); hat is nowhere, hair is never found
    matrix = torch.tensor([[50, 10, 0, 0], [5, 25, 0, 0], [0, 0, 0, 0], [8, 2, 0, 0]])
    summary = eval.summarize(matrix, ("background", "skin", "hat", "hair"))
    iou = [100 * 50 / 73, 100 * 25 / 42, 0]
    assert summary["miou"] == pytest.approx(np.mean(iou)) and summary["absent"] == 1
    assert summary["miou_foreground"] == pytest.approx(np.mean(iou[1:]))
    assert summary["f1"] == pytest.approx(np.mean([100 * 50 / 67, 0])) and summary["accuracy"] == 75
    assert np.isnan(summary["per_class"]["hat"]["f1"]) and eval.table(summary)[3][1] == "absent"


def test_eval_gives_the_numbers_that_training_logged_and_checkpoints_side_by_side(
    call, trained, runs, real_pictures, tmp_path
):
    where = ("--device", "cpu", "--cache", runs / "cache", "--out", tmp_path / "out")
    assert "mean, foreground" in succeed(call(eval, trained / "last.pt", *where))
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {"results.json", "table.csv", "figure4.png", "figure5.png", "faces"}
    results, log = read_json(tmp_path / "out" / "results.json"), rows_of(trained / "log.csv")[-1]
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
    mapping = "\n".join(f"{i} {k} {k:06d}.jpg" for k, i in enumerate(ids))
    (folder / "CelebA-HQ-to-CelebA-mapping.txt").write_text(mapping)
    where = ("--device", "cpu", "--cache", runs / "cache", "--out", tmp_path / "out")
    for sides, words in (
        ([0, 1, *[2] * 10], f"was trained on 10 of its test faces, such as {parts['train'][0]}.jpg"),
        ([2, 1, *[0] * 10], f"saw in step 1 1 of its test faces, such as {parts['val'][0]}.jpg"),
    ):
        partition = "\n".join(f"{k:06d}.jpg {side}" for k, side in enumerate(sides))
        (folder / "list_eval_partition.txt").write_text(partition)
        error = one_line_error(call(eval, trained / "last.pt", "--data", folder, *where))
        assert words in error and not (tmp_path / "out").exists()
    out = succeed(call(eval, trained / "last.pt", "--data", folder, "--split", "all", *where))
    assert "; 10 OF THEM IT LEARNED FROM" in out and "; step 1 has seen 1 of them, without their labels" in out


def test_predict_writes_each_photo_at_its_own_size_and_names_what_cannot_be_read(call, trained, tmp_path):
    photos, picture = tmp_path / "photos", np.random.default_rng(0).integers(0, 256, (40, 70, 3), dtype=np.uint8)
    photos.mkdir()
    Image.fromarray(picture).save(photos / "wide.jpg")
    (photos / "bad.jpg").write_bytes(b"no picture")
    arguments = (trained / "best.pt", photos, "--out", tmp_path / "out", "--device", "cpu")
    result = call(predict, *arguments)
    assert "bad.jpg" in one_line_error(result) and "1 photo(s)" in result.stdout
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
    label = predict.predict(Trained(torch.nn.Identity(), {"args": {"size": 32}}, CPU, False), photo)
    assert label.shape == truth.shape and (label != truth).mean() < 0.005  # where three colours meet


# ---- Fractions and seeds, bad input --------------------------------------------------------------------------------


@pytest.fixture
def in_process(monkeypatch):
    """label_fractions.py's scripts run in this process, with the small network -> their command lines."""
    started = []

    def run(script, *flags):
        started.append(flags)
        start({"train.py": train, "eval.py": eval}[script], *flags)

    monkeypatch.setattr(label_fractions, "start", run)
    return started


def test_fractions_are_compared_once_and_gone_on_with(call, faces, runs, pretrained, tmp_path, monkeypatch, in_process):
    out = tmp_path / "fractions"
    arguments = (
        "--pretrained", pretrained / "pretrain.pt", "--fractions", 1, "--seeds", 0, 1, "--out", out,
        "--data", faces, "--cache", runs / "cache", "--min-steps", 0, *TINY,
    )  # fmt: skip
    with monkeypatch.context() as patch:
        stop_in(2, train, patch)
        assert call(label_fractions, *arguments).returncode == 130
    text = succeed(call(label_fractions, *arguments))
    saved = load(out / "random-1-seed0" / "last.pt")  # the one that was stopped
    assert saved["epoch"] == 2 and len(saved["starts"]) == 2
    names = {"settings.json", "results.json", "table.csv", "fractions.png", "figure3.png"}
    assert {path.name for path in out.iterdir() if path.is_file()} == names
    results, rows = read_json(out / "results.json"), list(csv.reader(open(out / "table.csv")))
    found = {(r["method"], r["seed"]): r for r in results["runs"]}
    assert len(found) == 4 and {r["labels"] for r in results["runs"]} == {10}
    gains = [found["pretrain", seed]["miou"] - found["random", seed]["miou"] for seed in (0, 1)]
    row = next(row for row in rows if row[:3] == ["1", "10", "mIoU"])
    assert row[5] == f"{np.mean(gains):+.2f} +- {np.std(gains, ddof=1):.2f}" and row[5] in text
    in_process.clear()
    again = succeed(call(label_fractions, *arguments))
    assert again.split("\nfraction ")[1] == text.split("\nfraction ")[1] and not in_process
    assert "its runs have flags" in one_line_error(call(label_fractions, *arguments, "--lr", 0.1))


@pytest.mark.parametrize(
    ("module", "args", "named"),
    [
        (train, ("--data", "{faces}", "--fraction", "0.01"), "--fraction 0.01 of 10 labels is 0.1"),
        (train, ("--data", "{faces}", "--weights", "{last}"), "a checkpoint of train.py; give the pretrain.pt"),
        (train, ("--resume", "{pre_last}"), "a checkpoint of pretrain.py"),
        (eval, ("{pre}",), "a checkpoint of pretrain.py, which has learned no classes"),
        (label_fractions, ("--data", "{faces}", "--pretrained", "lost.pt"), "lost.pt: no such file; python masked"),
        (label_fractions, ("--fraction", "0.5"), "--fraction is set by this script"),
    ],
)
def test_bad_arguments_are_one_clear_line(module, args, named, call, faces, pretrained, trained):
    names = {"pre": pretrained / "pretrain.pt", "pre_last": pretrained / "last.pt"}
    names |= {"faces": faces, "last": trained / "last.pt"}
    where = ("--cache", trained.parent / "cache")
    assert named in one_line_error(call(module, *(arg.format(**names) for arg in args), *where))

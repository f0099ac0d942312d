"""masked_ssl as its users run it, on painted faces of 32 px and with a narrow ResNet."""

import csv
import json
import shutil
import sys
from argparse import Namespace

import numpy as np
import pytest
import torch
from conftest import leave_out_pictures, one_line_error, refused, succeed
from PIL import Image
from torchvision.models import resnet50
from trainings import make_networks_small

from common.run import Trained
from masked_ssl import dataset, eval, label_fractions, layouts, predict, pretrain, recipe, train
from masked_ssl import model as ssl_model
from masked_ssl.classes import LAYOUTS
from masked_ssl.splits import locate

TINY = ("--size", 32, "--device", "cpu", "--amp", "off", "--batch-size", 4, "--epochs", 2, "--lr", 0.003)
CPU = torch.device("cpu")
BOTTLENECK, LOAD = ssl_model.Bottleneck, recipe.load_checkpoint  # as they are before anything is made small
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


def encoder_of(state):
    return {name: x for name, x in state.items() if name.startswith("encoder.")}


def same_tensors(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


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
    assert max(float(row["test_miou"]) for row in rows) > 1  # per cent
    assert [len(run["split"][part]) for part in ("train", "val", "test")] == [10, 1, 1]
    assert str(pretrained / "pretrain.pt") in run["weights"] and "itself from random" in run["weights"]
    assert "2 epochs at 32 px on 11 of " in run["weights"]
    assert run["arguments"]["encoder_lr"] == pytest.approx(0.0003)
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
    assert out.splitlines()[-1].endswith(f"--size 32 --data {folder}")  # the next command
    flags = ("--weights", tmp_path / "pre" / "pretrain.pt", "--fraction", 0.5, "--min-steps", 0)
    out = succeed(call(train, *shared, *flags, "--out", tmp_path / "fine"))
    assert "of 21 train, 2 val, 2 test" in out and "11 classes" in out
    assert len(load(tmp_path / "fine" / "last.pt")["split"]["train"]) in (10, 11)
    out = succeed(call(eval, tmp_path / "fine" / "last.pt", "--device", "cpu", "--cache", runs / "cache"))
    assert "74.41" in out and "94.0" in out and "l_brow" in out


# ---- Where the weights come from -----------------------------------------------------------------------------------


def test_the_encoder_goes_from_step_1_to_step_2_whole_and_the_decoder_is_new(pretrained, trained, faces, tmp_path):
    network, saved = ssl_model.Network(19), load(pretrained / "pretrain.pt")
    before = {name: x.clone() for name, x in network.decoder.state_dict().items()}
    kind, _, seen = train.start_from(network, str(pretrained / "pretrain.pt"), locate(faces))
    assert same_tensors(encoder_of(network.state_dict()), encoder_of(saved["model"])) and kind == "pretrained"
    assert same_tensors(network.decoder.state_dict(), before)
    assert seen == saved["split"]["pool"] == load(trained / "best.pt")["pool"] and len(seen) == 11
    del saved["model"]["encoder.nodes.x_1_2.conv1.0.weight"]
    torch.save(saved, tmp_path / "broken.pt")
    message = refused(train.start_from, network, str(tmp_path / "broken.pt"), locate(faces))
    assert "broken.pt: its encoder does not fit this code" in message


def test_torchvisions_file_under_any_name_fills_the_resnet(tmp_path, monkeypatch):
    monkeypatch.setattr(ssl_model, "WIDTH", 64)  # the whole ResNet
    monkeypatch.setattr(ssl_model, "Bottleneck", BOTTLENECK)
    state, file, network = resnet50(weights=None).state_dict(), tmp_path / "my weights.bin", ssl_model.Network(3)
    torch.save({f"_orig_mod.module.{name}": x for name, x in state.items()}, file)
    assert train.start_from(network, str(file), None) == (str(file), f"ResNet-50 of {file}, the rest random", [])
    filled = network.encoder.backbone.state_dict()
    assert all(torch.equal(filled[name], x) for name, x in state.items() if not name.startswith("fc."))
    del state["layer4.2.conv3.weight"]
    torch.save(state, file)
    assert "not torchvision's ResNet-50" in refused(recipe.load_backbone, network, str(file))


def test_auto_takes_the_encoder_of_the_same_data_only(pretrained, faces, monkeypatch):
    (pretrained.parent / "runs").mkdir()
    shutil.copytree(pretrained, pretrained.parent / "runs" / "pretrain-2")
    monkeypatch.setattr(recipe, "HERE", pretrained.parent)
    monkeypatch.setattr(recipe, "load_weights", lambda choice, name: (None, f"RANDOM, for {choice}", {}))
    monkeypatch.setattr(recipe, "load_checkpoint", lambda path, paper: LOAD(path, "masked_ssl"))
    data, network = locate(faces), ssl_model.Network(19)
    kind, words, seen = train.start_from(network, "auto", data)
    assert kind == "pretrained" and "pretrain-2/pretrain.pt: 2 epochs" in words and len(seen) == 11
    kind, words, seen = train.start_from(network, "auto", data._replace(folder=faces.parent))
    assert kind == "random" and "RANDOM, for auto; not " in words and "made with other data" in words and not seen


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
    assert np.isnan(summary["per_class"]["hat"]["f1"]) and summary["per_class"]["hat"]["support"] == 0
    assert summary["per_class"]["hair"] == {"f1": 0.0, "iou": 0.0, "support": 10}
    assert eval.table(summary)[3] == ["hat", "absent", "absent", "0.000"]


def test_eval_gives_the_numbers_that_training_logged_tables_and_figures(call, trained, runs, real_pictures, tmp_path):
    where = ("--device", "cpu", "--cache", runs / "cache", "--out", tmp_path / "out")
    out = succeed(call(eval, trained / "last.pt", *where))
    assert "mean, foreground" in out and "89.6" in out and "poor without pretraining" in out
    names = {"results.json", "table.csv", "figure4.png", "figure5.png", "faces"}
    assert {p.name for p in (tmp_path / "out").iterdir()} == names
    results, log = read_json(tmp_path / "out" / "results.json"), rows_of(trained / "log.csv")[-1]
    for key in ("miou", "f1"):
        assert results[key] == pytest.approx(float(log[f"test_{key}"]))
    assert results["labels"] == 10 and list(results["per_class"]) == list(LAYOUTS["celebamask"])
    labels = [np.asarray(Image.open(p)) for p in (tmp_path / "out" / "faces").glob("*_label.png")]
    assert len(labels) == 1 and labels[0].shape == (32, 32) and labels[0].max() < 19
    for figure in ("figure4.png", "figure5.png"):
        assert np.asarray(Image.open(tmp_path / "out" / figure).convert("L")).std() > 10


def test_eval_of_two_checkpoints_side_by_side_unless_they_cannot_be(call, trained, runs, tmp_path):
    flags = ("--split", "all", "--out", tmp_path / "both", "--device", "cpu", "--cache", runs / "cache")
    saved = load(trained / "last.pt")
    torch.save(saved | {"args": saved["args"] | {"size": 64}}, tmp_path / "x.pt")
    error = one_line_error(call(eval, trained / "last.pt", tmp_path / "x.pt", *flags))
    assert "x.pt: has another size than" in error and not (tmp_path / "both").exists()
    out = succeed(call(eval, trained / "last.pt", trained / "best.pt", *flags))
    assert "side by side" in out and (tmp_path / "both" / "figure4.png").exists()
    rows = list(csv.reader(open(tmp_path / "both" / "comparison.csv")))
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
    for split, more, learned, seen in (("all", ("--data", folder), 10, 1), ("val", (), 0, 1), ("train", (), 10, 0)):
        out = succeed(call(eval, trained / "last.pt", *more, "--split", split, *where))
        assert (f"; {learned} OF THEM IT LEARNED FROM" in out) is (learned > 0)
        assert (f"; step 1 has seen {seen} of them, without their labels" in out) is (seen > 0)
        results = read_json(tmp_path / "out" / "results.json")
        assert (results["learned_in_step_2"], results["seen_in_step_1"]) == (learned, seen)


def test_predict_writes_each_photo_at_its_own_size_and_names_what_cannot_be_read(call, trained, tmp_path):
    photos, picture = tmp_path / "photos", np.random.default_rng(0).integers(0, 256, (40, 70, 3), dtype=np.uint8)
    photos.mkdir()
    Image.fromarray(picture).save(photos / "wide.jpg")
    Image.fromarray(picture[..., 0]).save(tmp_path / "grey.png")
    (photos / "bad.jpg").write_bytes(b"no picture")
    arguments = (trained / "best.pt", photos, tmp_path / "grey.png", "--out", tmp_path / "out", "--device", "cpu")
    result = call(predict, *arguments)
    assert "bad.jpg" in one_line_error(result) and "2 photo(s)" in result.stdout
    names = {f"{photo}_{what}.png" for photo in ("wide", "grey") for what in ("label", "overlay", "legend")}
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


# ---- Fractions and seeds -------------------------------------------------------------------------------------------


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
    text = succeed(call(label_fractions, *arguments, "--checkpointing"))
    saved = load(out / "random-1-seed0" / "last.pt")  # the one that was stopped
    assert saved["epoch"] == 2 and len(saved["starts"]) == 2 and saved["args"]["checkpointing"]
    names = {"settings.json", "results.json", "table.csv", "fractions.png", "figure3.png"}
    assert {p.name for p in out.iterdir() if p.is_file()} == names
    results, rows = read_json(out / "results.json"), list(csv.reader(open(out / "table.csv")))
    found = {(r["method"], r["seed"]): r for r in results["runs"]}
    assert len(found) == 4 and {r["labels"] for r in results["runs"]} == {10}
    assert results["settings"]["encoder_lr"] == pytest.approx(0.0003)  # what was not typed is recorded too
    gains = [found["pretrain", seed]["miou"] - found["random", seed]["miou"] for seed in (0, 1)]
    row = next(row for row in rows if row[:3] == ["1", "10", "mIoU"])
    assert row[5] == f"{np.mean(gains):+.2f} +- {np.std(gains, ddof=1):.2f}" and row[5] in text
    assert found["random", 0]["miou"] == pytest.approx(found["random", 0]["log"][-1]["test_miou"])
    assert (out / "random-1-seed0" / "last.pt").exists() and not (out / "random-1-seed1" / "last.pt").exists()

    in_process.clear()
    again = succeed(call(label_fractions, *arguments, "--keep", "none"))
    assert again.split("\nfraction ")[1] == text.split("\nfraction ")[1] and not in_process
    assert not list(out.glob("*/*.pt"))
    assert "its runs have flags" in one_line_error(call(label_fractions, *arguments, "--lr", 0.1))
    other = shutil.copytree(faces, tmp_path / "other")
    next(other.glob("CelebAMask-HQ-mask-anno/0/*_nose.png")).unlink()
    assert "its runs have data 12 faces" in one_line_error(call(label_fractions, *arguments, "--data", other))
    newer = shutil.copytree(pretrained, tmp_path / "pretrain") / "pretrain.pt"
    torch.save(load(newer) | {"epoch": 3}, newer)
    assert "its runs have pretrain 2 epochs" in one_line_error(call(label_fractions, *arguments, "--pretrained", newer))


def test_what_is_compared_with_which_baseline(pretrained, faces, tmp_path):
    """Copies of a pretraining that say they started from random weights, ImageNet's and a file."""
    saved = load(pretrained / "pretrain.pt")

    def copy(folder, **changes):
        (tmp_path / folder).mkdir()
        torch.save(saved | changes, tmp_path / folder / "pretrain.pt")
        return str(tmp_path / folder / "pretrain.pt")

    def methods(*paths, baseline="same"):
        return label_fractions.find_methods(Namespace(pretrained=paths, baseline=baseline), locate(faces))[0]

    a, b, c = copy("a"), copy("b", start="imagenet"), copy("c", start="/weights/mine.pth")
    assert methods(a) == {"random": "none", "a": a} and methods(b) == {"imagenet": "imagenet", "b": b}
    assert methods(c) == {"mine": "/weights/mine.pth", "c": c}
    assert list(methods(a, b, baseline="imagenet")) == ["imagenet", "a", "b"]
    assert "they started from imagenet and random; give --baseline" in refused(methods, a, b)
    assert "there is another run folder named a" in refused(methods, a, a)
    assert "a run folder is named random, as the" in refused(methods, copy("random"))
    assert "has not finished an epoch yet" in refused(methods, copy("d", log=[]))


def test_a_flag_that_train_refuses_leaves_the_folder_free_for_the_right_one(call, faces, pretrained, tmp_path):
    data = ("--pretrained", pretrained / "pretrain.pt", "--data", faces, "--fractions", 1)
    result = call(label_fractions, *data, "--out", tmp_path / "out", "--epoch", 3)  # train.py in a process of its own
    assert result.returncode == 2 and (tmp_path / "out" / "settings.json").is_file()
    label_fractions.check_settings(tmp_path / "out", {"flags": "--epochs 3"}, {})


# ---- The data, bad input -------------------------------------------------------------------------------------------


def test_dataset_describes_both_layouts_and_names_what_is_wrong(call, faces, tmp_path):
    folder = shutil.copytree(faces, tmp_path / "faces")
    for path in folder.glob("CelebAMask-HQ-mask-anno/0/00003_*.png"):  # as CelebAMask-HQ's 4790
        Image.new("RGB", Image.open(path).size).save(path)
    out = succeed(call(dataset, "--data", folder, "--size", 32, "--out", tmp_path / "a"))
    assert "19 classes, 10 train, 1 val, 1 test" in out and "0.31 (a misprint)" in out
    assert "1 face(s) with no class but the background" in out and "CelebA-HQ-img/3.jpg" in out
    folder = layouts.write_lapa(tmp_path / "LaPa", n=20, size=40)
    label = min((folder / "test" / "labels").iterdir())
    Image.fromarray(np.full_like(np.asarray(Image.open(label)), 99)).save(label)
    result = call(dataset, "--data", folder, "--size", 32, "--out", tmp_path / "b")
    assert result.returncode == 2 and "11 classes, 21 train, 2 val, 2 test" in result.stdout
    assert "16 source photos" in result.stdout and f"{label}: has the value 99" in result.stdout


@pytest.mark.parametrize(
    ("module", "args", "named"),
    [
        (train, ("--data", "{faces}", "--fraction", "0.01"), "--fraction 0.01 of 10 labels is 0.1"),
        (train, ("--data", "{faces}", "--weights", "{last}"), "a checkpoint of train.py; give the pretrain.pt"),
        (train, ("--resume", "{pre_last}"), "a checkpoint of pretrain.py"),
        (pretrain, ("--resume", "{last}"), "a checkpoint of train.py"),
        (pretrain, ("--data", "{faces}", "--limit", "1"), "1 photo(s) are too few for batch norm"),
        (pretrain, ("--data", "{faces}", "--weights", "{pre}"), "a checkpoint of masked_ssl; give torchvision's"),
        (pretrain, ("--data", "{faces}", "--checkpointing", "--compile"), "leave it or --compile out"),
        (eval, ("{pre}",), "a checkpoint of pretrain.py, which has learned no classes"),
        (label_fractions, ("--data", "{faces}", "--pretrained", "lost.pt"), "lost.pt: no such file; python masked"),
        (label_fractions, ("--fraction", "0.5"), "--fraction is set by this script"),
        (label_fractions, ("--layout", "lap"), "argument --layout"),
    ],
)
def test_bad_arguments_are_one_clear_line(module, args, named, call, faces, pretrained, trained):
    names = {"pre": pretrained / "pretrain.pt", "pre_last": pretrained / "last.pt"}
    names |= {"faces": faces, "last": trained / "last.pt"}
    where = ("--cache", trained.parent / "cache")
    assert named in one_line_error(call(module, *(arg.format(**names) for arg in args), *where))

"""mut1ny_fairness as its users run it. Most runs are in this process with the smallest of its networks, PSPNet on a cut
encoder, with fewer blocks, at 32 px; a few are subprocesses, from another folder, as they are."""

import csv
import json
import os
import shutil
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, leave_out_pictures, one_line_error, succeed
from PIL import Image

from common.data import EvalBatches, loader
from common.device import for_inference
from common.metrics import counts_from_confusion
from mut1ny_fairness import dataset, eval, fairness, generate, predict, prepare, resnet, train
from mut1ny_fairness.group_tables import OF_LABELS
from mut1ny_fairness.palette import CLASSES, PALETTE, to_classes

SMALL = ("--model", "pspnet", "--truncated")
TINY = ("--size", 32, "--device", "cpu", "--amp", "off", "--weights", "none")
TRAIN = "mut1ny_fairness/train.py"
BLOCKS = resnet.BLOCKS  # of the real ResNet-101
pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """Generated pictures of 48 px in Mut1ny's layout, prepared: 30 in the manifest."""
    folder = generate.write_mut1ny(tmp_path_factory.mktemp("data") / "mut1ny", size=48)
    prepare.prepare(folder, folder / "manifest.csv", distance=6)
    return folder


@pytest.fixture(scope="module", autouse=True)
def shallow():
    """All that runs in this process has one block in each layer."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resnet, "BLOCKS", (1, 1, 1, 1))
        yield


def train_here(*args):
    argv, sys.argv = sys.argv, [train.__file__, *map(str, args)]
    try:
        train.main()
    finally:
        sys.argv = argv


@pytest.fixture(scope="module")
def trained(shallow, shipped, tmp_path_factory):
    """Two runs of two epochs: folder with rgb/ and labels/."""
    out = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        leave_out_pictures(patch.setattr)
        for target in ("rgb", "labels"):
            train_here("--data", shipped, "--target", target, "--epochs", 2, "--out", out / target, *SMALL, *TINY,
                       "--cache", out / "cache")  # fmt: skip
    yield out
    shutil.rmtree(out)


@pytest.fixture(autouse=True)
def no_checkpoints_left(tmp_path):
    yield
    for path in tmp_path.rglob("*.pt"):
        path.unlink()


# ---- Training ------------------------------------------------------------------------------------------------------


def test_a_run_folder_holds_what_the_readme_says(trained):
    for target in ("rgb", "labels"):
        run_folder = trained / target
        names = {path.name for path in run_folder.iterdir() if path.is_file()}
        assert names == {"last.pt", "best.pt", "log.csv", "curves.png", "samples.png", "run.json"}
        rows = list(csv.DictReader(open(run_folder / "log.csv")))
        scores = {"loss", "accuracy", "f1", "iou", "precision", "recall"}
        scores |= {f"class_{name}" for name in ("accuracy", "iou", "f1", "precision", "recall")}
        assert set(rows[0]) == {"epoch", "seconds"} | scores | {f"test_{name}" for name in scores} and len(rows) == 2
        run = json.loads((run_folder / "run.json").read_text())
        split = {name: set(run["split"][name]) for name in ("train", "test")}
        assert len(split["train"]) == 24 and len(split["test"]) == 6 and not split["train"] & split["test"]
        best = torch.load(run_folder / "best.pt", weights_only=True)
        assert best["paper"] == "mut1ny_fairness" and best["classes"] == list(CLASSES) and "optimizer" not in best
        assert best["best"] == pytest.approx(min(float(row["test_loss"]) for row in rows))
        assert best["args"]["aux"] == 0 and best["args"]["data"].endswith("mut1ny")


def test_the_papers_deeplabv3_with_an_auxiliary_head_and_the_wrong_channel_order(call, shipped, trained, tmp_path):
    arguments = ("--data", shipped, "--bgr", "--aux", 0.5, "--split", "person", "--epochs", 1, "--batch-size", 12)
    out = succeed(call(train, *arguments, "--out", tmp_path / "run", *TINY, "--cache", trained / "cache"))
    assert "DeepLabV3, rgb (labels read as BGR)" in out and "split by person" in out
    saved = torch.load(tmp_path / "run" / "last.pt", weights_only=True, mmap=True)
    assert "aux_classifier.4.bias" in saved["model"] and saved["args"]["bgr"] is True
    people = {row["image"]: row["person"] for row in csv.DictReader(open(shipped / "manifest.csv"))}
    sides = [{people[key] for key in saved["split"][side]} - {""} for side in ("train", "test")]
    assert not sides[0] & sides[1]
    out = succeed(call(eval, tmp_path / "run" / "best.pt", "--bgr", "--device", "cpu", "--cache", trained / "cache"))
    results = [json.loads((tmp_path / "run" / "best-test" / f"results{x}.json").read_text()) for x in ("", "-bgr")]
    assert results[0]["loss"] == pytest.approx(saved["best"], abs=1e-6)
    assert [r["read_bgr"] for r in results] == [False, True]
    assert "f1" in results[0] and "f1" not in results[1]  # channel-pixels are counted of the outputs as they are


@pytest.mark.parametrize("batch_size", [1, 3])
def test_batches_of_one_image_train(call, shipped, tmp_path, batch_size):
    """Four images to train: one by one, and in a batch of three with one left over."""
    arguments = ("--data", shipped, "--limit", 5, "--epochs", 1, "--batch-size", batch_size, *SMALL, *TINY)
    out = succeed(call(train, *arguments, "--cache", tmp_path / "cache", "--out", tmp_path / "run"))
    assert "4 train, 1 test" in out and "nan" not in out


def test_the_folder_and_common_alone_prepare_generated_pictures_and_train_elsewhere_in_two_processes(
    script, call, tmp_path, monkeypatch
):
    """The bare script but for its sizes: paints Mut1ny's layout, prepares it, and says so. Each image is trained on and
    tested once: alone, in one process, eval.py gives the same numbers."""
    elsewhere = tmp_path / "assignment"
    for name in ("mut1ny_fairness", "common"):
        shutil.copytree(ROOT / name, elsewhere / name, ignore=shutil.ignore_patterns("runs", "data", "__pycache__"))
    source = elsewhere / "mut1ny_fairness" / "generate.py"
    assert "\nSIZE = 256\n" in source.read_text()
    source.write_text(source.read_text().replace("\nSIZE = 256\n", "\nSIZE = 64\n"))  # painted in a quarter of the time
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    arguments = ("--target", "labels", "--epochs", 1, *SMALL, *TINY)
    out = succeed(script(TRAIN, *arguments, root=elsewhere, launcher=launcher)).splitlines()
    assert out[0].startswith("manifest") and "running prepare.py's steps" in out[0]
    start = next(i for i, line in enumerate(out) if line.startswith("command"))
    assert [line.split()[0] for line in out[start : start + 6]] == [
        "command", "device", "data", "model", "weights", "out"]  # fmt: skip
    assert "GENERATED" in out[start + 2] and "6 test" in out[start + 2]
    assert out[-1].startswith("next") and out[-1].endswith("best.pt")
    run = elsewhere / "mut1ny_fairness" / "runs" / "pspnet-truncated-labels-generated"
    log = list(csv.DictReader(open(run / "log.csv")))
    monkeypatch.setattr(resnet, "BLOCKS", BLOCKS)
    data = ("--data", elsewhere / "mut1ny_fairness" / "data" / "generated", "--cache", tmp_path / "cache")
    succeed(call(eval, run / "last.pt", "--device", "cpu", *data))
    results = json.loads((run / "last-test" / "results.json").read_text())
    assert len(log) == 1 and results["loss"] == pytest.approx(float(log[0]["test_loss"]), abs=1e-6)
    assert results["class_iou"] == pytest.approx(float(log[0]["test_class_iou"]), abs=1e-9)


# ---- Evaluation ----------------------------------------------------------------------------------------------------


def test_eval_of_both_targets_side_by_side(call, trained, tmp_path, real_pictures):
    cache = ("--cache", trained / "cache", "--device", "cpu")
    paths = [trained / target / "best.pt" for target in ("rgb", "labels")]
    out = succeed(call(eval, *paths, "--bgr", "--out", tmp_path / "both", *cache))
    assert "0.8369" in out and "0.5659" in out and "of the hair's pixels" in out
    names = {path.name for path in (tmp_path / "both").iterdir() if path.is_file()}
    assert names == {"final.csv", "per_class.csv", "confusion.png", "samples.png", "turquoise.png"}
    rows = list(csv.reader(open(tmp_path / "both" / "final.csv")))
    assert rows[0][1:5] == ["PSPNet, truncated, rgb", "PSPNet, truncated, rgb, as BGR", "PSPNet, truncated, labels",
                            "PSPNet, truncated, labels, as BGR"]  # fmt: skip
    for target in ("rgb", "labels"):
        results = json.loads((tmp_path / "both" / f"{target}-best" / "results.json").read_text())
        log = list(csv.DictReader(open(trained / target / "log.csv")))
        best = min(log, key=lambda row: float(row["test_loss"]))
        for name in ("loss", "f1", "accuracy", "class_iou"):  # as train.py logged it: both call the same evaluate()
            assert results[name] == pytest.approx(float(best[f"test_{name}"]), abs=1e-6)
        assert set(results["per_class"]) == set(CLASSES) and np.sum(results["confusion"]) == 6 * 32 * 32
        swapped = json.loads((tmp_path / "both" / f"{target}-best" / "results-bgr.json").read_text())
        assert "f1" not in swapped and "positive_share" not in swapped
    # of classes (the last of the two), each becomes the one that is nearest its colour in the other order
    becomes, expected = to_classes(PALETTE[None, :, ::-1])[0][0], np.zeros((len(CLASSES), len(CLASSES)), int)
    np.add.at(expected.T, becomes, np.array(results["confusion"]).T)
    assert swapped["confusion"] == expected.tolist() != results["confusion"]
    # without --bgr, nothing of the other order is left
    out = succeed(call(eval, *paths, "--out", tmp_path / "both", *cache))
    assert "hair's pixels" not in out and "turquoise" not in out
    assert {path.name for path in (tmp_path / "both").iterdir() if path.is_file()} == names - {"turquoise.png"}
    for target in ("rgb", "labels"):
        assert [path.name for path in (tmp_path / "both" / f"{target}-best").iterdir()] == ["results.json"]


def test_eval_of_the_images_that_were_trained_on(call, trained, shipped):
    """24 of the 30, which the test's 6 are not among; the bare command writes beside the checkpoint."""
    best = trained / "labels" / "best.pt"
    out = succeed(call(eval, best, "--split", "train", "--cache", trained / "cache", "--device", "cpu"))
    assert "split train, 24 images" in out
    results = json.loads((trained / "labels" / "best-train" / "results.json").read_text())
    keys = torch.load(best, weights_only=True)["split"]["train"]
    labels = {row["image"]: row["label"] for row in csv.DictReader(open(shipped / "manifest.csv"))}
    samples = [dataset.Sample(key, shipped / key, shipped / labels[key], None, "", "") for key in keys]
    truth = np.stack([dataset.decode(sample, 32)["labels"] for sample in samples])
    pixels = np.bincount(truth.ravel(), minlength=len(CLASSES))
    assert results["n"] == 24 and [of["support"] for of in results["per_class"].values()] == pixels.tolist()
    positive = np.mean(PALETTE[truth] > 0)
    assert results["positive_share"] == pytest.approx(positive)
    rows = {row[0]: row[1] for row in csv.reader(open(trained / "labels" / "best-train" / "final.csv"))}
    assert rows["channel-pixels that are positive"] == f"{positive:.4f}"
    assert rows["F1 of calling all positive"] == f"{2 * positive / (1 + positive):.4f}"


def test_eval_on_other_faces_and_its_refusals(call, faces, trained, tmp_path):
    cache = ("--cache", tmp_path / "cache", "--device", "cpu")
    best = trained / "labels" / "best.pt"
    succeed(call(eval, best, "--data", faces, "--split", "all", *cache))
    results = json.loads((best.parent / f"best-all-{faces.name}" / "results.json").read_text())
    assert results["n"] == 12 and "CelebAMask-HQ" in results["data"]
    assert results["per_class"]["teeth"]["support"] == 0
    saved = torch.load(best, weights_only=True)
    saved["args"]["limit"] = 5
    torch.save(saved, tmp_path / "limited.pt")
    out = succeed(call(eval, tmp_path / "limited.pt", "--split", "all", *cache))
    n = len(saved["split"]["train"]) + len(saved["split"]["test"])
    assert f"WAS TRAINED ON {len(saved['split']['train'])} OF THESE {n} IMAGES" in out
    assert "not those of the test split" in one_line_error(call(eval, best, "--data", faces, *cache))
    assert "no such checkpoint" in one_line_error(call(eval, tmp_path / "nothing.pt"))


# ---- Fairness ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def studio(shipped, tmp_path_factory):
    """A groups.csv beside copies of the pictures: 19 people, two photos each, in groups of 11 and 8."""
    folder = tmp_path_factory.mktemp("groups")
    rows = [["image", "label", "person", "group", "emotion"]]
    images = sorted((shipped / "samples").rglob("*.png"))
    for i, image in enumerate(images):
        pair = next(p for p in prepare.read_pairs(shipped)[0] if p.image == image.relative_to(shipped).as_posix())
        for name, source in ((f"{i}.png", image), (f"{i}_label.png", shipped / pair.label)):
            shutil.copy(source, folder / name)
        group, emotion = "north" if i < 22 else "south", "sad" if i % 2 else "happy"
        rows.append([f"{i}.png", f"{i}_label.png", f"p{i // 2}", group, emotion])
    with open(folder / "groups.csv", "w", newline="") as file:
        csv.writer(file, delimiter=";").writerows(rows)
    return folder


def test_fairness_with_labels_gives_tables_intervals_a_null_and_pictures(
    call, trained, studio, tmp_path, real_pictures
):
    paths = [trained / target / "best.pt" for target in ("rgb", "labels")]
    arguments = ("--groups", studio / "groups.csv", "--bootstrap", 200, "--permutations", 200, "--device", "cpu")
    by_emotion = ("--by", "emotion", "--classes", "face,hair")
    out = succeed(call(fairness, *paths, *arguments, *by_emotion, "--out", tmp_path / "a"))
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert names == {"grid.png", "scores.csv", "gaps.csv", "differences.csv", "scores.png", "null.png", "fairness.json"}
    assert "scored: hair, face" in out and "off the palette" not in out and "left out of all means" not in out
    assert "emotion differs between the photos of 19 of 19 people (first: p0)" in out
    report = json.loads((tmp_path / "a" / "fairness.json").read_text())
    assert [g["name"] for g in report["groups"]] == ["happy", "sad"] and report["groups"][0]["people"] == 19
    for model in report["models"].values():
        for score in ("iou_image", "iou_pooled", "f1_image", "f1_pooled"):
            values = model["scores"][score]
            for low, value, high in zip(values["low"], values["value"], values["high"], strict=True):
                assert low <= value <= high
            found = model["gaps"][score]
            assert found["gap"] == pytest.approx(abs(values["value"][0] - values["value"][1]))
    assert len(list(csv.reader(open(tmp_path / "a" / "scores.csv")))) == 5  # two models, two groups
    # by group, only one has ten people: shown, no gap
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    out = succeed(call(fairness, paths[1], *arguments, "--by", "group", "emotion", "--out", tmp_path / "b"))
    assert "north / happy" in out and "not ranked (under 10 people)" in out
    assert "group differs" not in out and "emotion differs between the photos of 11 of 11 people" in out
    # one model: the differences of two are of the run before
    assert {path.name for path in (tmp_path / "b").iterdir()} == names - {"differences.csv"}


def known(studio, rule, monkeypatch):
    """Predictions by a rule instead of a network's: rule(truth, number of the photo) -> prediction."""

    def predict_photos(model, photos, checkpoint, crop, *rest):
        pairs = [fairness.read_pair(photo, crop, checkpoint["args"]["size"]) for photo in photos]
        true = [label for _, label, _ in pairs]
        numbers = [int(photo.image.stem) for photo in photos]
        return [rule(t, n) for t, n in zip(true, numbers, strict=True)], true, sum(off for *_, off in pairs)

    monkeypatch.setattr(fairness, "predict_photos", predict_photos)


def test_fairness_where_the_scores_are_known(call, trained, studio, tmp_path, monkeypatch):
    """Happy photos, the even ones, are segmented without a fault, and in sad ones nothing is found."""
    known(studio, lambda true, number: true * (number % 2 == 0), monkeypatch)
    arguments = ("--groups", studio / "groups.csv", "--permutations", 200, "--device", "cpu", "--out", tmp_path)
    succeed(call(fairness, trained / "labels" / "best.pt", *arguments, "--by", "emotion", "--classes", "face,hair"))
    report = json.loads((tmp_path / "fairness.json").read_text())
    (model,) = report["models"].values()
    for score, found in model["gaps"].items():
        assert model["scores"][score]["value"] == [1, 0] and (found["best"], found["worst"]) == ("happy", "sad")
        assert (found["gap"], found["gap_low"], found["gap_high"]) == (1, 1, 1) and found["p"] == pytest.approx(1 / 201)
        assert found["equity_scaled"] == pytest.approx(found["overall"] / 2)  # both are as far from it as 1 is from 0
        assert 0 < found["null_median"] < 0.5
    assert model["gaps"]["iou_image"]["overall"] == pytest.approx(0.5)


def test_a_class_that_only_one_group_has_and_colours_off_the_palette(call, trained, studio, tmp_path, monkeypatch):
    """Two groups of 19 people, all segmented without a fault but for the hair, which the labels of one group lack."""
    known(studio, lambda true, number: np.where(true == CLASSES.index("hair"), 0, true), monkeypatch)
    rows = ["image,label,person,group"]
    for i in range(38):
        label = np.array(Image.open(studio / f"{i}_label.png"))
        shutil.copy(studio / f"{i}.png", tmp_path)
        if i % 2:
            label[(label == PALETTE[CLASSES.index("hair")]).all(-1)] = 0
        label[0, :3] = 9, 9, 9  # nearly black, which is the background
        Image.fromarray(label).save(tmp_path / f"{i}_label.png")
        rows.append(f"{i}.png,{i}_label.png,{i},{'bald' if i % 2 else 'haired'}")
    (tmp_path / "groups.csv").write_text("\n".join(rows))
    arguments = ("--groups", tmp_path / "groups.csv", "--classes", "face,nose,hair", "--out", tmp_path / "out")
    out = succeed(call(fairness, trained / "labels" / "best.pt", *arguments, "--permutations", 200, "--device", "cpu"))
    assert "note: 114 label pixels are off the palette" in out
    assert "note: hair: not in the labels of 10 people of every ranked group, so left out of all means" in out
    report = json.loads((tmp_path / "out" / "fairness.json").read_text())
    assert report["classes"] == ["nose", "hair", "face"] and report["left_out_of_means"] == ["hair"]
    (model,) = report["models"].values()
    assert model["scores"]["iou_image"]["value"] == [1, 1] and model["gaps"]["iou_image"]["p"] == 1
    assert model["scores"]["class_iou_image"]["value"] == [[1, None, 1], [1, 0, 1]]
    only = succeed(call(fairness, trained / "labels" / "best.pt", *arguments, "--classes", "hair", "--device", "cpu"))
    assert "no gap: no class is in the labels of 10 people of every ranked group" in only
    assert not (tmp_path / "out" / "null.png").exists()


def test_the_whole_photo_and_a_crop_are_scored_as_eval_scores_them(call, trained, studio, shipped, tmp_path):
    """TP, FP and FN of every class, summed over the photos of groups.csv, are those of eval.py's confusion matrix."""
    photos, _ = fairness.read_groups(studio / "groups.csv", ["group"])
    assert len(photos) == 38
    cpu, classes = torch.device("cpu"), list(range(len(CLASSES)))
    model, checkpoint = eval.load_model(trained / "labels" / "best.pt", cpu)
    whole = [0.0, 0.0, 1.0, 1.0]
    predicted, true, off = fairness.predict_photos(for_inference(model, False), photos, checkpoint, whole, cpu, False)
    counts = sum(fairness.count(p, t, classes) for p, t in zip(predicted, true, strict=True))
    samples = [dataset.Sample(str(i), photo.image, photo.label, None, "", "") for i, photo in enumerate(photos)]
    data = dataset.LabelledFaces(samples, 32, tmp_path / "cache")
    confusion = eval.evaluate(model, loader(data, EvalBatches(38, 4), 0), cpu, False, "labels")["confusion"]
    assert off == 0 and confusion.sum() == 38 * 32 * 32
    # batches of another size may round a tie the other way
    assert np.abs(counts - counts_from_confusion(confusion)[:, :3].numpy()).max() <= 3
    image, label, _ = fairness.read_pair(photos[0], [0.25, 0.25, 0.75, 0.75], 24)
    centre = np.asarray(Image.open(photos[0].image))[12:36, 12:36]
    assert (image == centre).all() and (PALETTE[label] == np.asarray(Image.open(photos[0].label))[12:36, 12:36]).all()


def test_fairness_without_labels_draws_the_grid(call, trained, studio, tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()
    shutil.copy(studio / "0.png", folder / "a.png")
    shutil.copy(studio / "3.png", folder / "b.png")
    (tmp_path / "out").mkdir()
    for name in (*OF_LABELS, "mine.txt"):  # of a run with labels, and somebody's own
        (tmp_path / "out" / name).touch()
    (folder / "groups.csv").write_text("\ufeffimage,group,emotion\na.png,x,sad\nb.png,y,happy\n", encoding="utf-8")
    arguments = ("--groups", folder / "groups.csv", "--device", "cpu", "--out", tmp_path / "out")
    out = succeed(call(fairness, trained / "rgb" / "best.pt", *arguments))
    assert "none with a label" in out and "no column person" in out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"grid.png", "mine.txt"} and "mine.txt" not in out
    # a label of hair alone: nothing else can be scored, and who asks for it is told
    Image.new("RGB", (48, 48), (255, 255, 0)).save(folder / "label.png")
    (folder / "groups.csv").write_text("image,group,label\na.png,x,label.png\nb.png,y,\n")
    assert "scored: hair" in succeed(call(fairness, trained / "rgb" / "best.pt", *arguments))
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    error = one_line_error(call(fairness, trained / "rgb" / "best.pt", *arguments, "--classes", "hair,lips"))
    assert "no label holds lips" in error
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_the_simulation_runs_alone_and_in_seconds(call, tmp_path):
    out = succeed(call(fairness, "--simulate", "--out", tmp_path / "sim"))
    assert {path.name for path in (tmp_path / "sim").iterdir()} == {"power.csv", "power.png"}
    rows = list(csv.reader(open(tmp_path / "sim" / "power.csv")))
    assert [row[0] for row in rows[1:]] == ["3", "10", "30", "100"] and "standard deviation of 0.06" in out


@pytest.mark.parametrize(
    ("args", "named"),
    [
        ((), "give checkpoints and --groups FILE, or --simulate"),
        (("{best}",), "give checkpoints and --groups"),
        (("{best}", "--groups", "lost.csv"), "lost.csv: No such file"),
        (("{best}", "--groups", "{groups}", "--by", "skin"), "has no column skin"),
        (("{best}", "--groups", "{groups}", "--by", "group", "group"), "two different ones"),
        (("{best}", "--groups", "{groups}", "--columns", "mood"), "--columns mood"),
        (("{best}", "--groups", "{groups}", "--classes", "chin"), "no class 'chin'"),
        (("{best}", "--groups", "{groups}", "--crop", "0.5", "0", "0.5", "1"), "keeps nothing"),
        (("{best}", "--groups", "{groups}", "--bootstrap", "5"), "argument --bootstrap"),
    ],
)
def test_bad_arguments_of_fairness_are_one_clear_line(args, named, call, trained, studio):
    names = {"best": trained / "rgb" / "best.pt", "groups": studio / "groups.csv"}
    assert named in one_line_error(call(fairness, *(arg.format(**names) for arg in args)))


# ---- Own photos, the data set --------------------------------------------------------------------------------------


def test_predict_keeps_size_and_orientation_and_names_what_it_cannot_read(call, trained, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 70, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to see it upright
    picture.save(photos / "turned.jpg", exif=exif)
    picture.convert("L").save(photos / "grey.png")
    (photos / "bad.jpg").write_bytes(b"no picture")
    for target in ("rgb", "labels"):
        arguments = (trained / target / "best.pt", photos, "--out", tmp_path / target, "--device", "cpu")
        assert "bad.jpg" in one_line_error(call(predict, *arguments))
        assert Image.open(tmp_path / target / "grey_label.png").size == (70, 300)
        label = Image.open(tmp_path / target / "turned_label.png")
        assert label.size == (300, 70) and label.mode == "P" and np.asarray(label).max() <= 10
        assert label.getpalette()[:6] == PALETTE[:2].ravel().tolist()
        assert (tmp_path / target / "turned_overlay.png").exists()


def test_a_photo_of_the_networks_size_is_segmented_as_in_training(trained, shipped):
    model, _ = eval.load_model(trained / "labels" / "best.pt", torch.device("cpu"))
    photo = Image.open(shipped / "samples" / "real" / "0000.png").resize((32, 32))
    found = predict.segment(model, photo, 32, "labels", torch.device("cpu"), False)
    images = torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None]
    assert (found == eval.predict(model, images, torch.device("cpu"), False).argmax(1)[0].numpy()).all()
    larger = predict.segment(model, photo.resize((64, 600)), 32, "labels", torch.device("cpu"), False)
    assert larger.shape == (600, 64)


def test_dataset_and_prepare_describe_a_folder(call, shipped, faces, tmp_path, monkeypatch, real_pictures):
    out = succeed(call(dataset, "--data", shipped, "--size", 32, "--out", tmp_path / "figures"))
    assert "30 images of 3 known people" in out and "0 label pixels in none" in out
    assert next(line for line in out.splitlines() if line.startswith("nose")).split()[1] == "30"
    assert (tmp_path / "figures" / "samples.png").exists()
    assert "12 images of 0 known people" in succeed(call(dataset, "--data", faces, "--size", 32, "--out", tmp_path))
    manifest = tmp_path / "new" / "list.csv"
    out = succeed(call(prepare, "--data", shipped, "--distance", 6, "--manifest", manifest, "--out", tmp_path / "p"))
    assert "subsample" in out and manifest.read_text() == (shipped / "manifest.csv").read_text()
    assert out.endswith(f"counts.csv, dropped.csv, dropped.png -> {tmp_path / 'p'}\n")
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    error = one_line_error(call(prepare, "--data", shipped))
    assert f"{shipped / 'manifest.csv'}: cannot be written; give --manifest FILE" in error
    monkeypatch.undo()
    nowhere = tmp_path / "empty"
    nowhere.mkdir()
    assert "looked for training.xml" in one_line_error(call(prepare, "--data", nowhere))


def test_dataset_names_every_bad_file(call, shipped, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(shipped, folder)
    chosen = [row for row in csv.DictReader(open(folder / "manifest.csv"))]
    (folder / chosen[0]["image"]).write_bytes(b"no picture")
    Image.new("RGB", (48, 30)).save(folder / chosen[5]["label"])
    result = call(dataset, "--data", folder, "--size", 32, "--out", tmp_path / "figures")
    assert result.returncode == 2 and f"{chosen[0]['image']}: cannot be read" in result.stdout
    assert f"{chosen[5]['label']}: is 48 x 30 px" in result.stdout
    out = ("--out", tmp_path / "r", "--cache", tmp_path / "c")
    error = one_line_error(call(train, "--data", folder, *SMALL, *TINY, *out))
    assert ("cannot be read" in error or "48 x 30 px" in error) and not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (("--data", "nowhere"), "nowhere: no such folder"),
        (("--data", "{data}", "--manifest", "lost.csv"), "lost.csv: no such file"),
        (("--data", "{data}", "--size", "100"), "--size 100 must be a multiple of 8"),
        (("--data", "{data}", "--limit", "2"), "cannot be split 80/20"),
        (("--data", "{faces}", "--manifest", "{data}/manifest.csv"), "is CelebAMask-HQ, which has none"),
        (("--data", "{faces}", "--split", "person"), "nobody is known by name"),
        (("--data", "{data}", "--truncated"), "--truncated is for --model pspnet"),
        (("--data", "{data}", *SMALL, "--aux", "0.4"), "sits on layer3"),
        (("--data", "{data}", "--target", "bgr"), "argument --target"),
        (("--data", "{data}", *SMALL, "--weights", "lost.pth"), "lost.pth: no such file"),
        (("--data", "{data}", "--lr", "nan"), "argument --lr"),
        (("--resume", "missing.pt"), "missing.pt: no such checkpoint"),
        (("--resume", "{other}"), "a checkpoint of hair_transfer, not of mut1ny_fairness"),
        (("--resume", "{run}/best.pt"), "would overwrite the later epochs"),
        (("--resume", "{run}/last.pt", "--target", "labels"), "--target labels differs from rgb"),
        (("--resume", "{run}/last.pt", "--data", "{faces}"), "not the images and labels that"),
        (("--data", "{data}", *SMALL, "--weights", "none", "--out", "{run}"), "already holds a run"),
    ],
)
def test_bad_arguments_of_train_are_one_clear_line(args, named, call, shipped, faces, trained, tmp_path):
    torch.save({"paper": "hair_transfer"}, tmp_path / "other.pt")
    names = {"data": shipped, "faces": faces, "other": tmp_path / "other.pt", "run": trained / "rgb"}
    arguments = [arg.format(**names) for arg in args]
    if "--size" not in args and "--resume" not in args:
        arguments += ["--size", 32]
    assert named in one_line_error(call(train, *arguments, "--cache", trained / "cache", "--device", "cpu"))


def test_a_path_that_leaves_the_folder_stops_training_in_one_line(call, shipped, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(shipped, folder, ignore=shutil.ignore_patterns("manifest.csv"))
    xml = (folder / "training.xml").read_text().replace("samples\\real\\0000.png", "..\\..\\secret.png")
    (folder / "training.xml").write_text(xml)
    assert "leaves" in one_line_error(call(train, "--data", folder, *SMALL, *TINY, "--out", tmp_path / "run"))
    assert not (folder / "manifest.csv").exists() and not (tmp_path / "run").exists()


def test_help_names_every_flag_and_its_source(call):
    out = succeed(call(train, "--help"))
    for flag in ("--manifest", "--split", "--target", "--bgr", "--model", "--truncated", "--aux", "--weights"):
        assert flag in out
    assert out.count("Sec. III") >= 8 and "ours" in out and str(ROOT) not in out

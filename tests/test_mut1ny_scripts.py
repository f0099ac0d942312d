"""mut1ny_fairness as its users run it, in this process, with a small PSPNet on a cut encoder at 32 px."""

import csv
import json
import os
import shutil
import sys

import numpy as np
import pytest
import torch
from conftest import leave_out_pictures, one_line_error, succeed
from PIL import Image
from trainings import make_networks_small

from common.metrics import counts_from_confusion
from common.run import load_checkpoint
from mut1ny_fairness import dataset, eval, fairness, generate, predict, prepare, train
from mut1ny_fairness.palette import CLASSES, PALETTE
from mut1ny_fairness.scores import ROWS

SMALL = ("--model", "pspnet", "--truncated")
TINY = ("--size", 32, "--device", "cpu", "--amp", "off", "--weights", "none")
pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture(scope="module", autouse=True)
def small():
    with pytest.MonkeyPatch.context() as patch:
        make_networks_small("mut1ny_fairness", patch.setattr)
        yield


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """Generated pictures of 48 px in Mut1ny's layout, prepared: 50 in the manifest."""
    folder = generate.write_mut1ny(tmp_path_factory.mktemp("data") / "mut1ny", size=48)
    prepare.prepare(folder, folder / "manifest.csv", distance=2)
    return folder


@pytest.fixture(scope="module")
def trained(small, shipped, tmp_path_factory):
    """Two runs of two epochs: folder with rgb/ and labels/."""
    out = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        leave_out_pictures(patch.setattr)
        patch.setattr(os, "fsync", lambda descriptor: None)
        for target in ("rgb", "labels"):
            flags = ("--target", target, "--epochs", 2, "--lr", 0.01, "--batch-size", 2, *SMALL, *TINY)
            folders = ("--data", shipped, "--out", out / target, "--cache", out / "cache")
            patch.setattr(sys, "argv", list(map(str, (train.__file__, *folders, *flags))))
            train.main()
    return out


def rows_of(path) -> list[dict[str, str]]:
    return list(csv.DictReader(open(path)))


def read(path) -> dict:
    return json.loads(path.read_text())


def files_in(folder) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_file()}


# ---- Training ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["rgb", "labels"])
def test_a_run_folder_holds_what_the_readme_says(trained, target):
    run = trained / target
    assert files_in(run) == {"last.pt", "best.pt", "log.csv", "curves.png", "samples.png", "run.json"}
    rows, split = rows_of(run / "log.csv"), read(run / "run.json")["split"]
    assert set(rows[0]) == {"epoch", "seconds", *ROWS, *(f"test_{name}" for name in ROWS)} and len(rows) == 2
    assert len(set(split["train"])) == 40 and len(set(split["test"]) - set(split["train"])) == 10
    best, losses = load_checkpoint(run / "best.pt", "mut1ny_fairness"), [float(row["test_loss"]) for row in rows]
    assert best["classes"] == list(CLASSES) and best["epoch"] == 1 + losses.index(min(losses))


def test_the_papers_deeplabv3_in_the_wrong_channel_order_and_split_by_person(call, shipped, trained, tmp_path):
    arguments = ("--data", shipped, "--bgr", "--split", "person", "--epochs", 1, "--batch-size", 12)
    out = succeed(call(train, *arguments, "--out", tmp_path / "run", *TINY, "--size", 16, "--cache", trained / "cache"))
    assert "DeepLabV3, rgb (labels read as BGR)" in out and "split by person" in out
    saved = load_checkpoint(tmp_path / "run" / "last.pt", "mut1ny_fairness")
    people = {row["image"]: row["person"] for row in rows_of(shipped / "manifest.csv")}
    sides = [{people[one.split(":")[0]] for one in saved["split"][side]} - {""} for side in ("train", "test")]
    assert sides[0] and not sides[0] & sides[1]
    succeed(call(eval, tmp_path / "run" / "best.pt", "--bgr", "--device", "cpu", "--cache", trained / "cache"))
    results = [read(tmp_path / "run" / "best-test" / f"results{x}.json") for x in ("", "-bgr")]
    assert results[0]["loss"] == pytest.approx(saved["log"][0]["test_loss"], abs=1e-6)
    assert [r["read_bgr"] for r in results] == [False, True]
    assert "f1" in results[0] and "f1" not in results[1]  # channel-pixels are counted of the outputs as they are


def test_the_bare_command_paints_and_prepares_and_says_so(call, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "HERE", tmp_path)
    monkeypatch.setattr(generate.write_mut1ny, "__defaults__", (32,))
    out = succeed(call(train, "--epochs", 1, "--cache", tmp_path / "cache", "--out", tmp_path / "run", *SMALL, *TINY))
    assert "running prepare.py's steps" in out and "GENERATED" in out and (tmp_path / "run" / "best.pt").is_file()


# ---- Evaluation ----------------------------------------------------------------------------------------------------


def test_eval_of_both_targets_side_by_side(call, trained, tmp_path, real_pictures):
    cache, both = ("--cache", trained / "cache", "--device", "cpu"), tmp_path / "both"
    paths = [trained / target / "best.pt" for target in ("rgb", "labels")]
    out = succeed(call(eval, *paths, "--bgr", "--out", both, *cache))
    assert "0.8369" in out and "0.5659" in out and "of the hair's pixels" in out
    assert files_in(both) == {"final.csv", "per_class.csv", "samples.png", "turquoise.png"}
    titles = ["PSPNet, truncated, rgb", "PSPNet, truncated, labels"]
    expected = [f"{title}{more}" for title in titles for more in ("", ", as BGR")]
    assert list(rows_of(both / "final.csv")[0])[1:5] == expected
    for target in ("rgb", "labels"):
        results = read(both / f"{target}-best" / "results.json")
        best = min(rows_of(trained / target / "log.csv"), key=lambda row: float(row["test_loss"]))
        for name in ROWS:  # as train.py logged it: both call the same evaluate()
            assert results[name] == pytest.approx(float(best[f"test_{name}"]), abs=1e-6)
        assert set(results["per_class"]) == set(CLASSES) and np.sum(results["confusion"]) == 10 * 32 * 32


def test_eval_says_what_was_trained_on_and_refuses_a_test_on_other_faces(call, trained, shipped, faces, tmp_path):
    """40 of the 50, which the test's 10 are not among; the bare command writes beside the checkpoint."""
    best, cache = trained / "labels" / "best.pt", ("--cache", tmp_path / "cache", "--device", "cpu")
    out = succeed(call(eval, best, "--split", "train", *cache))
    assert "split train, 40 images" in out and "WAS TRAINED ON 40 OF THESE 40 IMAGES" in out
    results = read(best.parent / "best-train" / "results.json")
    trained_on = load_checkpoint(best, "mut1ny_fairness")["split"]["train"]
    samples = [sample for sample in dataset.list_samples(str(shipped))[0] if sample.identity in trained_on]
    truth = np.stack([dataset.decode(sample, 32)["labels"] for sample in samples])
    pixels = np.bincount(truth.ravel(), minlength=len(CLASSES))
    assert [of["support"] for of in results["per_class"].values()] == pixels.tolist()
    assert results["positive_share"] == pytest.approx(np.mean(PALETTE[truth] > 0))
    assert "WAS TRAINED ON 40 OF THESE 50 IMAGES" in succeed(call(eval, best, "--split", "all", *cache))
    assert "10 of the checkpoint's 10 pictures are missing" in one_line_error(call(eval, best, "--data", faces, *cache))
    succeed(call(eval, best, "--data", faces, "--split", "all", *cache))
    results = read(best.parent / f"best-all-{faces.name}" / "results.json")
    assert results["n"] == 12 and results["per_class"]["teeth"]["support"] == 0


# ---- Fairness ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def studio(shipped, tmp_path_factory):
    """A groups.csv beside copies of the pictures: 19 people, two photos each, in groups of 11 and 8."""
    folder = tmp_path_factory.mktemp("groups")
    rows = [["image", "label", "person", "group", "emotion"]]
    for i, pair in enumerate(prepare.read_pairs(shipped)[0][:38]):
        shutil.copy(shipped / pair.image, folder / f"{i}.png")
        shutil.copy(shipped / pair.label, folder / f"{i}_label.png")
        group, emotion = "north" if i < 22 else "south", "sad" if i % 2 else "happy"
        rows.append([f"{i}.png", f"{i}_label.png", f"p{i // 2}", group, emotion])
    with open(folder / "groups.csv", "w", newline="") as file:
        csv.writer(file, delimiter=";").writerows(rows)
    return folder


def test_fairness_with_labels_gives_tables_and_pictures(call, trained, studio, tmp_path, real_pictures):
    paths = [trained / target / "best.pt" for target in ("rgb", "labels")]
    arguments = ("--groups", studio / "groups.csv", "--device", "cpu", "--out", tmp_path / "a")
    out = succeed(call(fairness, *paths, *arguments, "--by", "Emotion", "--classes", "face,hair"))
    assert files_in(tmp_path / "a") == {"grid.png", *fairness.OF_LABELS}
    assert "scored: hair, face" in out and "off the palette" not in out and "left out of all means" not in out
    assert "emotion differs between the photos of 19 people (first: p0)" in out
    report = read(tmp_path / "a" / "fairness.json")
    overall = [model["gaps"]["iou_image"]["overall"] for model in report["models"].values()]
    assert out.count("finds almost nothing (mean IoU") == sum(score < 0.1 for score in overall)
    assert [g["name"] for g in report["groups"]] == ["happy", "sad"] and report["groups"][0]["people"] == 19
    a, b = (model["scores"]["iou_image"]["value"] for model in report["models"].values())
    (minus,) = report["first_minus"].values()
    assert minus["iou_image"]["value"] == pytest.approx(np.subtract(a, b).tolist())
    assert len(rows_of(tmp_path / "a" / "scores.csv")) == 4  # two models, two groups
    photos, _ = fairness.read_groups(studio / "groups.csv", ["emotion"])
    _, counts, _ = fairness.predict_photos(eval.load(paths[1], "cpu"), photos, dataset.WHOLE)
    of_happy = counts[[photo.row["emotion"] == "happy" for photo in photos]].sum(0)
    tp, fp, fn = of_happy[[CLASSES.index("hair"), CLASSES.index("face")]].T.astype(float)
    pooled = [*report["models"].values()][1]["scores"]["iou_pooled"]["value"]
    assert pooled[0] == pytest.approx((tp / (tp + fp + fn)).mean()) and pooled[0] != pytest.approx(pooled[1])


def test_the_whole_photo_and_a_crop_are_scored_as_eval_scores_them(trained, studio, tmp_path):
    """TP, FP and FN of every class, summed over the photos of groups.csv, are those of eval.py's confusion matrix."""
    photos, _ = fairness.read_groups(studio / "groups.csv", ["group"])
    network = eval.load(trained / "labels" / "best.pt", "cpu")
    _, counts, off = fairness.predict_photos(network, photos, dataset.WHOLE)
    samples = [dataset.Sample(str(i), photo.image, photo.labels, "", "") for i, photo in enumerate(photos)]
    data = dataset.LabelledFaces(dataset.load(samples, 32, tmp_path / "cache"), list(range(38)), samples)
    run = network.checkpoint["args"] | {"batch_size": 4}
    confusion = eval.evaluate(network.model, data, run, network.device, network.amp)["confusion"]
    assert off == 0 and confusion.sum() == 38 * 32 * 32
    # batches of another size may round a tie the other way
    assert np.abs(counts.sum(0) - counts_from_confusion(confusion)[:, :3].numpy()).max() <= 3
    cut = dataset.decode(photos[0], 24, [0.25, 0.25, 0.75, 0.75])
    for file, found in ((photos[0].image, cut["images"]), (photos[0].labels[""], PALETTE[cut["labels"]])):
        assert (found == np.asarray(Image.open(file))[12:36, 12:36]).all()


def test_fairness_without_labels_draws_the_grid(call, trained, studio, tmp_path):
    for name in ("0.png", "3.png"):
        shutil.copy(studio / name, tmp_path)
    (tmp_path / "groups.csv").write_text("\ufeffimage,group,emotion\n0.png,Sø,sad\n3.png,Ö,happy\n", encoding="utf-8")
    given = (trained / "rgb" / "best.pt", "--groups", tmp_path / "groups.csv", "--device", "cpu")
    out = succeed(call(fairness, *given, "--out", tmp_path / "out"))
    assert "none with a label" in out and "no column person" in out
    assert files_in(tmp_path / "out") == {"grid.png"}


def test_the_simulation_runs_alone_and_in_seconds(call, tmp_path, monkeypatch):
    monkeypatch.setattr(fairness, "SIMULATED", (3, 10))
    out = succeed(call(fairness, "--simulate", "--out", tmp_path / "sim"))
    assert files_in(tmp_path / "sim") == {"power.csv", "power.png"} and "standard deviation of 0.06" in out
    assert [row["people per group"] for row in rows_of(tmp_path / "sim" / "power.csv")] == ["3", "10"]


# ---- Own photos, the data set --------------------------------------------------------------------------------------


def test_predict_keeps_size_and_orientation_and_agrees_with_eval(call, trained, shipped, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to see it upright
    Image.new("RGB", (300, 70)).save(photos / "turned.jpg", exif=exif)
    small = Image.open(shipped / "samples" / "real" / "0000.png").resize((32, 32))
    small.save(photos / "small.png")
    path = trained / "labels" / "best.pt"
    succeed(call(predict, path, photos, "--out", tmp_path / "out", "--device", "cpu"))
    kinds = ("label", "overlay", "legend")
    assert files_in(tmp_path / "out") == {f"{name}_{kind}.png" for name in ("small", "turned") for kind in kinds}
    label = Image.open(tmp_path / "out" / "turned_label.png")
    assert label.size == (70, 300) and label.mode == "P" and label.getpalette()[:6] == PALETTE[:2].ravel().tolist()
    network = predict.load(path, "cpu")
    images = torch.from_numpy(np.array(small)).permute(2, 0, 1)[None]
    expected = eval.outputs(network.model, images, network.device, network.amp).argmax(1)[0].numpy()
    assert (np.asarray(Image.open(tmp_path / "out" / "small_label.png")) == expected).all()


def test_dataset_describes_a_folder_and_names_every_bad_file(call, shipped, tmp_path):
    folder = shutil.copytree(shipped, tmp_path / "data")
    arguments = ("--data", folder, "--out", tmp_path / "figures")
    out = succeed(call(dataset, *arguments))
    assert ": 50 images (" in out and "with 3 known people" in out and "0 label pixels in 0 images have none" in out
    chosen = rows_of(folder / "manifest.csv")
    (folder / chosen[0]["image"]).write_bytes(b"no picture")
    Image.new("RGB", (48, 30)).save(folder / chosen[5]["label"])
    result = call(dataset, *arguments)
    assert result.returncode == 2 and f"{chosen[0]['image']}: cannot be read" in result.stdout
    assert f"{chosen[5]['label']}: is 48 x 30 px" in result.stdout


@pytest.mark.parametrize(
    ("script", "args", "named"),
    [
        (train, "--data {data} --manifest lost.csv", "lost.csv: No such file"),
        (train, "--data {data} --truncated", "--truncated is for --model pspnet"),
        (train, "--data {data} --recipe ours --bgr", "--bgr: only the target rgb learns colours"),
        (fairness, "", "give checkpoints and --groups FILE, or --simulate"),
        (fairness, "{run}/best.pt --groups {groups} --by skin", "has no column skin"),
        (fairness, "{run}/best.pt --groups {groups} --classes chin", "'chin' is not of the classes background, eyes"),
        (fairness, "{run}/best.pt --groups {groups} --crop 0.5 0 0.5 1", "keeps nothing"),
    ],
)
def test_bad_arguments_are_one_clear_line(script, args, named, call, shipped, trained, studio):
    names = {"data": shipped, "run": trained / "rgb", "groups": studio / "groups.csv"}
    assert named in one_line_error(call(script, *(arg.format(**names) for arg in args.split()), "--device", "cpu"))

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
from mut1ny_fairness.fairness import OF_LABELS
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
    """Generated pictures of 48 px in Mut1ny's layout, prepared: 30 in the manifest."""
    folder = generate.write_mut1ny(tmp_path_factory.mktemp("data") / "mut1ny", size=48)
    prepare.prepare(folder, folder / "manifest.csv", distance=3)
    return folder


@pytest.fixture(scope="module")
def trained(small, shipped, tmp_path_factory):
    """Two runs of two epochs: folder with rgb/ and labels/."""
    out = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        leave_out_pictures(patch.setattr)
        patch.setattr(os, "fsync", lambda descriptor: None)
        for target in ("rgb", "labels"):
            flags = ["--target", target, "--epochs", 2, "--lr", 0.01, "--batch-size", 2]
            folders = ["--data", shipped, "--out", out / target, "--cache", out / "cache"]
            argv = [train.__file__, *folders, *flags, *SMALL, *TINY]
            patch.setattr(sys, "argv", list(map(str, argv)))
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
    assert len(set(split["train"])) == 24 and len(set(split["test"]) - set(split["train"])) == 6
    best, losses = load_checkpoint(run / "best.pt", "mut1ny_fairness"), [float(row["test_loss"]) for row in rows]
    assert best["classes"] == list(CLASSES) and best["epoch"] == 1 + losses.index(min(losses))


def test_the_papers_deeplabv3_with_an_auxiliary_head_and_the_wrong_channel_order(call, shipped, trained, tmp_path):
    arguments = ("--data", shipped, "--bgr", "--aux", 0.5, "--split", "person", "--epochs", 1, "--batch-size", 12)
    out = succeed(call(train, *arguments, "--out", tmp_path / "run", *TINY, "--size", 16, "--cache", trained / "cache"))
    assert "DeepLabV3, rgb (labels read as BGR)" in out and "split by person" in out
    saved = load_checkpoint(tmp_path / "run" / "last.pt", "mut1ny_fairness")
    assert "aux_classifier.4.bias" in saved["model"] and saved["args"]["bgr"] is True
    people = {row["image"]: row["person"] for row in rows_of(shipped / "manifest.csv")}
    sides = [{people[one.split(":")[0]] for one in saved["split"][side]} - {""} for side in ("train", "test")]
    assert sides[0] and not sides[0] & sides[1]
    succeed(call(eval, tmp_path / "run" / "best.pt", "--bgr", "--device", "cpu", "--cache", trained / "cache"))
    results = [read(tmp_path / "run" / "best-test" / f"results{x}.json") for x in ("", "-bgr")]
    assert results[0]["loss"] == pytest.approx(saved["log"][0]["test_loss"], abs=1e-6)
    assert [r["read_bgr"] for r in results] == [False, True]
    assert "f1" in results[0] and "f1" not in results[1]  # channel-pixels are counted of the outputs as they are


def test_batches_of_one_image_train(call, shipped, tmp_path):
    arguments = ("--data", shipped, "--limit", 5, "--epochs", 1, "--batch-size", 1, *SMALL, *TINY)
    out = succeed(call(train, *arguments, "--cache", tmp_path / "cache", "--out", tmp_path / "run"))
    assert "4 train, 1 test" in out and "nan" not in out


def test_the_bare_command_paints_and_prepares_and_says_so(call, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "HERE", tmp_path)
    monkeypatch.setattr(generate.write_mut1ny, "__defaults__", (32,))
    out = succeed(call(train, "--epochs", 1, "--cache", tmp_path / "cache", "--out", tmp_path / "run", *SMALL, *TINY))
    assert "running prepare.py's steps" in out and "GENERATED" in out and "25 train, 6 test" in out


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
        assert set(results["per_class"]) == set(CLASSES) and np.sum(results["confusion"]) == 6 * 32 * 32
    # without --bgr, nothing of the other order is left
    out = succeed(call(eval, *paths, "--out", both, *cache))
    assert "hair's pixels" not in out and files_in(both) == {"final.csv", "per_class.csv", "samples.png"}
    assert files_in(both / "labels-best") == files_in(both / "rgb-best") == {"results.json"}


def test_eval_of_the_images_that_were_trained_on(call, trained, shipped):
    """24 of the 30, which the test's 6 are not among; the bare command writes beside the checkpoint."""
    best = trained / "labels" / "best.pt"
    out = succeed(call(eval, best, "--split", "train", "--cache", trained / "cache", "--device", "cpu"))
    assert "split train, 24 images" in out and "WAS TRAINED ON 24 OF THESE 24 IMAGES" in out
    results = read(trained / "labels" / "best-train" / "results.json")
    trained_on = load_checkpoint(best, "mut1ny_fairness")["split"]["train"]
    samples = [sample for sample in dataset.list_samples(str(shipped))[0] if sample.identity in trained_on]
    truth = np.stack([dataset.decode(sample, 32)["labels"] for sample in samples])
    pixels = np.bincount(truth.ravel(), minlength=len(CLASSES))
    assert [of["support"] for of in results["per_class"].values()] == pixels.tolist()
    assert results["positive_share"] == pytest.approx(np.mean(PALETTE[truth] > 0))


def test_eval_on_other_faces_and_its_refusals(call, faces, trained, tmp_path):
    cache, best = ("--cache", tmp_path / "cache", "--device", "cpu"), trained / "labels" / "best.pt"
    succeed(call(eval, best, "--data", faces, "--split", "all", *cache))
    results = read(best.parent / f"best-all-{faces.name}" / "results.json")
    assert results["n"] == 12 and "CelebAMask-HQ" in results["data"]
    assert results["per_class"]["teeth"]["support"] == 0
    out = succeed(call(eval, best, "--split", "all", *cache))
    assert "WAS TRAINED ON 24 OF THESE 30 IMAGES" in out
    assert "6 of the checkpoint's 6 pictures are missing" in one_line_error(call(eval, best, "--data", faces, *cache))


# ---- Fairness ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def studio(shipped, tmp_path_factory):
    """A groups.csv beside copies of the pictures: 19 people, two photos each, in groups of 11 and 8."""
    folder = tmp_path_factory.mktemp("groups")
    rows = [["image", "label", "person", "group", "emotion"]]
    for i, pair in enumerate(prepare.read_pairs(shipped)[0]):
        shutil.copy(shipped / pair.image, folder / f"{i}.png")
        shutil.copy(shipped / pair.label, folder / f"{i}_label.png")
        group, emotion = "north" if i < 22 else "south", "sad" if i % 2 else "happy"
        rows.append([f"{i}.png", f"{i}_label.png", f"p{i // 2}", group, emotion])
    with open(folder / "groups.csv", "w", newline="") as file:
        csv.writer(file, delimiter=";").writerows(rows)
    return folder


def test_fairness_with_labels_gives_tables_and_pictures(call, trained, studio, tmp_path, real_pictures):
    paths = [trained / target / "best.pt" for target in ("rgb", "labels")]
    arguments = ("--groups", studio / "groups.csv", "--bootstrap", 200, "--permutations", 200, "--device", "cpu")
    arguments += ("--out", tmp_path / "a")
    out = succeed(call(fairness, *paths, *arguments, "--by", "Emotion", "--classes", "face,hair"))
    assert files_in(tmp_path / "a") == {"grid.png", *OF_LABELS}
    assert "scored: hair, face" in out and "off the palette" not in out and "left out of all means" not in out
    assert "emotion differs between the photos of 19 of 19 people (first: p0)" in out
    report = read(tmp_path / "a" / "fairness.json")
    assert [g["name"] for g in report["groups"]] == ["happy", "sad"] and report["groups"][0]["people"] == 19
    a, b = (model["scores"]["iou_image"]["value"] for model in report["models"].values())
    (minus,) = report["first_minus"].values()
    assert minus["iou_image"]["value"] == pytest.approx(np.subtract(a, b).tolist())
    assert len(rows_of(tmp_path / "a" / "scores.csv")) == 4  # two models, two groups
    # by group, only one has ten people: shown, no gap
    out = succeed(call(fairness, paths[1], *arguments, "--by", "group", "emotion", "--classes", "face"))
    assert "north / happy" in out and "not ranked (under 10 people)" in out
    assert "group differs" not in out and "emotion differs between the photos of 11 of 11 people" in out
    # one model: the differences of two are of the run before
    assert files_in(tmp_path / "a") == {"grid.png", *OF_LABELS} - {"differences.csv"}


def test_scores_that_are_known_a_class_that_only_one_group_has_and_colours_off_the_palette(
    call, trained, studio, tmp_path, monkeypatch
):
    """Two groups of 19 people, all segmented without a fault but for the hair, which the labels of one group lack."""

    def faultless(network, photos, crop):
        true, off = zip(*(fairness.read_pair(photo, crop, 32)[1:] for photo in photos), strict=True)
        return [np.where(label == CLASSES.index("hair"), 0, label) for label in true], true, sum(off)

    monkeypatch.setattr(fairness, "predict_photos", faultless)
    rows = ["image,label,person,group"]
    for i in range(38):
        label = np.array(Image.open(studio / f"{i}_label.png"))
        shutil.copy(studio / f"{i}.png", tmp_path)
        if i % 2:
            label[(label == PALETTE[CLASSES.index("hair")]).all(-1)] = 0
        label[0, :3] = 9, 9, 9  # nearly black, which is the background
        Image.fromarray(label).save(tmp_path / f"{i}_label.png")
        rows.append(f"{i}.png,{i}_label.png,{i},{'bald' if i % 2 else '毛'}")
    (tmp_path / "groups.csv").write_text("\n".join(rows), encoding="utf-8")
    arguments = ("--groups", tmp_path / "groups.csv", "--permutations", 200, "--device", "cpu", "--out", tmp_path)
    out = succeed(call(fairness, trained / "labels" / "best.pt", *arguments, "--classes", "face,nose,hair"))
    assert "note: 114 label pixels are off the palette" in out
    assert "note: hair: not in the labels of 10 people of every ranked group, so left out of all means" in out
    report = read(tmp_path / "fairness.json")
    assert report["classes"] == ["nose", "hair", "face"] and report["left_out_of_means"] == ["hair"]
    (model,) = report["models"].values()
    assert model["scores"]["iou_image"]["value"] == [1, 1] and model["gaps"]["iou_image"]["p"] == 1
    assert model["scores"]["class_iou_image"]["value"] == [[1, None, 1], [1, 0, 1]]
    only = succeed(call(fairness, trained / "labels" / "best.pt", *arguments, "--classes", "hair"))
    assert "no gap: no class is in the labels of 10 people of every ranked group" in only
    assert not (tmp_path / "null.png").exists()


def test_the_whole_photo_and_a_crop_are_scored_as_eval_scores_them(trained, studio, tmp_path):
    """TP, FP and FN of every class, summed over the photos of groups.csv, are those of eval.py's confusion matrix."""
    photos, _ = fairness.read_groups(studio / "groups.csv", ["group"])
    network = eval.load(trained / "labels" / "best.pt", "cpu")
    predicted, true, off = fairness.predict_photos(network, photos, [0.0, 0.0, 1.0, 1.0])
    counts = sum(fairness.count(p, t) for p, t in zip(predicted, true, strict=True))
    samples = [dataset.Sample(str(i), photo.image, {"": photo.label}, "", "") for i, photo in enumerate(photos)]
    data = dataset.LabelledFaces(dataset.load(samples, 32, tmp_path / "cache"), list(range(38)), samples)
    run = network.checkpoint["args"] | {"batch_size": 4}
    confusion = eval.evaluate(network.model, data, run, network.device, network.amp)["confusion"]
    assert off == 0 and confusion.sum() == 38 * 32 * 32
    # batches of another size may round a tie the other way
    assert np.abs(counts - counts_from_confusion(confusion)[:, :3].numpy()).max() <= 3
    image, label, _ = fairness.read_pair(photos[0], [0.25, 0.25, 0.75, 0.75], 24)
    centre = np.asarray(Image.open(photos[0].image))[12:36, 12:36]
    assert (image == centre).all() and (PALETTE[label] == np.asarray(Image.open(photos[0].label))[12:36, 12:36]).all()


def test_fairness_without_labels_draws_the_grid(call, trained, studio, tmp_path):
    folder, out_folder = tmp_path / "own", tmp_path / "out"
    for path in (folder, out_folder):
        path.mkdir()
    shutil.copy(studio / "0.png", folder / "a.png")
    shutil.copy(studio / "3.png", folder / "b.png")
    for name in (*OF_LABELS, "mine.txt"):  # of a run with labels, and somebody's own
        (out_folder / name).touch()
    (folder / "groups.csv").write_text("\ufeffimage,group,emotion\na.png,x,sad\nb.png,y,happy\n", encoding="utf-8")
    arguments = (trained / "rgb" / "best.pt", "--groups", folder / "groups.csv", "--device", "cpu", "--out", out_folder)
    out = succeed(call(fairness, *arguments))
    assert "none with a label" in out and "no column person" in out
    assert files_in(out_folder) == {"grid.png", "mine.txt"} and "mine.txt" not in out
    # a label of hair alone: nothing else can be scored, and who asks for it is told
    Image.new("RGB", (48, 48), (255, 255, 0)).save(folder / "label.png")
    (folder / "groups.csv").write_text("image,group,label\na.png,x,label.png\nb.png,y,\n")
    assert "scored: hair" in succeed(call(fairness, *arguments))
    before = {path: path.read_bytes() for path in out_folder.iterdir()}
    assert "no label holds lips" in one_line_error(call(fairness, *arguments, "--classes", "hair,lips"))
    assert {path: path.read_bytes() for path in out_folder.iterdir()} == before


def test_the_simulation_runs_alone_and_in_seconds(call, tmp_path, monkeypatch):
    monkeypatch.setattr(fairness, "SIMULATED", (3, 10))
    out = succeed(call(fairness, "--simulate", "--out", tmp_path / "sim"))
    assert files_in(tmp_path / "sim") == {"power.csv", "power.png"} and "standard deviation of 0.06" in out
    assert [row["people per group"] for row in rows_of(tmp_path / "sim" / "power.csv")] == ["3", "10"]


@pytest.mark.parametrize(
    ("args", "named"),
    [
        ("", "give checkpoints and --groups FILE, or --simulate"),
        ("{best} --groups lost.csv", "lost.csv: No such file"),
        ("{best} {best} --groups {groups}", "best.pt: is given twice"),
        ("{best} --groups {groups} --by skin", "has no column skin"),
        ("{best} --groups {groups} --by group group", "two different ones"),
        ("{best} --groups {groups} --columns mood", "--columns mood"),
        ("{best} --groups {groups} --classes chin", "no class 'chin'; they are background, eyes"),
        ("{best} --groups {groups} --crop 0.5 0 0.5 1", "keeps nothing"),
        ("{best} --groups {groups} --bootstrap 5", "argument --bootstrap"),
    ],
)
def test_bad_arguments_of_fairness_are_one_clear_line(args, named, call, trained, studio):
    names = {"best": trained / "rgb" / "best.pt", "groups": studio / "groups.csv"}
    assert named in one_line_error(call(fairness, *(arg.format(**names) for arg in args.split())))


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
        kinds = ("label", "overlay", "legend")
        assert files_in(tmp_path / target) == {f"{name}_{kind}.png" for name in ("grey", "turned") for kind in kinds}
        assert Image.open(tmp_path / target / "grey_label.png").size == (70, 300)
        label = Image.open(tmp_path / target / "turned_label.png")
        assert label.size == (300, 70) and label.mode == "P" and np.asarray(label).max() <= 10
        assert label.getpalette()[:6] == PALETTE[:2].ravel().tolist()


def test_a_photo_of_the_networks_size_is_segmented_as_in_training(trained, shipped):
    network = predict.load(trained / "labels" / "best.pt", "cpu")
    photo = Image.open(shipped / "samples" / "real" / "0000.png").resize((32, 32))
    images = torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None]
    expected = eval.outputs(network.model, images, network.device, network.amp).argmax(1)[0].numpy()
    assert (predict.predict(network, photo) == expected).all()
    assert predict.predict(network, photo.resize((64, 600))).shape == (600, 64)


def test_dataset_and_prepare_describe_a_folder_and_name_every_bad_file(call, shipped, faces, tmp_path):
    out = succeed(call(dataset, "--data", shipped, "--size", 32, "--out", tmp_path / "figures"))
    assert ": 30 images (" in out and "with 3 known people" in out and "0 label pixels in 0 images have none" in out
    assert next(line for line in out.splitlines() if line.startswith("nose")).split()[1] == "30"
    manifest = tmp_path / "new" / "list.csv"
    out = succeed(call(prepare, "--data", shipped, "--distance", 3, "--manifest", manifest, "--out", tmp_path / "p"))
    assert "subsample" in out and manifest.read_text() == (shipped / "manifest.csv").read_text()
    assert "needs no preparing" in one_line_error(call(prepare, "--data", faces))
    folder = shutil.copytree(shipped, tmp_path / "data")
    chosen = rows_of(folder / "manifest.csv")
    (folder / chosen[0]["image"]).write_bytes(b"no picture")
    Image.new("RGB", (48, 30)).save(folder / chosen[5]["label"])
    result = call(dataset, "--data", folder, "--size", 32, "--out", tmp_path / "figures")
    assert result.returncode == 2 and f"{chosen[0]['image']}: cannot be read" in result.stdout
    assert f"{chosen[5]['label']}: is 48 x 30 px" in result.stdout
    assert f"{chosen[0]['image']}: cannot be read" in one_line_error(call(prepare, "--data", folder))


@pytest.mark.parametrize(
    ("args", "named"),
    [
        ("--data {data} --manifest lost.csv", "lost.csv: no such file"),
        ("--data {data} --size 100", "--size 100 must be a multiple of 8, such as 104"),
        ("--data {data} --limit 2", "cannot be split 80/20"),
        ("--data {faces} --manifest {data}/manifest.csv", "is CelebAMask-HQ, which has none"),
        ("--data {faces} --split person", "nobody is known by name"),
        ("--data {data} --truncated", "--truncated is for --model pspnet"),
        ("--data {data} --model pspnet --truncated --aux 0.4", "sits on layer3"),
        ("--resume {run}/last.pt --target labels", "--target labels differs from rgb"),
        ("--resume {run}/last.pt --data {faces}", "not those that"),
    ],
)
def test_bad_arguments_of_train_are_one_clear_line(args, named, call, shipped, faces, trained):
    names = {"data": shipped, "faces": faces, "run": trained / "rgb"}
    arguments = [arg.format(**names) for arg in args.split()]
    assert named in one_line_error(call(train, *arguments, "--cache", trained / "cache", "--device", "cpu"))

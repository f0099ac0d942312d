"""hair_transfer as its users run it, on faces of 32 px and with a shallow ResNet; once as it is, from the shell."""

import csv
import json
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT, leave_out_pictures, one_line_error, succeed
from PIL import Image, ImageCms
from trainings import make_networks_small, write_small_script

from common.faces import write_celebamask
from hair_transfer import dataset, eval, recolor, train
from hair_transfer.weights import build_model

TINY = ("--size", 32, "--device", "cpu", "--workers", 0)
pytestmark = pytest.mark.usefixtures("no_pictures")
CHECKPOINTS = ("last.pt", "best.pt")  # large even so: removed as soon as they have served


@pytest.fixture(scope="module", autouse=True)
def shallow():
    """All that runs in this process has one block in each layer and a head of one convolution."""
    with pytest.MonkeyPatch.context() as patch:
        make_networks_small("hair_transfer", patch.setattr)
        yield


@pytest.fixture(scope="module")
def trained(shallow, faces, tmp_path_factory):
    """A run of two epochs at 32 px, in this process."""
    out = tmp_path_factory.mktemp("runs") / "two"
    argv, cache = sys.argv, out.parent / "cache"
    sys.argv = [train.__file__, "--data", faces, "--epochs", 2, "--lr", 0.001, "--out", out, "--cache", cache, *TINY]
    sys.argv = [str(arg) for arg in sys.argv]
    with pytest.MonkeyPatch.context() as patch:
        leave_out_pictures(patch.setattr)
        try:
            train.main()
        finally:
            sys.argv = argv
    yield out
    for name in CHECKPOINTS:
        (out / name).unlink()


@pytest.fixture(autouse=True)
def no_checkpoints_left(tmp_path):
    yield
    for path in tmp_path.rglob("*.pt"):
        path.unlink()


# ---- Training ------------------------------------------------------------------------------------------------------


def test_a_run_folder_holds_what_the_readme_says(trained):
    names = {path.name for path in trained.iterdir() if path.is_file()}
    assert names == {"last.pt", "best.pt", "log.csv", "curves.png", "samples.png", "run.json"}
    rows = list(csv.DictReader(open(trained / "log.csv")))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    scores = {"loss", "f1_01", "f1_05", "iou", "auroc", "batch_auroc"}
    assert set(rows[0]) == {"epoch", "seconds"} | scores | {f"test_{name}" for name in scores}
    assert all(0 <= float(row[name]) <= 1 for row in rows for name in row if name not in ("epoch", "seconds"))
    run = json.loads((trained / "run.json").read_text())
    assert run["weights"] == "random (--init random)" and run["arguments"]["lr"] == 0.001
    split = {name: {tuple(key) for key in run["split"][name]} for name in ("train", "test")}
    assert len(split["train"]) == 9 and len(split["test"]) == 3 and not split["train"] & split["test"]
    best = torch.load(trained / "best.pt", weights_only=True)
    losses = [float(row["test_loss"]) for row in rows]
    assert best["paper"] == "hair_transfer" and best["best"] == pytest.approx(min(losses))
    assert best["epoch"] == 1 + losses.index(min(losses)) and "optimizer" not in best


def test_first_and_last_lines_of_a_training_in_two_processes(script, faces, trained, tmp_path):
    write_small_script(tmp_path / "train.py", "hair_transfer", "train")
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    arguments = ("--data", faces, "--epochs", 1, "--lr", 0.001, "--out", "one", "--cache", trained.parent / "cache")
    out = succeed(script("train.py", *arguments, *TINY, root=tmp_path, launcher=launcher)).splitlines()
    assert [line.split()[0] for line in out[:6]] == ["command", "device", "data", "model", "weights", "out"]
    assert "2 process(es)" in out[1]
    assert "12 faces, 9 train, 3 test, hair" in out[2] and "DeepLabV3-ResNet101" in out[3] and "random" in out[4]
    assert out[-1].startswith("next") and out[-1].endswith("eval.py one/best.pt")


def test_test_faces_without_the_part_are_noted(call, faces, tmp_path):
    folder = shutil.copytree(faces, tmp_path / "faces")
    _, test = dataset.split(dataset.list_faces([folder]), 0)
    flags = ("--data", folder, "--epochs", 1, "--out", tmp_path / "run", "--cache", tmp_path / "cache", *TINY)
    for face in test:
        if face.mask:  # all black: no hair either
            Image.new("L", Image.open(face.mask).size).save(face.mask)
    out = succeed(call(train, *flags))
    assert "none of the test faces has hair: AUROC is nan, IoU and F1 are nan or 0" in out


def test_transfer_from_another_task_of_two_folders_with_tanh_and_the_auxiliary_head(call, faces, trained, tmp_path):
    source = ("--init", trained / "best.pt", "--data", faces, faces, "--part", "skin", "--output", "tanh", "--aux", 0.5)
    out = succeed(call(train, *source, "--limit", 14, "--epochs", 1, "--out", tmp_path / "run", *TINY))
    assert "hair_transfer on hair" in out and "itself from random" in out and "skin" in out
    saved = torch.load(tmp_path / "run" / "best.pt", weights_only=True, mmap=True)
    assert saved["args"]["lr"] == 1e-4 and "aux_classifier.4.bias" in saved["model"] and saved["classes"] == ["skin"]
    assert {root for root, _ in saved["split"]["train"] + saved["split"]["test"]} == {0, 1}
    out = succeed(call(eval, tmp_path / "run" / "best.pt", "--device", "cpu"))
    results = json.loads((tmp_path / "run" / "best-test" / "results.json").read_text())
    assert results["loss"] == pytest.approx(saved["best"], abs=1e-6) and set(results["per_class"]) == {"skin"}
    both = (tmp_path / "run" / "best.pt", trained / "best.pt", "--device", "cpu")
    assert "another part than" in one_line_error(call(eval, *both, "--data", faces, "--split", "all"))


def test_a_start_that_has_seen_the_test_faces_is_told_apart(faces, trained):
    learned = {id for _, id in torch.load(trained / "best.pt", weights_only=True, mmap=True)["split"]["train"]}
    found = dataset.list_faces([faces])
    args = SimpleNamespace(init=str(trained / "best.pt"), output="sigmoid", aux=0)
    _, source, _ = build_model(args, found)
    assert f"IT WAS TRAINED ON {len(learned)} OF THE {len(found)} TEST FACES" in source
    _, source, _ = build_model(args, [face for face in found if face.id not in learned])
    assert "TEST FACES" not in source


def test_what_a_start_had_seen_is_not_forgotten_on_the_way(call, faces, trained, tmp_path):
    """hair on X -> skin on Y -> hair on X: the second start was not trained on X, but what it started from was."""
    others = write_celebamask(tmp_path / "others", n=6, size=64, seed=700)
    arguments = ("--init", trained / "best.pt", "--part", "skin", "--data", others, "--out", tmp_path / "y")
    assert "TEST FACES" not in succeed(call(train, *arguments, "--epochs", 1, "--cache", tmp_path / "c", *TINY))
    before, after = (
        torch.load(path / "best.pt", weights_only=True, mmap=True)["trained_on"] for path in (trained, tmp_path / "y")
    )
    assert len(before) == 9 and len(after) == 9 + 5 and set(before) < set(after)
    args = SimpleNamespace(init=str(tmp_path / "y" / "best.pt"), output="sigmoid", aux=0)
    _, source, seen = build_model(args, dataset.list_faces([faces]))
    assert "IT WAS TRAINED ON 9 OF THE 12 TEST FACES" in source and seen == set(after)
    photo = tmp_path / "photo.jpg"
    shutil.copy(others / "CelebA-HQ-img" / "0.jpg", photo)
    error = one_line_error(call(recolor, tmp_path / "y" / "best.pt", photo, "--color", "teal", "--out", tmp_path / "o"))
    assert "y/best.pt: was trained to find skin, not hair" in error and not (tmp_path / "o").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_start_that_is_not_finite_is_refused_before_there_is_a_run(value, call, faces, trained, tmp_path):
    weights = torch.load(trained / "best.pt", weights_only=True)["model"]
    weights["backbone.layer4.0.conv3.weight"][0] = value
    torch.save(weights, tmp_path / "broken.pt")
    arguments = ("--init", tmp_path / "broken.pt", "--data", faces, "--out", tmp_path / "run", *TINY)
    error = one_line_error(call(train, *arguments, "--cache", trained.parent / "cache"))
    assert "broken.pt: its layer4.0.conv3.weight holds nan or inf" in error and not (tmp_path / "run").exists()


# ---- Evaluation ----------------------------------------------------------------------------------------------------


def test_eval_of_two_checkpoints_gives_table_numbers_figure_3_and_error_maps(call, trained, tmp_path, real_pictures):
    cache = ("--cache", trained.parent / "cache", "--device", "cpu")
    out = succeed(
        call(eval, trained / "last.pt", trained / "best.pt", "--error-map", "--out", tmp_path / "both", *cache)
    )
    assert "0.981631" in out and "(0.991447)" in out and "boundary F1" in out
    assert {path.name for path in (tmp_path / "both").iterdir() if path.is_file()} == {
        "table.csv",
        "figure3.png",
        "errors.png",
    }
    results = json.loads((tmp_path / "both" / "two-best" / "results.json").read_text())
    # the loss of the best epoch, as train.py logged it: both call the same evaluate()
    rows = list(csv.DictReader(open(trained / "log.csv")))
    best = min(rows, key=lambda row: float(row["test_loss"]))
    for name in ("loss", "f1_01", "iou", "auroc", "batch_auroc"):
        assert results[name] == pytest.approx(float(best[f"test_{name}"]), abs=1e-6)
    assert results["n"] == 3 and results["per_class"]["hair"]["iou"] == results["iou"]
    assert results["auroc_error"] < 0.01


def test_eval_on_all_faces_and_on_pairs_of_any_origin(call, faces, trained, tmp_path):
    cache = ("--cache", tmp_path / "cache", "--device", "cpu")
    out = succeed(call(eval, trained / "best.pt", "--data", faces, "--split", "all", *cache))
    results = json.loads((trained / f"best-all-{faces.name}" / "results.json").read_text())
    assert results["n"] == 12 and results["split"] == "all"
    assert "WAS TRAINED ON 9 OF THESE 12 FACES" in out
    saved = torch.load(trained / "best.pt", weights_only=True)
    saved["args"]["limit"] = 5
    torch.save(saved, tmp_path / "limited.pt")
    out = succeed(call(eval, tmp_path / "limited.pt", "--split", "all", *cache))
    assert "split all, 12 faces" in out
    for name in ("photos", "masks"):
        (tmp_path / "pairs" / name).mkdir(parents=True)
    Image.new("RGB", (60, 40), (90, 60, 30)).save(tmp_path / "pairs" / "photos" / "a.jpg")
    Image.new("L", (60, 40)).save(tmp_path / "pairs" / "masks" / "a.png")  # no hair at all
    out = succeed(call(eval, trained / "best.pt", "--pairs", tmp_path / "pairs", "--out", tmp_path / "out", *cache))
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["n"] == 1 and results["auroc"] is None and results["recall"] is None and "none" in out


def test_the_mean_mask_is_scored_as_a_network_is(call, faces, trained, tmp_path, real_pictures):
    cache = ("--cache", trained.parent / "cache", "--device", "cpu")
    out = succeed(call(eval, trained / "best.pt", "--mean-mask", "--error-map", "--out", tmp_path / "out", *cache))
    results = json.loads((tmp_path / "out" / "mean-mask" / "results.json").read_text())
    split = torch.load(trained / "best.pt", weights_only=True, mmap=True)["split"]
    masks = {face.id: np.unpackbits(dataset.decode(face, 32)["masks"], axis=-1) for face in dataset.list_faces([faces])}
    trains, tests = (np.stack([masks[id] for _, id in split[side]]) for side in ("train", "test"))
    mean = trains.mean(0)
    assert results["loss"] == pytest.approx(((tests - mean) ** 2).mean(), rel=1e-5)
    assert results["recall"] == pytest.approx((tests * (mean > 0.5)).sum() / tests.sum())
    assert (
        results["n"] == 3 and results["batch_size"] == 6 and "mean mask of the 9 training faces" in results["weights"]
    )
    assert "mean training mask" in out.split("score", 1)[1].splitlines()[0]
    header, *rows = csv.reader(open(tmp_path / "out" / "table.csv"))
    assert header[1:3] == [f"{trained.name}/best", "mean training mask"]
    assert dict(zip(header, rows[-1], strict=True))["mean training mask"] == f"{results['loss']:.6f}"
    others = write_celebamask(tmp_path / "others", n=3, size=64, seed=700)  # the mean stays that of the training faces
    succeed(call(eval, trained / "best.pt", "--out", tmp_path / "out", *cache))
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.*")) == ["figure3.png", "results.json", "table.csv"]
    arguments = ("--data", others, "--split", "all", "--mean-mask", "--out", tmp_path / "others-out")
    assert "mean training mask: of 9 faces" in succeed(call(eval, trained / "best.pt", *arguments, *cache))
    saved = torch.load(trained / "best.pt", weights_only=True)
    saved["args"]["data"] = ["nowhere"]  # as if the faces had moved
    torch.save(saved, tmp_path / "best.pt")
    arguments = ("--data", faces, "--split", "all", "--mean-mask", "--out", tmp_path / "moved-out")
    assert "mean training mask: of 9 faces" in succeed(call(eval, tmp_path / "best.pt", *arguments, *cache))
    arguments = ("--data", others, "--split", "all", "--mean-mask", "--out", tmp_path / "moved-out")
    error = one_line_error(call(eval, tmp_path / "best.pt", *arguments, *cache))
    assert "--mean-mask needs the faces that" in error and "nowhere: no such folder" in error


def test_a_run_on_a_folder_called_generated_is_one_on_real_photos(call, faces, tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "HERE", tmp_path)
    shutil.copytree(faces, tmp_path / "GENERATED faces")
    arguments = ("--data", tmp_path / "GENERATED faces", "--epochs", 1, "--lr", 0.001, "--cache", tmp_path / "cache")
    succeed(call(train, *arguments, "--limit", 6, *TINY))
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["random"]


def test_all_are_evaluated_in_the_first_ones_batches(call, trained, tmp_path):
    saved = torch.load(trained / "best.pt", weights_only=True)
    saved["args"]["batch_size"] = 2
    (tmp_path / "pairs").mkdir()
    torch.save(saved, tmp_path / "pairs" / "best.pt")
    both = [trained / "best.pt", tmp_path / "pairs" / "best.pt"]
    for first, second in (both, both[::-1]):
        out = succeed(call(eval, first, second, "--out", tmp_path / "out", "--cache", trained.parent / "cache"))
        sizes = {both[0]: 6, both[1]: 2}
        assert f"trained in batches of {sizes[second]}, is evaluated in the first one's of {sizes[first]}" in out
        found = [json.loads(path.read_text()) for path in (tmp_path / "out").rglob("results.json")]
        assert [r["batch_size"] for r in found] == 2 * [sizes[first]]
        assert found[0]["batch_auroc"] == found[1]["batch_auroc"]


def test_other_faces_or_masks_than_those_of_the_run_are_refused(call, faces, trained, tmp_path):
    """A mask that has changed is noticed by eval.py if it is a test face's, and by --resume in any case."""
    cache = ("--cache", trained.parent / "cache", "--device", "cpu")
    split = torch.load(trained / "best.pt", weights_only=True, mmap=True)["split"]
    for side in ("train", "test"):
        folder = tmp_path / side
        shutil.copytree(faces, folder)
        masks = folder / "CelebAMask-HQ-mask-anno" / "0"
        hairy = [masks / f"{id:05d}_hair.png" for _, id in split[side]]
        next(path for path in hairy if path.exists()).unlink()
        error = one_line_error(call(train, "--resume", trained / "last.pt", "--data", folder, *cache))
        assert f"{folder}: not the faces and masks that" in error
        flags = ("--mean-mask",) if side == "train" else ()
        error = one_line_error(call(eval, trained / "best.pt", "--data", folder, *flags, *cache))
        assert f"{folder}: its faces or masks are not those of the {side} split of" in error
    assert not (trained / "best-test").exists()


# ---- Changing the colour -------------------------------------------------------------------------------------------


def test_recolor_keeps_size_orientation_and_whatever_is_no_hair(call, trained, tmp_path, monkeypatch):
    photos = tmp_path / "photos"
    photos.mkdir()
    picture = np.full((120, 200, 3), (100, 70, 50), np.uint8)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to see it upright
    Image.fromarray(picture).save(photos / "turned.jpg", exif=exif)
    Image.fromarray(picture).save(photos / "plain.png", icc_profile=profile)
    (photos / "bad.jpg").write_bytes(b"no picture")

    def the_left_fifth(model, photo, *_):
        return np.repeat((np.arange(photo.width) < photo.width // 5)[None], photo.height, axis=0).astype(np.float32)

    monkeypatch.setattr(recolor, "predict", the_left_fifth)
    colors = ("--color", "blond", "#3050C0")
    result = call(recolor, trained / "best.pt", photos, *colors, "--out", tmp_path / "out", "--device", "cpu")
    assert "bad.jpg" in one_line_error(result) and "2 photo(s)" in result.stdout
    names = {f"{photo}_{what}.png" for photo in ("turned", "plain") for what in ("blond", "3050c0", "strip", "mask")}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    assert Image.open(tmp_path / "out" / "turned_blond.png").size == (120, 200)
    assert Image.open(tmp_path / "out" / "plain_strip.png").size == (600, 120)
    dyed = np.asarray(Image.open(tmp_path / "out" / "plain_3050c0.png"))
    assert Image.open(tmp_path / "out" / "plain_3050c0.png").info["icc_profile"] == profile
    assert (dyed[:, 60:] == picture[:, 60:]).all() and (dyed[:, :35] != picture[:, :35]).any(-1).all()


def test_recolor_with_the_network_itself(call, faces, trained, tmp_path):
    photo = faces / "CelebA-HQ-img" / "0.jpg"
    arguments = ("--color", "teal", "--strength", 0, "--out", tmp_path / "out", "--device", "cpu")
    succeed(call(recolor, trained / "best.pt", photo, *arguments))
    result = np.asarray(Image.open(tmp_path / "out" / "0_teal.png"))
    assert (result == np.asarray(Image.open(photo))).all()


class Red(torch.nn.Module):
    """A network's stand-in that takes what is red for hair."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(8.0))

    def forward(self, x):
        return self.weight * (x[:, :1] - 0.3)

    def activate(self, logits):
        return torch.sigmoid(logits)


def test_recolor_at_full_strength_changes_the_hair_and_nothing_else(call, tmp_path, monkeypatch):
    checkpoint = {"args": {"part": "hair", "size": 64, "amp": "off"}}
    monkeypatch.setattr(recolor, "load_model", lambda path, device: (Red(), checkpoint))
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 30, (200, 200, 4), dtype=np.uint8)
    picture[20:90, 60:140, 0] += 180
    Image.fromarray(picture, "RGBA").save(tmp_path / "red.png")
    Image.new("RGB", (50, 50)).save(tmp_path / "black.png")
    for name in ("red", "black"):
        arguments = ("--color", "teal", "--out", tmp_path / "out", "--device", "cpu")
        out = succeed(call(recolor, "best.pt", tmp_path / f"{name}.png", *arguments))
        assert ("no hair found, so left as they are: black" in out) == (name == "black")
    before, after = picture[..., :3], np.asarray(Image.open(tmp_path / "out" / "red_teal.png"))
    changed = (before != after).any(-1)
    assert changed[30:80, 70:130].all() and after[30:80, 70:130, 2].mean() > before[30:80, 70:130, 2].mean() + 20
    reach = 2 * int(recolor.REACH * 200 / 2) + 3  # and what the network's 64 px blur
    changed[20 - reach : 90 + reach, 60 - reach : 140 + reach] = False
    assert not changed.any()
    assert not np.asarray(Image.open(tmp_path / "out" / "black_teal.png")).any()


# ---- The data set --------------------------------------------------------------------------------------------------


def test_dataset_describes_folders_and_draws_their_figures(call, faces, tmp_path, real_pictures):
    folder = tmp_path / "faces"
    shutil.copytree(faces, folder)
    bald = sum(face.mask is None for face in dataset.list_faces([faces]))
    (folder / "CelebAMask-HQ-mask-anno" / "0" / "00000_hair.png").unlink()
    (folder / "CelebA-HQ-img" / "7.jpg").unlink()
    black = folder / "CelebAMask-HQ-mask-anno" / "0" / "00001_hair.png"
    Image.new("RGB", (64, 64)).save(black)
    out = succeed(call(dataset, "--data", faces, folder, "--size", 32, "--out", tmp_path / "figures"))
    assert f"23 faces, {2 * bald + 1} without hair" in out and "1 more whose mask is all black" in out
    assert f"{black}: all black, so this face counts as one without hair" in out
    assert "every photo and every mask can be read" in out
    assert "00007_hair.png: not used" in out
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"share.png", "samples.png"}


def test_dataset_names_every_bad_file(call, faces, tmp_path):
    folder = tmp_path / "faces"
    shutil.copytree(faces, folder)
    photo = folder / "CelebA-HQ-img" / "3.jpg"
    photo.write_bytes(photo.read_bytes()[:500])
    Image.new("RGB", (64, 64), (37, 37, 37)).save(folder / "CelebAMask-HQ-mask-anno" / "0" / "00004_hair.png")
    result = call(dataset, "--data", folder, "--size", 32, "--out", tmp_path / "figures")
    assert result.returncode == 2
    assert "3.jpg: cannot be read" in result.stdout and "00004_hair.png: has the value 37" in result.stdout


# ---- Bad input: one line that names the file and the remedy, exit code 2, nothing half-written -----------------------


def no_hair(folder):
    for path in folder.rglob("*_hair.png"):
        path.unlink()


def truncated_photo(folder):
    photo = folder / "CelebA-HQ-img" / "4.jpg"
    photo.write_bytes(photo.read_bytes()[:700])


def mask_of_another_shape(folder):
    Image.new("RGB", (40, 60)).save(folder / "CelebAMask-HQ-mask-anno" / "0" / "00004_hair.png")


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (no_hair, "none of its 12 faces has a mask NNNNN_hair.png"),
        (truncated_photo, "4.jpg: cannot be read"),
        (mask_of_another_shape, "00004_hair.png: is 40 x 60 px"),
    ],
)
def test_bad_data_is_one_clear_line(damage, named, call, faces, tmp_path):
    folder = tmp_path / "faces"
    shutil.copytree(faces, folder)
    damage(folder)
    arguments = ("--data", folder, "--epochs", 1, "--out", tmp_path / "run", "--cache", tmp_path / "cache", *TINY)
    assert named in one_line_error(call(train, *arguments))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (("--data", "nowhere"), "nowhere: no such folder"),
        (("--data", "{faces}", "--size", "100"), "--size 100 must be a multiple of 8"),
        (("--data", "{faces}", "--limit", "2"), "2 face(s) are too few"),
        (("--data", "{faces}", "--batch-size", "1"), "argument --batch-size"),
        (("--data", "{faces}", "--init", "lost.pth", "--size", "32"), "--init lost.pth: no such file"),
        (("--data", "{faces}", "--init", "{run}", "--size", "32"), "is a folder; give a file, such as the best.pt"),
        (("--data", "{faces}", "--output", "softmax"), "argument --output"),
        (("--data", "{faces}", "--weights", "none"), "--weights"),
        (("--resume", "missing.pt"), "missing.pt: no such checkpoint"),
        (("--resume", "{other}"), "a checkpoint of nu_deeplabv3plus, not of hair_transfer"),
        (("--resume", "{run}/best.pt"), "would overwrite the later epochs"),
        (("--resume", "{last}", "--lr", "0.5"), "--lr 0.5 differs from 0.001"),
        (("--resume", "{last}", "--init", "pretrained"), "--init pretrained differs from random"),
        (("--data", "{faces}", "--out", "{run}", "--size", "32"), "already holds a run"),
    ],
)
def test_bad_arguments_are_one_clear_line(args, named, call, faces, trained, tmp_path):
    other = tmp_path / "other.pt"
    torch.save({"paper": "nu_deeplabv3plus"}, other)
    names = {"faces": faces, "other": other, "last": trained / "last.pt", "run": trained}
    arguments = [arg.format(**names) for arg in args]
    assert named in one_line_error(call(train, *arguments, "--cache", trained.parent / "cache", "--device", "cpu"))


def test_pretrained_weights_that_cannot_be_had_stop_the_run(call, faces, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("common.weights._unreachable", lambda url: "no route to host")
    arguments = ("--data", faces, "--init", "pretrained", "--out", tmp_path / "run", *TINY)
    error = one_line_error(call(train, *arguments, "--cache", trained.parent / "cache"))
    assert "deeplabv3_resnet101_coco-586e9e4e.pth could not be had" in error and "--init random" in error
    assert not (tmp_path / "run").exists()


def test_other_scripts_refuse_in_one_line(call, trained, faces, tmp_path):
    photo = faces / "CelebA-HQ-img" / "0.jpg"
    assert "no such colour" in one_line_error(call(recolor, trained / "best.pt", photo, "--color", "hairy"))
    assert "give one of the two" in one_line_error(
        call(eval, trained / "best.pt", "--pairs", tmp_path, "--data", faces)
    )
    assert "--pairs and --split" in one_line_error(
        call(eval, trained / "best.pt", "--pairs", tmp_path, "--split", "all")
    )
    assert "nothing: no such checkpoint" in one_line_error(call(eval, tmp_path / "nothing"))


def test_help_names_every_flag_and_its_source(call):
    out = succeed(call(train, "--help"))
    for flag in ("--data", "--part", "--size", "--init", "--output", "--aux", "--epochs", "--batch-size", "--lr"):
        assert flag in out
    assert out.count("Sec. II") >= 8 and str(ROOT) not in out

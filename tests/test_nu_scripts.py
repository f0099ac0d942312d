"""nu_deeplabv3plus as its users run it: scripts as subprocesses, from another folder, on data in the real layout."""

import csv
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, leave_out_pictures, one_line_error, succeed
from PIL import Image
from trainings import make_networks_small

from common.cache import fingerprint
from common.celebamask import list_celebamask
from common.faces import PARTS, write_celebamask
from nu_deeplabv3plus import dataset, model, predict, train
from nu_deeplabv3plus import eval as evaluation
from nu_deeplabv3plus.train import EarlyStopping

TINY = ("--size", 32, "--weights", "none", "--device", "cpu", "--workers", 0)
TRAIN = "nu_deeplabv3plus/train.py"
REAL = {name: getattr(model, name) for name in ("ASPP", "Bottleneck")}
pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture(scope="module", autouse=True)
def small():
    """All that runs in this process has one convolution in the place of the ASPP and of each bottleneck."""
    with pytest.MonkeyPatch.context() as patch:
        make_networks_small("nu_deeplabv3plus", patch.setattr)
        yield


@pytest.fixture(scope="module")
def trained(small, faces, tmp_path_factory):
    """A run of two epochs at 32 px, in this process (two subprocess starts fewer)."""
    out = tmp_path_factory.mktemp("runs") / "two"
    argv, cache = sys.argv, out.parent / "cache"
    sys.argv = [TRAIN, "--data", faces, "--epochs", 2, "--out", out, "--cache", cache, *TINY]
    sys.argv = [str(arg) for arg in sys.argv]
    with pytest.MonkeyPatch.context() as patch:
        leave_out_pictures(patch.setattr)
        try:
            train.main()
        finally:
            sys.argv = argv
    return out


def test_a_run_folder_holds_what_the_readme_says(trained):
    names = {path.name for path in trained.iterdir()}
    assert names == {"last.pt", "best.pt", "log.csv", "curves.png", "samples.png", "run.json"}
    rows = list(csv.DictReader(open(trained / "log.csv")))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert all(np.isfinite(float(value)) for row in rows for value in row.values())
    run = json.loads((trained / "run.json").read_text())
    assert run["weights"].startswith("random") and run["environment"]["torch"] == torch.__version__
    assert not set(run["split"]["train"]) & set(run["split"]["val"])
    assert len(run["split"]["train"]) == 10 and len(run["split"]["val"]) == 2  # 80/20 of 12


def test_eval_writes_table_numbers_and_figures(call, trained, faces, real_pictures):
    out = succeed(call(evaluation, trained / "best.pt", "--cache", trained.parent / "cache", "--device", "cpu"))
    assert "mean, 18 parts" in out and "0.7255" in out
    folder = trained / "best-val"
    assert {p.name for p in folder.iterdir()} == {
        "results.json",
        "table1.csv",
        "figure6.png",
        "figure7.png",
        "figure8.png",
    }
    results = json.loads((folder / "results.json").read_text())
    assert results["n"] == 2 and set(results["per_class"]) == set(PARTS)
    # the loss of the best epoch, as train.py logged it: both call the same evaluate()
    losses = [float(row["val_loss"]) for row in csv.DictReader(open(trained / "log.csv"))]
    assert results["loss"] == pytest.approx(min(losses), abs=1e-6)
    rows = list(csv.reader(open(folder / "table1.csv")))
    assert [row[0] for row in rows[1:19]] == list(PARTS)
    shutil.rmtree(folder)


def test_eval_of_two_checkpoints_side_by_side_on_other_faces(call, trained, faces, tmp_path):
    args = ("--data", faces, "--split", "all", "--out", tmp_path / "both", "--cache", tmp_path / "cache")
    out = succeed(call(evaluation, trained / "best.pt", trained / "last.pt", *args))
    assert "IoU side by side" in out and "TRAINED ON 10 OF ITS 12 FACES" in out
    for name in ("two-best", "two-last"):
        assert json.loads((tmp_path / "both" / name / "results.json").read_text())["n"] == 12
    assert (tmp_path / "both" / "comparison.csv").exists()
    succeed(call(evaluation, trained / "best.pt", "--data", faces, *args[2:4], *args[6:]))
    assert (trained / f"best-all-{faces.name}" / "results.json").exists()  # one for each folder of other faces


def test_all_faces_are_the_whole_folder_and_those_trained_on_are_counted(call, trained, faces, tmp_path):
    saved = torch.load(trained / "best.pt", weights_only=True)
    saved["args"]["limit"] = 5
    torch.save(saved, tmp_path / "best.pt")
    where = ("--split", "all", "--cache", tmp_path / "cache")
    out = succeed(call(evaluation, tmp_path / "best.pt", *where))
    assert "TRAINED ON 10 OF ITS 12 FACES" in out and "split all, 12 faces" in out
    shutil.copytree(faces, tmp_path / "fewer")
    (tmp_path / "fewer" / "CelebA-HQ-img" / f"{saved['split']['train'][0]}.jpg").unlink()
    for path in (tmp_path / "fewer").rglob(f"{saved['split']['train'][0]:05d}_*.png"):
        path.unlink()
    out = succeed(call(evaluation, tmp_path / "best.pt", "--data", tmp_path / "fewer", *where))
    assert "TRAINED ON 9 OF ITS 11 FACES" in out


def test_a_run_on_a_folder_called_generated_is_one_on_real_photos(call, faces, tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "HERE", tmp_path)
    shutil.copytree(faces, tmp_path / "GENERATED faces")
    args = ("--data", tmp_path / "GENERATED faces", "--epochs", 1, "--limit", 6, "--cache", tmp_path / "cache", *TINY)
    succeed(call(train, *args))
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["none"]


def test_eval_refuses_to_set_side_by_side_what_saw_other_pictures(call, trained, tmp_path):
    saved = torch.load(trained / "best.pt", weights_only=True)
    saved["args"]["size"] *= 2
    (tmp_path / "larger").mkdir()
    torch.save(saved, tmp_path / "larger" / "best.pt")
    paths = trained / "best.pt", tmp_path / "larger" / "best.pt"
    where = ("--out", tmp_path / "both", "--cache", tmp_path / "cache")
    assert "larger/best.pt: has another --size" in one_line_error(call(evaluation, *paths, *where))
    # the same photos with other masks
    saved = torch.load(trained / "best.pt", weights_only=True)
    shutil.copytree(saved["args"]["data"], tmp_path / "faces")
    for path in (tmp_path / "faces").rglob("*_hair.png"):
        path.unlink()
    found = [face for face in list_celebamask(tmp_path / "faces") if face.id in saved["split"]["val"]]
    saved["args"]["data"] = str(tmp_path / "faces")
    saved["fingerprint"]["val"] = fingerprint(dataset.files(found))
    (tmp_path / "bald").mkdir()
    torch.save(saved, tmp_path / "bald" / "best.pt")
    error = one_line_error(call(evaluation, trained / "best.pt", tmp_path / "bald" / "best.pt", *where))
    assert "bald/best.pt: has another --size, or other val faces or masks" in error


def test_predict_keeps_size_and_orientation(call, trained, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (40, 70, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to see it upright
    picture.save(photos / "turned.jpg", exif=exif)
    picture.convert("L").save(photos / "grey.png")
    succeed(call(predict, trained / "best.pt", photos, "--out", tmp_path / "out", "--device", "cpu"))
    assert Image.open(tmp_path / "out" / "grey_label.png").size == (70, 40)
    label = Image.open(tmp_path / "out" / "turned_label.png")
    assert label.size == (40, 70) and label.mode == "P" and np.asarray(label).max() <= 18
    masks = sorted(p.stem for p in (tmp_path / "out" / "turned_masks").iterdir())
    assert masks == sorted(PARTS)
    assert (tmp_path / "out" / "grey_overlay.png").exists()


def test_predict_looks_at_the_photo_and_not_at_its_padding():
    """A network whose logit is the red of the pixel gives back where the photo is red, whatever its shape."""

    class Red(torch.nn.Module):
        def forward(self, images):
            return (images[:, :1] - 0.5).expand(-1, len(PARTS), -1, -1)

    for H, W in ((40, 70), (70, 40), (64, 64)):
        pixels = np.zeros((H, W, 3), np.uint8)
        pixels[: H // 2, : W // 4, 0] = 255
        masks = predict.predict(Red(), Image.fromarray(pixels), 32, torch.device("cpu"), amp=False)
        assert masks.shape == (18, H, W) and (masks != (pixels[..., 0] > 0)).mean() < 0.03


def test_predict_names_the_unreadable_photo_after_doing_the_others(call, trained, tmp_path, monkeypatch):
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.new("RGB", (32, 32)).save(photos / "good.png")
    (photos / "bad.jpg").write_bytes(b"no picture")
    result = call(predict, trained / "best.pt", photos, "--out", tmp_path / "out", "--device", "cpu")
    error = one_line_error(result)
    assert "bad.jpg" in error and (tmp_path / "out" / "good_label.png").exists()
    assert result.stdout.startswith("1 photo(s) -> ")
    monkeypatch.chdir(tmp_path)
    result = call(predict, trained / "best.pt", photos / "bad.jpg", "--device", "cpu")
    assert "bad.jpg" in one_line_error(result) and not result.stdout
    succeed(call(predict, trained / "best.pt", photos / "good.png", "--device", "cpu"))
    assert Path("predictions", "nu_deeplabv3plus", "good_label.png").exists()  # apart from the other papers'


def test_dataset_describes_a_folder_and_draws_its_figures(call, faces, tmp_path, real_pictures):
    out = succeed(call(dataset, "--data", faces, "--size", 32, "--out", tmp_path / "figures"))
    assert "12 faces" in out and "every photo and every mask can be read" in out
    line = next(line for line in out.splitlines() if line.startswith("nose"))
    assert line.split()[1] == "12"
    assert {p.name for p in (tmp_path / "figures").iterdir()} == {"figure1.png", "figure2.png", "figure3.png"}


def test_dataset_names_every_bad_file(call, faces, tmp_path):
    folder = tmp_path / "faces"
    shutil.copytree(faces, folder)
    photo = folder / "CelebA-HQ-img" / "3.jpg"
    photo.write_bytes(photo.read_bytes()[:500])
    for path in (folder / "CelebAMask-HQ-mask-anno" / "0").glob("00005_*.png"):
        path.unlink()
    (folder / "CelebA-HQ-img" / "7.jpg").unlink()
    result = call(dataset, "--data", folder, "--size", 32, "--out", tmp_path / "figures")
    assert result.returncode == 2
    assert "3.jpg: cannot be read" in result.stdout and "5.jpg: has no mask" in result.stdout
    assert "00007_skin.png: not used" in result.stdout


@pytest.mark.parametrize(("augment", "patience"), [("none", 10), ("flip-swap", 20)])
def test_only_the_training_faces_are_mirrored_and_patience_is_the_papers(
    augment, patience, call, faces, trained, tmp_path, monkeypatch
):
    sets, rules = [], []
    monkeypatch.setattr(train, "FaceParts", lambda *args: sets.append(dataset.FaceParts(*args)) or sets[-1])
    monkeypatch.setattr(train, "EarlyStopping", lambda n: rules.append(n) or EarlyStopping(n))
    where = ("--data", faces, "--out", tmp_path / "run", "--cache", trained.parent / "cache")
    succeed(call(train, *where, "--augment", augment, "--epochs", 1, *TINY))
    assert [data.augment for data in sets] == [augment, "none"] and rules == [patience]
    assert [len(data) for data in sets] == [10 if augment == "none" else 20, 2]


def test_the_folder_and_common_alone_train_elsewhere_in_two_processes(
    script, call, faces, trained, tmp_path, monkeypatch
):
    """Each face is trained on and validated once: alone, in one process, eval.py gives the same numbers."""
    elsewhere = tmp_path / "assignment"
    skip = shutil.ignore_patterns("runs", "data", "__pycache__")
    for name in ("nu_deeplabv3plus", "common"):
        shutil.copytree(ROOT / name, elsewhere / name, ignore=skip)
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    args = ("--data", faces, "--epochs", 1, *TINY)
    out = succeed(script(TRAIN, *args, root=elsewhere, launcher=launcher)).splitlines()
    run = elsewhere / "nu_deeplabv3plus" / "runs" / "none"
    assert [line.split()[0] for line in out[:6]] == ["command", "device", "data", "model", "weights", "out"]
    assert "2 process(es)" in out[1] and "12 faces, 10 train, 2 val" in out[2] and "17,817,266" in out[3]
    assert out[-1] == f"next       python {elsewhere / 'nu_deeplabv3plus' / 'eval.py'} {run / 'best.pt'}"
    log = list(csv.DictReader(open(run / "log.csv")))
    assert len(log) == 1 and log[0]["lr"] == "0.001"  # --batch-size is of all processes: the rate stays
    for name, real in REAL.items():
        monkeypatch.setattr(model, name, real)
    succeed(call(evaluation, run / "last.pt", "--cache", trained.parent / "cache", "--device", "cpu"))
    results = json.loads((run / "last-val" / "results.json").read_text())
    assert results["loss"] == pytest.approx(float(log[0]["val_loss"]), abs=1e-6)
    assert results["iou_18"] == pytest.approx(float(log[0]["val_pooled_iou"]), abs=1e-9)


# ---- Bad input: one line that names the file and the remedy, exit code 2, nothing half-written -----------------------


def skin_of(folder, id):
    return folder / "CelebAMask-HQ-mask-anno" / "0" / f"{id:05d}_skin.png"


def no_masks(folder):
    shutil.rmtree(folder / "CelebAMask-HQ-mask-anno")


def no_photos(folder):
    shutil.rmtree(folder / "CelebA-HQ-img")


def a_face_without_masks(folder):
    for path in skin_of(folder, 4).parent.glob("00004_*.png"):
        path.unlink()


def mask_of_another_size(folder):
    Image.new("RGB", (40, 40)).save(skin_of(folder, 4))


def grey_mask(folder):
    Image.new("RGB", (64, 64), (37, 37, 37)).save(skin_of(folder, 4))


def truncated_photo(folder):
    photo = folder / "CelebA-HQ-img" / "4.jpg"
    photo.write_bytes(photo.read_bytes()[:700])


def truncated_mask(folder):
    skin_of(folder, 4).write_bytes(skin_of(folder, 4).read_bytes()[:60])


def text_as_photo(folder):
    (folder / "CelebA-HQ-img" / "4.jpg").write_text("not a picture")


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (no_masks, "CelebAMask-HQ-mask-anno"),
        (no_photos, "CelebA-HQ-img"),
        (a_face_without_masks, "4.jpg: has no mask"),
        (mask_of_another_size, "00004_skin.png: is 40 x 40 px"),
        (grey_mask, "00004_skin.png: has the value 37"),
        (truncated_photo, "4.jpg: cannot be read"),
        (truncated_mask, "00004_skin.png: cannot be read"),
        (text_as_photo, "4.jpg: cannot be read as an image (not an image file)"),
    ],
)
def test_bad_data_is_one_clear_line(damage, named, call, faces, tmp_path):
    folder = tmp_path / "faces"
    shutil.copytree(faces, folder)
    damage(folder)
    out, cache = tmp_path / "run", tmp_path / "cache"
    error = one_line_error(call(train, "--data", folder, "--epochs", 1, "--out", out, "--cache", cache, *TINY))
    assert named in error
    assert not out.exists() and not list(cache.glob("*"))


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Other faces with the same ids."""
    return write_celebamask(tmp_path_factory.mktemp("data") / "others", n=12, size=32, seed=50)


@pytest.fixture(scope="module")
def wrong(faces, others, trained, tmp_path_factory):
    """Name -> path of what is right, and of checkpoints that are not."""
    folder = tmp_path_factory.mktemp("wrong")
    torch.save({"paper": "hair_transfer"}, folder / "other.pt")
    saved = torch.load(trained / "last.pt", weights_only=True)
    saved |= {"model": {"renamed": torch.zeros(1)}, "optimizer": {}}
    torch.save(saved, folder / "strange.pt")
    files = {"last": trained / "last.pt", "best": trained / "best.pt"}
    return files | {"other": folder / "other.pt", "strange": folder / "strange.pt"} | {
        "faces": faces, "others": others, "run": trained
    }  # fmt: skip


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (("--data", "nowhere"), "nowhere: no such folder"),
        (("--data", "{faces}", "--size", "100"), "--size 100 must be a multiple of 16"),
        (("--data", "{faces}", "--limit", "2"), "2 face(s) are too few"),
        (("--resume", "missing.pt"), "missing.pt: no such checkpoint"),
        (("--resume", "{other}"), "a checkpoint of hair_transfer, not of nu_deeplabv3plus"),
        (("--resume", "{last}", "--lr", "0.5"), "--lr 0.5 differs from 0.001"),
        (("--resume", "{best}"), "would overwrite the later epochs"),
        (("--resume", "{last}", "--data", "{others}"), "not the faces and masks that"),
        (("--resume", "{last}", "--out", "elsewhere"), "a resumed run goes on in the folder"),
        (("--resume", "{strange}"), "does not fit this code"),
        (("--data", "{faces}", "--lr", "inf"), "argument --lr"),
        (("--data", "{faces}", "--weights", "coco"), "coco: no such file"),
        (("--data", "{faces}", "--out", "{run}"), "already holds a run"),
        (("--data", "{faces}", "--epochs", "0"), "argument --epochs"),
        (("--data", "{faces}", "--lr", "nan"), "argument --lr"),
        (("--data", "{faces}", "--weights", "lost.pth"), "lost.pth: no such file"),
        (("--epoch", "3"), "--epoch"),
    ],
)
def test_bad_arguments_are_one_clear_line(args, named, call, wrong):
    arguments = [arg.format(**wrong) for arg in args]
    assert named in one_line_error(call(train, *arguments, "--cache", wrong["run"].parent / "cache"))


def test_eval_refuses_other_faces_with_the_same_ids(call, trained, others, tmp_path):
    args = (trained / "best.pt", "--data", others, "--cache", tmp_path / "cache", "--device", "cpu")
    assert "not those of the validation split" in one_line_error(call(evaluation, *args))
    assert not (trained / "best-val").exists()


def test_a_run_neither_goes_on_nor_is_scored_with_masks_that_have_changed(call, trained, faces, tmp_path):
    shutil.copytree(faces, tmp_path / "faces")
    for path in (tmp_path / "faces").rglob("*_hair.png"):
        path.unlink()
    where = ("--data", tmp_path / "faces", "--cache", tmp_path / "cache")
    error = one_line_error(call(train, "--resume", trained / "last.pt", "--epochs", 3, *where))
    assert "not the faces and masks that" in error
    assert "faces or masks are not those" in one_line_error(call(evaluation, trained / "best.pt", *where))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA GPU")
def test_cuda_where_there_is_none(call, faces):
    assert "--device cuda" in one_line_error(call(train, "--data", faces, "--device", "cuda"))

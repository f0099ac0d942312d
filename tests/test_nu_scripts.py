"""nu_deeplabv3plus: what its data set gives, and its scripts as their users run them, on data in the real layout."""

import csv
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import leave_out_pictures, one_line_error, refused, succeed
from PIL import Image
from trainings import make_networks_small

from common.celebamask import PARTS, list_celebamask
from common.faces import generate_face
from common.run import Trained, load_checkpoint
from nu_deeplabv3plus import dataset, predict, train
from nu_deeplabv3plus import eval as evaluation
from nu_deeplabv3plus.dataset import FaceParts

TINY = ("--size", 32, "--weights", "none", "--device", "cpu", "--amp", "off")
L_EYE, R_EYE, NOSE = (PARTS.index(part) for part in ("l_eye", "r_eye", "nose"))
pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture(scope="module", autouse=True)
def small():
    """All that runs in this process has one convolution in the place of the ASPP and of each bottleneck."""
    with pytest.MonkeyPatch.context() as patch:
        make_networks_small("nu_deeplabv3plus", patch.setattr)
        yield


@pytest.fixture(scope="module")
def trained(small, faces, tmp_path_factory):
    """A run of two epochs at 32 px."""
    out = tmp_path_factory.mktemp("runs") / "two"
    where = ("--data", faces, "--epochs", 2, "--out", out, "--cache", out.parent / "cache")
    with pytest.MonkeyPatch.context() as patch:
        leave_out_pictures(patch.setattr)
        patch.setattr(sys, "argv", [str(arg) for arg in ("train.py", *where, *TINY)])
        train.main()
    return out


# ---- The data set --------------------------------------------------------------------------------------------------


@pytest.fixture
def parts(faces, tmp_path):
    """parts([0, 1], "flip"): FaceParts of these of the twelve faces at 64 px."""
    found = list_celebamask(faces)
    arrays = dataset.load(found, 64, tmp_path / "cache")
    return lambda positions, augment="none": FaceParts(arrays, positions, [f.photo.name for f in found], augment)


def test_a_batch_is_what_lies_on_disk(parts, faces, tmp_path):
    images, masks = parts([3, 8]).batch([1, 0])
    assert images.dtype == masks.dtype == torch.uint8 and masks.max() == 1
    for image, mask, id in zip(images, masks, (8, 3), strict=True):
        photo = np.asarray(Image.open(faces / "CelebA-HQ-img" / f"{id}.jpg").convert("RGB"))
        assert np.array_equal(image.permute(1, 2, 0).numpy(), photo)  # 64 px on disk: no resizing
        assert np.array_equal(mask.numpy().astype(bool), generate_face(id, 64).masks[: len(PARTS)])
    skin = Image.open(faces / "CelebAMask-HQ-mask-anno" / "0" / "00000_skin.png").convert("L")
    nearest = np.asarray(skin.resize((32, 32), Image.Resampling.NEAREST)) > 0
    halved = dataset.load(list_celebamask(faces)[:1], 32, tmp_path / "cache")["masks"][0, 0]
    assert np.array_equal(np.unpackbits(halved, axis=-1).astype(bool), nearest)


def test_a_flip_doubles_the_set_and_with_the_swap_a_left_eye_is_a_left_eye(parts):
    """l_eye lies in the right half of an unmirrored picture; it must after the swap, and the plain flip moves it."""
    seen = [i for i in range(12) if generate_face(i, 64).masks[[L_EYE, R_EYE]].any((1, 2)).all()]
    n, (plain, plain_masks) = len(seen), parts(seen).batch(range(len(seen)))
    assert n > 5
    for augment, is_left in (("flip", False), ("flip-swap", True)):
        data = parts(seen, augment)
        assert len(data) == 2 * n
        images, masks = data.batch(range(n, 2 * n))
        assert torch.equal(images, plain.flip(-1)) and torch.equal(masks[:, NOSE], plain_masks[:, NOSE].flip(-1))
        left, right = (
            (masks[:, part].sum(1) * torch.arange(64)).sum(1) / masks[:, part].sum((1, 2)) for part in (L_EYE, R_EYE)
        )
        assert ((left > right) == is_left).all()
        back = masks[:, dataset.SWAPPED] if is_left else masks
        assert torch.equal(back.flip(-1), plain_masks)


def test_the_split_is_80_20_seeded_and_disjoint():
    train, val = dataset.split(4000, seed=0)
    assert (len(train), len(val)) == (3200, 800)  # Sec. 3.2
    assert sorted(train + val) == list(range(4000)) and val != list(range(3200, 4000))
    assert dataset.split(4000, seed=0) == (train, val) and dataset.split(4000, seed=1) != (train, val)
    assert "too few" in refused(dataset.split, 2, 0)


def test_dataset_draws_its_figures_and_names_every_bad_file(call, faces, tmp_path, real_pictures):
    folder = shutil.copytree(faces, tmp_path / "faces")
    (folder / "CelebA-HQ-img" / "3.jpg").write_bytes(b"no picture")
    for path in folder.rglob("00005_*.png"):
        path.unlink()
    result = call(dataset, "--data", folder, "--out", tmp_path / "figures")
    assert result.returncode == 2 and "2 problem(s) in 12 faces" in result.stderr
    assert "3.jpg: cannot be read" in result.stdout and "5.jpg: has no mask" in result.stdout
    assert {p.name for p in (tmp_path / "figures").iterdir()} == {"figure1.png", "figure2.png", "figure3.png"}


# ---- Training and evaluation ---------------------------------------------------------------------------------------


def test_eval_writes_table_numbers_and_figures(call, trained, real_pictures):
    out = succeed(call(evaluation, trained / "best.pt", "--cache", trained.parent / "cache", "--device", "cpu"))
    assert "mean, 18 parts" in out and "0.7255" in out and "split val, 2 faces" in out
    folder = trained / "best-val"
    figures = {"figure6.png", "figure7.png", "figure8.png"}
    assert {p.name for p in folder.iterdir()} == {"results.json", "table1.csv"} | figures
    results = json.loads((folder / "results.json").read_text())
    assert results["n"] == 2 and list(results["per_class"]) == list(PARTS)
    # the loss of the best epoch, as train.py logged it: both call the same evaluate()
    losses = [float(row["val_loss"]) for row in csv.DictReader(open(trained / "log.csv"))]
    assert results["loss"] == pytest.approx(min(losses), abs=1e-6)
    assert [row[0] for row in csv.reader(open(folder / "table1.csv"))][1:19] == list(PARTS)


def test_eval_of_two_checkpoints_side_by_side_and_of_masks_that_have_changed(call, trained, faces, tmp_path):
    both, where = tmp_path / "both", ("--cache", tmp_path / "cache", "--out", tmp_path / "both")
    out = succeed(call(evaluation, trained / "best.pt", trained / "last.pt", "--data", faces, "--split", "all", *where))
    assert re.search(r"IoU side by side\npart .*best\.pt .*last\.pt\nskin +\d\.\d{4} +\d\.\d{4}\n", out)
    assert "TRAINED ON 10 OF ITS 12 FACES" in out
    for name in ("two-best", "two-last"):
        assert json.loads((both / name / "results.json").read_text())["n"] == 12
    content = torch.load(trained / "best.pt", weights_only=True)
    content["args"]["size"] = 48
    torch.save(content, tmp_path / "larger.pt")
    assert "larger.pt: has another --size" in one_line_error(
        call(evaluation, trained / "best.pt", tmp_path / "larger.pt", *where[:2])
    )
    bald = shutil.copytree(faces, tmp_path / "bald")
    for path in bald.rglob("*_hair.png"):
        path.unlink()
    error = one_line_error(call(evaluation, trained / "best.pt", "--data", bald, *where))
    assert f"{bald}: 2 of the checkpoint's 2 pictures are missing" in error and "masks have changed" in error


def test_only_the_training_faces_are_mirrored_and_patience_is_the_papers(call, faces, trained, tmp_path):
    last, cache = tmp_path / "run" / "last.pt", ("--cache", trained.parent / "cache")
    where = ("--data", faces, "--out", tmp_path / "run", *cache, *TINY)
    succeed(call(train, *where, "--augment", "flip-swap", "--epochs", 1, "--lr", 1e-9))
    flipped, plain = (load_checkpoint(path, "nu_deeplabv3plus") for path in (last, trained / "last.pt"))
    assert (flipped["args"]["patience"], plain["args"]["patience"]) == (20, 10) and len(flipped["split"]["val"]) == 2
    steps = [saved["optimizer"]["state"][0]["step"] for saved in (flipped, plain)]
    assert steps == [5, 6]  # an epoch of 20 faces, two of 10, in batches of 4
    out = succeed(call(train, "--resume", last, *cache, "--epochs", 30, "--patience", 1))
    assert "stopped    1 epochs without a better validation loss (--patience 1)" in out
    assert 2 <= load_checkpoint(last, "nu_deeplabv3plus")["epoch"] < 30


# ---- Prediction ----------------------------------------------------------------------------------------------------


def test_predict_keeps_the_size_and_names_what_it_cannot_read(call, trained, tmp_path, monkeypatch):
    photos = tmp_path / "photos"
    photos.mkdir()
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 70, 3), dtype=np.uint8))
    picture.convert("L").save(photos / "grey.png")
    (photos / "bad.jpg").write_bytes(b"no picture")
    monkeypatch.chdir(tmp_path)
    result = call(predict, trained / "best.pt", photos, "--device", "cpu")
    assert "bad.jpg" in one_line_error(result) and result.stdout.startswith("1 photo(s) -> ")
    out = Path("predictions", "nu_deeplabv3plus")  # apart from the other papers'
    label = Image.open(out / "grey_label.png")
    assert label.size == (70, 40) and label.mode == "P" and (out / "grey_overlay.png").exists()
    masks = predict.predict(predict.load(trained / "best.pt", "cpu"), photos / "grey.png")
    found = np.stack([np.asarray(Image.open(out / "grey_masks" / f"{part}.png")) > 0 for part in PARTS])
    assert np.array_equal(masks, found)
    readme = (Path(dataset.HERE).parent / "README.md").read_text(encoding="utf-8")
    block = re.search(r"<!-- python -->\n```python\n(.*?)```", readme, re.DOTALL)[1]  # five lines from Python
    block = block.replace("nu_deeplabv3plus/runs/none-generated/best.pt", (trained / "best.pt").as_posix())
    exec(block.replace("portrait.jpg", (photos / "grey.png").as_posix()), names := {})  # noqa: S102
    assert np.array_equal(names["masks"], masks)


def test_predict_looks_at_the_photo_and_not_at_its_padding():
    """A network whose logit is the red of the pixel gives back where the photo is red, whatever its shape."""

    class Red(torch.nn.Module):
        def forward(self, images):
            return (images[:, :1] - 0.5).expand(-1, len(PARTS), -1, -1)

    network = Trained(Red(), {"args": {"size": 32}}, torch.device("cpu"), False)
    for H, W in ((40, 70), (70, 40), (64, 64)):
        pixels = np.zeros((H, W, 3), np.uint8)
        pixels[: H // 2, : W // 4, 0] = 255
        masks = predict.predict(network, Image.fromarray(pixels))
        assert masks.shape == (18, H, W) and (masks != (pixels[..., 0] > 0)).mean() < 0.03

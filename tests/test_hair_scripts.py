"""hair_transfer: who is in which half, what a batch holds, and its scripts as their users run them."""

import csv
import json
import math
import os
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import leave_out_pictures, one_line_error, refused, succeed
from PIL import Image
from trainings import make_networks_small

from common.celebamask import DUPLICATES
from common.faces import write_celebamask
from common.run import load_checkpoint
from hair_transfer import dataset, recolor, train
from hair_transfer import eval as evaluation
from hair_transfer.dataset import HairMasks, decode, list_faces, normalize, split
from hair_transfer.train import build_model

TINY = ("--size", 32, "--device", "cpu", "--amp", "off")
pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture(scope="module", autouse=True)
def small():
    """All that runs in this process has one block in each layer and a head of one convolution."""
    with pytest.MonkeyPatch.context() as patch:
        make_networks_small("hair_transfer", patch.setattr)
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="module")
def trained(small, faces, tmp_path_factory):
    """A run of two epochs at 32 px: 9 of the 12 faces to train, 3 to test."""
    out = tmp_path_factory.mktemp("runs") / "two"
    where = ("--data", faces, "--epochs", 2, "--lr", 0.001, "--out", out, "--cache", out.parent / "cache")
    with pytest.MonkeyPatch.context() as patch:
        leave_out_pictures(patch.setattr)
        patch.setattr(sys, "argv", [str(arg) for arg in ("train.py", *where, *TINY)])
        train.main()
    return out


@pytest.fixture
def start(call, trained, tmp_path):
    """start("--flag", value) trains for an epoch into tmp_path / "run"."""
    where = ("--epochs", 1, "--out", tmp_path / "run", "--cache", trained.parent / "cache")
    return lambda *args: call(train, *where, *TINY, *args)


@pytest.fixture
def evaluate(call, trained):
    return lambda *args: call(evaluation, *args, "--cache", trained.parent / "cache", "--device", "cpu")


def results(folder):
    return json.loads((folder / "results.json").read_text())


# ---- The data set --------------------------------------------------------------------------------------------------


def test_sizes_of_the_split_and_what_shows_the_same_face_is_on_one_side():
    """Known duplicates, and equal ids of two folders."""
    for n, sizes in ((30000, [2000, 600]), (2600, [2000, 600]), (967, [744, 223]), (3, [2, 1])):
        halves = split(range(n), 0)
        assert [len(half) for half in halves] == sizes and len({*halves[0], *halves[1]}) == sum(sizes)
        assert halves == split(range(n), 0) and (n < 100 or halves != split(range(n), 1))
    ids = [*sorted({*DUPLICATES, *DUPLICATES.values(), *range(60)}), *range(30, 60)]
    assert len(DUPLICATES) == 13
    for seed in range(30):
        sides = split(ids, seed)
        assert sorted([*sides[0], *sides[1]]) == list(range(len(ids)))
        train, test = ({DUPLICATES.get(ids[i], ids[i]) for i in side} for side in sides)
        assert not train & test
    assert "2 face(s) are too few" in refused(split, range(2), 0)


def test_a_batch_is_what_lies_on_disk(faces, tmp_path):
    folder = shutil.copytree(faces, tmp_path / "faces")
    (folder / "CelebAMask-HQ-mask-anno" / "0" / "00002_hair.png").unlink(missing_ok=True)
    found = list_faces([faces, folder])
    assert [face.id for face in found] == 2 * list(range(12)) and not found[14].masks
    images, masks = HairMasks(found, 64, tmp_path / "cache").batch([14, 0])
    assert images.dtype == masks.dtype == torch.uint8 and masks.shape == (2, 1, 64, 64)
    assert (images[1].permute(1, 2, 0).numpy() == np.asarray(Image.open(found[0].photo))).all()
    true = np.asarray(Image.open(found[0].masks["hair"]).convert("L")) > 0
    assert (masks[1, 0].numpy() == true).all() and true.any() and not masks[0].any()
    halved = np.unpackbits(decode(found[0], 32)["masks"], axis=-1)
    assert (halved == true[1::2, 1::2]).mean() > 0.95  # nearest: each pixel is one of the mask's
    expected = (images[1, :, 5, 7] / 255 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    assert torch.allclose(normalize(images, torch.device("cpu"))[1, :, 5, 7], expected)  # ImageNet's
    for path in folder.rglob("00002_*.png"):
        path.unlink()
    assert "2.jpg: has no mask" in refused(list_faces, [folder])  # not bald, but not annotated


def test_pairs_are_cut_to_the_square_in_the_middle(evaluate, trained, tmp_path):
    photo, mask = np.zeros((40, 80, 3), np.uint8), np.zeros((40, 80), np.uint8)
    photo[:, 20:60], mask[:, 20:40] = 200, 255  # the square, and the left half of it
    for name, picture in (("photos", photo), ("masks", mask)):
        (tmp_path / "own" / name).mkdir(parents=True)
        Image.fromarray(picture).save(tmp_path / "own" / name / "a.png")
    sample = decode(dataset.list_pairs(tmp_path / "own")[0], 16)
    assert (sample["images"][:, 1:-1] == 200).all()
    assert (np.unpackbits(sample["masks"], axis=-1) == ([1] * 8 + [0] * 8)).all()
    Image.new("L", (80, 40)).save(tmp_path / "own" / "masks" / "a.png")  # no hair at all
    assert "none" in succeed(evaluate(trained / "best.pt", "--pairs", tmp_path / "own"))
    found = results(trained / "best-pairs-own")
    assert found["n"] == 1 and found["auroc"] is None and found["recall"] is None


def test_dataset_describes_folders_and_names_every_bad_file(call, faces, tmp_path, real_pictures):
    folder = shutil.copytree(faces, tmp_path / "faces")
    masks = folder / "CelebAMask-HQ-mask-anno" / "0"
    Image.new("RGB", (64, 64)).save(masks / "00001_hair.png")
    (folder / "CelebA-HQ-img" / "4.jpg").write_bytes(b"no picture")
    Image.new("RGB", (40, 60)).save(masks / "00005_hair.png")
    result = call(dataset, "--data", faces, folder, "--out", tmp_path / "figures")
    assert result.returncode == 2 and "2 problem(s) in 24 faces" in result.stderr
    good = [face for face in list_faces([faces, folder]) if folder not in face.photo.parents or face.id not in (4, 5)]
    assert f"24 faces, {1 + sum(not face.masks for face in good)} without hair" in result.stdout
    assert "4.jpg: cannot be read" in result.stdout and "00005_hair.png: is 40 x 60 px" in result.stdout
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"samples.png"}


# ---- Training ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("weights", "lr", "epochs"), [("coco", 1e-4, 15), (None, 1e-2, 6), ("a/file.pt", 1e-4, 15)])
def test_the_defaults_are_the_papers_recipes(weights, lr, epochs, monkeypatch):
    for flags, generated, expected in (("", False, (lr, epochs, 256)), ("--lr 0.5 --epochs 2", True, (0.5, 2, 64))):
        monkeypatch.setattr(sys, "argv", ["train.py", *flags.split(), *(["--weights", weights] if weights else [])])
        args, _ = train.parse_args()
        train.fill_in(args, generated)
        assert (args.lr, args.epochs, args.size) == expected and args.weights == (weights or "none")
        assert (args.batch_size, args.part, args.output) == (6, "hair", "sigmoid")


def test_masks_follow_their_faces_through_our_augmentation():
    torch.manual_seed(0)
    masks = torch.zeros(64, 1, 48, 48, dtype=torch.uint8)
    masks[..., 16:32, 16:32] = masks[..., :16] = 1  # a square in the middle and the left third
    images, moved = dataset.augment((200 * masks).expand(-1, 3, -1, -1), masks)
    assert images.shape == (64, 3, 48, 48) and moved.shape == masks.shape and images.dtype == moved.dtype == torch.uint8
    assert ((images[:, :1] > 100) == moved).float().mean() > 0.99 and (images[:, 0] == images[:, 2]).all()
    left = moved[:, 0, :, 0].sum(1) > moved[:, 0, :, -1].sum(1)
    assert 20 < left.sum() < 44  # about half are mirrored
    assert moved.flatten(1).sum(1).unique().numel() > 30  # zoomed and shifted by as many amounts


def test_our_recipe_augments_lowers_the_rate_and_refuses_what_does_not_go_with_it(start, call, tmp_path, monkeypatch):
    flags, seen, normalize = ("--recipe", "ours", "--lr", 0.004), [], train.normalize
    monkeypatch.setattr(train, "normalize", lambda images, device: seen.append(images) or normalize(images, device))
    succeed(start(*flags, "--epochs", 3))
    last = load_checkpoint(tmp_path / "run" / "last.pt", "hair_transfer")
    assert last["optimizer"]["param_groups"][0]["lr"] == pytest.approx(0.001)  # the last third of the cosine
    error = one_line_error(call(train, "--resume", tmp_path / "run" / "last.pt", "--epochs", 4))
    assert "--epochs 4: the rate was to fall over 3" in error
    images = torch.cat(seen)
    assert len({image.numpy().tobytes() for image in images}) == len(images)  # in three epochs none was alike
    logits, masks = torch.tensor([[2.0, -1.0]]), torch.tensor([[1.0, 1.0]])
    by_hand = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(1))) / 2
    assert train.loss_of(None, logits, masks, "ours").item() == pytest.approx(by_hand)
    assert "--output tanh" in one_line_error(start(*flags, "--output", "tanh"))
    assert "--part l_eye: is on one side" in one_line_error(start(*flags, "--part", "l_eye"))


def test_what_a_start_had_seen_is_not_forgotten_on_the_way(start, evaluate, call, faces, trained, tmp_path):
    """hair on X -> skin on Y, with tanh -> hair on X, of which the first start knows 9 faces."""
    others = write_celebamask(tmp_path / "others", n=6, size=64, seed=700)
    flags = ("--weights", trained / "best.pt", "--data", others, "--part", "skin", "--output", "tanh")
    assert "TEST FACES" not in succeed(start(*flags))
    best = tmp_path / "run" / "best.pt"
    saved, first = load_checkpoint(best, "hair_transfer"), load_checkpoint(trained / "best.pt", "hair_transfer")
    assert saved["args"]["output"] == "tanh" and saved["classes"] == ["skin"]
    assert saved["seen"] == sorted(first["split"]["train"]) and len(saved["split"]["train"]) == 5
    args = SimpleNamespace(weights=str(best), output="sigmoid")
    _, source, seen = build_model(args, [face.identity for face in list_faces([faces])])
    assert "IT WAS TRAINED ON 9 OF THE 12 TEST FACES" in source
    assert set(seen) == {*saved["seen"], *saved["split"]["train"]}
    assert "WAS TRAINED ON 9 OF THESE 12 FACES" in succeed(evaluate(best, "--data", faces, "--split", "all"))
    both = (best, trained / "best.pt", "--data", faces, "--split", "all")
    assert "two/best.pt: has another --part" in one_line_error(evaluate(*both))
    error = one_line_error(evaluate(trained / "best.pt", "--data", others))
    assert f"{others}: 3 of the checkpoint's 3 pictures are missing" in error and "masks have changed" in error
    error = one_line_error(call(recolor, best, others / "CelebA-HQ-img" / "0.jpg", "--color", "teal"))
    assert "run/best.pt: was trained to find skin, not hair" in error


# ---- Evaluation ----------------------------------------------------------------------------------------------------


def test_eval_gives_table_numbers_figure_3_error_maps_and_the_mean_mask(
    evaluate, faces, trained, tmp_path, real_pictures
):
    out = tmp_path / "out"
    flags = ("--error-map", "--mean-mask", "--out", out)
    said = succeed(evaluate(trained / "best.pt", trained / "last.pt", *flags))
    assert "0.981631" in said and "(0.991447)" in said and "boundary F1" in said and "split test, 3 faces" in said
    assert {path.name for path in out.iterdir() if path.is_file()} == {"table.csv", "figure3.png", "errors.png"}
    # the scores of the best epoch, as train.py logged them: both call the same evaluate()
    best = min(csv.DictReader(open(trained / "log.csv")), key=lambda row: float(row["test_loss"]))
    found = results(out / "two-best")
    logged = {name: float(best[f"test_{name}"]) for name in train.LOGGED}
    assert {name: found[name] for name in train.LOGGED} == pytest.approx(logged, abs=5e-3)  # layouts round logits apart
    assert found["n"] == 3 and 0 < found["auroc_error"] < 0.1

    masks = [np.unpackbits(decode(face, 32)["masks"], axis=-1) for face in list_faces([faces])]
    trains, tests = (np.stack([masks[i] for i in side]) for side in split(range(12), 0))
    mean, found = trains.mean(0), results(out / "mean-mask")
    assert found["loss"] == pytest.approx(((tests - mean) ** 2).mean(), rel=1e-5)
    assert found["recall"] == pytest.approx((tests * (mean > 0.5)).sum() / tests.sum())
    header, *rows = csv.reader(open(out / "table.csv"))
    assert header[1:4] == ["two/best", "two/last", "mean training mask"] and rows[-1][3] == f"{found['loss']:.6f}"


def test_eval_averages_the_output_with_that_of_the_mirrored_photo(start, evaluate, trained, tmp_path):
    succeed(evaluate(trained / "best.pt", "--mirror", "--out", tmp_path / "out"))
    plain, both = (json.loads((tmp_path / "out" / f"results{end}.json").read_text()) for end in ("", "-mirror"))
    assert both["mirror"] and both["n"] == plain["n"] and both["loss"] != plain["loss"]
    network = evaluation.load(trained / "best.pt", "cpu").model.eval()
    network, x = evaluation.Mirrored(network), torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.allclose(network(x), network(x.flip(-1)).flip(-1), atol=1e-4)  # a mirrored photo, a mirrored mask
    succeed(start("--part", "l_eye"))
    assert "finds l_eye, which is on one side" in one_line_error(evaluate(tmp_path / "run" / "best.pt", "--mirror"))


# ---- Changing the colour -------------------------------------------------------------------------------------------


def test_recolor_keeps_size_alpha_and_whatever_is_no_hair(call, trained, tmp_path, monkeypatch):
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    picture, alpha = np.full((120, 200, 3), (100, 70, 50), np.uint8), np.full((120, 200, 1), 255, np.uint8)
    alpha[:, 150:] = 0
    Image.fromarray(np.concatenate([picture, alpha], axis=2)).save(photos / "cut.png")
    (photos / "bad.jpg").write_bytes(b"no picture")
    Image.new("RGB", (50, 50)).save(tmp_path / "bald.png")

    def the_left_fifth(network, photo):
        left = np.arange(photo.width) < photo.width // 5 * (photo.width > 50)
        return np.repeat(left[None], photo.height, axis=0).astype(np.float32)

    monkeypatch.setattr(recolor, "predict", the_left_fifth)
    given = (trained / "best.pt", photos, tmp_path / "bald.png", "--out", out, "--device", "cpu")
    result = call(recolor, *given, "--color", "blond", "#3050C0")
    assert "bad.jpg" in one_line_error(result) and "2 photo(s)" in result.stdout
    assert "no hair covers 1% of bald.png: crop to the face" in result.stdout
    kinds = ("blond", "3050c0", "strip", "mask")
    assert {path.name for path in out.iterdir()} == {f"{name}_{kind}.png" for name in ("cut", "bald") for kind in kinds}
    dyed = np.asarray(Image.open(out / "cut_3050c0.png"))
    assert (dyed[..., 3:] == alpha).all()
    assert (dyed[:, 60:150, :3] == picture[:, 60:150]).all() and (dyed[:, :35, :3] != picture[:, :35]).any(-1).all()


def test_recolor_with_the_network_itself(call, faces, trained, tmp_path):
    photo, one = faces / "CelebA-HQ-img" / "0.jpg", tmp_path / "one.png"
    given = (trained / "best.pt", "--out", one, "--device", "cpu", "--crop", 0, 0, 1, 0.5)
    succeed(call(recolor, *given, "--strength", 0, photo, "--color", "teal"))
    assert (np.asarray(Image.open(one)) == np.asarray(Image.open(photo))[:32]).all()
    two = call(recolor, *given, photo, "--color", "teal", "red")
    assert "is one file, but there are 2 colours" in one_line_error(two)
    assert "--color hairy: no such colour" in one_line_error(call(recolor, *given, photo, "--color", "hairy"))

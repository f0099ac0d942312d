"""mut1ny_fairness: colours and classes, Mut1ny's folder and its XML, duplicates, the subsample, splits."""

import csv
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import refused
from PIL import Image

from common.faces import write_celebamask
from mut1ny_fairness import dataset, generate, losses, prepare
from mut1ny_fairness.dataset import Sample
from mut1ny_fairness.palette import CLASSES, PAINTED, PALETTE, celebamask_to_mut1ny, to_classes
from mut1ny_fairness.prepare import Pair, difference_hash, find_duplicates, read_pairs, subsample, who
from mut1ny_fairness.scores import Tally, implied_share

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """Generated pictures of 48 px in Mut1ny's layout. Tests that change files copy it first."""
    return generate.write_mut1ny(tmp_path_factory.mktemp("data") / "mut1ny", size=48)


def test_labels_follow_their_pictures_through_our_augmentation():
    torch.manual_seed(0)
    side = torch.arange(48)
    labels = ((side[:, None] // 16) * 3 + side[None] // 16).byte().expand(32, -1, -1)  # nine squares
    images, moved = dataset.augment((20 * labels)[:, None].expand(-1, 3, -1, -1), labels)
    assert images.shape == (32, 3, 48, 48) and images.dtype == moved.dtype == torch.uint8
    alike = (images[:, 1].int() - 20 * moved.int()).abs() <= 10
    assert alike.float().mean() > 0.9 and (images[:, 0] == images[:, 2]).all()
    left = moved[:, 24, 0] > moved[:, 24, -1]
    assert 8 < left.sum() < 24  # about half are mirrored
    areas = (moved == 4).flatten(1).sum(1) / 256  # of the square in the middle
    assert 0.6 < areas.min() < 0.85 and 1.15 < areas.max() < 1.7


def test_soft_dice_is_the_mean_over_the_classes_that_are_there():
    label = torch.tensor([[[0, 0], [0, 3]]])
    output = torch.full((1, len(CLASSES), 2, 2), -1e4)
    output[:, 0] = 0  # all background: F1 of it (2 * 3 + 1) / (4 + 3 + 1), of class 3 (0 + 1) / (0 + 1 + 1)
    assert losses.soft_dice(output, label).item() == pytest.approx(1 - (7 / 8 + 1 / 2) / 2)


# ---- Colours and scores --------------------------------------------------------------------------------------------


def test_the_palette_is_the_vendors_and_other_colours_go_to_the_nearest_and_are_counted():
    colour = {name: tuple(PALETTE[i].tolist()) for i, name in enumerate(CLASSES)}
    assert colour["ears"] == (0, 255, 255) and colour["eyebrows"] == (255, 0, 255)
    assert colour["teeth"] == (255, 255, 255) and colour["hair"] == (255, 255, 0) and len(set(colour.values())) == 11
    label = np.arange(11, dtype=np.uint8)[None]
    back, off = to_classes(PALETTE[label])
    assert (back == label).all() and off == 0
    rgb = np.array([[(250, 5, 3), (255, 0, 0), (120, 130, 128), (10, 250, 240), (0, 128, 0)]], np.uint8)
    label, off = to_classes(rgb)
    assert [CLASSES[c] for c in label[0]] == ["lips", "lips", "face", "ears", "eyes"] and off == 4
    noise = np.random.default_rng(1).integers(0, 256, (50, 50, 3), dtype=np.uint8)
    distance = ((noise[:, :, None].astype(int) - PALETTE.astype(int)) ** 2).sum(-1)  # H W 11
    assert (distance.argmin(-1) == to_classes(noise)[0]).all()


def test_celebamask_parts_are_painted_in_mut1nys_classes():
    full, part = np.ones((8, 8), bool), np.zeros((8, 8), bool)
    part[2:4] = True
    label = celebamask_to_mut1ny({"skin": full, "l_eye": part, "eye_g": part}, (8, 8))
    assert CLASSES[label[3, 3]] == "eyes" and CLASSES[label[0, 0]] == "face"  # eyes behind glasses are eyes
    label = celebamask_to_mut1ny({"neck": full, "cloth": part}, (8, 8))
    assert CLASSES[label[0, 0]] == "face" and CLASSES[label[2, 0]] == "background"
    assert set(PAINTED.values()) == set(CLASSES)  # with teeth and facial hair, every class can occur


def test_losses_and_channels_of_both_targets():
    label, output = torch.tensor([[[5, 0]]]), torch.zeros(1, 3, 1, 2)
    assert losses.loss_of(output, label, "rgb").item() == pytest.approx(2 / 6)  # yellow: two of six channels are 1
    logits = torch.zeros(1, 11, 1, 2)
    assert losses.loss_of(logits, label, "labels").item() == pytest.approx(np.log(11))
    logits[0, 5, 0, 0] = logits[0, 3, 0, 1] = 9
    assert losses.predicted_channels(logits, "labels")[0, :, 0].T.tolist() == [[1, 1, 0], [1, 0, 0]]


def test_the_wrong_channel_order_makes_hair_ears():
    label = torch.from_numpy(np.random.default_rng(2).integers(0, 11, (1, 6, 6)))
    wrong = losses.true_channels(label, bgr=True)
    hair, ears, nose, lips = (CLASSES.index(name) for name in ("hair", "ears", "nose", "lips"))
    read = losses.nearest_class(wrong)
    assert (read[label == hair] == ears).all() and (read[label == ears] == hair).all()
    assert (read[label == nose] == lips).all()
    # a network that had learnt the wrong order perfectly: no error to be seen in the paper's loss
    assert losses.loss_of(wrong, label, "rgb", bgr=True) == 0 and losses.loss_of(wrong, label, "rgb") > 0.05
    assert torch.equal(losses.predicted_classes(wrong, "rgb", bgr=True), label)
    # and none in any of its six scores, for any output: they pool the channels
    output, tallies = torch.rand(1, 3, 6, 6), (Tally(CPU, "rgb"), Tally(CPU, "rgb", bgr=True, read_bgr=True))
    for tally, seen in zip(tallies, (output, output.flip(1)), strict=True):
        tally.add(seen, label, losses.loss_of(seen, label, "rgb", tally.bgr))
    as_read, swapped = (tally.scores() for tally in tallies)
    for name in ("loss", "accuracy", "f1", "iou", "precision", "recall"):
        assert as_read[name] == pytest.approx(swapped[name])


def test_a_class_that_is_not_there_does_not_count_in_the_means_even_if_it_is_predicted():
    label = torch.zeros(1, 4, 4, dtype=torch.long)
    label[:, 2:] = CLASSES.index("face")
    predicted = label.clone()
    predicted[0, 0, 0] = CLASSES.index("teeth")
    tally = Tally(CPU, "labels")
    tally.add(torch.nn.functional.one_hot(predicted, 11).permute(0, 3, 1, 2).float(), label, torch.tensor(0.0))
    scores = tally.scores()
    assert scores["class_iou"] == pytest.approx((7 / 8 + 1) / 2)
    assert scores["class_recall"] == pytest.approx((7 / 8 + 1) / 2) and scores["class_precision"] == 1


def test_f1_of_calling_every_channel_pixel_positive():
    """What the paper's F1 is worth depends on how much of the labels' colour is above 0: of 3 channels, hair has 2."""
    label = torch.full((1, 2, 2), CLASSES.index("hair"))
    label[0, 0] = 0
    tally = Tally(CPU, "rgb")
    tally.add(torch.full((1, 3, 2, 2), 0.11), label, torch.tensor(0.0))  # predicted is what is above 0.1
    scores = tally.scores()
    assert scores["positive_share"] == scores["precision"] == pytest.approx(1 / 3) and scores["recall"] == 1
    assert scores["f1"] == scores["all_positive_f1"] == pytest.approx(1 / 2)
    tally.add(torch.full((1, 3, 2, 2), 0.09), label, torch.tensor(0.0))
    found = tally.scores()
    assert found["recall"] == 1 / 2 and found["f1"] == pytest.approx(2 / 5)
    implied = implied_share(found["accuracy"], found["precision"], found["recall"])
    assert implied == pytest.approx(found["positive_share"])  # as of the paper's numbers


# ---- Mut1ny's folder -----------------------------------------------------------------------------------------------


def test_category_and_person_come_from_the_folders_name():
    assert who("femalealison1") == who("femalealison2") == ("female", "femalealison")
    assert [who(name) for name in ("male06_2", "female10")] == [("male", "male06"), ("female", "female10")]
    assert [who(name) for name in ("multiperson", "real", "thumbs")] == [("multi", ""), ("real", ""), ("", "")]


def test_pairs_come_from_an_xml_with_backslashes_however_it_is_formed_and_from_within_its_folder(shipped, tmp_path):
    copied = shutil.copytree(shipped, tmp_path / "data")
    xml = copied / "training.xml"
    whole = xml.read_text()
    expected, notes = read_pairs(copied)
    assert "\\" in whole and len(expected) == 58 and notes == []
    pair = next(pair for pair in expected if pair.folder == "femalealison2")
    assert pair[:2] == ("samples/femalealison2_light/0000.png", "labels/femalealison2/0000.png")
    assert pair[3:] == ("femalealison", "female")
    for text in (whole.replace("</dataset>", "<oops>").replace("/>", ">", 3), whole.replace("samples", "Samples")):
        xml.write_text(text)
        assert read_pairs(copied) == (expected, [])
    xml.write_text(whole.replace("labels\\real\\0003.png", "labels\\real\\lost.png"))
    pairs, (lost, unused) = read_pairs(copied)
    assert len(pairs) == 57 and "1 names in training.xml are no files, first 'labels" in lost
    assert unused == "1 label files are in no pair, first labels/real/0003.png"
    xml.write_text(whole.replace("labels\\real", "lost\\real").replace("samples\\real", "lost\\real"))
    assert read_pairs(copied)[0] == [pair for pair in expected if pair.category != "real"]  # more than half are there
    Image.new("RGB", (8, 8)).save(tmp_path / "outside.png")
    label = '<labelimg name="labels\\real\\0000.png"/>'
    outside = ("samples\\..\\..\\outside.png", "../outside.png", str(tmp_path / "outside.png"), "C:\\outside.png")
    hostile = (f'<srcimg name="{name}"/>{label}' for name in outside)
    most = whole.replace("labels\\real", "lost\\real").replace("labels\\female", "lost\\female")
    for text in ("<dataset/>", whole.replace('name="', 'name="lost\\'), most, *hostile):
        xml.write_text(text)
        pairs, (*_, note) = read_pairs(copied)
        assert pairs == expected and "training.xml is missing or of no use: 58 pairs matched by folder and name" in note
    flat = shutil.copytree(copied / "samples", tmp_path / "flat")
    shutil.copytree(copied / "labels", flat / "labels")
    for folder in (copied, flat):  # images below samples/ or beside labels/, on disk and in the XML
        for text in (whole, whole.replace("samples\\", ""), ""):
            (folder / "training.xml").write_text(text)
            found = sorted((pair.label, pair.image.removeprefix("samples/")) for pair in read_pairs(folder)[0])
            assert found == sorted((pair.label, pair.image.removeprefix("samples/")) for pair in expected)
    shutil.rmtree(copied / "labels")
    assert f"{copied}: looked for training.xml" in refused(read_pairs, copied)


def test_a_folder_may_be_made_of_links(shipped, tmp_path):
    for name in ("samples", "labels", "training.xml"):
        (tmp_path / name).symlink_to(shipped / name)
    samples, _ = dataset.list_samples(str(tmp_path))
    assert len(samples) > 40 and all(sample.image.is_file() for sample in samples)
    faces = write_celebamask(tmp_path / "faces", 2, 32)
    assert "has none; leave it out" in refused(dataset.list_samples, str(faces), "manifest.csv")


# ---- Duplicates, subsample, splits ---------------------------------------------------------------------------------


def test_duplicates_are_those_that_a_double_loop_finds(distance=3):
    """600 hashes, of which a fifth are copies of others with up to four bits changed."""
    rng = np.random.default_rng(0)
    hashes = [int(x) for x in rng.integers(0, 2**64, 600, dtype=np.uint64)]
    for i in rng.permutation(600)[:120].tolist():
        flips = sum(1 << int(bit) for bit in rng.permutation(64)[: rng.integers(0, 5)])
        hashes[i] = hashes[int(rng.integers(0, 600))] ^ flips
    copies = {}
    for i in range(600):
        near = [j for j in range(i) if j not in copies and (hashes[i] ^ hashes[j]).bit_count() <= distance]
        if near:
            copies[i] = near[0]
    assert find_duplicates(hashes, distance) == copies and len(copies) > 10


def test_the_hash_is_one_bit_for_each_pixel_that_is_darker_than_its_right_neighbour():
    ramp = np.tile(np.arange(0, 90, 10, dtype=np.uint8), (8, 1))
    assert difference_hash(Image.fromarray(ramp)) == 2**64 - 1
    assert difference_hash(Image.fromarray(ramp[:, ::-1].copy())) == 0
    ramp[0, 0] = 255  # the first pair of the first row: the highest bit
    assert difference_hash(Image.fromarray(ramp)) == 2**63 - 1


def test_subsample_takes_all_of_real_50_of_multi_and_10_of_each_other_folder():
    pairs = [Pair(f"{folder}/{i}", "", folder, person, category)
             for folder, person, category, n in (("real", "", "real", 70), ("multi1", "", "multi", 40),
                ("multi2", "", "multi", 40), ("male01", "male01", "male", 25), ("femaleeva", "femaleeva", "female", 4))
             for i in range(n)]  # fmt: skip
    chosen = subsample(pairs, seed=1)
    assert chosen == sorted(set(chosen)) == subsample(pairs, seed=1) != subsample(pairs, seed=2)
    counts = Counter(pairs[i].category for i in chosen)
    assert counts == {"real": 70, "multi": 50, "male": 10, "female": 4}


def test_prepare_drops_the_planted_copies_and_moves_nothing(shipped, tmp_path):
    before = {path: path.read_bytes() for path in shipped.rglob("*") if path.is_file()}
    prepare.prepare(shipped, tmp_path / "list.csv", distance=2)
    planted = {"samples/real/0026.png": "samples/real/0000.png",
               "samples/malegaberial_light/0004.png": "samples/malegaberial_light/0001.png",
               "samples/femalealison1_light/0014.png": "samples/femalealison1_light/0002.png",
               "samples/real/0027.png": "samples/femalealison2_light/0000.png"}  # fmt: skip
    dropped = csv.DictReader(open(tmp_path / "list-dropped.csv"))
    assert {row["dropped"]: row["kept"] for row in dropped} == planted
    rows = list(csv.DictReader(open(tmp_path / "list.csv")))
    assert len(rows) == 50 and not planted.keys() & {row["image"] for row in rows}
    assert sum(row["folder"] == "femalealison1" for row in rows) == 10  # of the 14 that are left
    assert {path: path.read_bytes() for path in shipped.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("seed", range(3))
def test_the_person_split_has_nobody_on_both_sides_and_the_papers_has(seed):
    made = [(f"male{p:02d}", "male") for p in range(12) for _ in range(5)] + [("", "real")] * 20 + [("", "multi")] * 6
    samples = [Sample(f"{i}.png", Path(f"{i}.png"), {}, *of) for i, of in enumerate(made)]
    known = {}
    for by in ("person", "images"):
        sides = dataset.split(samples, by, seed)
        assert sides == dataset.split(samples, by, seed) and sorted(sides[0] + sides[1]) == list(range(86))
        assert len(sides[1]) == round(0.2 * 86) if by == "images" else 0.1 < len(sides[1]) / 86 <= 0.21
        known[by] = set.intersection(*({samples[i].person or samples[i].category for i in side} for side in sides))
    assert known["person"] <= {"real"} and len(known["images"]) > 5  # all pictures of several people on one side
    assert "cannot be split" in refused(dataset.split, samples[:5], "person", 0)  # one person

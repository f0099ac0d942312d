"""Generated faces: the masks keep their promises, the seeds fix everything, and a written folder is all or nothing."""

import hashlib
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from common import face_traits, faces
from common.cli import InputError
from common.faces import EXTRA_PARTS, PARTS, generate_face, write_celebamask

ALL_PARTS = PARTS + EXTRA_PARTS
N, SIZE = 320, 64


@pytest.fixture(scope="module")
def many() -> list[faces.Face]:
    return [generate_face(seed, SIZE) for seed in range(N)]


def part(face: faces.Face, name: str) -> np.ndarray:
    return face.masks[ALL_PARTS.index(name)]


def digest(face: faces.Face) -> str:
    return hashlib.sha256(face.image.tobytes() + face.masks.tobytes() + repr(face.attributes).encode()).hexdigest()


def test_shapes_and_types():
    for size in (64, 100, 256):
        face = generate_face(3, size)
        assert face.image.shape == (size, size, 3) and face.image.dtype == np.uint8
        assert face.masks.shape == (21, size, size) and face.masks.dtype == bool
        assert all(type(value) in (str, int, float) for value in face.attributes.values())
        json.dumps(face.attributes)


def test_same_seed_same_bytes_in_another_process_too():
    here = digest(generate_face(11, 96))
    assert here == digest(generate_face(11, 96))
    code = (
        "import hashlib; from common.faces import generate_face; f = generate_face(11, 96); "
        "print(hashlib.sha256(f.image.tobytes() + f.masks.tobytes() + repr(f.attributes).encode()).hexdigest())"
    )
    root = Path(faces.__file__).parents[1]
    there = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert there.stdout.strip() == here


def test_global_random_state_is_neither_used_nor_changed():
    np.random.seed(0)
    _, keys, position, *_ = np.random.get_state()
    first = digest(generate_face(5, SIZE))
    assert np.array_equal(keys, np.random.get_state()[1]) and position == np.random.get_state()[2]
    np.random.seed(1)
    assert digest(generate_face(5, SIZE)) == first


def test_different_seeds_differ(many):
    assert len({digest(face) for face in many}) == N


def test_a_seed_is_the_same_face_at_every_size():
    for seed in range(8):
        small, large = generate_face(seed, 64), generate_face(seed, 256)
        for name in ("skin", "hair", "cloth", "nose"):
            a = part(small, name)
            b = np.asarray(Image.fromarray(part(large, name)).resize((64, 64), Image.NEAREST))
            assert (a != b).mean() < 0.02, (seed, name)


def test_every_kind_occurs(many):
    for name in ALL_PARTS:
        assert any(part(face, name).any() for face in many), name
    for key, values in {
        "tone": range(1, 11),
        "expression": face_traits.EXPRESSIONS,
        "hair_style": face_traits.HAIR_STYLES,
        "hair_colour": face_traits.HAIR_COLOURS,
        "beard": face_traits.BEARDS,
        "glasses": face_traits.GLASSES,
        "background": face_traits.BACKGROUNDS,
    }.items():
        assert {face.attributes[key] for face in many} == set(values), key
    assert len({face.attributes["hat"] for face in many}) >= 4


def test_masks_overlap_as_documented(many):
    for seed, face in enumerate(many):
        skin = part(face, "skin")
        for name in ("nose", "l_eye", "r_eye", "l_brow", "r_brow", "mouth", "u_lip", "l_lip", "facial_hair", "teeth"):
            assert not (part(face, name) & ~skin).any(), (seed, name)
        assert not (part(face, "teeth") & ~part(face, "mouth")).any(), seed
        assert not (part(face, "cloth") & ~part(face, "torso")).any(), seed
        exclusive = ("skin", "l_ear", "r_ear", "hair", "hat", "ear_r", "neck_l", "neck", "cloth")
        assert sum(part(face, name).astype(int) for name in exclusive).max() <= 1, seed
        on_the_face = ("nose", "l_eye", "r_eye", "l_brow", "r_brow", "mouth", "u_lip", "l_lip")
        assert sum(part(face, name).astype(int) for name in on_the_face).max() <= 1, seed


def test_no_background_shows_through_the_person(many):
    """What belongs to no part can be reached from the picture's edge, but for what is seen between neck and hair."""
    for seed, face in enumerate(many[:100]):
        if face.attributes["hair_style"] == "braids" or face.attributes["earrings"] == "hoop":
            continue
        person = np.pad(face.masks.any(0)[:-1], ((1, 0), (1, 1)))  # the person leaves the picture at the bottom
        picture = Image.fromarray(person.astype(np.uint8)).copy()  # a copy, as what shares memory is not filled
        ImageDraw.floodfill(picture, (0, 0), 1)
        assert (np.asarray(picture) == 0).mean() < 0.005, seed
        assert 0.25 < person.mean() < 0.98, seed


def test_left_is_the_persons_left(many):
    for seed, face in enumerate(many):
        for name in ("eye", "brow", "ear"):
            left, right = part(face, f"l_{name}"), part(face, f"r_{name}")
            if left.any() and right.any():
                assert np.argwhere(left)[:, 1].mean() > np.argwhere(right)[:, 1].mean(), (seed, name)


def test_attributes_agree_with_masks(many):
    for seed, face in enumerate(many):
        attributes = face.attributes
        for key, name in (
            ("glasses", "eye_g"),
            ("hat", "hat"),
            ("earrings", "ear_r"),
            ("necklace", "neck_l"),
            ("beard", "facial_hair"),
            ("clothes", "cloth"),
        ):
            assert (attributes[key] != "none") == part(face, name).any(), (seed, key)
        assert attributes["mouth_open"] == int(part(face, "mouth").any()), seed
        if attributes["glasses"] == "sunglasses":
            assert not (part(face, "eye_g") & (part(face, "l_eye") | part(face, "r_eye"))).any(), seed
        if attributes["hair_style"] == "bald":
            assert not part(face, "hair").any(), seed


def test_presence_is_about_that_of_celebamask_hq(many):
    """Shares of the pictures in which a part is seen; generous, the point is that no part is far off."""
    bounds = {
        "hair": (0.93, 1),
        "l_eye": (0.9, 1),
        "l_ear": (0.4, 0.75),
        "mouth": (0.4, 0.65),
        "eye_g": (0.04, 0.14),
        "hat": (0.02, 0.09),
        "ear_r": (0.15, 0.35),
        "neck_l": (0.02, 0.12),
        "cloth": (0.55, 1),
    }
    for name, (low, high) in bounds.items():
        rate = np.mean([part(face, name).any() for face in many])
        assert low <= rate <= high, (name, rate)


def test_a_person_stays_the_same_from_picture_to_picture():
    pictures = [generate_face(seed, SIZE, person=4) for seed in range(12)]
    for key in ("tone", "hair_style", "hair_colour", "makeup"):
        assert len({picture.attributes[key] for picture in pictures}) == 1, key
    assert len({picture.attributes["expression"] for picture in pictures}) > 1
    assert len({picture.image.tobytes() for picture in pictures}) == len(pictures)
    assert digest(generate_face(4, SIZE)) == digest(generate_face(4, SIZE, person=4))


def test_tone_and_expression_can_be_asked_for():
    free = generate_face(9, SIZE)
    for tone in (1, 10):
        face = generate_face(9, SIZE, tone=tone)
        assert face.attributes == free.attributes | {"tone": tone}
        assert np.array_equal(face.masks, free.masks)
    light, dark = (generate_face(9, SIZE, tone=tone) for tone in (1, 10))
    assert light.image[part(light, "skin")].mean() > dark.image[part(dark, "skin")].mean() + 60
    for expression in face_traits.EXPRESSIONS:
        assert generate_face(9, SIZE, expression=expression).attributes["expression"] == expression
    with pytest.raises(ValueError, match="expression must be one of"):
        generate_face(9, SIZE, expression="bored")
    with pytest.raises(ValueError, match="tone must be 1 to 10"):
        generate_face(9, SIZE, tone=11)


def test_written_folder_reads_back(tmp_path):
    folder = write_celebamask(tmp_path / "faces", n=3, size=SIZE, seed=20)
    assert folder == tmp_path / "faces"
    assert [path.name for path in tmp_path.iterdir()] == ["faces"]
    assert sorted(path.name for path in (folder / "CelebA-HQ-img").iterdir()) == ["0.jpg", "1.jpg", "2.jpg"]
    for i in range(3):
        face = generate_face(20 + i, SIZE)
        photo = np.asarray(Image.open(folder / "CelebA-HQ-img" / f"{i}.jpg"))
        assert np.abs(photo.astype(int) - face.image).mean() < 6
        for name in ALL_PARTS:
            path = folder / "CelebAMask-HQ-mask-anno" / "0" / f"{i:05d}_{name}.png"
            assert path.exists() == (name in PARTS and part(face, name).any()), path.name
            if path.exists():
                mask = Image.open(path)
                assert mask.mode == "RGB"
                assert np.array_equal(np.asarray(mask), part(face, name)[..., None].repeat(3, 2) * np.uint8(255))


def test_same_folder_is_kept_and_another_replaced(tmp_path):
    folder = write_celebamask(tmp_path / "faces", n=2, size=32)
    photo = folder / "CelebA-HQ-img" / "0.jpg"
    before = photo.stat()
    write_celebamask(folder, n=2, size=32)
    assert photo.stat().st_mtime_ns == before.st_mtime_ns and photo.stat().st_ino == before.st_ino
    write_celebamask(folder, n=1, size=48, parts=("hair", "torso"))
    assert Image.open(photo).size == (48, 48)
    assert not (folder / "CelebA-HQ-img" / "1.jpg").exists()
    names = {path.stem[6:] for path in (folder / "CelebAMask-HQ-mask-anno" / "0").iterdir()}
    assert names == {"hair", "torso"}
    assert [path.name for path in tmp_path.iterdir()] == ["faces"]


def test_refuses_a_foreign_folder(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="mine: exists and holds no generated pictures"):
        write_celebamask(tmp_path / "mine", n=1, size=32)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    with pytest.raises(ValueError, match="parts must be among"):
        write_celebamask(tmp_path / "new", n=1, size=32, parts=("beak",))


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(seed, size):
        raise KeyboardInterrupt

    monkeypatch.setattr(faces, "generate_face", fail)
    with pytest.raises(KeyboardInterrupt):
        write_celebamask(tmp_path / "faces", n=1, size=32)
    assert list(tmp_path.iterdir()) == []


def test_two_writers_at_once(tmp_path):
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(write_celebamask, tmp_path / "faces", n=3, size=32) for _ in range(4)]
        assert {job.result() for job in jobs} == {tmp_path / "faces"}
    assert len(list((tmp_path / "faces" / "CelebA-HQ-img").iterdir())) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["faces"]

"""Painted faces: the masks keep their promises, the seeds fix everything, and a written folder is all or nothing."""

import os

import numpy as np
import pytest
from conftest import refused
from PIL import Image

from common import faces
from common.celebamask import PARTS
from common.data import write_once
from common.faces import ALL_PARTS, generate_face, write_celebamask

SIZE = 64
ON_THE_FACE = ("nose", "l_eye", "r_eye", "l_brow", "r_brow", "mouth", "u_lip", "l_lip")
BESIDE_IT = ("skin", "l_ear", "r_ear", "hair", "hat", "ear_r", "neck_l", "neck", "cloth")


def parts(face: faces.Face) -> dict[str, np.ndarray]:
    return dict(zip(ALL_PARTS, face.masks, strict=True))


@pytest.fixture(scope="module")
def many() -> list[faces.Face]:
    return [generate_face(seed, SIZE) for seed in range(120)]


def test_every_part_occurs_and_a_seed_is_the_same_face_every_time_and_at_another_size(many):
    assert np.sum([face.masks.any((1, 2)) for face in many], axis=0).min() >= 10
    assert len({face.image.tobytes() for face in many}) == len(many)
    for seed in range(5):
        small, large = generate_face(seed, 64), generate_face(seed, 192)
        assert small.image.tobytes() == many[seed].image.tobytes() and np.array_equal(small.masks, many[seed].masks)
        assert (small.masks != large.masks[:, 1::3, 1::3]).mean((1, 2)).max() < 0.02  # but for edges


def test_masks_overlap_as_in_celebamask_hq(many):
    for seed, face in enumerate(many):
        part = parts(face)
        within = dict.fromkeys((*ON_THE_FACE, "facial_hair"), "skin") | {"teeth": "mouth", "cloth": "torso"}
        for inner, outer in within.items():
            assert not (part[inner] & ~part[outer]).any(), (seed, inner)
        for names in (ON_THE_FACE, BESIDE_IT):
            assert np.sum([part[name] for name in names], axis=0).max() == 1, (seed, names)
        for name in ("eye", "brow", "ear"):
            left, right = part[f"l_{name}"], part[f"r_{name}"]
            if left.any() and right.any():  # the person's left is the picture's right
                assert np.nonzero(left)[1].mean() > np.nonzero(right)[1].mean(), (seed, name)


def test_a_person_keeps_the_face_and_zoom_steps_back():
    def tone(seed, person):
        face = generate_face(seed, SIZE, person=person)
        return face.image[parts(face)["nose"]].mean(0)

    tones = np.array([[tone(seed, person) for seed in range(10)] for person in (3, 9, 11)])
    assert tones.mean(1).std(0).min() > tones.std(1).max()  # three people in ten lights
    assert len({parts(generate_face(seed, SIZE, person=9))["mouth"].any() for seed in range(10)}) == 2  # expressions
    near, far = (parts(generate_face(9, SIZE, zoom=zoom)) for zoom in (1, 0.66))
    assert far["skin"].sum() < 0.6 * near["skin"].sum() and far["torso"].sum() > 1.5 * near["torso"].sum()


def test_write_celebamask(tmp_path):
    folder = write_celebamask(tmp_path / "faces", n=2, size=SIZE, seed=20)
    for i in range(2):
        face = generate_face(20 + i, SIZE)
        photo = np.asarray(Image.open(folder / "CelebA-HQ-img" / f"{i}.jpg"))
        assert np.abs(photo.astype(int) - face.image).mean() < 6
        paths = {name: folder / "CelebAMask-HQ-mask-anno" / "0" / f"{i:05d}_{name}.png" for name in ALL_PARTS}
        for name, mask in parts(face).items():
            assert paths[name].exists() == (name in PARTS and mask.any())
            if paths[name].exists():
                assert np.array_equal(np.asarray(Image.open(paths[name])), 255 * np.stack([mask] * 3, axis=-1))


def test_the_same_recipe_is_kept_another_replaces_and_foreign_files_stay(tmp_path):
    folder = write_once(tmp_path / "new" / "faces", {"seed": [1]}, lambda draft: (draft / "first").touch())
    write_once(folder, {"seed": [1]}, lambda draft: pytest.fail("painted again"))
    assert sorted(os.listdir(folder)) == ["first", "generated.json"]
    write_once(folder, {"seed": [2]}, lambda draft: (draft / "second").touch())
    assert sorted(os.listdir(folder)) == ["generated.json", "second"] and os.listdir(folder.parent) == ["faces"]
    (tmp_path / "thesis.txt").write_text("years of work")
    assert "holds no painted pictures; move it away" in refused(write_once, tmp_path, {}, lambda draft: None)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"

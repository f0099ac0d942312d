"""Painted faces with exact part masks: the data set that every folder can run on with nothing downloaded.

    face = generate_face(seed=7, size=128)              # image (128, 128, 3), masks (21, 128, 128), attributes
    generate_face(seed=8, person=7, expression="sad")   # the same person in another picture
    write_celebamask("faces", n=2000, size=256)         # a folder laid out like CelebAMask-HQ

The masks overlap as CelebAMask-HQ's raw ones do:
- skin is the face with what lies on it: nose, eyes, brows, mouth, lips, beard and the part of the glasses that is on
  the face; it ends where hair, hat, ears or an earring cover it, and it has neither ears nor neck.
- eye_g is frame and lenses; eyes and brows behind clear lenses keep their masks, those behind sunglasses have none.
- mouth is the open mouth between the lips (with the teeth), ear_r an earring, neck_l a necklace.
- neck is the bare skin from the jaw down to the clothes, as annotators drew it; cloth and necklace are not on it.
- EXTRA_PARTS, which CelebAMask-HQ does not have: teeth (inside mouth), facial_hair (inside skin), torso (shoulders and
  chest, clothed or bare, where visible; the bare chest is neck as well).
l_ and r_ are the person's own left and right, as in CelebAMask-HQ: l_eye lies in the right half of the picture.
Lengths are fractions of the picture's side, so that a seed shows the same face at every size.

A person is drawn from tables (common/face_traits.py), a part is painted by its function (common/face_painting.py) on a
canvas that keeps the masks (common/face_canvas.py).
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from common.celebamask import PARTS
from common.face_canvas import (
    EXTRA_PARTS,
    Canvas,
    Pose,
    enlarge,
    hair_field,
    light_up,
    mirror,
    random_background,
    skin_fields,
    smooth,
)
from common.face_painting import (
    paint_beard,
    paint_body,
    paint_ear,
    paint_earring,
    paint_eyes,
    paint_glasses,
    paint_hair_back,
    paint_hair_front,
    paint_hat,
    paint_mouth,
    paint_nose,
)
from common.face_traits import EXPRESSIONS, HAIR_STYLES, MONK, identity, picture
from common.generated import write_once

VERSION = 2  # raise it whenever a seed no longer gives the same bytes, whichever of the four files the change is in
ALL_PARTS = PARTS + EXTRA_PARTS


class Face(NamedTuple):
    """image: uint8 (H, W, 3); masks: bool (21, H, W) in the order PARTS + EXTRA_PARTS; attributes: primitives."""

    image: np.ndarray
    masks: np.ndarray
    attributes: dict[str, str | int | float]


def generate_face(
    seed: int,
    size: int = 128,
    *,
    person: int | None = None,
    expression: str | None = None,
    tone: int | None = None,
    zoom: float = 1.0,
) -> Face:
    """Paint the picture `seed` of a person (default: of the person `seed`), uint8 (size, size, 3), with its masks.

    The person fixes tone, face, hair, beard and make-up; the seed fixes pose, expression, light, background, clothes
    and what else is worn. expression (a key of EXPRESSIONS) and tone (1 to 10) replace what was drawn and leave the
    rest as it was. What is hidden or out of the picture is "none" in the attributes: they never contradict the masks.
    zoom below 1 steps back from the person: at 0.66 the picture is a portrait with head and torso.
    """
    if expression is not None and expression not in EXPRESSIONS:
        raise ValueError(f"expression must be one of {', '.join(EXPRESSIONS)}, got {expression!r}")
    if tone is not None and not 1 <= tone <= len(MONK):
        raise ValueError(f"tone must be 1 to {len(MONK)} on the Monk scale, got {tone}")
    person = seed if person is None else person
    person_rng, rng = np.random.default_rng([person, 0]), np.random.default_rng([seed, 1])
    who = identity(person_rng, tone)
    shot = picture(rng, who, expression)
    pose = Pose(rng)
    pose.scale *= zoom
    pose.centre = pose.centre * zoom + (0.5 * (1 - zoom), 0.18 * (1 - zoom))
    kind, background = random_background(rng)
    canvas = Canvas(size, background)

    face_colours, body_colours = skin_fields(pose, who)
    skin = enlarge(face_colours, canvas.side)
    hair_colours = hair_field(pose, who, person_rng)
    hair = enlarge(hair_colours, canvas.side)
    has_hat = shot["hat"] != "none"
    has_hair = who["hair_style"] != "bald" and shot["hat"] != "headscarf"
    if has_hair:
        paint_hair_back(canvas, pose, who, has_hat, hair_colours, person_rng)
    paint_body(canvas, pose, who, shot, enlarge(body_colours, canvas.side), rng)

    near = -1 if pose.yaw > 0 else 1  # the ear that the turn brings forward overlaps the cheek
    paint_ear(canvas, pose, who, -near, skin)
    half = [(0, -0.44), (0.15, -0.41), (0.235, -0.29), (0.264, -0.12), (0.258, 0.02), (0.233, 0.14), (who["jaw"], 0.25),
            (who["chin"], who["chin_y"] - 0.03), (0, who["chin_y"])]  # fmt: skip
    outline = smooth(mirror(half)) * (who["width"], 1)
    face = canvas.shape(pose.outline(outline, z=0.17 * np.clip(outline[:, 1] / 0.37, 0, 1) ** 1.5))
    canvas.paint(face, skin, "skin")
    behind = has_hair and HAIR_STYLES[who["hair_style"]].front > 0.05
    if behind:
        paint_ear(canvas, pose, who, near, skin)

    paint_nose(canvas, pose, who, shot, skin, face)
    paint_beard(canvas, pose, who, hair, face)
    paint_mouth(canvas, pose, who, shot, face)
    paint_eyes(canvas, pose, who, shot, face)
    paint_glasses(canvas, pose, who, shot, rng)
    if has_hair:
        paint_hair_front(canvas, pose, who, has_hat, hair, person_rng)
    if not behind and shot["hat"] != "headscarf":
        paint_ear(canvas, pose, who, near, skin)
    if shot["earrings"] != "none":
        metal = ((212, 175, 85), (205, 205, 212), shot["accent"])[rng.integers(3)]
        for side in (-1, 1):
            if side == near or abs(pose.yaw) < 15:
                paint_earring(canvas, pose, who, shot, side, metal)
    paint_hat(canvas, pose, shot)
    masks = canvas.masks()
    seen = dict(zip(ALL_PARTS, masks.any((1, 2)).tolist()))
    attributes = {
        "tone": who["tone"],
        "makeup": int(who["makeup"]),
        "hair_style": who["hair_style"],
        "hair_colour": who["hair_colour"],
        "beard": who["beard"] if seen["facial_hair"] else "none",
        "expression": shot["expression"],
        "mouth_open": int(seen["mouth"]),
        "hat": shot["hat"] if seen["hat"] else "none",
        "glasses": shot["glasses"] if seen["eye_g"] else "none",
        "earrings": shot["earrings"] if seen["ear_r"] else "none",
        "necklace": shot["necklace"] if seen["neck_l"] else "none",
        "clothes": shot["clothes"] if seen["cloth"] else "none",
        "background": kind,
        "yaw": pose.yaw,
        "roll": pose.roll,
    }
    return Face(light_up(canvas, pose, rng, size), masks, attributes)


def write_celebamask(
    folder: str | Path, n: int, size: int = 256, seed: int = 0, parts: tuple[str, ...] = PARTS
) -> Path:
    """Write the faces of the seeds seed .. seed + n - 1 as CelebAMask-HQ is laid out, and return the folder:

    folder/CelebA-HQ-img/17.jpg
    folder/CelebAMask-HQ-mask-anno/0/00017_l_eye.png    0 or 255, three channels; absent parts have no file
    folder/generated.json                               what was asked for

    A folder that holds just that is left as it is, one that holds other generated faces is replaced (see write_once).
    """
    if not set(parts) <= set(ALL_PARTS):
        raise ValueError(f"parts must be among {', '.join(ALL_PARTS)}; got {', '.join(parts)}")

    def paint(draft: Path) -> None:
        (draft / "CelebA-HQ-img").mkdir()
        for i in tqdm(range(n), desc=f"painting {Path(folder).name}", unit="face", disable=None):
            face = generate_face(seed + i, size)
            Image.fromarray(face.image).save(draft / "CelebA-HQ-img" / f"{i}.jpg", quality=95)
            annotations = draft / "CelebAMask-HQ-mask-anno" / str(i // 2000)
            annotations.mkdir(parents=True, exist_ok=True)
            for part, mask in zip(ALL_PARTS, face.masks):
                if part in parts and mask.any():
                    Image.fromarray(mask).convert("RGB").save(annotations / f"{i:05d}_{part}.png")

    recipe = {"n": n, "size": size, "seed": seed, "parts": list(parts), "version": VERSION}
    return write_once(Path(folder), recipe, paint)

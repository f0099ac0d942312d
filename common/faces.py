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
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter
from tqdm import tqdm

from common.generated import write_once

VERSION = 2  # raise it whenever a seed no longer gives the same bytes
PARTS = ("skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear", "mouth", "u_lip", "l_lip",
         "hair", "hat", "ear_r", "neck_l", "neck", "cloth")  # fmt: skip
EXTRA_PARTS = ("teeth", "facial_hair", "torso")
EXPRESSIONS = {"neutral": 0.36, "happy": 0.44, "sad": 0.10, "angry": 0.10}
# The Monk Skin Tone scale, 1 (lightest) to 10 (darkest): Monk, 2019, https://skintone.google
MONK = ("f6ede4", "f3e7db", "f7ead0", "eadaba", "d7bd96", "a07e56", "825c43", "604134", "3a312a", "292420")
HAIR_COLOURS = {
    "black": (28, 24, 26), "brown": (78, 50, 32), "blond": (196, 158, 96), "red": (150, 66, 30),
    "grey": (138, 136, 134), "white": (222, 220, 214), "dyed": None,
}  # fmt: skip
DYES = ((200, 70, 130), (60, 90, 190), (110, 60, 160), (40, 140, 120))


class Hair(NamedTuple):
    """A haircut in the head's frame: origin between the cheeks, brows at y = -0.15, chin at 0.37, ears at x = 0.3."""

    made_up: float  # how frequent it is with make-up on
    plain: float  # and without
    volume: float  # height above the skull
    side: float  # width beyond the skull
    front: float  # y where the hair before the shoulders ends
    back: float  # y where the hair behind the neck ends
    hairline: float  # y of the middle of the hairline
    temple: float  # half width of the face's opening at the forehead, at the cheek and under the chin
    cheek: float
    fall: float
    curl: float  # 0 strands, 1 curls
    jag: float = 0.006  # raggedness of the hairline


HAIR_STYLES = {
    "bald": Hair(0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0),
    "receding": Hair(0, 8, 0.01, 0.01, 0.0, -0.1, -0.43, 0.25, 0.252, 0.3, 0.1),
    "buzz": Hair(0.5, 14, 0.012, 0.0, -0.02, -0.1, -0.36, 0.22, 0.25, 0.3, 0.6),
    "side_part": Hair(3, 26, 0.06, 0.02, 0.0, -0.05, -0.36, 0.21, 0.25, 0.3, 0.0),
    "spiky": Hair(1, 14, 0.08, 0.02, -0.03, -0.05, -0.34, 0.22, 0.25, 0.3, 0.1, 0.035),
    "short_curls": Hair(2, 10, 0.08, 0.04, -0.02, 0.0, -0.33, 0.21, 0.245, 0.3, 1.0, 0.015),
    "afro": Hair(4, 4, 0.14, 0.15, 0.16, 0.2, -0.34, 0.21, 0.25, 0.4, 1.0, 0.01),
    "mop": Hair(4, 7, 0.07, 0.06, 0.08, 0.2, -0.2, 0.22, 0.235, 0.3, 0.2, 0.035),
    "bob": Hair(10, 1, 0.07, 0.1, 0.33, 0.3, -0.37, 0.2, 0.238, 0.23, 0.0),
    "bob_fringe": Hair(8, 1, 0.07, 0.1, 0.3, 0.3, -0.18, 0.235, 0.24, 0.23, 0.0, 0.02),
    "long_straight": Hair(22, 3, 0.07, 0.11, 1.0, 1.0, -0.38, 0.19, 0.232, 0.22, 0.0),
    "long_fringe": Hair(14, 1, 0.07, 0.12, 1.0, 1.0, -0.18, 0.23, 0.235, 0.22, 0.0, 0.02),
    "long_wavy": Hair(27, 2, 0.09, 0.15, 1.0, 1.0, -0.37, 0.19, 0.235, 0.22, 0.35),
    "long_curls": Hair(12, 2, 0.1, 0.18, 1.0, 1.0, -0.35, 0.19, 0.23, 0.22, 1.0, 0.015),
    "long_behind": Hair(14, 3, 0.07, 0.06, -0.06, 1.0, -0.37, 0.21, 0.245, 0.4, 0.1),
    "bun": Hair(7, 1, 0.03, 0.01, -0.06, 0.0, -0.38, 0.22, 0.25, 0.3, 0.0),
    "braids": Hair(5, 0, 0.03, 0.02, -0.02, 0.0, -0.36, 0.2, 0.245, 0.3, 0.3),
}
# How often; crown: height above the skull, half width below and above; brim: half width, half height, y.
HATS = {
    "none": (0.945,),
    "beanie": (0.012, 0.07, 0.31, 0.17, 0, 0, -0.17),
    "cap": (0.015, 0.05, 0.3, 0.17, 0.28, 0.055, -0.2),
    "fedora": (0.009, 0.1, 0.27, 0.17, 0.43, 0.06, -0.22),
    "sun_hat": (0.008, 0.03, 0.3, 0.18, 0.56, 0.1, -0.21),
    "turban": (0.004, 0.09, 0.33, 0.22, 0, 0, -0.2),
    "headscarf": (0.007, 0.03, 0.3, 0.2, 0, 0, 0),
}
GLASSES = {"none": 0.915, "glasses": 0.06, "sunglasses": 0.025}
EARRINGS = ("stud", "hoop", "drop")
BEARDS = {"none": 0.42, "stubble": 0.25, "moustache": 0.07, "goatee": 0.12, "full": 0.14}
CLOTHES = {"crew": 0.2, "v_neck": 0.16, "scoop": 0.14, "shirt": 0.12, "suit": 0.14, "turtleneck": 0.07, "hoodie": 0.07,
           "straps": 0.08, "bare": 0.16}  # fmt: skip
BACKGROUNDS = ("gradient", "bokeh", "wall", "letters", "leaves", "horizon", "room", "stripes")
FACE_CENTRE = (0.497, 0.555)
EYE_DEPTH = 0.235  # how far the eyes lie before the head's axis; turning the head keeps them in place, as in CelebA
WORD = {part: np.uint32(1 << k) for k, part in enumerate(PARTS + EXTRA_PARTS)}


Rng = np.random.Generator
Mask = Image.Image  # of mode "L", 0 or 255


class Face(NamedTuple):
    """image: uint8 (H, W, 3); masks: bool (21, H, W) in the order PARTS + EXTRA_PARTS; attributes: primitives."""

    image: np.ndarray
    masks: np.ndarray
    attributes: dict[str, str | int | float]


def _pick(rng: Rng, table: dict) -> str:
    """A key, drawn with its value as weight (the first of it if it is a tuple)."""
    weights = np.array([w[0] if isinstance(w, tuple) else w for w in table.values()], dtype=float)
    return list(table)[int(rng.choice(len(weights), p=weights / weights.sum()))]


def _tint(colour, gain: float) -> tuple[int, int, int]:
    return tuple(int(min(255, max(0, c * gain))) for c in colour)


def _mix(a, b, t: float) -> tuple[int, int, int]:
    return tuple(int(x + (y - x) * t) for x, y in zip(a, b))


def _random_colour(rng: Rng) -> tuple[int, int, int]:
    """From almost black to bright, most of it of low saturation, as clothes and walls are."""
    grey = rng.uniform(15, 240)
    return _mix((grey, grey, grey), rng.uniform(10, 250, 3), rng.uniform(0.1, 0.8))


def _mirror(right) -> np.ndarray:
    """Right half of an outline from top to bottom -> (N, 2) closed outline."""
    right = np.asarray(right, dtype=float)
    left = right[::-1] * (-1, 1)
    return np.concatenate([right, left[left[:, 0] != 0]])


def _smooth(points, steps: int = 6) -> np.ndarray:
    """(N, 2) corners -> (N * steps, 2) closed Catmull-Rom curve through them."""
    b = np.asarray(points, dtype=float)
    a, c, d = np.roll(b, 1, 0), np.roll(b, -1, 0), np.roll(b, -2, 0)
    t = np.linspace(0, 1, steps, endpoint=False)[:, None, None]
    curve = b + 0.5 * ((c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
    return curve.swapaxes(0, 1).reshape(-1, 2)


def _oval(x: float, y: float, rx: float, ry: float, n: int = 28) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, n, endpoint=False)
    return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], 1)


def _ruffle(points: np.ndarray, rng: Rng, amount: float) -> np.ndarray:
    """Push the points of an outline in and out at random, to make locks and curls of it."""
    middle = points.mean(0)
    return middle + (points - middle) * (1 + rng.uniform(-amount, amount, (len(points), 1)))


class _Pose:
    """Where the head's and the body's points come to lie in the picture."""

    def __init__(self, rng: Rng):
        self.yaw = float(np.clip(rng.normal(0, 13), -35, 35))  # degrees, positive: towards the viewer's right
        self.roll = float(np.clip(rng.normal(0, 6), -20, 20))  # degrees, positive: clockwise
        self.scale = float(np.clip(rng.normal(1.025, 0.05), 0.86, 1.14))
        self.centre = np.array(FACE_CENTRE) + np.clip(rng.normal(0, 0.014, 2), -0.035, 0.035)
        self.sin, self.cos = np.sin(np.radians(self.yaw)), np.cos(np.radians(self.yaw))

    def turn(self, points: np.ndarray, share: float) -> np.ndarray:
        angle = np.radians(self.roll) * share
        return points @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])

    def surface(self, points, lift: float = 0.0) -> np.ndarray:
        """(N, 2) points on the front of the head -> in the picture; the head is about an ellipsoid."""
        x, y = np.asarray(points, dtype=float).T
        z = 0.24 * np.sqrt(np.clip(1 - (x / 0.3) ** 2 - (y / 0.52) ** 2, 0, 1)) + lift
        x = x * self.cos + (z - EYE_DEPTH) * self.sin
        return self.centre + self.scale * self.turn(np.stack([x, y], 1), 1)

    def outline(self, points, z=0.0) -> np.ndarray:
        """(N, 2) points of a silhouette at depth z -> in the picture."""
        points = np.asarray(points, dtype=float)
        shift = np.broadcast_to((z - EYE_DEPTH) * self.sin, len(points))
        return self.centre + self.scale * self.turn(points + np.stack([shift, 0 * shift], 1), 1)

    def body(self, points) -> np.ndarray:
        """(N, 2) points of neck and torso, which follow the head's tilt and turn only in part."""
        nape = np.array([[0, 0.2]])
        moved = self.turn(nape - (0.75 * EYE_DEPTH * self.sin, 0), 1) + self.turn(np.asarray(points) - nape, 0.3)
        return self.centre + self.scale * moved

    def grid(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Two (n, n) arrays: every cell's x and y in the frame of `outline` at the depth of the eyes."""
        y, x = np.mgrid[0:n, 0:n].astype(np.float32) / n + 0.5 / n
        inverse = self.turn(np.eye(2), 1).T / self.scale
        x, y = x - self.centre[0], y - self.centre[1]
        return (x * inverse[0, 0] + y * inverse[1, 0]), (x * inverse[0, 1] + y * inverse[1, 1])


class _Canvas:
    """A picture at twice the size and, for every pixel, a word whose bit k says whether part k is there."""

    def __init__(self, size: int, background: Image.Image):
        self.side = 2 * size
        self.image = background.resize((self.side, self.side), Image.BICUBIC)
        self.words = np.zeros((self.side, self.side), dtype=np.uint32)

    def shape(self, points: np.ndarray, hole: np.ndarray | None = None, inside: Mask | None = None) -> Mask:
        """(N, 2) picture points -> mask of the polygon, less the hole, within another mask."""
        mask = Image.new("L", self.image.size)
        draw = ImageDraw.Draw(mask)
        draw.polygon((points * self.side).ravel().tolist(), fill=255)
        if hole is not None:
            draw.polygon((hole * self.side).ravel().tolist(), fill=0)
        return mask if inside is None else ImageChops.darker(mask, inside)

    def stroke(self, points: np.ndarray, width: float, inside: Mask | None = None) -> Mask:
        mask = Image.new("L", self.image.size)
        line = (points * self.side).ravel().tolist()
        ImageDraw.Draw(mask).line(line, fill=255, width=max(1, round(width * self.side)), joint="curve")
        return mask if inside is None else ImageChops.darker(mask, inside)

    def paint(self, mask: Mask, fill, parts: str = "", keep: str = "", alpha: float = 1.0) -> None:
        """Fill the mask with a colour or a picture. Named parts begin there; all others but those to keep end there."""
        box = mask.getbbox()
        if box is None:
            return
        mask = mask.crop(box)
        if parts:
            word = np.uint32(sum(WORD[part] for part in parts.split()))
            kept = np.uint32(sum(WORD[part] for part in keep.split()))
            words = self.words[box[1] : box[3], box[0] : box[2]]
            np.copyto(words, (words & kept) | word, where=np.asarray(mask) > 0)
        if alpha < 1:
            mask = mask.point([0] * 255 + [round(255 * alpha)])  # masks hold 0 and 255 only
        self.image.paste(fill.crop(box) if isinstance(fill, Image.Image) else fill, box, mask)

    def masks(self) -> np.ndarray:
        """bool (21, H, W): a pixel takes the word that most of its four samples have, so that parts which exclude
        one another still do."""
        a, b, c, d = (self.words[i::2, j::2] for i in (0, 1) for j in (0, 1))
        words = np.where((a == b) | (a == c) | (a == d), a, np.where((b == c) | (b == d), b, d))
        return (words & np.array(list(WORD.values()))[:, None, None]) != 0


def _field(values: np.ndarray, side: int) -> Image.Image:
    """(n, n, 3) colours of any coarseness -> picture of the given side."""
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8)).resize((side, side), Image.BICUBIC)


def _background(rng: Rng) -> tuple[str, Image.Image]:
    """Kind and picture. It ends small and is enlarged later: the fewer the pixels, the further it is out of focus."""
    kind = BACKGROUNDS[rng.integers(len(BACKGROUNDS))]
    n = 144
    a, b = np.array(_random_colour(rng)), np.array(_random_colour(rng))
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[-1 : 1 : n * 1j, -1 : 1 : n * 1j]
    ramp = (0.5 + 0.35 * (x * np.cos(angle) + y * np.sin(angle)))[..., None]
    if kind == "leaves":
        noise = sum(
            np.asarray(Image.fromarray(rng.random((k, k), dtype=np.float32)).resize((n, n), Image.BICUBIC)) / k**0.3
            for k in (4, 9, 21)
        )
        ramp = ((noise - noise.min()) / np.ptp(noise))[..., None]
        a, b = np.array([30, 60, 20]) * rng.uniform(0.5, 1.5), np.array([150, 190, 110]) * rng.uniform(0.5, 1.3)
    image = _field(a + (b - a) * ramp, n)
    draw = ImageDraw.Draw(image)
    count = int(rng.integers(5, 22))
    boxes = rng.uniform(-0.1, 1.1, (count, 2)) * n
    if kind == "bokeh":
        for x0, y0 in boxes:
            r = rng.uniform(0.02, 0.14) * n
            draw.ellipse((x0 - r, y0 - r, x0 + r, y0 + r), fill=_tint(_random_colour(rng), 1.2))
    elif kind in ("wall", "room"):
        for x0, y0 in boxes:
            w, h = rng.uniform(0.05, 0.5, 2) * n
            fill = _random_colour(rng) if kind == "room" else _tint(a, rng.uniform(0.7, 1.3))
            draw.rectangle((x0, y0, x0 + w, y0 + h), fill=fill)
    elif kind == "letters":
        ink = _random_colour(rng)
        for x0, y0 in np.mgrid[0:1:0.1, 0:1:0.17].reshape(2, -1).T * n:
            corners = rng.integers(0, 2, (4, 2)) * (0.06 * n, 0.11 * n) + (x0, y0)
            draw.line(corners.ravel().tolist(), fill=ink, width=3)
    elif kind == "horizon":
        level = rng.uniform(0.3, 0.8) * n
        draw.rectangle((0, level, n, n), fill=_random_colour(rng))
        for x0, _ in boxes[:6]:
            hill = (x0 - 0.2 * n, level - 0.1 * n, x0 + 0.2 * n, level + 0.1 * n)
            draw.ellipse(hill, fill=_tint(b, rng.uniform(0.5, 1)))
    elif kind == "stripes":
        width = rng.uniform(0.04, 0.15) * n
        for k in range(-12, 30, 2):
            x0 = k * width
            lean = 0.8 * n * np.cos(angle)
            draw.polygon([(x0, 0), (x0 + width, 0), (x0 + width + lean, n), (x0 + lean, n)], fill=_tint(a, 0.75))
    sharpness = int(rng.integers(14, 110))
    return kind, image.resize((sharpness, sharpness), Image.BOX)


def _identity(rng: Rng, tone: int | None) -> dict:
    """What stays the same from picture to picture."""
    drawn_tone = int(rng.integers(1, len(MONK) + 1))
    made_up = bool(rng.random() < 0.6)
    style = _pick(rng, {name: hair.made_up if made_up else hair.plain for name, hair in HAIR_STYLES.items()})
    dark = drawn_tone >= 6
    tone = drawn_tone if tone is None else tone  # replaced this late, it leaves all else as it was
    colour = _pick(rng, {"black": 55 if dark else 16, "brown": 30 if dark else 34, "blond": 4 if dark else 24,
                         "red": 2 if dark else 8, "grey": 6, "white": 3, "dyed": 4})  # fmt: skip
    hair = HAIR_COLOURS[colour] or DYES[rng.integers(len(DYES))]
    monk = MONK[tone - 1]
    skin = np.array([int(monk[i : i + 2], 16) for i in (0, 2, 4)]) * rng.uniform((0.97, 0.92, 0.87), (1.03, 0.98, 0.96))
    beard = _pick(rng, BEARDS)
    lip_colour = rng.uniform((140, 10, 30), (225, 70, 110)) * (0.5 + 0.5 * skin.mean() / 240)
    return {
        "tone": tone,
        "makeup": made_up,
        "hair_style": style,
        "hair_colour": colour,
        "beard": "none" if made_up else beard,
        "skin": skin,
        "hair": _tint(hair, rng.uniform(0.85, 1.15)),
        "brow": _tint(_mix(hair if colour != "dyed" else HAIR_COLOURS["brown"], skin * 0.4, 0.4), 0.75),
        "iris": ((70, 45, 25), (90, 60, 30), (70, 110, 150), (80, 120, 80))[rng.integers(4) % (2 if dark else 4)],
        "lips": _mix(skin * 0.8, lip_colour, rng.uniform(0.55, 0.95) if made_up else rng.uniform(0.2, 0.4)),
        "wrinkles": float(rng.uniform(0, 0.35) + 0.3 * (colour in ("grey", "white"))),
        "width": rng.uniform(0.94, 1.06),
        "jaw": rng.uniform(0.165, 0.19) if made_up else rng.uniform(0.175, 0.215),
        "chin": rng.uniform(0.07, 0.115),
        "chin_y": rng.uniform(0.345, 0.385),
        "eye": rng.uniform((0.098, 0.04, 0.016), (0.11, 0.046, 0.021)),  # half distance, half width, half height
        "nose": rng.uniform((0.062, 0.1), (0.088, 0.125)),  # half width, y of the tip
        "mouth": rng.uniform((0.084, 0.026, 0.042), (0.102, 0.042, 0.062)),  # half width, heights of the lips
        "brows": rng.uniform((0.02, 0.066), (0.03, 0.082)) * ((0.85, 1) if made_up else (1.2, 1)),
        "neck": rng.uniform(0.135, 0.155) if made_up else rng.uniform(0.155, 0.185),
        "part": rng.uniform(-0.1, 0.1),
        "hair_scale": rng.uniform(0.9, 1.3),
    }


def _picture(rng: Rng, who: dict, expression: str | None) -> dict:
    """What changes from picture to picture."""
    drawn_expression = _pick(rng, EXPRESSIONS)
    expression = drawn_expression if expression is None else expression
    hat, earrings = _pick(rng, HATS), EARRINGS[rng.integers(3)]
    wears_earrings = rng.random() < (0.42 if who["makeup"] else 0.03) and hat != "headscarf"
    opens = rng.random() < {"neutral": 0.22, "happy": 0.88, "sad": 0.2, "angry": 0.5}[expression]
    gape = rng.uniform(0.4, 1.0) * {"neutral": 0.03, "happy": 0.055, "sad": 0.025, "angry": 0.055}[expression]
    clothes, has_necklace = _pick(rng, CLOTHES), rng.random() < (0.13 if who["makeup"] else 0.03)
    return {
        "expression": expression,
        "hat": hat,
        "glasses": _pick(rng, GLASSES),
        "earrings": earrings if wears_earrings else "none",
        "necklace": ("chain", "beads")[rng.integers(2)] if has_necklace else "none",
        "clothes": clothes,
        "gape": gape if opens else 0.0,
        "teeth": rng.random() < {"neutral": 0.5, "happy": 0.95, "sad": 0.3, "angry": 0.85}[expression],
        "smile": {"neutral": 0.0, "happy": 0.03, "sad": -0.025, "angry": -0.014}[expression] + rng.normal(0, 0.003),
        "lids": {"neutral": 1.0, "happy": 0.8, "sad": 0.75, "angry": 0.8}[expression] * rng.uniform(0.85, 1.15),
        "shut": rng.random() < 0.012,
        "brow_inner": {"neutral": 0.0, "happy": -0.006, "sad": -0.026, "angry": 0.03}[expression],
        "brow_outer": {"neutral": 0.0, "happy": -0.004, "sad": 0.014, "angry": -0.008}[expression],
        "gaze": rng.normal(0, 0.006, 2) * (1, 0.4),
        "cloth": _random_colour(rng),
        "accent": _random_colour(rng),
    }


def _skin_fields(pose: _Pose, who: dict, n: int = 80) -> tuple[np.ndarray, np.ndarray]:
    """(n, n, 3) skin of the face, with the shadows and the blush of its form, and of the body, in the chin's shadow."""
    x, y = pose.grid(n)
    eye_x, nose_y, blush = who["eye"][0], who["nose"][1], 0.10 if who["makeup"] else 0.05
    lids = 0.26 if who["makeup"] else 0.14
    # x, y, radii, darkness (negative: light), lift towards the viewer
    blobs = np.array([
        (-eye_x, -0.095, 0.055, 0.028, lids, 0), (eye_x, -0.095, 0.055, 0.028, lids, 0),
        (-0.045, -0.05, 0.018, 0.05, 0.13, 0), (0.045, -0.05, 0.018, 0.05, 0.13, 0),
        (-0.06, nose_y - 0.02, 0.018, 0.03, 0.12, 0), (0.06, nose_y - 0.02, 0.018, 0.03, 0.12, 0),
        (0, 0.02, 0.012, 0.08, -0.10, 0.03), (0, nose_y - 0.025, 0.022, 0.018, -0.10, 0.04),
        (0, nose_y + 0.02, 0.05, 0.014, 0.22, 0), (0, 0.268, 0.06, 0.014, 0.16, 0),
        (-0.14, 0.03, 0.05, 0.035, -0.08, 0), (0.14, 0.03, 0.05, 0.035, -0.08, 0),
        (0, -0.26, 0.12, 0.07, -0.07, 0), (0, 0.32, 0.04, 0.025, -0.06, 0),
    ])  # fmt: skip
    cheeks = np.array([(-0.15, 0.08), (0.15, 0.08)])
    points = np.concatenate([pose.surface(blobs[:, :2], blobs[:, 5]), pose.surface(cheeks)])
    points = pose.turn((points - pose.centre) / pose.scale, -1)  # now in the frame of x and y
    dx, dy = x[..., None] - points[:, 0], y[..., None] - points[:, 1]
    bells = np.exp(-((dx[..., :-2] / blobs[:, 2]) ** 2) - (dy[..., :-2] / blobs[:, 3]) ** 2)
    shade = 1 - (bells * blobs[:, 4]).sum(-1)
    edge = np.clip(np.hypot((x + EYE_DEPTH * pose.sin) / 0.29, (y + 0.03) / 0.46), 0, 1.25)
    shade *= 1.04 - 0.22 * edge**4
    red = blush * np.exp(-((dx[..., -2:] / 0.07) ** 2) - (dy[..., -2:] / 0.06) ** 2).sum(-1)
    # the gloss does not take the skin's colour, so that the form of dark faces shows as well
    gloss = 60 * np.clip(shade - 0.97, 0, 1) + 20 * np.clip(1 - edge, 0, 1)
    # in shadow, light that went through the skin dominates: less blue than red is left
    face = 0.94 * who["skin"] * np.stack([shade**0.85, shade - red, shade**1.1 - red], -1) + gloss[..., None]
    shade = 0.5 + 0.4 * np.clip((y - who["chin_y"] + 0.04) / 0.13, 0, 1)
    return face, who["skin"] * np.stack([shade**0.85, shade, shade**1.1], -1)


def _hair_field(pose: _Pose, who: dict, rng: Rng, n: int = 144) -> np.ndarray:
    """(n, n, 3) hair: strands that run from the parting down, or curls."""
    x, y = pose.grid(n)
    x = x + EYE_DEPTH * pose.sin - who["part"]
    curl = HAIR_STYLES[who["hair_style"]].curl
    radius = np.hypot(x, y + 0.62)
    angle = np.arctan2(x, y + 0.62) + 0.1 * curl * np.sin(radius * 30 + rng.uniform(0, 6))
    strands = np.interp(angle, np.linspace(-np.pi, np.pi, 600), rng.uniform(0.65, 1.2, 600))
    knots = Image.fromarray(rng.uniform(0.6, 1.3, (72, 72)).astype(np.float32))
    curls = np.asarray(knots.resize((n, n), Image.BICUBIC))
    shine = 0.3 * np.exp(-(((radius - 0.3) / 0.06) ** 2)) * (1 - curl)
    value = (1 - curl) * strands + curl * curls + shine
    value *= 1.1 - 0.25 * np.clip(y + 0.2, 0, 1)
    return np.array(who["hair"]) * value[..., None] + 12


def _paint_hair_back(canvas: _Canvas, pose: _Pose, who: dict, hat: bool, field: np.ndarray, rng: Rng) -> None:
    hair = HAIR_STYLES[who["hair_style"]]
    if who["hair_style"] == "bun":
        bun = _ruffle(_oval(who["part"], -0.52, 0.12 * who["hair_scale"], 0.1), rng, 0.03)
        canvas.paint(canvas.shape(pose.outline(bun)), _tint(who["hair"], 0.85), "hair")
    elif who["hair_style"] == "braids":
        for side in (-1, 1):
            for k, y in enumerate(np.arange(0.1, 0.7, 0.07)):
                knot = _oval(side * (0.3 + 0.012 * k), y, 0.055, 0.05)
                canvas.paint(canvas.shape(pose.outline(knot)), _tint(who["hair"], 0.6 + 0.25 * (k % 2)), "hair")
    elif hair.back > 0.25:
        wide = 0.29 + (0.04 if hat else hair.side) * who["hair_scale"]
        right = [(0, -0.3), (0.2, -0.3), (wide, -0.1), (1.05 * wide, 0.5 * hair.back), (wide, hair.back)]
        curtain = _ruffle(_smooth(_mirror(right)), rng, 0.01 + 0.025 * hair.curl)
        canvas.paint(canvas.shape(pose.outline(curtain)), _field(0.6 * field, canvas.side), "hair")


def _paint_hair_front(canvas: _Canvas, pose: _Pose, who: dict, hat: bool, fill: Image.Image, rng: Rng) -> None:
    hair, part = HAIR_STYLES[who["hair_style"]], who["part"]
    if hat:
        volume, side = 0.0, min(0.03, hair.side)
    else:
        volume, side = hair.volume * who["hair_scale"], hair.side * who["hair_scale"]
    wide = 0.275 + side
    right = [(0, -0.445 - volume), (0.16, -0.415 - 0.9 * volume), (0.25 + 0.7 * side, -0.3 - 0.4 * volume)]
    if hair.front > 0.05:
        bottom = wide * (1.12 if hair.front > 0.5 else 1)
        right += [(wide, -0.12), (1.03 * wide, 0.5 * hair.front), (bottom, hair.front)]
        right += [(0.9 * hair.fall, hair.front + 0.03)]
    else:
        right += [(wide, -0.12), (0.272 + 0.4 * side, hair.front), (0.255, hair.front + 0.03)]
    outer = _ruffle(_smooth(_mirror(right)), rng, 0.004 + 0.03 * hair.curl + 0.5 * hair.jag)

    top, half = hair.hairline, 0.6 * hair.temple
    top = [(0.5 * part - half, top + 0.035), (part, top), (0.5 * part + half, top + 0.035)]
    right = [(hair.temple, -0.17), (hair.cheek, 0.0), (hair.cheek, 0.1), (hair.fall, 0.32), (hair.fall * 1.15, 1.3)]
    opening = _smooth(top + right + [(-x, y) for x, y in right[::-1]])
    opening[:, 1] += rng.uniform(-1, 1, len(opening)) * hair.jag * (opening[:, 1] < -0.1)
    canvas.paint(canvas.shape(pose.outline(outer), pose.surface(opening)), fill, "hair")


def _paint_body(canvas: _Canvas, pose: _Pose, who: dict, shot: dict, skin: Image.Image, rng: Rng) -> None:
    neck = who["neck"]
    right = [(neck, 0.0), (neck, 0.25), (neck * 1.1, 0.34), (0.27, 0.39), (0.42, 0.435), (0.55, 0.53),
             (0.6, 0.8), (0.6, 1.4)]  # fmt: skip
    body = canvas.shape(pose.body(_mirror(right)))
    canvas.paint(body, skin, "neck")
    chest = [(-0.8, 0.3), (-neck, 0.38), (0, 0.44), (neck, 0.38), (0.8, 0.3), (0.8, 1.6), (-0.8, 1.6)]
    canvas.paint(canvas.shape(pose.body(chest), inside=body), skin, "torso", keep="neck")
    if shot["necklace"] != "none":
        drop = rng.uniform(0.36, 0.43)
        arc = [(neck * np.cos(t), drop - 0.05 + 0.06 * np.sin(t)) for t in np.linspace(0.1, np.pi - 0.1, 13)]
        gold = ((212, 175, 85), (200, 200, 205), (240, 235, 225))[rng.integers(3)]
        chain = canvas.stroke(pose.body(arc), 0.009, inside=body)
        for bead in arc if shot["necklace"] == "beads" else arc[6:7]:
            chain = ImageChops.lighter(chain, canvas.shape(pose.body(_oval(*bead, 0.013, 0.013, 10)), inside=body))
        canvas.paint(chain, gold, "neck_l", keep="torso")
    _paint_clothes(canvas, pose, neck, shot, rng)


def _paint_clothes(canvas: _Canvas, pose: _Pose, neck: float, shot: dict, rng: Rng) -> None:
    kind, colour, accent = shot["clothes"], shot["cloth"], shot["accent"]
    if kind == "bare":
        return
    right = [(neck + 0.012, 0.2), (neck + 0.015, 0.32), (0.27, 0.37), (0.43, 0.415), (0.57, 0.51), (0.62, 0.8),
             (0.62, 1.4)]  # fmt: skip
    outline = pose.body(_mirror(right))
    body = canvas.shape(outline)
    # half width at the shoulder, its y, and the deepest point
    width, y, depth = {
        "crew": (neck + 0.05, 0.38, 0.47), "v_neck": (neck + 0.07, 0.38, 0.64), "scoop": (neck + 0.15, 0.41, 0.56),
        "shirt": (neck + 0.01, 0.32, 0.47), "suit": (neck + 0.01, 0.33, 0.42), "turtleneck": (neck + 0.1, 0.25, 0.27),
        "hoodie": (neck + 0.03, 0.31, 0.45), "straps": (0.9, 0.49, 0.49),
    }[kind]  # fmt: skip
    turn = np.linspace(0, np.pi, 15)
    bend = 1 - np.abs(np.cos(turn)) if kind in ("v_neck", "shirt", "suit") else np.sin(turn)
    rim = np.stack([width * np.cos(turn), y + (depth - y) * bend], 1)
    hole = pose.body(np.concatenate([rim, [(-1.5, y - 0.04), (-1.5, -1), (1.5, -1), (1.5, y - 0.04)]]))
    if kind == "straps":
        hole = pose.body([(-1.5, -1), (1.5, -1), (1.5, y), (-1.5, y)])
    cloth = canvas.shape(outline, hole)
    canvas.paint(cloth, colour, "cloth torso")
    pattern = rng.integers(4)
    for k in np.arange(-0.7, 0.7, 0.08):
        if pattern == 1:
            canvas.paint(canvas.stroke(pose.body([(-1, k + 0.8), (1, k + 0.8)]), 0.03, inside=cloth), accent)
        elif pattern == 2:
            canvas.paint(canvas.stroke(pose.body([(k, 0), (k * 1.3, 1.4)]), 0.012, inside=cloth), accent)
    for side in (-1, 1):
        if kind == "straps":
            strap = canvas.stroke(pose.body([(side * 0.3, 0.38), (side * 0.26, 0.6)]), 0.04, inside=body)
            canvas.paint(strap, colour, "cloth torso")
        elif kind in ("shirt", "suit"):
            tip = np.array([(neck + 0.02, 0.29), (neck + 0.04, 0.36), (0.1, 0.47), (0, 0.42)]) * (side, 1)
            collar = canvas.shape(pose.body(tip))
            canvas.paint(collar, _tint(colour, 1.15) if kind == "shirt" else (235, 235, 238), "cloth torso")
            if kind == "suit":
                lapel = np.array([(neck + 0.05, 0.35), (0.26, 0.42), (0.14, 0.6), (0, 0.8), (0.06, 0.5)]) * (side, 1)
                canvas.paint(canvas.shape(pose.body(lapel), inside=body), _tint(colour, 0.75), "cloth torso")
    if kind == "suit":
        tie = canvas.shape(pose.body([(-0.03, 0.42), (0.03, 0.42), (0.05, 0.9), (-0.05, 0.9)]))
        canvas.paint(tie, accent, "cloth torso")
    elif kind in ("crew", "v_neck", "hoodie", "turtleneck"):
        seam = canvas.stroke(pose.body(rim), 0.018 if kind != "hoodie" else 0.06, inside=cloth)
        canvas.paint(seam, _tint(colour, 0.7))


def _paint_ear(canvas: _Canvas, pose: _Pose, who: dict, side: int, skin: Image.Image) -> None:
    """side: 1 for the viewer's right, the person's left."""
    ear = [(-0.03, -0.08), (0.01, -0.105), (0.047, -0.07), (0.042, 0.0), (0.022, 0.06), (-0.005, 0.097), (-0.025, 0.07)]
    middle = (0.275 * who["width"] * pose.cos, -0.005)
    shape = pose.outline((np.array(_smooth(ear)) + middle) * (side, 1))
    canvas.paint(canvas.shape(shape), skin, "l_ear" if side == 1 else "r_ear")
    fold = np.array([(-0.005, -0.06), (0.018, -0.075), (0.028, -0.04), (0.018, 0.02), (0.002, 0.04)]) + middle
    canvas.paint(canvas.stroke(pose.outline(fold * (side, 1)), 0.008), _tint(who["skin"], 0.55), alpha=0.6)


def _paint_earring(canvas: _Canvas, pose: _Pose, who: dict, shot: dict, side: int, metal) -> None:
    x, y = 0.272 * who["width"] * pose.cos, 0.095
    if shot["earrings"] == "stud":
        mask = canvas.shape(pose.outline(_oval(side * x, y, 0.016, 0.016)))
    elif shot["earrings"] == "hoop":
        ring = _oval(side * x, y + 0.06, 0.045, 0.06)
        mask = canvas.stroke(pose.outline(np.concatenate([ring, ring[:2]])), 0.012)
    else:
        drop = _smooth([(side * x, y), (side * x + 0.02, y + 0.08), (side * x, y + 0.12), (side * x - 0.02, y + 0.08)])
        mask = canvas.shape(pose.outline(drop))
    canvas.paint(mask, metal, "ear_r")


def _paint_eyes(canvas: _Canvas, pose: _Pose, who: dict, shot: dict, face: Mask) -> None:
    distance, wide, high = who["eye"]
    high = high * shot["lids"]
    thick, long = who["brows"]
    for side, left in ((1, True), (-1, False)):
        middle = np.array([distance, -0.08])
        corners = [(-1, 0.2), (-0.4, -1), (0.3, -1), (1, -0.2), (0.35, 0.8), (-0.4, 0.85)]
        almond = _smooth(corners) * (wide, high)
        lid = pose.surface((almond + middle) * (side, 1))
        eye = canvas.shape(lid, inside=face)
        upper = lid[:19]
        if shot["shut"]:
            lower = pose.surface((almond * (1, -0.7) + middle) * (side, 1))
            canvas.paint(canvas.stroke(lower[:19], 0.008, inside=face), (35, 25, 25))
        else:
            canvas.paint(eye, (238, 234, 230), "l_eye" if left else "r_eye", keep="skin")
            for radius, colour in ((0.0205, _tint(who["iris"], 0.6)), (0.017, who["iris"]), (0.009, (12, 10, 12))):
                ball = _oval(distance * side + shot["gaze"][0], -0.083 + shot["gaze"][1], radius, radius, 20)
                canvas.paint(canvas.shape(pose.surface(ball), inside=eye), colour)
            spark = _oval(distance * side + shot["gaze"][0] - 0.006, -0.09, 0.005, 0.005, 8)
            canvas.paint(canvas.shape(pose.surface(spark), inside=eye), (255, 255, 255))
            lash = 0.011 if who["makeup"] else 0.007
            rim = ImageChops.subtract(canvas.stroke(upper, lash, inside=face), eye)
            canvas.paint(rim, (30, 22, 22))
            crease = pose.surface((almond[:19] * (1.05, 1.4) + middle + (0, -0.006)) * (side, 1))
            canvas.paint(canvas.stroke(crease, 0.005, inside=face), _tint(who["skin"], 0.5), alpha=0.5)
        inner, outer = -0.138 + shot["brow_inner"], -0.138 + shot["brow_outer"]
        start = distance - long * 0.85
        brow = [(start, inner), (start + 0.7 * long, (inner + outer) / 2 - 0.014), (start + 1.5 * long, outer - 0.016),
                (start + 2.1 * long, outer + 0.008), (start + 1.5 * long, outer + 0.4 * thick - 0.01),
                (start + 0.7 * long, (inner + outer) / 2 - 0.014 + thick), (start, inner + thick)]  # fmt: skip
        shape = canvas.shape(pose.surface(_smooth(brow, 4) * (side, 1)), inside=face)
        canvas.paint(shape, who["brow"], "l_brow" if left else "r_brow", keep="skin")


def _paint_nose(canvas: _Canvas, pose: _Pose, who: dict, shot: dict, skin: Image.Image, face: Mask) -> None:
    half, tip = who["nose"]
    right = [(0, -0.095), (0.024, -0.09), (0.026, -0.03), (0.045, 0.04), (half, tip - 0.035),
             (half * 0.95, tip - 0.005), (half * 0.5, tip), (0, tip + 0.012)]  # fmt: skip
    nose = canvas.shape(pose.surface(_smooth(_mirror(right), 4), 0.02), inside=face)
    canvas.paint(nose, skin, "nose", keep="skin")
    canvas.paint(nose, (255, 245, 235), alpha=0.04)
    for side in (-1, 1):
        nostril = pose.surface(_oval(side * half * 0.48, tip - 0.006, half * 0.24, 0.008, 12), 0.02)
        canvas.paint(canvas.shape(nostril, inside=nose), _tint(who["skin"], 0.3), alpha=0.8)
        wing = np.array([(0.85 * half, tip - 0.05), (half, tip - 0.03), (0.92 * half, tip - 0.004)]) * (side, 1)
        canvas.paint(canvas.stroke(pose.surface(wing, 0.02), 0.007, inside=face), _tint(who["skin"], 0.5), alpha=0.5)
        fold = pose.surface([(side * half * 1.1, tip - 0.03), (side * 0.115, tip + 0.05), (side * 0.125, tip + 0.1)])
        strength = min(0.7, who["wrinkles"] + 6 * max(0, shot["smile"]))
        canvas.paint(canvas.stroke(fold, 0.006, inside=face), _tint(who["skin"], 0.55), alpha=strength)


def _paint_beard(canvas: _Canvas, pose: _Pose, who: dict, fill: Image.Image, face: Mask) -> None:
    kind = who["beard"]
    if kind == "none":
        return
    under_nose = who["nose"][1] + 0.02
    half = [(0, under_nose), (0.06, under_nose), (0.105, 0.165), (0.115, 0.2), (0.08, 0.18), (0.0, 0.165)]
    mask = canvas.shape(pose.surface(_smooth(_mirror(half), 4)), inside=face)
    if kind == "goatee":
        chin = canvas.shape(pose.surface(_oval(0, 0.275, 0.095, 0.105)), inside=face)
        mask = ImageChops.lighter(mask, chin)
    elif kind in ("stubble", "full"):
        cheeks = [(0, under_nose), (0.075, under_nose), (0.12, 0.13), (0.17, 0.1), (0.225, -0.03), (0.4, -0.03),
                  (0.4, -0.6)]  # fmt: skip
        jaw = [(-0.5, -0.03), (0.5, -0.03), (0.5, 0.6), (-0.5, 0.6)]
        mask = canvas.shape(pose.outline(jaw), pose.surface(_mirror(cheeks)), inside=face)
    canvas.paint(mask, fill, "facial_hair", keep="skin", alpha={"stubble": 0.35, "full": 0.95}.get(kind, 0.85))


def _paint_mouth(canvas: _Canvas, pose: _Pose, who: dict, shot: dict, face: Mask) -> None:
    half, upper, lower = who["mouth"]
    half = half * (1 + 3 * max(0, shot["smile"]))
    x = np.linspace(-1, 1, 21)
    bulge = 1 - x**2
    middle = 0.19 - shot["smile"] * x**2 + 0.2 * shot["smile"]
    inner_top, inner_bottom = middle - 0.3 * shot["gape"] * bulge, middle + 0.7 * shot["gape"] * bulge
    top = inner_top - upper * (1 - np.abs(x) ** 1.5) * (1 - 0.22 * np.exp(-((x / 0.16) ** 2)))
    bottom = inner_bottom + lower * bulge**0.8

    def between(above, below, inside=face):
        line = np.concatenate([np.stack([half * x, above], 1), np.stack([half * x, below], 1)[::-1]])
        return canvas.shape(pose.surface(line), inside=inside)

    canvas.paint(between(inner_bottom, bottom), who["lips"], "l_lip", keep="skin")
    gloss = between(bottom - 0.6 * lower * bulge, bottom - 0.25 * lower * bulge)
    canvas.paint(gloss, _tint(who["lips"], 1.15), alpha=0.5)
    canvas.paint(between(top, inner_top), _tint(who["lips"], 0.86), "u_lip", keep="skin")
    if shot["gape"] == 0:
        seam = pose.surface(np.stack([half * x, middle], 1))
        canvas.paint(canvas.stroke(seam, 0.006, inside=face), _tint(who["lips"], 0.45))
        return
    inner = between(inner_top, inner_bottom)
    canvas.paint(inner, (52, 18, 22), "mouth", keep="skin")
    tongue = pose.surface(_oval(0, 0.19 + 0.75 * shot["gape"], 0.05, 0.35 * shot["gape"]))
    canvas.paint(canvas.shape(tongue, inside=inner), (165, 80, 85))
    if shot["teeth"]:
        edge = inner_top + np.minimum(0.028, 0.85 * (inner_bottom - inner_top)) * (np.abs(x) < 0.85)
        teeth = between(inner_top, edge, inside=inner)
        canvas.paint(teeth, (240, 236, 226), "teeth", keep="skin mouth")
        for gap in np.linspace(-0.6, 0.6, 7) * half:
            line = pose.surface([(gap, 0.14), (gap, 0.25)])
            canvas.paint(canvas.stroke(line, 0.003, inside=teeth), (190, 180, 170), alpha=0.6)


def _paint_glasses(canvas: _Canvas, pose: _Pose, who: dict, shot: dict, rng: Rng) -> None:
    if shot["glasses"] == "none":
        return
    dark = shot["glasses"] == "sunglasses"
    distance = who["eye"][0] + 0.004
    wide, high = rng.uniform(0.078, 0.092), rng.uniform(0.048, 0.07) + 0.015 * dark
    shape = (_oval(0, 0, 1, 1, 12), [(-0.92, -0.92), (0.92, -0.92), (0.92, 0.92), (-0.92, 0.92)],
             [(-0.9, -1), (1, -1.1), (0.8, 1), (-0.6, 1)],
             [(-1, -0.6), (1.1, -1.2), (0.8, 0.8), (-0.7, 0.9)])[rng.integers(4)]  # fmt: skip
    rim = ((25, 22, 24), (90, 50, 30), (190, 160, 90), (150, 150, 160), shot["accent"])[rng.integers(5)]
    tint = ((20, 20, 26), (60, 35, 20), (30, 40, 80))[rng.integers(3)] if dark else (225, 235, 240)
    width, keep = rng.uniform(0.008, 0.017), "skin nose"
    mask = canvas.stroke(pose.surface([(-distance + 0.8 * wide, -0.09), (distance - 0.8 * wide, -0.09)], 0.03), width)
    for side in (-1, 1):
        frame = pose.surface((_smooth(shape) * (wide, high) + (distance, -0.07)) * (side, 1), 0.02)
        lens = canvas.shape(frame)
        keep_behind = keep if dark else keep + " l_eye r_eye l_brow r_brow"
        canvas.paint(lens, tint, "eye_g", keep=keep_behind, alpha=0.93 if dark else 0.14)
        glare = np.array([(-0.03, -0.1), (0.0, -0.1), (-0.02, -0.04), (-0.05, -0.04)]) + (side * distance, 0)
        canvas.paint(canvas.shape(pose.surface(glare), inside=lens), (255, 255, 255), alpha=0.2)
        mask = ImageChops.lighter(mask, canvas.stroke(np.concatenate([frame, frame[:2]]), width))
        hinge = pose.surface([(side * (distance + 0.9 * wide), -0.09)], 0.02)
        arm = np.concatenate([hinge, pose.outline([(side * 0.275 * who["width"] * pose.cos, -0.075)])])
        mask = ImageChops.lighter(mask, canvas.stroke(arm, width))
    canvas.paint(mask, rim, "eye_g", keep=keep)


def _paint_hat(canvas: _Canvas, pose: _Pose, shot: dict, rng: Rng) -> None:
    kind, colour, accent = shot["hat"], shot["cloth"][::-1], shot["accent"]
    if kind == "none":
        return
    _, rise, wide, narrow, brim, thick, y = HATS[kind]
    if kind == "headscarf":
        outer = [(0, -0.49), (0.22, -0.42), (0.32, -0.15), (0.31, 0.15), (0.33, 0.4), (0.42, 0.55), (0, 0.8)]
        opening = [(0, -0.28), (0.14, -0.24), (0.2, -0.08), (0.195, 0.1), (0.12, 0.3), (0, 0.37)]
        outer, opening = _smooth(_mirror(outer)), _smooth(_mirror(opening))
        canvas.paint(canvas.shape(pose.outline(outer), pose.surface(opening)), colour, "hat")
        for x in (-0.3, -0.24, 0.26, 0.31):
            crease = pose.outline([(x * 0.8, -0.3), (x * 1.02, 0.1), (x * 0.7, 0.5)])
            canvas.paint(canvas.stroke(crease, 0.012), _tint(colour, 0.7), alpha=0.6)
        return
    crown = [(0, -0.46 - rise), (narrow, -0.45 - rise), (0.93 * wide, -0.33 - 0.5 * rise), (wide, y),
             (0.5 * wide, y - 0.03), (0, y - 0.04)]  # fmt: skip
    dome = canvas.shape(pose.outline(_smooth(_mirror(crown))))
    canvas.paint(dome, colour, "hat")
    if kind == "turban":
        for k in range(5):
            wrap = pose.outline([(-0.35, -0.5 + 0.09 * k), (0.05, -0.3 + 0.05 * k), (0.35, -0.62 + 0.09 * k)])
            canvas.paint(canvas.stroke(wrap, 0.012, inside=dome), _tint(colour, 0.7))
    elif kind == "beanie":
        for x in np.linspace(-0.3, 0.3, 13):
            rib = pose.outline([(x, y), (0.7 * x, -0.55)])
            canvas.paint(canvas.stroke(rib, 0.008, inside=dome), _tint(colour, 0.75))
        band = [(-0.32, y - 0.1), (0, y - 0.14), (0.32, y - 0.1), (0.32, y + 0.02), (0, y - 0.03), (-0.32, y + 0.02)]
        canvas.paint(canvas.shape(pose.outline(_smooth(band))), accent, "hat")
    else:
        ribbon = canvas.stroke(pose.outline([(-wide, y - 0.03), (0, y - 0.07), (wide, y - 0.03)]), 0.05, inside=dome)
        canvas.paint(ribbon, accent)
        shift = 0.5 * pose.sin * brim if kind == "cap" else 0
        rim = pose.outline(_oval(shift, y, brim, thick))
        canvas.paint(canvas.shape(rim), _tint(colour, 0.8), "hat")


def _light(canvas: _Canvas, pose: _Pose, rng: Rng, size: int) -> np.ndarray:
    """Canvas -> uint8 (H, W, 3): light from one side, colour cast, at times a cast shadow, blur and sensor noise."""
    n = 48
    x, y = pose.grid(n)
    angle = rng.uniform(0, 2 * np.pi)
    along = x * np.cos(angle) + 0.6 * y * np.sin(angle)
    light = rng.uniform(0.82, 1.06) * (1 + rng.uniform(0, 0.8) * along)
    if rng.random() < 0.2:
        light *= 1 - rng.uniform(0.25, 0.6) / (1 + np.exp(-(along + rng.uniform(-0.2, 0.2)) * rng.uniform(20, 120)))
    cast = 1 + np.clip(rng.normal(0, 0.025, 3), -0.08, 0.08)
    light = Image.fromarray(np.clip(light, 0.3, 1.6).astype(np.float32)).resize((size, size), Image.BICUBIC)
    image = canvas.image.reduce(2)
    softness = rng.uniform(0, 0.008) * (rng.random() < 0.3)
    if softness:
        image = image.filter(ImageFilter.GaussianBlur(softness * size))
    grain = rng.uniform(0, 6) * rng.standard_normal((size, size, 1), dtype=np.float32)
    pixels = np.asarray(image, dtype=np.float32) * np.asarray(light)[..., None] * cast.astype(np.float32) + grain
    return np.clip(pixels, 0, 255).astype(np.uint8)


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
    who = _identity(person_rng, tone)
    shot = _picture(rng, who, expression)
    pose = _Pose(rng)
    pose.scale *= zoom
    pose.centre = pose.centre * zoom + (0.5 * (1 - zoom), 0.18 * (1 - zoom))
    kind, background = _background(rng)
    canvas = _Canvas(size, background)

    face_field, body_field = _skin_fields(pose, who)
    skin = _field(face_field, canvas.side)
    hair_field = _hair_field(pose, who, person_rng)
    hair = _field(hair_field, canvas.side)
    has_hat = shot["hat"] != "none"
    has_hair = who["hair_style"] != "bald" and shot["hat"] != "headscarf"
    if has_hair:
        _paint_hair_back(canvas, pose, who, has_hat, hair_field, person_rng)
    _paint_body(canvas, pose, who, shot, _field(body_field, canvas.side), rng)

    near = -1 if pose.yaw > 0 else 1  # the ear that the turn brings forward overlaps the cheek
    _paint_ear(canvas, pose, who, -near, skin)
    half = [(0, -0.44), (0.15, -0.41), (0.235, -0.29), (0.264, -0.12), (0.258, 0.02), (0.233, 0.14), (who["jaw"], 0.25),
            (who["chin"], who["chin_y"] - 0.03), (0, who["chin_y"])]  # fmt: skip
    outline = _smooth(_mirror(half)) * (who["width"], 1)
    face = canvas.shape(pose.outline(outline, z=0.17 * np.clip(outline[:, 1] / 0.37, 0, 1) ** 1.5))
    canvas.paint(face, skin, "skin")
    behind = has_hair and HAIR_STYLES[who["hair_style"]].front > 0.05
    if behind:
        _paint_ear(canvas, pose, who, near, skin)

    _paint_nose(canvas, pose, who, shot, skin, face)
    _paint_beard(canvas, pose, who, hair, face)
    _paint_mouth(canvas, pose, who, shot, face)
    _paint_eyes(canvas, pose, who, shot, face)
    _paint_glasses(canvas, pose, who, shot, rng)
    if has_hair:
        _paint_hair_front(canvas, pose, who, has_hat, hair, person_rng)
    if not behind and shot["hat"] != "headscarf":
        _paint_ear(canvas, pose, who, near, skin)
    if shot["earrings"] != "none":
        metal = ((212, 175, 85), (205, 205, 212), shot["accent"])[rng.integers(3)]
        for side in (-1, 1):
            if side == near or abs(pose.yaw) < 15:
                _paint_earring(canvas, pose, who, shot, side, metal)
    _paint_hat(canvas, pose, shot, rng)
    masks = canvas.masks()
    seen = dict(zip(WORD, masks.any((1, 2)).tolist()))
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
    return Face(_light(canvas, pose, rng, size), masks, attributes)


def write_celebamask(
    folder: str | Path, n: int, size: int = 256, seed: int = 0, parts: tuple[str, ...] = PARTS
) -> Path:
    """Write the faces of the seeds seed .. seed + n - 1 as CelebAMask-HQ is laid out, and return the folder:

    folder/CelebA-HQ-img/17.jpg
    folder/CelebAMask-HQ-mask-anno/0/00017_l_eye.png    0 or 255, three channels; absent parts have no file
    folder/generated.json                               what was asked for

    A folder that holds just that is left as it is, one that holds other generated faces is replaced (see write_once).
    """
    if not set(parts) <= WORD.keys():
        raise ValueError(f"parts must be among {', '.join(WORD)}; got {', '.join(parts)}")

    def paint(draft: Path) -> None:
        (draft / "CelebA-HQ-img").mkdir()
        for i in tqdm(range(n), desc=f"painting {Path(folder).name}", unit="face", disable=None):
            face = generate_face(seed + i, size)
            Image.fromarray(face.image).save(draft / "CelebA-HQ-img" / f"{i}.jpg", quality=95)
            annotations = draft / "CelebAMask-HQ-mask-anno" / str(i // 2000)
            annotations.mkdir(parents=True, exist_ok=True)
            for part, mask in zip(WORD, face.masks):
                if part in parts and mask.any():
                    Image.fromarray(mask).convert("RGB").save(annotations / f"{i:05d}_{part}.png")

    recipe = {"n": n, "size": size, "seed": seed, "parts": list(parts), "version": VERSION}
    return write_once(Path(folder), recipe, paint)

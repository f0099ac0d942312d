"""Who is painted: the tables of tones, hair, hats and all else that painted faces differ in, and the draws from them.

`identity` draws what stays the same from one picture of a person to the next, `picture` what changes. Both return a
dict of kinds, colours and lengths, which common/face_painting.py paints.
"""

from typing import NamedTuple

import numpy as np

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

Rng = np.random.Generator


def _pick(rng: Rng, table: dict) -> str:
    """A key, drawn with its value as weight (the first of it if it is a tuple)."""
    weights = np.array([w[0] if isinstance(w, tuple) else w for w in table.values()], dtype=float)
    return list(table)[int(rng.choice(len(weights), p=weights / weights.sum()))]


def tint(colour: tuple[int, int, int], gain: float) -> tuple[int, int, int]:
    """(r, g, b) made darker by a gain below 1 or lighter by one above, kept within 0 and 255."""
    return tuple(int(min(255, max(0, c * gain))) for c in colour)


def _mix(a: tuple[int, int, int], b: tuple[int, int, int], t: float) -> tuple[int, int, int]:
    """(r, g, b) on the way from a (t = 0) to b (t = 1)."""
    return tuple(int(x + (y - x) * t) for x, y in zip(a, b))


def random_colour(rng: Rng) -> tuple[int, int, int]:
    """(r, g, b) from almost black to bright, most of it of low saturation, as clothes and walls are."""
    grey = rng.uniform(15, 240)
    return _mix((grey, grey, grey), rng.uniform(10, 250, 3), rng.uniform(0.1, 0.8))


def identity(rng: Rng, tone: int | None) -> dict:
    """What stays the same from picture to picture; lengths in the head's frame (see Hair), colours 0 to 255.

    tone: 1 to 10, instead of the one that is drawn.
    """
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
        "hair": tint(hair, rng.uniform(0.85, 1.15)),
        "brow": tint(_mix(hair if colour != "dyed" else HAIR_COLOURS["brown"], skin * 0.4, 0.4), 0.75),
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


def picture(rng: Rng, who: dict, expression: str | None) -> dict:
    """What changes from picture to picture of `who`; expression: a key of EXPRESSIONS, instead of the drawn one."""
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
        "cloth": random_colour(rng),
        "accent": random_colour(rng),
    }

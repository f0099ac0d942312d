"""Painted faces with exact part masks: the data set that every folder can run on with nothing downloaded.

    face = generate_face(seed=7, size=128)              # image (128, 128, 3), masks (21, 128, 128)
    generate_face(seed=8, person=7)                     # the same person in another picture
    write_celebamask(Path("faces"), n=500, size=128)    # a folder laid out like CelebAMask-HQ

The masks overlap as CelebAMask-HQ's raw ones do: skin has neither ears nor neck, ends where hair or a hat covers it,
and goes on under nose, eyes, brows, mouth, lips and glasses. mouth is the opening between the lips, ear_r an earring,
neck_l a necklace. l_ and r_ are the person's own left and right: l_eye lies in the right half of the picture.
EXTRA_PARTS are not in CelebAMask-HQ: teeth, in the mouth; facial_hair, on the skin; torso, dressed or bare.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter
from tqdm import tqdm

from common.celebamask import PARTS
from common.data import write_once

VERSION = 4  # raise it whenever a seed gives other bytes
EXTRA_PARTS = ("teeth", "facial_hair", "torso")
ALL_PARTS = PARTS + EXTRA_PARTS
# what goes on under a part; all else ends where the part is painted
UNDER = dict.fromkeys(("nose", "l_eye", "r_eye", "l_brow", "r_brow", "mouth", "u_lip", "l_lip", "facial_hair"), "skin")
UNDER |= {"teeth": "skin mouth", "eye_g": "skin nose l_eye r_eye l_brow r_brow", "neck_l": "torso"}
# The Monk Skin Tone scale, 1 (lightest) to 10 (darkest): Monk, 2019, https://skintone.google
MONK = ("f6ede4", "f3e7db", "f7ead0", "eadaba", "d7bd96", "a07e56", "825c43", "604134", "3a312a", "292420")
HAIR_COLOURS = ((44, 38, 42), (66, 46, 36), (98, 64, 42), (172, 84, 42), (214, 174, 106), (156, 154, 154))
HAIR_STYLES = {  # corners of its edge from above the ear down and round to the cheek
    "bald": [], "short": [(0.28, -0.1), (0.27, -0.03), (0.25, -0.01)],
    "bob": [(0.33, -0.1), (0.36, 0.14), (0.34, 0.28), (0.22, 0.3), (0.21, 0.12)],
    "long": [(0.34, -0.1), (0.37, 0.35), (0.35, 0.7), (0.22, 0.72), (0.21, 0.3)],
}  # fmt: skip
EXPRESSIONS = {  # smile, opening of the mouth, the teeth's share of it, rise of the brows' inner and outer ends, lids
    "neutral": (0.004, 0, 0, 0, 0, 1), "smiling": (0.03, 0, 0, 0.005, 0, 0.95),
    "laughing": (0.035, 0.06, 0.45, 0.01, 0, 0.8), "sad": (-0.025, 0, 0, 0.025, -0.015, 0.85),
    "surprised": (-0.005, 0.075, 0, 0.035, 0.03, 1.25), "angry": (-0.018, 0.035, 0.8, -0.025, 0.015, 0.85),
}  # fmt: skip
BEARDS = {"none": 0, "stubble": 0.4, "moustache": 0.9, "full": 0.9}  # how dense
HATS = {"none": (0, 0), "beanie": (0.32, 0.05), "cap": (0.3, 0.07), "sun hat": (0.48, 0.08)}  # radii of the brim
WHITE, BLACK, RED, GOLD = (250, 248, 244), (28, 24, 28), (200, 80, 85), (222, 184, 90)
Rng = np.random.Generator


class Face(NamedTuple):
    """image: uint8 (H, W, 3); masks: bool (21, H, W) in the order ALL_PARTS."""

    image: np.ndarray
    masks: np.ndarray


# ---- Outlines: (N, 2) points x, y in the frame of the head, whose middle is 0, 0; eyes at y = -0.08, chin at 0.36 ----


def smooth(right: list[tuple[float, float]]) -> np.ndarray:
    """A closed curve through the corners of an outline's right half, top to bottom, and their mirror images."""
    corners = np.array(right + [(-x, y) for x, y in right[::-1] if x])
    a, b, c, d = (np.roll(corners, shift, axis=0) for shift in (1, 0, -1, -2))
    t = np.arange(0, 1, 1 / 6)[:, None, None]  # Catmull-Rom
    curve = b + 0.5 * ((c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
    return curve.swapaxes(0, 1).reshape(-1, 2)


def oval(x: float, y: float, rx: float, ry: float) -> np.ndarray:
    angle = np.arange(0, 2 * np.pi, 0.25)
    return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], axis=1)


def bow(x: float, y: float, half: float, top: float, bottom: float, tilt: float = 0.0) -> np.ndarray:
    """Between two parabolas that meet at x - half and x + half; their middles are at y + top and y + bottom."""
    t = np.arange(-1, 1.01, 1 / 6)
    above, below = (np.stack([x + half * t, y + tilt * t + rise * (1 - t**2)], axis=1) for rise in (top, bottom))
    return np.concatenate([above, below[::-1]])


def tint(colour: tuple | np.ndarray, gain: float = 1.0) -> tuple[int, ...]:
    """A darker colour, in a warm shadow, or a lighter one."""
    return tuple(int(min(255, c * gain**warmth)) for c, warmth in zip(colour, (0.85, 1, 1.1), strict=True))


class Painter:
    """A picture and its masks, painted from back to front. `who` draws what a person keeps, `rng` all else."""

    def __init__(self, size: int, zoom: float, who: Rng, rng: Rng):
        self.size, self.who, self.rng = size, who, rng
        self.tone, self.expression = int(who.integers(1, 11)), str(rng.choice(list(EXPRESSIONS)))
        self.style = str(who.choice(list(HAIR_STYLES), p=(0.08, 0.42, 0.2, 0.3)))
        self.beard = str(who.choice(list(BEARDS), p=(0.64, 0.12, 0.09, 0.15)))
        self.hat = str(rng.choice(list(HATS), p=(0.85, 0.05, 0.05, 0.05)))
        self.glasses = str(rng.choice(["none", "clear", "sunglasses"], p=(0.8, 0.14, 0.06)))
        monk = np.array([int(MONK[self.tone - 1][i : i + 2], 16) for i in (0, 2, 4)])
        self.skin = ((46, 34, 26) + 0.84 * monk) * who.uniform((0.97, 0.93, 0.89), 1)
        self.hair = tint(HAIR_COLOURS[who.integers(6 if self.tone < 6 else 3)], who.uniform(0.85, 1.15))
        self.curl, self.light, self.wall = who.choice([0, 0.1, 1]), rng.uniform(-1, 1), rng.uniform(100, 200, 3)
        self.roll, self.turn, self.scale = rng.uniform((-0.14, -0.04, 0.86 * zoom), (0.14, 0.04, 0.96 * zoom)).tolist()
        self.centre = (0.5, 0.18) + (rng.uniform(-0.02, 0.02, 2) + (0, 0.36)) * zoom
        self.image, self.masks = Image.new("RGB", (size, size), tint(self.wall)), np.zeros((21, size, size), bool)
        self.depth, self.clip = 0.0, None  # what is nearer goes further with the head's turn; nothing leaves the clip

    def paint(self, outline, fill, parts="", *, twice=False, inside=None, alpha=1.0, blur=0.0) -> Image.Image:
        """Fill an outline, and its mirror image if twice, with a colour or a picture -> the mask of that, 0 to 255.

        The parts begin there; all others end there but those that go on UNDER the first of them.
        """
        x, y = np.concatenate([outline, outline * (-1, 1)][: 1 + twice]).T
        x, angle = x + self.turn * self.depth, self.roll * np.interp(y, (0.3, 0.7), (1, 0.2))  # the body hardly rolls
        turned = np.stack([x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)], axis=1)
        pixels, blur = (self.centre + self.scale * turned) * self.size, blur * self.scale * self.size
        low = np.clip(pixels.min(0) - 3 * blur, 0, self.size - 1).astype(int)
        high = np.clip(pixels.max(0) + 3 * blur + 1, low + 1, self.size).astype(int)
        left, top, right, bottom = box = (*low.tolist(), *high.tolist())
        mask = Image.new("L", (3 * (right - left), 3 * (bottom - top)))  # three times as fine, for smooth edges
        for points in 3 * (pixels - low).reshape(1 + twice, -1, 2):
            ImageDraw.Draw(mask).polygon(points.ravel().tolist(), int(255 * alpha))
        mask, inside = mask.reduce(3).filter(ImageFilter.GaussianBlur(blur)), inside or self.clip
        mask = ImageChops.multiply(mask, inside.crop(box)) if inside else mask
        if parts:
            here, begin = np.asarray(mask) > 127.5 * alpha, parts.split()
            stay = UNDER.get(begin[0], "").split()
            for part, seen in zip(ALL_PARTS, self.masks[:, top:bottom, left:right], strict=True):
                if part in begin or part not in stay:
                    np.copyto(seen, part in begin, where=here)
        self.image.paste(fill.crop(box) if isinstance(fill, Image.Image) else tint(fill), box, mask)
        whole = Image.new("L", self.image.size)
        whole.paste(mask, box)
        return whole

    def paint_body(self) -> None:
        """Blurred discs on the wall, the hair behind the head, neck and chest, a necklace, clothes."""
        rng, skin, edge = self.rng, tint(self.skin, 0.9), HAIR_STYLES[self.style]
        for x, y, radius, gain in rng.uniform((-0.6, -0.6, 0.05, 0.75), (0.6, 0.6, 0.25, 1.25), (rng.integers(7), 4)):
            self.paint(oval(x, y, radius, radius), tint(self.wall, gain), blur=0.02)
        if edge:
            self.paint(smooth([(0, -0.3), *edge[:3]]), tint(self.hair, 0.6), "hair")
        shoulders = [(0.33, 0.46), (0.48, 0.55), (0.54, 0.9), (0.5, 1.5)]
        self.clip = self.paint(smooth([(0, 0.1), (0.13, 0.12), (0.135, 0.3), (0.15, 0.4), *shoulders]), skin, "neck")
        self.paint(bow(0, 0.46, 0.7, 0, 2), skin, "neck torso")
        self.paint(oval(0, 0.3, 0.2, 0.14), tint(skin, 0.55), alpha=0.6, blur=0.03)  # the chin's shadow
        if rng.random() < 0.25:
            drop = rng.uniform(0.12, 0.2)
            self.paint(bow(0, 0.36, 0.15, drop, drop + 0.025), (GOLD, WHITE)[rng.integers(2)], "neck_l")
        self.clip, (width, depth) = None, rng.uniform((0.12, 0.46), (0.2, 0.6))
        coat = smooth([(0, depth), (width * 0.6, depth - 0.04), (width, 0.38), (width + 0.02, 0.37), *shoulders])
        self.paint(coat * (1.04, 1) - (0, 0.005), rng.uniform(60, 220, 3), "cloth torso")

    def paint_face(self) -> None:
        """Ears, earrings, face, cheeks, nose, beard, lips and what is between them."""
        skin, who, (smile, gape, teeth, *_) = self.skin, self.who, EXPRESSIONS[self.expression]
        width, jaw, chin, wing = who.uniform((0.93, 0.17, 0.07, 0.05), (1.05, 0.205, 0.11, 0.07))
        for part, x in (("l_ear", 0.265 * width), ("r_ear", -0.265 * width)):
            self.paint(oval(x, -0.01, 0.045, 0.085), tint(skin, 0.93), part)
        self.paint(oval(0.275 * width, -0.01, 0.02, 0.05), tint(skin, 0.6), twice=True, alpha=0.5, blur=0.008)
        if self.rng.random() < 0.35:
            self.paint(oval(0.275 * width, 0.105, 0.02, self.rng.uniform(0.02, 0.06)), GOLD, "ear_r", twice=True)
        self.depth, cheek = 0.5, [(0, -0.43), (0.15, -0.4), (0.24, -0.27), (0.258, -0.08), (0.245, 0.1)]
        face = smooth([*cheek, (jaw, 0.24), (chin, 0.34), (0, 0.36)]) * (width, 1)
        self.clip = self.paint(face, tint(skin, 0.8), "skin")
        self.paint(face * (0.8, 0.85) + (0.03 * self.light, -0.01), skin, blur=0.04)
        self.depth = 1.0
        self.paint(oval(0.14, 0.08, 0.05, 0.04), RED, twice=True, alpha=0.2 * skin.max() / 255, blur=0.025)
        nose = smooth([(0, -0.1), (0.022, -0.08), (0.028, 0.0), (wing, 0.075), (wing * 0.7, 0.105), (0, 0.115)])
        self.paint(nose, tint(skin, 0.97), "nose", alpha=0.5)
        self.paint(oval(-0.03 * np.sign(self.light), 0.02, 0.016, 0.09), tint(skin, 0.6), alpha=0.35, blur=0.012)
        self.paint(oval(0.004, 0.03, 0.01, 0.06), WHITE, alpha=0.3, blur=0.01)
        self.paint(bow(0, 0.085, wing, 0.03, 0.045), tint(skin, 0.45), alpha=0.5, blur=0.004)
        self.paint(oval(0.025, 0.1, 0.014, 0.008), tint(skin, 0.3), twice=True, alpha=0.7)
        if self.beard != "none":
            full = smooth([(0, 0.13), (0.1, 0.13), (0.17, 0.08), (0.23, -0.06), (0.5, 0.0), (0.5, 0.5), (0, 0.5)])
            beard = bow(0, 0.16, 0.12, -0.05, 0.02) if self.beard == "moustache" else full
            self.paint(beard, self.hair, "facial_hair", alpha=BEARDS[self.beard], blur=0.005)

        half, thick = who.uniform((0.085, 0.025), (0.1, 0.04)) + (0.7 * max(smile, 0) - 0.2 * gape, 0)
        rose = np.array(RED) * (0.3 + 0.7 * skin.max() / 255)  # darker on dark skin
        lips = 0.8 * skin + who.uniform(0.2, 0.6) * (rose - 0.8 * skin)
        y, top, bottom = 0.205 - 0.4 * smile, smile - 0.3 * gape - 0.003, smile + 0.7 * gape + 0.003
        self.paint(bow(0, y, half, top, bottom + thick), lips, "l_lip")
        self.paint(bow(0, y, half, top - 0.8 * thick, top), tint(lips, 0.85), "u_lip")
        mouth = self.paint(bow(0, y, half, top, bottom), tint(RED, 0.4), "mouth" if gape else "")
        if gape:
            self.paint(oval(0, y + bottom, 0.05, 0.03), tint(rose, 0.9), inside=mouth)
        if teeth:
            self.paint(bow(0, y, half, top, top + teeth * gape), WHITE, "teeth", inside=mouth)

    def paint_eyes(self) -> None:
        """Eyes, brows, glasses."""
        *_, inner, outer, lids = EXPRESSIONS[self.expression]
        x, thick, blue = self.who.uniform((0.1, 0.01, 0), (0.115, 0.02, 1))
        iris = np.array((70, 45, 25)) + blue * (self.tone < 6) * np.array((10, 70, 100))
        gaze = self.rng.normal(0, 0.005)
        self.paint(oval(x, -0.09, 0.06, 0.035), tint(self.skin, 0.6), twice=True, alpha=0.25, blur=0.012)
        for letter, side in (("l", 1), ("r", -1)):
            eye = bow(side * x, -0.08, 0.05, -0.027 * lids, 0.022 * lids, -0.004 * side)
            eye = self.paint(eye, tint(WHITE, 0.85), f"{letter}_eye")
            for radius, colour in ((0.025, tint(iris, 0.55)), (0.021, iris), (0.011, BLACK)):
                self.paint(oval(side * x + gaze, -0.083, radius, radius), colour, inside=eye)
            self.paint(oval(side * x + gaze - 0.008, -0.091, 0.006, 0.006), WHITE, inside=eye)
            self.paint(bow(side * x, -0.08, 0.053, -0.037 * lids, -0.025 * lids, -0.004 * side), BLACK)  # lashes
            y, tilt = -0.145 - (inner + outer) / 2, side * (inner - outer) / 2
            brow = bow(1.05 * side * x, y, 0.062, -0.025 - thick, -0.025 + thick, tilt)
            self.paint(brow, tint(self.hair, 0.75), f"{letter}_brow")
        if self.glasses != "none":
            frame, lens = self.rng.uniform(0, 140, 3), oval(0, 0, *self.rng.uniform((0.075, 0.055), (0.088, 0.07)))
            lens, glass = lens + (x, -0.07), 0.84 * lens + (x, -0.07)
            fill, parts, alpha = (BLACK, "skin eye_g", 1) if self.glasses == "sunglasses" else (WHITE, "eye_g", 0.15)
            self.paint(glass, fill, parts, twice=True, alpha=alpha)
            self.paint(np.concatenate([lens, lens[:1], glass, glass[:1]]), frame, "eye_g", twice=True)
            self.paint(bow(0, -0.075, x - 0.07, -0.03, -0.02), frame, "eye_g")

    def paint_hair(self) -> None:
        """The hair on the head and before the shoulders, flat under a hat; the hat."""
        self.depth, self.clip, edge = 0.4, None, HAIR_STYLES[self.style]
        high, low, has_fringe = self.who.uniform((0.02, -0.35, 0), (0.1, -0.31, 1))
        high, low = 0 if self.hat != "none" else high, -0.19 if has_fringe < 0.25 else low
        if edge:
            crown = [(0, -0.44 - high), (0.16, -0.41 - 0.9 * high), (edge[0][0] - 0.02, -0.29 - 0.4 * high)]
            outline = smooth([*crown, *edge, (0.236, -0.02), (0.215, -0.17), (0.13, low + 0.02), (0, low)])
            outline *= 1 + (0.005 + self.curl * 0.03) * self.who.uniform(-1, 1, (len(outline), 1))
            self.paint(outline, self.strands(), "hair")
        if self.hat != "none":
            colour = self.rng.uniform(60, 220, 3)
            dome = smooth([(0, -0.54), (0.17, -0.51), (0.28, -0.36), (0.3, -0.2), (0.2, -0.24), (0, -0.26)])
            self.paint(dome, colour, "hat")
            self.paint(oval(0, -0.22, *HATS[self.hat]), tint(colour, 0.75), "hat")

    def strands(self) -> Image.Image:
        """The texture of hair: strands from the parting down with a shine, or curls."""
        y, x = (np.mgrid[0:1:72j, 0:1:72j] - self.centre[::-1, None, None]) / self.scale
        radius, angle = np.hypot(x, y + 0.6), np.arctan2(x + self.roll * y, y + 0.6)
        value = np.interp(angle, np.linspace(-np.pi, np.pi, 300), self.who.uniform(0.7, 1.15, 300))
        value += 0.35 * (1 - self.curl) * np.exp(-(((radius - 0.33) / 0.05) ** 2))
        value += 0.25 * self.curl * np.sin(60 * radius + 3 * np.sin(40 * angle)) * np.sin(30 * angle + 9 * radius)
        texture = Image.fromarray((self.hair * value[..., None]).clip(0, 255).astype(np.uint8))
        return texture.resize(self.image.size, Image.Resampling.BICUBIC)


def generate_face(seed: int, size: int = 128, *, person: int | None = None, zoom: float = 1.0) -> Face:
    """The picture `seed` of a person (default: of the person `seed`), the same at every size.

    The person fixes tone, face, hair and beard; the seed fixes pose, expression, light, background and what is worn.
    zoom below 1 steps back: 0.66 is a portrait with head and torso.
    """
    rng, who = np.random.default_rng([seed, 1]), np.random.default_rng([seed if person is None else person, 0])
    painter = Painter(size, zoom, who, rng)
    painter.paint_body()
    painter.paint_face()
    painter.paint_eyes()
    painter.paint_hair()
    across = np.linspace(-0.5, 0.5, size, dtype=np.float32)
    light = rng.uniform(0.92, 1.08) + 0.3 * painter.light * across - rng.uniform(-0.1, 0.3) * across[:, None]
    pixels = np.asarray(painter.image) * light[..., None].astype(np.float32)
    pixels += rng.integers(-3, 4, (size, size, 1), dtype=np.int8)  # the sensor's noise
    return Face(pixels.clip(0, 255).astype(np.uint8), painter.masks)


# ---- A folder of painted faces ---------------------------------------------------------------------------------------


def write_celebamask(folder: Path, n: int, size: int = 256, seed: int = 0) -> Path:
    """The faces of the seeds seed .. seed + n - 1, laid out like CelebAMask-HQ, and the folder (see write_once):

    folder/CelebA-HQ-img/17.jpg
    folder/CelebAMask-HQ-mask-anno/0/00017_l_eye.png    0 or 255, three channels; absent parts have no file
    """

    def paint(draft: Path) -> None:
        (draft / "CelebA-HQ-img").mkdir()
        for i in tqdm(range(n), f"painting {folder.name}", unit="face", disable=None):
            face = generate_face(seed + i, size)
            Image.fromarray(face.image).save(draft / "CelebA-HQ-img" / f"{i}.jpg", quality=95)
            annotations = draft / "CelebAMask-HQ-mask-anno" / str(i // 2000)
            annotations.mkdir(parents=True, exist_ok=True)
            for part, mask in zip(PARTS, face.masks, strict=False):
                if mask.any():
                    path = annotations / f"{i:05d}_{part}.png"
                    Image.fromarray(mask).convert("RGB").save(path, compress_level=1)

    return write_once(folder, {"n": n, "size": size, "seed": seed, "version": VERSION}, paint)

"""What faces are painted with: outlines, the head's turn, a canvas with part masks, the colours of skin and
hair, backgrounds and light.

Three frames: points of head and body are in the head's frame (see face_traits.Hair), `Pose` puts them into the
picture, whose side is 1, and `Canvas` scales them to its pixels. y points down in all of them.
"""

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from common.celebamask import PARTS
from common.face_traits import BACKGROUNDS, HAIR_STYLES, Rng, random_colour, tint

EXTRA_PARTS = ("teeth", "facial_hair", "torso")  # which CelebAMask-HQ does not have
WORD = {part: np.uint32(1 << k) for k, part in enumerate(PARTS + EXTRA_PARTS)}  # bit of Canvas.words
FACE_CENTRE = (0.497, 0.555)  # where the head's origin lies in the picture, on average
EYE_DEPTH = 0.235  # how far the eyes lie before the head's axis; turning the head keeps them in place, as in CelebA

Mask = Image.Image  # of mode "L", 0 or 255


def mirror(right: ArrayLike) -> np.ndarray:
    """(N, 2) right half of an outline, from top to bottom -> (M, 2) closed outline."""
    right = np.asarray(right, dtype=float)
    left = right[::-1] * (-1, 1)
    return np.concatenate([right, left[left[:, 0] != 0]])


def smooth(points: ArrayLike, steps: int = 6) -> np.ndarray:
    """(N, 2) corners -> (N * steps, 2) closed Catmull-Rom curve through them."""
    b = np.asarray(points, dtype=float)
    a, c, d = np.roll(b, 1, 0), np.roll(b, -1, 0), np.roll(b, -2, 0)
    t = np.linspace(0, 1, steps, endpoint=False)[:, None, None]
    curve = b + 0.5 * ((c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
    return curve.swapaxes(0, 1).reshape(-1, 2)


def oval(x: float, y: float, rx: float, ry: float, n: int = 28) -> np.ndarray:
    """Centre and radii -> (n, 2) points of an ellipse."""
    angle = np.linspace(0, 2 * np.pi, n, endpoint=False)
    return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], 1)


def ruffle(points: np.ndarray, rng: Rng, amount: float) -> np.ndarray:
    """(N, 2) outline -> (N, 2), pushed in and out at random, to make locks and curls of it."""
    middle = points.mean(0)
    return middle + (points - middle) * (1 + rng.uniform(-amount, amount, (len(points), 1)))


class Pose:
    """Where the head's and the body's points come to lie in the picture."""

    def __init__(self, rng: Rng):
        self.yaw = float(np.clip(rng.normal(0, 13), -35, 35))  # degrees, positive: towards the viewer's right
        self.roll = float(np.clip(rng.normal(0, 6), -20, 20))  # degrees, positive: clockwise
        self.scale = float(np.clip(rng.normal(1.025, 0.05), 0.86, 1.14))
        self.centre = np.array(FACE_CENTRE) + np.clip(rng.normal(0, 0.014, 2), -0.035, 0.035)
        self.sin, self.cos = np.sin(np.radians(self.yaw)), np.cos(np.radians(self.yaw))

    def turn(self, points: np.ndarray, share: float) -> np.ndarray:
        """(N, 2) points -> turned about the origin by a share of the roll."""
        angle = np.radians(self.roll) * share
        return points @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])

    def surface(self, points: ArrayLike, lift: float = 0.0) -> np.ndarray:
        """(N, 2) points on the front of the head -> in the picture; the head is about an ellipsoid."""
        x, y = np.asarray(points, dtype=float).T
        z = 0.24 * np.sqrt(np.clip(1 - (x / 0.3) ** 2 - (y / 0.52) ** 2, 0, 1)) + lift
        x = x * self.cos + (z - EYE_DEPTH) * self.sin
        return self.centre + self.scale * self.turn(np.stack([x, y], 1), 1)

    def outline(self, points: ArrayLike, z: ArrayLike = 0.0) -> np.ndarray:
        """(N, 2) points of a silhouette at depth z -> in the picture."""
        points = np.asarray(points, dtype=float)
        shift = np.broadcast_to((z - EYE_DEPTH) * self.sin, len(points))
        return self.centre + self.scale * self.turn(points + np.stack([shift, 0 * shift], 1), 1)

    def body(self, points: ArrayLike) -> np.ndarray:
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


class Canvas:
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
        """(N, 2) picture points -> mask of the line through them, width in sides of the picture."""
        mask = Image.new("L", self.image.size)
        line = (points * self.side).ravel().tolist()
        ImageDraw.Draw(mask).line(line, fill=255, width=max(1, round(width * self.side)), joint="curve")
        return mask if inside is None else ImageChops.darker(mask, inside)

    def paint(
        self,
        mask: Mask,
        fill: Image.Image | tuple[int, int, int],
        parts: str = "",
        keep: str = "",
        alpha: float = 1.0,
    ) -> None:
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
        """bool (21, H, W) in the order PARTS + EXTRA_PARTS, at the size that was asked for.

        A pixel takes the word that most of its four samples have, so that parts which exclude one another still do.
        """
        a, b, c, d = (self.words[i::2, j::2] for i in (0, 1) for j in (0, 1))
        words = np.where((a == b) | (a == c) | (a == d), a, np.where((b == c) | (b == d), b, d))
        return (words & np.array(list(WORD.values()))[:, None, None]) != 0


def enlarge(values: np.ndarray, side: int) -> Image.Image:
    """(n, n, 3) colours, 0 to 255, of any coarseness -> picture (side, side)."""
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8)).resize((side, side), Image.BICUBIC)


def skin_fields(pose: Pose, who: dict, n: int = 80) -> tuple[np.ndarray, np.ndarray]:
    """Two (n, n, 3) of colours: the face with the shadows and the blush of its form, the body in the chin's shadow."""
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


def hair_field(pose: Pose, who: dict, rng: Rng, n: int = 144) -> np.ndarray:
    """(n, n, 3) colours of the hair: strands that run from the parting down, or curls."""
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


def random_background(rng: Rng) -> tuple[str, Image.Image]:
    """Kind (one of BACKGROUNDS) and picture.

    It ends small and is enlarged later: the fewer the pixels, the further it is out of focus.
    """
    kind = BACKGROUNDS[rng.integers(len(BACKGROUNDS))]
    n = 144
    a, b = np.array(random_colour(rng)), np.array(random_colour(rng))
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
    image = enlarge(a + (b - a) * ramp, n)
    draw = ImageDraw.Draw(image)
    count = int(rng.integers(5, 22))
    boxes = rng.uniform(-0.1, 1.1, (count, 2)) * n
    if kind == "bokeh":
        for x0, y0 in boxes:
            r = rng.uniform(0.02, 0.14) * n
            draw.ellipse((x0 - r, y0 - r, x0 + r, y0 + r), fill=tint(random_colour(rng), 1.2))
    elif kind in ("wall", "room"):
        for x0, y0 in boxes:
            w, h = rng.uniform(0.05, 0.5, 2) * n
            fill = random_colour(rng) if kind == "room" else tint(a, rng.uniform(0.7, 1.3))
            draw.rectangle((x0, y0, x0 + w, y0 + h), fill=fill)
    elif kind == "letters":
        ink = random_colour(rng)
        for x0, y0 in np.mgrid[0:1:0.1, 0:1:0.17].reshape(2, -1).T * n:
            corners = rng.integers(0, 2, (4, 2)) * (0.06 * n, 0.11 * n) + (x0, y0)
            draw.line(corners.ravel().tolist(), fill=ink, width=3)
    elif kind == "horizon":
        level = rng.uniform(0.3, 0.8) * n
        draw.rectangle((0, level, n, n), fill=random_colour(rng))
        for x0, _ in boxes[:6]:
            hill = (x0 - 0.2 * n, level - 0.1 * n, x0 + 0.2 * n, level + 0.1 * n)
            draw.ellipse(hill, fill=tint(b, rng.uniform(0.5, 1)))
    elif kind == "stripes":
        width = rng.uniform(0.04, 0.15) * n
        for k in range(-12, 30, 2):
            x0 = k * width
            lean = 0.8 * n * np.cos(angle)
            draw.polygon([(x0, 0), (x0 + width, 0), (x0 + width + lean, n), (x0 + lean, n)], fill=tint(a, 0.75))
    sharpness = int(rng.integers(14, 110))
    return kind, image.resize((sharpness, sharpness), Image.BOX)


def light_up(canvas: Canvas, pose: Pose, rng: Rng, size: int) -> np.ndarray:
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

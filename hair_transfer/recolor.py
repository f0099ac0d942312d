"""Change the colour of the hair on your own photos: the application that the paper names (Sec. III).

    python hair_transfer/recolor.py hair_transfer/runs/random/best.pt portrait.jpg --color auburn
    python hair_transfer/recolor.py best.pt PHOTO FOLDER --color blond copper "#3050c0"      several, side by side
    python hair_transfer/recolor.py best.pt FOLDER --color black --strength 0.6 --out dyed

Writes for each photo NAME_COLOR.png at its own size; NAME_strip.png, before and after; NAME_mask.png, how much of each
pixel is hair. The network saw faces as CelebAMask-HQ cuts them: upright, centred, about half of the picture. Frame
yours likewise with --crop.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import scipy
import torch
from PIL import Image, ImageColor

from common import cli, pictures
from common.cli import InputError, number
from common.device import autocast
from common.images import OwnPhotos, add_photo_arguments, fitted, read_photo, square
from common.run import Trained
from hair_transfer.dataset import normalize
from hair_transfer.eval import grey, load
from hair_transfer.model import upsample

# Hair's colours, which CSS does not name or names otherwise ("brown" is a brick red there); any CSS name works too
COLOURS = {
    "black": "#1b1819", "brown": "#5b3a24", "chestnut": "#6e3f26", "auburn": "#7d3320", "copper": "#b4602c",
    "ginger": "#b4602c", "red": "#a0262a", "burgundy": "#641c30", "blond": "#c9a36a", "blonde": "#c9a36a",
    "platinum": "#e3d8c3", "grey": "#9b9a99", "gray": "#9b9a99", "silver": "#c4c5c8",
}  # fmt: skip
WORK_SIDE = 640  # px: the edges are refined at this size and applied at the photo's own
RADIUS = 0.015  # of the guided filter's window, as a part of the longer side
EPS = 1e-4  # of the guided filter: the contrast (a variance) from which on it sees an edge
REACH = 0.03  # of the longer side, and at least 2 px: nothing that is further from hair is dyed
SURE = 0.5  # probability from which a pixel is hair for certain
HAZE, FULL = 0.15, 0.85  # refined values that count as 0 and as 1: the filter leaves a haze, and gaps in what is hair
LIFT = 0.65  # of the way from the hair's lightness to the colour's; the rest of its own lightness stays
STEEPEST = 0.4  # exponent of the curve at least: black hair has too little texture to be lifted further
DARKEST, LIGHTEST = 4, 96  # of hair and colour, as the curve takes them: beyond it has no slope
TOE = 3  # added to lightness before the curve, which would else leave black specks in what it makes light
OWN_CHROMA, MOST = 0.3, 12  # of the hair's own variation in chroma that stays, and how far from its middle it counts
COLOURFUL = 40  # chroma from which on a colour keeps that much of it; grey keeps none, or it would look tinted
STRIP, ENOUGH = 256, 10**6  # rows that are dyed at a time; pixels that tell the hair's middle colour


# ---- sRGB and CIE Lab (D65) ----------------------------------------------------------------------------------------

TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
WHITE = TO_XYZ.sum(1)  # of sRGB (1, 1, 1), so that grey is grey exactly
KNEE = 6 / 29


def srgb_to_lab(rgb: np.ndarray) -> np.ndarray:
    """... x 3 in 0..1 -> ... x 3: lightness L in 0..100, a (green to red), b (blue to yellow)."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = linear @ (TO_XYZ / WHITE[:, None]).T
    f = np.where(xyz > KNEE**3, np.cbrt(xyz), xyz / (3 * KNEE**2) + 4 / 29)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], axis=-1)


def lab_to_srgb(lab: np.ndarray) -> np.ndarray:
    """The inverse; colours that sRGB lacks are cut off at 0 and 1."""
    y = (lab[..., 0] + 16) / 116
    f = np.stack([y + lab[..., 1] / 500, y, y - lab[..., 2] / 200], axis=-1)
    xyz = np.where(f > KNEE, f**3, 3 * KNEE**2 * (f - 4 / 29))
    linear = np.clip(xyz @ np.linalg.inv(TO_XYZ / WHITE[:, None]).T, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@torch.inference_mode()
def predict(network: Trained, photo: Image.Image | str | Path) -> np.ndarray:
    """A photo of W x H, RGB or a file -> H x W float32, the output in 0..1. The network sees it padded to a square by
    repeating its edge, so that faces keep their shape."""
    photo = photo if isinstance(photo, Image.Image) else read_photo(Path(photo))
    size = network.checkpoint["args"]["size"]
    top, left, h, w = fitted(photo.size, size)
    image = torch.from_numpy(square(photo, size)).permute(2, 0, 1)[None]
    with autocast(network.device, network.amp):
        logits = network.model(normalize(image, network.device))
    logits = upsample(logits[:, :, top : top + h, left : left + w], (photo.height, photo.width))
    return network.model.activate(logits).clamp(0, 1)[0, 0].cpu().numpy()


def guided_filter(guide: np.ndarray, p: np.ndarray, radius: int, eps: float) -> tuple[np.ndarray, np.ndarray]:
    """H x W x 3 photo in 0..1 and H x W p -> a (H x W x 3) and b (H x W): p refined is a . photo + b.

    He, Sun, Tang, "Guided Image Filtering", ECCV 2010, Eq. 14-16: in each window p is fitted by a linear function of
    the colours, so where the photo has an edge, p gets it too.
    """

    def mean(x: np.ndarray) -> np.ndarray:
        size = (2 * radius + 1, 2 * radius + 1) + (1,) * (x.ndim - 2)
        return scipy.ndimage.uniform_filter(x, size, mode="nearest")

    mean_guide, mean_p = mean(guide), mean(p)
    covariance = mean(guide[..., :, None] * guide[..., None, :]) - mean_guide[..., :, None] * mean_guide[..., None, :]
    with_p = mean(guide * p[..., None]) - mean_guide * mean_p[..., None]
    a = np.linalg.solve(covariance + eps * np.eye(3), with_p[..., None])[..., 0]
    b = mean_p - (a * mean_guide).sum(-1)
    return mean(a), mean(b)


def refine(image: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """H x W x 3 uint8 photo and H x W probability -> H x W float32 in 0..1: how much of each pixel is hair.

    The edges follow the photo's; 0 wherever no pixel within REACH is hair for certain. The filter's coefficients are
    computed on a small copy and enlarged: they are smooth (He and Sun, "Fast Guided Filter", 2015).
    """
    H, W = probability.shape
    shrink = min(1, WORK_SIDE / max(H, W))
    w, h = max(1, round(W * shrink)), max(1, round(H * shrink))
    small = np.asarray(Image.fromarray(image).resize((w, h), Image.Resampling.BILINEAR)) / 255.0
    p = resize(probability, w, h)
    a, b = guided_filter(small, p.astype(np.float64), max(1, round(RADIUS * max(h, w))), EPS)
    window = 2 * max(1, int(REACH * max(h, w) / 2)) + 1  # half the reach to either side
    near = scipy.ndimage.maximum_filter(p >= SURE, window).astype(np.float32)
    near = scipy.ndimage.uniform_filter(near, window, mode="nearest")  # fades out, where a plain cut would show
    hair = resize(b, W, H)
    for c in range(3):
        hair += resize(a[..., c], W, H) * (image[..., c] / np.float32(255))
    hair -= HAZE
    hair /= FULL - HAZE
    np.clip(hair, 0, 1, out=hair)
    hair *= resize(near, W, H)
    hair[hair < 1 / 255] = 0
    return hair


def resize(values: np.ndarray, w: int, h: int) -> np.ndarray:
    """H x W float -> h x w float32, bilinear."""
    return np.array(Image.fromarray(values.astype(np.float32, copy=False)).resize((w, h), Image.Resampling.BILINEAR))


def recolor(image: np.ndarray, hair: np.ndarray, color: tuple[int, int, int], strength: float = 1.0) -> np.ndarray:
    """H x W x 3 uint8 photo, H x W share of hair in 0..1, sRGB colour -> H x W x 3 uint8; pixels of share 0 unchanged.

    Lightness runs through a power curve that takes the hair's median LIFT of the way to the colour's, and leaves white.
    Chroma becomes the colour's, less of it in shadows and towards white highlights, as on a dyed strand.
    """
    if not hair.any() or not strength:
        return image.copy()
    target = srgb_to_lab(np.array(color) / 255)
    sure = image[hair >= min(SURE, hair.max())]
    middle = np.median(srgb_to_lab(sure[:: -(-len(sure) // ENOUGH)] / 255), axis=0)
    old, aim = np.clip([middle[0], target[0]], DARKEST, LIGHTEST)
    curve = (np.array([old, old + LIFT * (aim - old)]) + TOE) / (100 + TOE)
    gamma = max(np.log(curve[1]) / np.log(curve[0]), STEEPEST)
    own = OWN_CHROMA * min(1, np.hypot(*target[1:]) / COLOURFUL)

    result = image.copy()
    for top in range(0, len(image), STRIP):
        rows = slice(top, top + STRIP)
        dyed = hair[rows] > 0
        lab = srgb_to_lab(image[rows][dyed] / 255)  # pixels 3
        curve = (lab[:, 0].clip(0, 100) + TOE) / (100 + TOE)
        light = ((100 + TOE) * curve**gamma - TOE).clip(0, 100)
        shade = np.minimum(light / aim, (100 - light) / (100 - aim))[:, None]  # 1 at the colour's own lightness
        chroma = shade * target[1:] + own * (lab[:, 1:] - middle[1:]).clip(-MOST, MOST)
        new = np.concatenate([light[:, None], chroma], axis=1)
        mixed = lab + strength * hair[rows][dyed][:, None] * (new - lab)
        result[rows][dyed] = np.round(255 * lab_to_srgb(mixed)).astype(np.uint8)
    return result


def parse_color(text: str) -> tuple[int, int, int]:
    """A name of COLOURS or of CSS, or #rrggbb; raises InputError for anything else."""
    try:
        return ImageColor.getrgb(COLOURS.get(text.lower(), text))[:3]
    except ValueError:
        names = ", ".join(COLOURS)
        raise InputError(
            f"--color {text}: no such colour; give {names}, a CSS name or #rrggbb, after the photos"
        ) from None


def main() -> None:
    parser = cli.Parser(__doc__)
    add = add_photo_arguments(parser, "what to recolour", "recolored", "the recoloured photo")
    add("--color", nargs="+", required=True, metavar="COLOR", help=f"{', '.join(COLOURS)}, a CSS name or #rrggbb")
    add("--strength", type=number(float, 0, 1), default=1.0, metavar="X", help="0: unchanged, 1: dyed through")
    args = parser.parse_intermixed_args()
    colors = {color.lower(): parse_color(color) for color in args.color}
    photos = OwnPhotos(args.photos, args.out, args.crop)
    if photos.file and len(colors) > 1:
        raise InputError(f"--out {photos.file}: is one file, but there are {len(colors)} colours; give a folder")
    network = load(args.checkpoint, args.device, args.amp)
    if (part := network.checkpoint["args"]["part"]) != "hair":
        raise InputError(f"{args.checkpoint}: was trained to find {part}, not hair; give one of a run with --part hair")

    def dye(name: str, photo: Image.Image) -> float:
        image = np.asarray(photo)
        hair = refine(image, predict(network, photo))
        strip = [image]
        for color, rgb in colors.items():
            strip.append(recolor(image, hair, rgb, args.strength))
            picture = Image.fromarray(strip[-1])
            if "alpha" in photo.info:
                picture.putalpha(photo.info["alpha"])
            pictures.save_image(photos.file or photos.out / f"{name}_{color.lstrip('#')}.png", picture)
        if not photos.file:
            pictures.save_grid(photos.out / f"{name}_strip.png", [strip], column_titles=["before", *colors], cell=4)
            pictures.save_image(photos.out / f"{name}_mask.png", grey(hair))
        return (hair >= SURE).mean()

    photos.each(dye)
    photos.end(", ".join(f"*_{kind.lstrip('#')}.png" for kind in (*colors, "strip", "mask")), "hair")


if __name__ == "__main__":
    cli.run(main)

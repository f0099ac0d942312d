"""The paper's aim: put the person of a photo on plain white, or on any colour, nothing, or another picture.

    python lrn_headtorso/whiten.py lrn_headtorso/runs/lrn/best.pt portrait.jpg
    python lrn_headtorso/whiten.py lrn_headtorso/runs/lrn/best.pt PHOTO FOLDER --out white
    python lrn_headtorso/whiten.py best.pt portrait.jpg --background "#2060a0"      or skyblue, transparent, beach.jpg

Writes NAME.png at the photo's own size, and NAME_strip.png, before and after. The network sees the photo at the size
that it was trained at (224 x 224 px: Sec. 3). At the photo's size a guided filter moves the contour to the photo's own
edges, and near it the old background's colour is taken out of the person's. Farther inside every pixel stays as it is.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageColor, ImageOps

from common import cli, pictures
from common.cli import InputError
from common.device import autocast, to_device
from common.images import OwnPhotos, add_photo_arguments, read_photo
from common.run import Trained
from lrn_headtorso.dataset import normalize
from lrn_headtorso.eval import load
from lrn_headtorso.matting import foreground_colours, refine
from lrn_headtorso.model import FOUND_ABOVE

BAND = 0.025  # half width of the band along the contour that may be soft, by the photo's longer side: ours


@torch.inference_mode()
def predict(network: Trained, photo: Image.Image | str | Path) -> np.ndarray:
    """A photo of W x H, RGB or a file -> H x W float32, the probability of the person.

    The photo is reshaped to size x size, as in training, and the finest map brought back bilinearly.
    """
    photo = photo if isinstance(photo, Image.Image) else read_photo(Path(photo))
    (W, H), size = photo.size, network.checkpoint["args"]["size"]
    small = torch.from_numpy(np.array(photo.resize((size, size), Image.Resampling.BILINEAR))).permute(2, 0, 1)[None]
    with autocast(network.device, network.amp):
        probability = network.model(normalize(to_device(small, network.device)))[-1]
    return F.interpolate(probability, size=(H, W), mode="bilinear", align_corners=False)[0, 0].cpu().numpy()


def replace_background(
    photo: Image.Image, probability: np.ndarray, background: Image.Image | tuple[int, ...] | None
) -> Image.Image:
    """Photo W x H and probability H x W -> RGB on a picture of the same size or a colour; RGBA on None.

    What is transparent in the photo (.info["alpha"]) is background too.
    """
    image = np.asarray(photo)
    matte = refine(image, probability, band=max(2, round(BAND * max(photo.size))))
    if "alpha" in photo.info:
        matte = np.minimum(matte, np.asarray(photo.info["alpha"], np.float32) / 255)
    result = np.empty((*matte.shape, 4 if background is None else 3), np.uint8)
    behind = np.broadcast_to(np.asarray(background or 0, np.uint8), image.shape)
    for rows, colours in foreground_colours(image, matte):
        a = matte[rows, :, None]
        if background is None:
            strip = np.dstack([np.where(a > 0, colours, 0), a])
        else:
            strip = a * colours + (1 - a) * (behind[rows].astype(np.float32) / 255)
        result[rows] = np.rint(strip * 255)
    return Image.fromarray(result)


def parse_background(choice: str) -> Image.Image | tuple[int, ...] | None:
    """--background -> a picture, a colour, or None for transparent; raises InputError if it is none of them."""
    if choice == "transparent":
        return None
    if Path(choice).is_file():
        return read_photo(Path(choice))
    try:
        return ImageColor.getcolor(choice, "RGB")
    except ValueError:
        remedy = "give white, #rrggbb, transparent or a picture"
        raise InputError(f"--background {choice}: neither a file nor a colour; {remedy}") from None


def main() -> None:
    parser = cli.Parser(__doc__)
    add = add_photo_arguments(parser, "what to put on another background", "whitened", "the result")
    add("--background", default="white", metavar="B", help="a colour, transparent, or a picture (default: white)")
    args = parser.parse_intermixed_args()
    photos, background = OwnPhotos(args.photos, args.out, args.crop), parse_background(args.background)
    network = load(args.checkpoint, args.device, args.amp)

    def whiten(name: str, photo: Image.Image) -> float:
        probability, behind = predict(network, photo), background
        if isinstance(background, Image.Image):
            behind = ImageOps.fit(background, photo.size, Image.Resampling.BICUBIC)
        result = replace_background(photo, probability, behind)
        pictures.save_image(photos.file or photos.out / f"{name}.png", result)
        if not photos.file:
            titles, strip = ["before", "after"], [[np.asarray(photo), np.asarray(result)]]
            pictures.save_grid(photos.out / f"{name}_strip.png", strip, column_titles=titles, cell=4)
        return (probability > FOUND_ABOVE).mean()

    photos.each(whiten)
    photos.end("NAME.png, NAME_strip.png", "person")


if __name__ == "__main__":
    cli.run(main)

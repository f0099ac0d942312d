"""The paper's aim: put the person of a photo on plain white, or on any colour, nothing, or another picture.

    python lrn_headtorso/whiten.py lrn_headtorso/runs/lrn/best.pt portrait.jpg
    python lrn_headtorso/whiten.py lrn_headtorso/runs/lrn/best.pt PHOTO FOLDER --out white
    python lrn_headtorso/whiten.py best.pt portrait.jpg --background "#2060a0"      or skyblue, transparent, beach.jpg

Writes NAME.png at the photo's own size. The network sees it at the size that it was trained at (224 x 224 px: Sec. 3);
at the photo's size a guided filter moves the contour to the photo's own edges, and near it the old background's colour
is taken out of the person's. Farther inside, every pixel stays as it was.
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
from common.images import OwnPhotos, read_photo
from common.run import Trained
from lrn_headtorso.dataset import normalize
from lrn_headtorso.eval import load
from lrn_headtorso.matting import composite, foreground_colours, refine
from lrn_headtorso.model import FOUND_ABOVE

BAND = 0.025  # half width of the band along the contour that may be soft, by the photo's longer side: ours


@torch.inference_mode()
def predict(network: Trained, photo: Image.Image | str | Path) -> np.ndarray:
    """A photo of W x H, RGB or a file -> H x W float32, the probability of the person.

    The photo is reshaped to size x size, as in training, and the finest map brought back bilinearly.
    """
    photo = photo if isinstance(photo, Image.Image) else read_photo(Path(photo))
    W, H = photo.size
    size = network.checkpoint["args"]["size"]
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
    colours = np.asarray(photo).astype(np.float32) / 255
    matte = refine(colours, probability, band=max(2, round(BAND * max(photo.size))))
    if "alpha" in photo.info:
        matte = np.minimum(matte, np.asarray(photo.info["alpha"], np.float32) / 255)
    colours = foreground_colours(colours, matte)
    if background is None:
        cutout = np.dstack([np.where(matte[..., None] > 0, colours, 0), matte])
        return Image.fromarray(np.rint(cutout * 255).astype(np.uint8))
    behind = np.asarray(background, np.float32) / 255
    return Image.fromarray(np.rint(composite(colours, matte, behind) * 255).astype(np.uint8))


def parse_background(choice: str) -> Image.Image | tuple[int, ...] | None:
    """--background -> a picture, a colour, or None for transparent; raises InputError if it is none of them."""
    if choice == "transparent":
        return None
    if Path(choice).is_file():
        return read_photo(Path(choice))
    try:
        return ImageColor.getcolor(choice, "RGB")
    except ValueError:
        raise InputError(
            f"--background {choice}: neither a file nor a colour; give white, #rrggbb, transparent or a picture"
        ) from None


def main() -> None:
    parser = cli.Parser(__doc__)
    add = parser.add_argument_group("what to put on another background (ours)").add_argument
    add("checkpoint", type=Path, metavar="CHECKPOINT", help="best.pt of a run")
    add("photos", type=Path, nargs="+", metavar="PHOTO", help="photos and folders of photos")
    add("--background", default="white", metavar="B", help="a colour, transparent, or a picture (default: white)")
    add("--out", type=Path, default=Path("whitened"), metavar="DIR", help="default: ./whitened")
    cli.add_machine_arguments(parser)
    args = parser.parse_args()
    photos, background = OwnPhotos(args.photos, args.out), parse_background(args.background)
    network = load(args.checkpoint, args.device, args.amp)
    pictures.make_folder(args.out)
    nobody = []
    for name, photo in photos:
        probability = predict(network, photo)
        if not (probability > FOUND_ABOVE).any():
            nobody.append(name)
        behind = background
        if isinstance(background, Image.Image):
            behind = ImageOps.fit(background, photo.size, Image.Resampling.BICUBIC)
        pictures.save_image(args.out / f"{name}.png", replace_background(photo, probability, behind))
    if photos.done:
        print(f"{photos.done} photo(s) on {args.background} -> {args.out}")
    if nobody:
        print(f"nobody found in {', '.join(nobody)}: all of the picture is background; crop it to head and shoulders")
    photos.raise_unreadable()


if __name__ == "__main__":
    cli.run(main)

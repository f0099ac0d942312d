"""The paper's aim: put the person of a photo on plain white, or on any colour, nothing, or another picture.

    python lrn_headtorso/whiten.py lrn_headtorso/runs/lrn/best.pt portrait.jpg
    python lrn_headtorso/whiten.py lrn_headtorso/runs/lrn/best.pt FOLDER --out white
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
from torch import nn

from common import cli, pictures
from common.checkpoint import make_folder
from common.cli import InputError
from common.device import autocast, for_inference, pick_amp, pick_device
from common.images import OwnPhotos, read_photo
from lrn_headtorso.checkpoints import load_model
from lrn_headtorso.dataset import normalize
from lrn_headtorso.matting import composite, foreground_colours, refine
from lrn_headtorso.model import FOUND_ABOVE

BAND = 0.025  # half width of the band along the contour that may be soft, by the photo's longer side: ours


@torch.inference_mode()
def predict(model: nn.Module, photo: Image.Image, size: int, device: torch.device, amp: bool) -> np.ndarray:
    """An RGB photo of W x H -> H x W float32, the probability of the person.

    The photo is reshaped to size x size, as in training, and the finest map brought back bilinearly.
    """
    W, H = photo.size
    small = np.array(photo.resize((size, size), Image.Resampling.BILINEAR))
    with autocast(device, amp):
        probability = model(normalize(torch.from_numpy(small).permute(2, 0, 1)[None], device))[-1]
    return F.interpolate(probability, size=(H, W), mode="bilinear", align_corners=False)[0, 0].cpu().numpy()


def replace_background(
    photo: Image.Image, probability: np.ndarray, background: Image.Image | tuple[int, ...] | None
) -> Image.Image:
    """Photo W x H and probability H x W -> RGB on a picture of the same size or a colour; RGBA on None."""
    pixels = np.asarray(photo)
    colours = pixels.astype(np.float32) / 255
    matte = refine(colours, probability, band=max(2, round(BAND * max(photo.size))))
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
    add("photos", type=Path, metavar="PHOTOS", help="a photo or a folder of photos")
    add("--background", default="white", metavar="B", help="a colour, transparent, or a picture (default: white)")
    add("--out", type=Path, default=Path("whitened"), metavar="DIR", help="default: ./whitened")
    cli.add_machine_arguments(parser, workers=False)
    args = parser.parse_args()
    device = pick_device(args.device)
    photos, background = OwnPhotos(args.photos, args.out), parse_background(args.background)
    model, checkpoint = load_model(args.checkpoint, device)
    amp = pick_amp(args.amp or checkpoint["args"]["amp"], device)
    model = for_inference(model, amp)
    make_folder(args.out)
    nobody = []
    for name, photo in photos:
        probability = predict(model, photo, checkpoint["args"]["size"], device, amp)
        if not (probability > FOUND_ABOVE).any():
            nobody.append(name)
        behind = background
        if isinstance(background, Image.Image):
            behind = ImageOps.fit(background, photo.size, Image.Resampling.BICUBIC)
        picture = replace_background(photo, probability, behind)
        profile = photo.info.get("icc_profile") or b""  # without it another screen shows other colours
        picture.info["icc_profile"] = profile if profile[16:20] == b"RGB " else None  # a grey photo's does not fit
        pictures.save_image(args.out / f"{name}.png", picture)
    if photos.done:
        print(f"{photos.done} photo(s) on {args.background} -> {args.out}")
    if nobody:
        print(f"nobody found in {', '.join(nobody)}: all of the picture is background")
    photos.raise_unreadable()


if __name__ == "__main__":
    cli.run(main)

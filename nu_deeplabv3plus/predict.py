"""Segment your own photos: for each, a label PNG, an overlay and the 18 masks, at the photo's own size.

    python nu_deeplabv3plus/predict.py nu_deeplabv3plus/runs/none/best.pt portrait.jpg
    python nu_deeplabv3plus/predict.py nu_deeplabv3plus/runs/none/best.pt PHOTO FOLDER --out parts

The network saw faces as CelebAMask-HQ cuts them: upright, centred, about half of the picture. --crop frames yours.
Label values are 0 background, 1 skin ... 18 cloth; where masks overlap the later part wins.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from common import cli, pictures
from common.celebamask import PARTS
from common.device import autocast
from common.images import OwnPhotos, add_photo_arguments, fitted, read_photo, square
from common.run import Trained
from nu_deeplabv3plus.dataset import LEGEND, PALETTE, merge_masks
from nu_deeplabv3plus.eval import load, scale


@torch.inference_mode()
def predict(network: Trained, photo: Image.Image | str | Path) -> np.ndarray:
    """A photo of W x H, RGB or a file -> 18 x H x W bool masks in the order of PARTS.

    The photo is padded to a square by repeating its edge, so that faces keep their shape. The logits are brought back
    to its size one part at a time: 18 float maps of a large photo are gigabytes.
    """
    photo = photo if isinstance(photo, Image.Image) else read_photo(Path(photo))
    (W, H), size = photo.size, network.checkpoint["args"]["size"]
    top, left, h, w = fitted(photo.size, size)
    image = torch.from_numpy(square(photo, size)).permute(2, 0, 1)[None]
    with autocast(network.device, network.amp):
        logits = network.model(scale(image, network.device)).float()
    logits = logits[:, :, top : top + h, left : left + w]
    masks = np.empty((len(PARTS), H, W), bool)
    for c in range(len(PARTS)):
        part = F.interpolate(logits[:, c : c + 1], size=(H, W), mode="bilinear", align_corners=False)
        masks[c] = (part[0, 0] > 0).cpu().numpy()
    return masks


def main() -> None:
    parser = cli.Parser(__doc__)
    add_photo_arguments(parser, "what to predict", "predictions/nu_deeplabv3plus", "the overlay")
    args = parser.parse_intermixed_args()
    photos = OwnPhotos(args.photos, args.out, args.crop)
    network = load(args.checkpoint, args.device, args.amp)

    def segment(name: str, photo: Image.Image) -> float:
        masks = predict(network, photo)
        photos.save_labels(name, photo, merge_masks(masks), PALETTE, LEGEND)
        if not photos.file:
            folder = pictures.make_folder(photos.out / f"{name}_masks")
            for part, mask in zip(PARTS, masks, strict=True):
                pictures.save_image(folder / f"{part}.png", mask.view(np.uint8) * np.uint8(255))
        return max(mask.mean() for mask in masks)

    photos.each(segment)
    photos.end("*_label.png, *_overlay.png, *_legend.png, *_masks/PART.png", "face part")


if __name__ == "__main__":
    cli.run(main)

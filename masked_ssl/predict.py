"""Parse your own photos: for each, a label PNG and an overlay at the photo's own size, and a picture with a legend.

    python masked_ssl/predict.py masked_ssl/runs/pretrained/best.pt portrait.jpg
    python masked_ssl/predict.py masked_ssl/runs/pretrained/best.pt PHOTO FOLDER --out parsed

The network saw faces as its data set cuts them: upright, in the middle, about half of the picture. --crop frames yours.
Label values are the class numbers, 0 the background.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from common import cli
from common.device import autocast
from common.images import OwnPhotos, add_photo_arguments, fitted, read_photo, square
from common.run import Trained
from masked_ssl.classes import legend, palette
from masked_ssl.dataset import normalize
from masked_ssl.eval import load


@torch.inference_mode()
def predict(network: Trained, photo: Image.Image | str | Path) -> np.ndarray:
    """A photo of W x H, RGB or a file -> H x W uint8 labels.

    The photo is fitted into the network's square as in training; the logits are brought back to its own size
    bilinearly, one class at a time, because 19 float maps of a large photo are gigabytes.
    """
    photo = photo if isinstance(photo, Image.Image) else read_photo(Path(photo))
    size = network.checkpoint["args"]["size"]
    top, left, h, w = fitted(photo.size, size)
    image = torch.from_numpy(square(photo, size)).permute(2, 0, 1)[None]
    with autocast(network.device, network.amp):
        logits = network.model(normalize(image, network.device)).float()[:, :, top : top + h, left : left + w]
    best = torch.full((photo.height, photo.width), -torch.inf, device=network.device)
    label = torch.zeros(best.shape, dtype=torch.uint8)
    for c in range(logits.shape[1]):
        upsampled = F.interpolate(logits[:, c : c + 1], size=best.shape, mode="bilinear", align_corners=False)[0, 0]
        label[(upsampled > best).cpu()] = c
        best = torch.maximum(best, upsampled)
    return label.numpy()


def main() -> None:
    parser = cli.Parser(__doc__)
    add_photo_arguments(parser, "what to predict", "predictions/masked_ssl", "the overlay")
    args = parser.parse_intermixed_args()
    photos = OwnPhotos(args.photos, args.out, args.crop)
    network = load(args.checkpoint, args.device, args.amp)
    classes = tuple(network.checkpoint["classes"])

    def segment(name: str, photo: Image.Image) -> float:
        label = predict(network, photo)
        photos.save_labels(name, photo, label, palette(classes), legend(classes))
        return (label > 0).mean()

    photos.each(segment)
    photos.end("*_label.png, *_overlay.png, *_legend.png", "face part")


if __name__ == "__main__":
    cli.run(main)

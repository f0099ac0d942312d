"""Segment your own photos: for each, a label PNG in Mut1ny's colours, an overlay, and a legend.

    python mut1ny_fairness/predict.py mut1ny_fairness/runs/deeplabv3-rgb/best.pt portrait.jpg
    python mut1ny_fairness/predict.py mut1ny_fairness/runs/deeplabv3-rgb/best.pt PHOTO FOLDER --out segmented

The label PNG has a palette: it holds class numbers (0 background ... 10 specs) and shows the vendor's colours.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from common import cli
from common.images import OwnPhotos, add_photo_arguments, read_photo
from common.run import Trained
from mut1ny_fairness.eval import load, outputs
from mut1ny_fairness.losses import predicted_classes
from mut1ny_fairness.palette import LEGEND, PALETTE

STRIP = 256  # rows of the photo that are classified at a time: 11 float maps of a large photo are gigabytes


def predict(network: Trained, photo: Image.Image | str | Path) -> np.ndarray:
    """A photo of W x H, RGB or a file -> H x W uint8 classes.

    The photo is squeezed to the network's square as in training, and the output brought back bilinearly, strip by
    strip, on the CPU: an Apple GPU has no grid_sample that repeats the border.
    """
    photo = photo if isinstance(photo, Image.Image) else read_photo(Path(photo))
    (W, H), args = photo.size, network.checkpoint["args"]
    small = np.array(photo.resize((args["size"], args["size"]), Image.Resampling.BILINEAR))
    images = torch.from_numpy(small).permute(2, 0, 1)[None]
    output = outputs(network.model, images, network.device, network.amp).cpu()
    x = (torch.arange(W) + 0.5) * 2 / W - 1
    y = (torch.arange(H) + 0.5) * 2 / H - 1
    label = np.empty((H, W), np.uint8)
    for top in range(0, H, STRIP):
        rows = y[top : top + STRIP]
        places = torch.stack([x.expand(len(rows), W), rows[:, None].expand(len(rows), W)], dim=-1)[None]
        strip = F.grid_sample(output, places, mode="bilinear", padding_mode="border", align_corners=False)
        label[top : top + STRIP] = predicted_classes(strip, args["target"])[0].byte().numpy()
    return label


def main() -> None:
    parser = cli.Parser(__doc__)
    add_photo_arguments(parser, "what to predict", "predictions/mut1ny_fairness", "the overlay")
    args = parser.parse_intermixed_args()
    photos = OwnPhotos(args.photos, args.out, args.crop)
    network = load(args.checkpoint, args.device, args.amp)

    def segment(name: str, photo: Image.Image) -> float:
        label = predict(network, photo)
        photos.save_labels(name, photo, label, PALETTE, LEGEND)
        return (label > 0).mean()

    photos.each(segment)
    photos.end("*_label.png, *_overlay.png, *_legend.png", "face part")


if __name__ == "__main__":
    cli.run(main)

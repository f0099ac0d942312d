"""Segment your own photos: for each, a label PNG in Mut1ny's colours and an overlay, at the photo's own size.

    python mut1ny_fairness/predict.py mut1ny_fairness/runs/deeplabv3-rgb/best.pt portrait.jpg
    python mut1ny_fairness/predict.py mut1ny_fairness/runs/deeplabv3-rgb/best.pt FOLDER --out segmented

The label PNG has a palette: it holds class numbers (0 background ... 10 specs) and shows the vendor's colours.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from common import cli, pictures
from common.checkpoint import make_folder
from common.device import for_inference, pick_amp, pick_device
from common.images import OwnPhotos
from mut1ny_fairness.eval import load_model, predict
from mut1ny_fairness.palette import PALETTE, predicted_classes

STRIP = 256  # rows of the photo that are classified at a time: 11 float maps of a large photo are gigabytes


def segment(
    model: nn.Module, photo: Image.Image, size: int, target: str, device: torch.device, amp: bool
) -> np.ndarray:
    """An RGB photo of W x H -> H x W uint8 classes.

    The photo is squeezed to size x size as in training, and the output brought back bilinearly, strip by strip, on the
    CPU: an Apple GPU has no grid_sample that repeats the border.
    """
    W, H = photo.size
    small = np.array(photo.resize((size, size), Image.Resampling.BILINEAR))
    output = predict(model, torch.from_numpy(small).permute(2, 0, 1)[None], device, amp).cpu()
    x = (torch.arange(W) + 0.5) * 2 / W - 1
    y = (torch.arange(H) + 0.5) * 2 / H - 1
    label = np.empty((H, W), np.uint8)
    for top in range(0, H, STRIP):
        rows = y[top : top + STRIP]
        places = torch.stack([x.expand(len(rows), W), rows[:, None].expand(len(rows), W)], dim=-1)[None]
        strip = F.grid_sample(output, places, mode="bilinear", padding_mode="border", align_corners=False)
        label[top : top + STRIP] = predicted_classes(strip, target)[0].byte().numpy()
    return label


def main() -> None:
    parser = cli.Parser(__doc__)
    add = parser.add_argument_group("what to predict (ours)").add_argument
    add("checkpoint", type=Path, metavar="CHECKPOINT", help="best.pt of a run")
    add("photos", type=Path, metavar="PHOTOS", help="a photo or a folder of photos")
    default = Path("predictions", "mut1ny_fairness")
    add("--out", type=Path, default=default, metavar="DIR", help=f"default: ./{default.as_posix()}")
    cli.add_machine_arguments(parser, workers=False)
    args = parser.parse_args()
    device = pick_device(args.device)
    photos = OwnPhotos(args.photos, args.out)
    model, checkpoint = load_model(args.checkpoint, device)
    saved = checkpoint["args"]
    amp = pick_amp(args.amp or saved["amp"], device)
    model = for_inference(model, amp)
    make_folder(args.out)
    for name, photo in photos:
        label = segment(model, photo, saved["size"], saved["target"], device, amp)
        pictures.save_label(args.out / f"{name}_label.png", label, PALETTE)
        pictures.save_image(args.out / f"{name}_overlay.png", pictures.overlay(np.asarray(photo), label, PALETTE))
    if photos.done:
        print(f"{photos.done} photo(s) -> {args.out}: *_label.png, *_overlay.png")
    photos.raise_unreadable()


if __name__ == "__main__":
    cli.run(main)

"""Segment your own photos: for each, a label PNG, an overlay and the 18 masks, at the photo's own size.

    python nu_deeplabv3plus/predict.py nu_deeplabv3plus/runs/none/best.pt portrait.jpg
    python nu_deeplabv3plus/predict.py nu_deeplabv3plus/runs/none/best.pt PHOTO FOLDER --out parts

The network saw faces as CelebAMask-HQ cuts them: upright, centred, about half of the picture. Crop yours likewise.
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
from common.images import OwnPhotos, read_photo
from common.run import Trained
from nu_deeplabv3plus.dataset import LEGEND, PALETTE, merge_masks
from nu_deeplabv3plus.eval import load, scale


@torch.inference_mode()
def predict(network: Trained, photo: Image.Image | str | Path) -> np.ndarray:
    """A photo of W x H, RGB or a file -> 18 x H x W bool masks in the order of PARTS.

    The photo is resized to fit into the network's square and padded by repeating its edge, so that faces keep their
    shape; the logits are brought back to the photo's size bilinearly, one part at a time, because 18 float maps of a
    large photo are gigabytes.
    """
    photo = photo if isinstance(photo, Image.Image) else read_photo(Path(photo))
    (W, H), size = photo.size, network.checkpoint["args"]["size"]
    w, h = (max(1, round(side * size / max(W, H))) for side in (W, H))
    top, left = (size - h) // 2, (size - w) // 2
    scaled = np.asarray(photo.resize((w, h), Image.Resampling.BILINEAR))
    square = np.pad(scaled, ((top, size - h - top), (left, size - w - left), (0, 0)), mode="edge")
    with autocast(network.device, network.amp):
        logits = network.model(scale(torch.from_numpy(square).permute(2, 0, 1)[None], network.device)).float()
    logits = logits[:, :, top : top + h, left : left + w]
    masks = np.empty((len(PARTS), H, W), bool)
    for c in range(len(PARTS)):
        part = F.interpolate(logits[:, c : c + 1], size=(H, W), mode="bilinear", align_corners=False)
        masks[c] = (part[0, 0] > 0).cpu().numpy()
    return masks


def write_predictions(out: Path, name: str, photo: Image.Image, masks: np.ndarray) -> None:
    """NAME_masks/PART.png, NAME_label.png, NAME_overlay.png, NAME_legend.png; raises InputError if it cannot."""
    folder = pictures.make_folder(out / f"{name}_masks")
    for part, mask in zip(PARTS, masks, strict=True):
        pictures.save_image(folder / f"{part}.png", mask.astype(np.uint8) * 255)
    image, label = np.asarray(photo), merge_masks(masks)
    painted = pictures.overlay(image, label, PALETTE)
    pictures.save_label(out / f"{name}_label.png", label, PALETTE)
    pictures.save_image(out / f"{name}_overlay.png", painted)
    titles = ["photo", "all parts"]
    pictures.save_grid(out / f"{name}_legend.png", [[image, painted]], column_titles=titles, legend=LEGEND, cell=3)


def main() -> None:
    parser = cli.Parser(__doc__)
    add = parser.add_argument_group("what to predict (ours)").add_argument
    add("checkpoint", type=Path, metavar="CHECKPOINT", help="best.pt of a run")
    add("photos", type=Path, nargs="+", metavar="PHOTO", help="photos and folders of photos")
    default = Path("predictions", "nu_deeplabv3plus")
    add("--out", type=Path, default=default, metavar="DIR", help=f"default: ./{default.as_posix()}")
    cli.add_machine_arguments(parser)
    args = parser.parse_args()
    photos = OwnPhotos(args.photos, args.out)
    network = load(args.checkpoint, args.device, args.amp)
    for name, photo in photos:
        write_predictions(args.out, name, photo, predict(network, photo))
    if photos.done:
        print(f"{photos.done} photo(s) -> {args.out}: *_label.png, *_overlay.png, *_legend.png, *_masks/PART.png")
    photos.raise_unreadable()


if __name__ == "__main__":
    cli.run(main)

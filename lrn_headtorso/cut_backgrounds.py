"""Backgrounds for --backgrounds (Sec. 5) out of the training photos themselves: the largest square without a person.

    python lrn_headtorso/cut_backgrounds.py --data FOLDER --out BACKGROUNDS
    python lrn_headtorso/train.py --data FOLDER --backgrounds BACKGROUNDS

The paper proposes other backgrounds and does not say from where. Test pictures give none, provided that --n-train,
--n-test and --limit are those of train.py.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import scipy
from PIL import Image
from tqdm import tqdm

from common import cli, pictures
from common.cli import InputError
from lrn_headtorso import dataset
from lrn_headtorso.pairs import list_pairs, read_pair

MIN_SHARE = 1 / 4  # ours: of the photo's shorter side; smaller squares are left out
MARGIN = 0.02  # ours: of the photo's longer side, kept from the person


def largest_free_square(taken: np.ndarray) -> tuple[int, int, int]:
    """H x W bool -> top, left and side in px of the largest square of odd side that holds no True pixel; side 0 if all
    are True.

    A pixel's chessboard distance d to the nearest True pixel, or to the outside, says that the square of 2 d - 1 around
    it is free.
    """
    distance = scipy.ndimage.distance_transform_cdt(np.pad(~taken, 1), "chessboard")[1:-1, 1:-1]
    y, x = np.unravel_index(distance.argmax(), distance.shape)
    d = int(distance[y, x])
    return int(y) - d + 1, int(x) - d + 1, max(0, 2 * d - 1)


def main() -> None:
    parser = cli.Parser(__doc__)
    add = parser.add_argument_group("what to cut (ours)").add_argument
    add("--data", metavar="PATH", help="photos/ and cutouts/, or CelebAMask-HQ (default: as in train.py)")
    add("--out", type=Path, required=True, metavar="DIR", help="the squares, as NAME.png")
    add("--n-train", type=cli.number(int, 2), metavar="N", help="as in train.py")
    add("--n-test", type=cli.number(int, 1), metavar="N", help="as in train.py")
    add("--limit", type=cli.number(int, 1), metavar="N", help="as in train.py")
    args = parser.parse_args()
    folder, source, _ = dataset.locate(args.data)
    pairs = list_pairs(folder)[0][: args.limit]
    split = dataset.split(len(pairs), args.n_train, args.n_test)
    out, written = pictures.make_folder(args.out), 0
    if any(out.iterdir()):
        raise InputError(f"--out {out}: is not empty: it may hold photos, or another split's squares; give a new one")
    for i in tqdm(split["train"], "cutting", disable=None):  # val stays out too: the plateau rule looks at it
        photo, alpha = read_pair(pairs[i])
        person = np.asarray(Image.fromarray(alpha).resize(photo.size, Image.Resampling.NEAREST)) > 0
        margin = round(MARGIN * max(photo.size))
        top, left, side = largest_free_square(scipy.ndimage.maximum_filter(person, 2 * margin + 1))
        if side >= MIN_SHARE * min(photo.size):
            pictures.save_image(out / f"{pairs[i].name}.png", photo.crop((left, top, left + side, top + side)))
            written += 1
    print(f"{source}: {written} backgrounds from {len(split['train'])} training pictures -> {out}")


if __name__ == "__main__":
    cli.run(main)

"""Photos of people with head-and-torso masks at 224 x 224 px (Sec. 3), as the web tool remove.bg delivers them:

    FOLDER/
      photos/NAME.jpg      photos; also in subfolders, and LFW's own lfw/First_Last/First_Last_0001.jpg
      cutouts/NAME.png     RGBA cut-outs, alpha = mask; also NAME-removebg-preview.png; or black and white masks

The paper takes 298 photos of Labelled Faces in the Wild (README: where a copy is; 250 x 250 px, research use),
has remove.bg cut the people out, and gives neither the list nor the masks away. --data also takes a CelebAMask-HQ
folder, where the union of all parts is the person (non-commercial research and education only). Put the data into
data/headtorso in this folder or give its path:

    python lrn_headtorso/dataset.py --data PATH     verify and describe a folder, draw samples and the augmentation
    python lrn_headtorso/dataset.py                 the same for data/headtorso or, without it, generated pictures
"""

import os
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from common import cli, pictures
from common.cache import Arrays, cache_key, open_cache
from common.checkpoint import make_folder, write_atomically
from common.cli import InputError
from common.device import to_device
from common.images import list_photos, read_mask, read_photo, reason
from lrn_headtorso import generate
from lrn_headtorso.backgrounds import foreground, read_background
from lrn_headtorso.model import STRIDE
from lrn_headtorso.pairs import Pair, files, list_pairs

HERE = Path(__file__).resolve().parent
CACHE = HERE / "data" / "cache"
SIZE = 224  # Sec. 3
N_TRAIN, N_TEST = 250, 48  # Sec. 3
VAL_SHARE = 0.1  # ours: of the training pictures, for the plateau rule; the paper names no validation set
MEAN = torch.tensor((0.485, 0.456, 0.406))[:, None, None]  # of ImageNet, as torchvision's VGG-16 was trained with
STD = torch.tensor((0.229, 0.224, 0.225))[:, None, None]
PERSON_FROM = 128  # ours: where scores need a hard truth, the alpha from which a pixel is the person
UNMATCHED_SHOWN = 20  # of the files without a partner; the rest goes to a file
CACHE_VERSION = 3  # counts up when decode() or backgrounds.foreground() changes

# Augmentation (Sec. 2.3 names the three; the ranges are ours)
FLIP = 0.5  # probability
ZOOM = 1.25  # the picture appears 1/1.25 to 1.25 times as large, log-uniform
ROTATION = 15.0  # degrees to either side
NEW_BACKGROUND = 0.5  # share of the pictures that get another background with --backgrounds


# ---- Folder and split ----------------------------------------------------------------------------------------------


def locate(data: Path | None) -> tuple[Path, str, bool]:
    """The folder to read, a line that says which it is, and whether it is generated: --data, else data/headtorso or
    data/CelebAMask-HQ here, else generated pictures."""
    if data is not None:
        return data, str(data), False
    for name in ("headtorso", "CelebAMask-HQ"):
        if (HERE / "data" / name).is_dir():
            return HERE / "data" / name, f"data/{name} of this folder", False
    folder = generate.write_generated(HERE / "data" / "generated", generate.N)
    return folder, f"{generate.N} GENERATED pictures (no --data and no {HERE.name}/data/headtorso)", True


def split(n: int, seed: int, n_train: int | None = None, n_test: int | None = None) -> dict[str, list[int]]:
    """Positions of train, val and test among n pictures, at random from the seed.

    250 + 48 (Sec. 3), the same proportion of fewer than 298; val is the tenth of the 250 that is not trained on. More
    than 298 pictures stay unused unless n_train and n_test say otherwise.
    """
    if n_test is None:
        n_test = N_TEST if n >= N_TRAIN + N_TEST else max(1, round(n * N_TEST / (N_TRAIN + N_TEST)))
    if n_train is None:
        n_train = min(N_TRAIN, n - n_test)
    n_val = max(1, round(VAL_SHARE * n_train))
    if n_train + n_test > n or n_train <= n_val:
        raise InputError(
            f"{n} picture(s) are too few for {max(n_train, 2)} to train with and {n_test} to test; give --data more of "
            "them, a larger --limit, or smaller --n-train and --n-test"
        )
    order = np.random.default_rng(seed).permutation(n)
    test, val, train = np.split(order[: n_test + n_train], [n_test, n_test + n_val])
    return {"train": sorted(train.tolist()), "val": sorted(val.tolist()), "test": sorted(test.tolist())}


# ---- Decoding ------------------------------------------------------------------------------------------------------


def read_alpha(path: Path) -> np.ndarray:
    """A cut-out's alpha channel, H x W uint8; of a file without one, or with one that is 255 throughout, the black and
    white mask that it must then be. Raises InputError for anything else."""
    opaque = False
    try:
        with Image.open(path) as image:
            if "A" in image.getbands() or "transparency" in image.info:
                opaque = True
                alpha = np.asarray(image.convert("RGBA").getchannel("A"))
                if alpha.min() < 255:
                    return alpha
    except Exception as error:  # decoders of broken files raise a dozen kinds
        raise InputError(f"{path}: cannot be read as an image ({reason(error)}); replace or remove it") from None
    try:
        return read_mask(path).astype(np.uint8) * 255
    except InputError:
        if opaque:
            raise InputError(f"{path}: its alpha is 255 throughout, so nothing was cut out; replace it") from None
        raise


def read_pair(pair: Pair) -> tuple[Image.Image, np.ndarray]:
    """The photo and its alpha, h x w uint8: of the photo's proportions, but often smaller.

    Raises InputError, naming the file, for what cannot be used.
    """
    photo = read_photo(pair.photo)
    alpha = None
    for path in pair.masks:
        part = read_alpha(path)
        h, w = part.shape
        if abs(photo.width * h / photo.height - w) > 1 + photo.width / photo.height:  # remove.bg's previews are rounded
            raise InputError(
                f"{path}: is {w} x {h} px, another shape than its photo of {photo.width} x {photo.height}; give both "
                "the same width to height"
            )
        if alpha is not None and alpha.shape != part.shape:
            raise InputError(f"{path}: is {w} x {h} px, unlike the other parts of this face; resize it (nearest)")
        alpha = part if alpha is None else np.maximum(alpha, part)
    return photo, alpha


def decode(pair: Pair, size: int, with_foreground: bool = False) -> dict[str, np.ndarray]:
    """images: size x size x 3 uint8, alphas: size x size uint8, both antialiased with the same kernel, so that edges
    stay on edges; foregrounds: the person's own colours (backgrounds.py).

    The paper reshapes its photos, so height and width are scaled apart where a photo is not square. Raises InputError
    as read_pair() does.
    """
    photo, alpha = read_pair(pair)
    image = np.asarray(photo.resize((size, size), Image.Resampling.BILINEAR))
    alpha = np.asarray(Image.fromarray(alpha).resize((size, size), Image.Resampling.BILINEAR))
    sample = {"images": image, "alphas": alpha}
    if with_foreground:
        sample["foregrounds"] = foreground(image, alpha)
    return sample


def load(pairs: list[Pair], size: int, cache: Path, with_foreground: bool = False) -> Arrays:
    """The decoded pictures of `pairs`, from a cache that is built if it is not there."""
    fields = {"images": ((size, size, 3), "uint8"), "alphas": ((size, size), "uint8")}
    if with_foreground:
        fields["foregrounds"] = fields["images"]
    key = cache_key(files(pairs), size, with_foreground, CACHE_VERSION)
    return open_cache(cache, key, len(pairs), fields, lambda i: decode(pairs[i], size, with_foreground), "decoding")


# ---- Samples -------------------------------------------------------------------------------------------------------


def random_affine(rng: np.random.Generator) -> np.ndarray:
    """2 x 3: where in the picture, from -1 to 1, each pixel of the augmented one is taken from (Sec. 2.3)."""
    mirror = -1 if rng.random() < FLIP else 1
    zoom = ZOOM ** rng.uniform(-1, 1)
    angle = np.radians(rng.uniform(-ROTATION, ROTATION))
    cos, sin = np.cos(angle) / zoom, np.sin(angle) / zoom
    return np.array([[mirror * cos, -mirror * sin, 0], [sin, cos, 0]], np.float32)


def warp(stack: Tensor, affine: np.ndarray) -> Tensor:
    """B x C x H x W float, B x 2 x 3 -> the same shape, bilinear.

    Beyond its edges the picture repeats its outermost pixels, in all channels alike: a torso goes on below, a wall at
    the sides. Mirroring, the other usual choice, puts a second, inverted head above people who touch the upper edge.
    """
    grid = F.affine_grid(torch.from_numpy(affine), list(stack.shape), align_corners=False)
    return F.grid_sample(stack, grid, mode="bilinear", padding_mode="border", align_corners=False)


def normalize(images: Tensor, device: torch.device) -> Tensor:
    """B x 3 x H x W uint8 -> float32 on the device, as VGG-16 knows them: [0, 1], less the mean, by the deviation."""
    return (to_device(images, device).contiguous().float() / 255 - to_device(MEAN, device)) / to_device(STD, device)


class HeadTorso(Dataset):
    """dataset[[i, j, ...]] -> images B x 3 x size x size and alphas B x 1 x size x size, both uint8.

    A whole batch is one gather from the memory-mapped cache. With `augment`, picture and mask are flipped, zoomed and
    rotated as one stack of channels; with `backgrounds`, half of the people are then put on another picture (one of the
    paper's next steps, Sec. 5). Everything random depends on seed, epoch and picture alone, so neither the number of
    loader processes nor a resumed run changes a sample. Set `epoch` before each pass.
    """

    def __init__(
        self,
        cache: dict[str, np.ndarray],
        names: list[str],
        *,
        augment: bool = False,
        seed: int = 0,
        backgrounds: dict[str, np.ndarray] | None = None,
    ):
        self.cache, self.names, self.augment, self.seed, self.epoch = cache, names, augment, seed, 0
        self.backgrounds = backgrounds

    def __len__(self) -> int:
        return len(self.names)

    def name(self, i: int) -> str:
        """For messages."""
        return self.names[i]

    def __getitem__(self, batch: list[int]) -> tuple[Tensor, Tensor]:
        images, alphas = self.cache["images"][batch], self.cache["alphas"][batch]  # B H W 3, B H W
        if self.augment:
            images, alphas = self._augmented(batch, images, alphas)
        return torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(alphas)[:, None]

    def _augmented(self, batch: list[int], images: np.ndarray, alphas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rngs = [np.random.default_rng([self.seed, self.epoch, i]) for i in batch]
        affine = np.stack([random_affine(rng) for rng in rngs])
        behind = {}  # position in the batch -> its new background
        if self.backgrounds is not None:
            for b, rng in enumerate(rngs):
                if rng.random() < NEW_BACKGROUND:
                    background = self.backgrounds["images"][rng.integers(len(self.backgrounds["images"]))]
                    behind[b] = background[:, ::-1] if rng.random() < FLIP else background
                    images[b] = self.cache["foregrounds"][batch[b]]
        stack = torch.from_numpy(np.concatenate([images, alphas[..., None]], axis=-1)).permute(0, 3, 1, 2)
        moved = warp(stack.float(), affine).permute(0, 2, 3, 1).numpy()  # B H W 4
        for b, background in behind.items():
            alpha = moved[b, ..., 3:] / 255
            moved[b, ..., :3] = alpha * moved[b, ..., :3] + (1 - alpha) * background
        moved = np.rint(moved).astype(np.uint8)
        return np.ascontiguousarray(moved[..., :3]), np.ascontiguousarray(moved[..., 3])


# ---- python lrn_headtorso/dataset.py: verify, describe, draw ---------------------------------------------------------


def verify(pairs: list[Pair], size: int) -> tuple[list[Pair], list[tuple[float, float, str]], list[str]]:
    """Decode every pair, with all cores.

    Returns the usable pairs; for each of them the person's share of the picture, the share of soft pixels (alpha
    neither 0 nor 255) and the photo's size; and a line for each of the others.
    """

    def attempt(pair: Pair) -> tuple[float, float, str] | str:
        try:
            alpha = decode(pair, size)["alphas"]
            width, height = read_photo(pair.photo).size
            return (alpha >= PERSON_FROM).mean(), ((alpha > 0) & (alpha < 255)).mean(), f"{width} x {height}"
        except InputError as error:
            return str(error)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(tqdm(pool.map(attempt, pairs), "verifying", len(pairs), disable=None, unit="picture"))
    usable = [pair for pair, facts in zip(pairs, found, strict=True) if not isinstance(facts, str)]
    return usable, [f for f in found if not isinstance(f, str)], [f for f in found if isinstance(f, str)]


def draw_samples(pairs: list[Pair], size: int, backgrounds: Path | None, out: Path) -> None:
    """samples.png: photo, mask, cut-out on white; augmentation.png: the first of them in six epochs."""
    decoded = [decode(pair, size, with_foreground=True) for pair in pairs]
    cache = {name: np.stack([sample[name] for sample in decoded]) for name in decoded[0]}
    alpha = cache["alphas"][..., None] / 255
    on_white = (alpha * cache["foregrounds"] + (1 - alpha) * 255).astype(np.uint8)
    rows = [list(cache["images"]), list(cache["alphas"]), list(on_white)]
    pictures.save_grid(out / "samples.png", rows, row_titles=["photo", "alpha", "on white"])
    behind = None
    if backgrounds:
        behind = {"images": np.stack([read_background(path, size) for path in list_photos(backgrounds)[:20]])}
    data = HeadTorso(cache, [pair.name for pair in pairs], augment=True, backgrounds=behind)
    first, rows = list(range(min(3, len(pairs)))), []
    for epoch in range(1, 7):
        data.epoch = epoch
        images, alphas = data[first]
        photos = images.permute(0, 2, 3, 1).numpy()
        rows.append([picture for both in zip(photos, alphas[:, 0].numpy(), strict=True) for picture in both])
    pictures.save_grid(out / "augmentation.png", rows, row_titles=[f"epoch {epoch}" for epoch in range(1, 7)])


def main() -> None:
    parser = cli.Parser(__doc__)
    add = parser.add_argument_group("what to look at").add_argument
    add("--data", type=Path, metavar="PATH", help="photos/ and cutouts/, or CelebAMask-HQ (default: as in train.py)")
    add("--size", type=cli.number(int, STRIDE), default=SIZE, metavar="N", help="image side (224: Sec. 3)")
    add("--backgrounds", type=Path, metavar="DIR", help="draw the augmentation with these pictures behind the people")
    add("--limit", type=cli.number(int, 1), metavar="N", help="look at the first N pictures only")
    add("--out", type=Path, default=HERE / "runs" / "dataset", metavar="DIR", help="default: runs/dataset here")
    args = parser.parse_args()
    folder, source, _ = locate(args.data)
    pairs, photos_alone, cutouts_alone = list_pairs(folder)
    pairs = pairs[: args.limit]
    usable, facts, problems = verify(pairs, args.size)
    print(f"{source}: {len(pairs)} photos with their masks")
    if usable:
        share, soft, sizes = zip(*facts, strict=True)
        print("most frequent sizes in px:", ", ".join(f"{size} ({n})" for size, n in Counter(sizes).most_common(5)))
        low, middle, high = np.quantile(share, [0.05, 0.5, 0.95])
        print(f"person: {np.mean(share):.1%} of the picture on average; quantiles 5 / 50 / 95 %: "
              f"{low:.1%} / {middle:.1%} / {high:.1%}")  # fmt: skip
        print(f"soft edges: {np.mean(soft):.1%} of the pixels at {args.size} px are neither 0 nor 255")
        empty = [pair.photo.name for pair, part in zip(usable, share, strict=True) if part == 0]
        if empty:
            print(f"empty masks: {len(empty)}, such as {', '.join(empty[:5])}")
        draw_samples(usable[:8], args.size, args.backgrounds, make_folder(args.out))
        print(f"samples.png, augmentation.png -> {args.out}")
    alone = [f"{path}: has no cut-out and is not used" for path in photos_alone]
    alone += [f"{path}: belongs to no photo and is not used" for path in cutouts_alone]
    print(*alone[:UNMATCHED_SHOWN], sep="\n", end="\n" if alone else "")
    if len(alone) > UNMATCHED_SHOWN:  # of all of LFW, say, which has 13,233 photos
        write_atomically(make_folder(args.out) / "unmatched.txt", ("\n".join(alone) + "\n").encode())
        print(f"... and {len(alone) - UNMATCHED_SHOWN} more: all {len(alone)} in {args.out / 'unmatched.txt'}")
    for problem in problems:
        print(problem)
    if problems:
        raise InputError(f"{folder}: {len(problems)} problem(s) in {len(pairs)} pictures, the lines above name them")
    print("every photo and every mask can be read")


if __name__ == "__main__":
    cli.run(main)

"""Photos of people with head-and-torso masks at 224 x 224 px (Sec. 3), as the web tool remove.bg delivers them.

pairs.py has the layout of the folders, README.md where the data is: LFW for research, CelebAMask-HQ for non-commercial
research and education. Put it into data/headtorso here, or give its path:

    python lrn_headtorso/dataset.py --data PATH     verify a folder and draw samples
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import scipy
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor
from tqdm import tqdm

from common import cli, faces, pictures
from common.cli import InputError
from common.data import open_cache, try_all, write_once
from common.device import to_device
from common.images import list_photos, read_photo
from lrn_headtorso.model import STRIDE
from lrn_headtorso.pairs import Pair, list_pairs, read_pair

HERE = Path(__file__).resolve().parent
CACHE = HERE / "data" / "cache"
SIZE = 224  # Sec. 3
N_TRAIN, N_TEST = 250, 48  # Sec. 3
SPLIT_SEED = 0  # ours: the same test pictures whatever --seed is, so that trainings compare
VAL_SHARE = 0.1  # ours: of the training pictures, for the plateau rule; the paper names no validation set
N_GENERATED, GENERATED_SIZE = 298, 250  # as many as the paper has, of LFW's size
GENERATED_ZOOM = 0.66  # ours: how far generate_face() steps back, to the framing of a portrait
MEAN = torch.tensor((0.485, 0.456, 0.406))[:, None, None]  # of ImageNet, as torchvision's VGG-16 was trained with
STD = torch.tensor((0.229, 0.224, 0.225))[:, None, None]
PERSON_FROM = 128  # ours: where scores need a hard truth, the alpha from which a pixel is the person
CACHE_VERSION = 4  # counts up when decode() or foreground() changes

# Augmentation (Sec. 2.3 names the three; the ranges are ours)
FLIP = 0.5  # probability
ZOOM = 1.25  # the picture appears 1/1.25 to 1.25 times as large, log-uniform
ROTATION = 15.0  # degrees to either side
NEW_BACKGROUND = 0.5  # share of the pictures that get another background with --backgrounds (Sec. 5)
RIM = 2 / 224  # of the picture's side: a cut-out's outermost pixels still hold some of the old background
REACH = 3  # rims: how far from the inside colours are replaced; thin parts beyond keep theirs

# ---- Folder and split ----------------------------------------------------------------------------------------------


def locate(data: str | None) -> tuple[Path, str, bool]:
    """The folder to read, a line that says which it is, and whether it is generated: --data, else data/headtorso or
    data/CelebAMask-HQ here, else generated portraits."""
    if data is not None:
        return Path(data), data, False
    for name in ("headtorso", "CelebAMask-HQ"):
        if (HERE / "data" / name).is_dir():
            return HERE / "data" / name, f"data/{name} of this folder", False
    folder = write_portraits(HERE / "data" / "generated", N_GENERATED)
    return folder, f"{N_GENERATED} GENERATED pictures (no --data and no {HERE.name}/data/headtorso)", True


def write_portraits(folder: Path, n: int, size: int = GENERATED_SIZE) -> Path:
    """Painted people, head and torso, in remove.bg's layout; the mask is hard, as remove.bg's mostly is."""

    def paint(draft: Path) -> None:
        for sub in ("photos", "cutouts"):
            (draft / sub).mkdir()
        for i in tqdm(range(n), f"painting {folder.name}", unit="picture", disable=None):
            face = faces.generate_face(i, size, zoom=GENERATED_ZOOM)
            alpha = face.masks.any(0) * np.uint8(255)
            Image.fromarray(face.image).save(draft / "photos" / f"{i:04d}.jpg", quality=95)
            cutout = np.dstack([np.where(alpha[..., None] > 0, face.image, 0), alpha])  # as remove.bg: black elsewhere
            Image.fromarray(cutout).save(draft / "cutouts" / f"{i:04d}.png")

    return write_once(folder, {"n": n, "size": size, "version": [faces.VERSION, 3]}, paint)


def split(n: int, n_train: int | None = None, n_test: int | None = None) -> dict[str, list[int]]:
    """Positions of train, val and test among n pictures, at random: 250 + 48 (Sec. 3), of fewer than 298 the same
    proportion; val is a tenth of the 250. Raises InputError for too few."""
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
    order = np.random.default_rng(SPLIT_SEED).permutation(n)
    test, val, train = np.split(order[: n_test + n_train], [n_test, n_test + n_val])
    return {"train": sorted(train.tolist()), "val": sorted(val.tolist()), "test": sorted(test.tolist())}


# ---- Decoding ------------------------------------------------------------------------------------------------------


def decode(pair: Pair, size: int, with_foreground: bool = False) -> dict[str, np.ndarray]:
    """images: size x size x 3 uint8, alphas: size x size uint8, both antialiased with the same kernel, so that edges
    stay on edges; foregrounds: foreground()'s. A photo that is not square is squeezed, as the paper reshapes its own.
    Raises InputError as read_pair() does."""
    photo, alpha = read_pair(pair)
    image = np.asarray(photo.resize((size, size), Image.Resampling.BILINEAR))
    alpha = np.asarray(Image.fromarray(alpha).resize((size, size), Image.Resampling.BILINEAR))
    return {"images": image, "alphas": alpha} | ({"foregrounds": foreground(image, alpha)} if with_foreground else {})


def foreground(image: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """H x W x 3 and H x W, both uint8 -> H x W x 3: the person's colours, continued over the edge to the outside.

    Each pixel near the contour takes the colour of the nearest one that lies a rim's width inside, so that no rim of
    the old background tells a network where the person ends.
    """
    rim = max(1, round(RIM * max(alpha.shape)))
    inside = scipy.ndimage.minimum_filter(alpha, 2 * rim + 1) == 255
    if not inside.any():
        return image
    distance, (y, x) = scipy.ndimage.distance_transform_edt(~inside, return_indices=True)
    near = (distance > 0) & (distance <= REACH * rim)
    return np.where(near[..., None], image[y, x], image)


# ---- Batches -------------------------------------------------------------------------------------------------------


def random_affine(rng: np.random.Generator) -> np.ndarray:
    """2 x 3: where in the picture, from -1 to 1, each pixel of the augmented one is taken from (Sec. 2.3)."""
    mirror = -1 if rng.random() < FLIP else 1
    zoom = ZOOM ** rng.uniform(-1, 1)
    angle = np.radians(rng.uniform(-ROTATION, ROTATION))
    cos, sin = np.cos(angle) / zoom, np.sin(angle) / zoom
    return np.array([[mirror * cos, -mirror * sin, 0], [sin, cos, 0]], np.float32)


def warp(stack: Tensor, affine: Tensor) -> Tensor:
    """B x C x size x size float, B x 2 x 3 -> the same shape, bilinear.

    Beyond its edges the picture repeats its outermost pixels, in all channels alike: a torso goes on below, a wall at
    the sides. Mirroring, the other usual choice, puts a second, inverted head above people who touch the upper edge.
    """
    grid = F.affine_grid(affine, list(stack.shape), align_corners=False)  # B H W 2, from -1 to 1
    last = 1 - 1 / stack.shape[-1]  # the middle of the outermost pixels; not padding_mode="border", which MPS lacks
    return F.grid_sample(stack, grid.clamp(-last, last), mode="bilinear", align_corners=False)


def normalize(images: Tensor) -> Tensor:
    """B x 3 x H x W uint8 -> float32 as VGG-16 knows them: [0, 1], less the mean, by the deviation."""
    mean, std = to_device(MEAN, images.device), to_device(STD, images.device)
    return (images.contiguous().float() / 255 - mean) / std


class HeadTorso:
    """Pictures in arrays, as decode() gives each. What is random depends on seed, epoch and picture alone."""

    def __init__(
        self, arrays: dict[str, np.ndarray], names: list[str], seed: int = 0, backgrounds: np.ndarray | None = None
    ):
        self.arrays, self.names, self.seed, self.backgrounds = arrays, names, seed, backgrounds

    def __len__(self) -> int:
        return len(self.names)

    def batch(self, indices: list[int] | np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
        """B indices -> images B x 3 x size x size and alphas B x 1 x size x size, both uint8 on the device."""
        images, alphas = self.arrays["images"][indices], self.arrays["alphas"][indices]  # B H W 3, B H W
        images = to_device(torch.from_numpy(images), device).permute(0, 3, 1, 2)
        return images, to_device(torch.from_numpy(alphas), device)[:, None]

    def augmented(self, indices: np.ndarray, device: torch.device, epoch: int) -> tuple[Tensor, Tensor]:
        """The same, flipped, zoomed and rotated (Sec. 2.3); with `backgrounds`, half before another one (Sec. 5)."""
        images, alphas = self.batch(indices, device)
        rngs = [np.random.default_rng([self.seed, epoch, i]) for i in indices]
        affine = torch.from_numpy(np.stack([random_affine(rng) for rng in rngs]))
        behind = {}  # position in the batch -> its new background, H x W x 3
        for b, rng in enumerate(rngs if self.backgrounds is not None else ()):
            if rng.random() < NEW_BACKGROUND:
                background = self.backgrounds[rng.integers(len(self.backgrounds))]
                behind[b] = np.array(background[:, ::-1] if rng.random() < FLIP else background)
                own = torch.from_numpy(np.array(self.arrays["foregrounds"][indices[b]]))
                images[b] = to_device(own, device).permute(2, 0, 1)
        moved = warp(torch.cat([images, alphas], dim=1).float(), to_device(affine, device))
        for b, background in behind.items():
            alpha, other = moved[b, 3:] / 255, to_device(torch.from_numpy(background), device).permute(2, 0, 1)
            moved[b, :3] = alpha * moved[b, :3] + (1 - alpha) * other
        moved = moved.round().byte()
        return moved[:, :3], moved[:, 3:]


def load(pairs: list[Pair], size: int, cache: Path, seed: int = 0, backgrounds: str | None = None) -> HeadTorso:
    """The pictures of `pairs`, memory-mapped and decoded if they are not yet; with the folder `backgrounds` augmented()
    uses its pictures, cut to squares. Raises InputError for files that cannot be used."""
    files = [path for pair in pairs for path in (pair.photo, *pair.masks)]
    cut_out, behind = backgrounds is not None, None
    facts = ["headtorso", size, cut_out, CACHE_VERSION]
    arrays = open_cache(cache, files, facts, len(pairs), lambda i: decode(pairs[i], size, cut_out), "decoding")
    if cut_out:
        paths = list_photos(Path(backgrounds))

        def read(i: int) -> dict[str, np.ndarray]:
            return {"images": np.asarray(ImageOps.fit(read_photo(paths[i]), (size, size), Image.Resampling.BILINEAR))}

        facts = ["backgrounds", size, CACHE_VERSION]
        behind = open_cache(cache, paths, facts, len(paths), read, "backgrounds")["images"]
    return HeadTorso(arrays, [pair.photo.name for pair in pairs], seed, behind)


def main() -> None:
    parser = cli.Parser(__doc__)
    add = parser.add_argument_group("what to look at").add_argument
    add("--data", metavar="PATH", help="photos/ and cutouts/, or CelebAMask-HQ (default: as in train.py)")
    add("--size", type=cli.number(int, STRIDE), default=SIZE, metavar="N", help="image side (224: Sec. 3)")
    add("--limit", type=cli.number(int, 1), metavar="N", help="look at the first N pictures only")
    add("--out", type=Path, default=HERE / "runs" / "dataset", metavar="DIR", help="default: runs/dataset here")
    args = parser.parse_args()
    folder, source, _ = locate(args.data)
    pairs, alone = list_pairs(folder)
    pairs = pairs[: args.limit]
    found, problems = try_all(lambda i: (decode(pairs[i], args.size)["alphas"] >= PERSON_FROM).mean(), len(pairs))
    print(f"{source}: {len(pairs)} photos with their masks, {len(alone)} file(s) without a partner")
    if found:
        print(f"the person covers {np.mean(list(found.values())):.1%} of a picture on average")
        samples = [decode(pairs[i], args.size) for i in list(found)[:8]]
        rows = [[sample[name] for sample in samples] for name in ("images", "alphas")]
        path = pictures.make_folder(args.out) / "samples.png"
        pictures.save_grid(path, rows, row_titles=["photo", "alpha"])
        print(f"samples -> {path}")
    empty = [f"{pairs[i].photo}: its mask is empty" for i, share in found.items() if not share]
    for line in (*(f"{path}: has no partner and is not used" for path in alone[:20]), *empty[:20], *problems):
        print(line)
    if problems:
        raise InputError(f"{folder}: {len(problems)} problem(s) in {len(pairs)} pictures, the lines above name them")
    print("every photo and every mask can be read")


if __name__ == "__main__":
    cli.run(main)

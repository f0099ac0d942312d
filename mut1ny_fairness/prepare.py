"""Mut1ny's folder as it is shipped -> a manifest: which images to train on, and whose they are (Sec. III-C).

    Mut1ny/
      training.xml                          pairs: <srcimg name="samples\\..."/> <labelimg name="labels\\..."/>
      samples/femalealison1_.../NAME.png    images; a person may have several folders
      labels/femalealison1/NAME.png         label images in the vendor's colours; one folder or two a person,
      labels/multiperson, labels/real       one for several people in a picture, one for photographs

    python mut1ny_fairness/prepare.py --data Mut1ny                   the paper's steps
    python mut1ny_fairness/prepare.py --data Mut1ny --distance 4      near-duplicates too
    python mut1ny_fairness/prepare.py                                 on generated pictures

Writes manifest.csv into the data folder (or to --manifest); counts.csv, dropped.csv and dropped.png, a sheet of what
was dropped beside what it is a copy of, to --out. No image is moved, copied or deleted. The data set, community
edition, 16,557 images, is at https://store.mut1ny.com, under the vendor's terms.
"""

import os
import re
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from xml.etree import ElementTree

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from PIL import Image
from tqdm import tqdm

from common import cli, pictures
from common.checkpoint import make_folder
from common.cli import InputError, number
from common.images import PHOTO_SUFFIXES, files_below, read_photo, reason
from common.tables import print_table, write_csv
from mut1ny_fairness.generate import write_mut1ny

HERE = Path(__file__).resolve().parent
CATEGORIES = ("male", "female", "real", "multi")  # Sec. III-C.3
N_MULTI, N_PERSON = 50, 10  # Sec. III-C.6, of several people in a picture and of every other folder; all of real
PAPER_COUNTS = {"found": "16557", "without duplicates": "about 14000", "subsample": "2096"}  # Sec. III-C
COLUMNS = ("image", "label", "folder", "person", "category", "hash")


class Pair(NamedTuple):
    """An image and its label, as training.xml names them."""

    image: str  # relative to the data folder, with slashes
    label: str
    folder: str  # of the label
    person: str  # empty if unknown
    category: str


# ---- Reading the folder --------------------------------------------------------------------------------------------


def locate(data: Path | None) -> tuple[Path, str]:
    """The folder to read and a line that says which: --data, else data/mut1ny or data/CelebAMask-HQ here, else
    generated pictures."""
    if data is not None:
        return data, str(data)
    for name in ("mut1ny", "CelebAMask-HQ"):
        if (HERE / "data" / name).is_dir():
            return HERE / "data" / name, f"data/{name} of this folder"
    return write_mut1ny(HERE / "data" / "generated"), f"GENERATED (no --data, no data/mut1ny in {HERE.name})"


def is_celebamask(root: Path) -> bool:
    """Whether a folder is CelebAMask-HQ or holds it: that needs no preparing."""
    return (root / "CelebA-HQ-img").is_dir() or (root / "CelebAMask-HQ").is_dir()


def inside(root: Path, name: str, where: Path) -> Path:
    """root/name; raises InputError if that lies outside root, be it through "..", a whole path or a link."""
    path = PurePosixPath(name.replace("\\", "/"))
    try:
        outside = not (root / path).resolve().is_relative_to(root.resolve())
    except (OSError, ValueError, RuntimeError):  # a name that no file can have, links in a circle
        outside = True
    if outside or path.is_absolute() or re.match(r"[A-Za-z]:", name):
        raise InputError(f"{where}: the path {name!r} leaves {root}; correct it, or copy the file into the folder")
    return root / path


def who(folder: str) -> tuple[str, str]:
    """A folder's name -> category and person: femalealison1 -> female, femalealison; male06_2 -> male, male06.

    real and multi give no person. An unknown name gives two empty strings.
    """
    name = folder.lower()
    if "multi" in name:
        return "multi", ""
    if "real" in name:
        return "real", ""
    match = re.match(r"(female|male)([a-z]*)", name)
    if not match:
        return "", ""
    # alison1 and alison2 are one person; 03 and 10 of female03 and female10 are two
    return match[1], match[0] if match[2] else name.split("_")[0]


def read_pairs(root: Path) -> tuple[list[Pair], list[str]]:
    """The pairs of a Mut1ny folder, sorted, and lines on what is odd about it. Raises InputError if there are none."""
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give the one with training.xml, samples/ and labels/ in it")
    notes, named, source = [], None, root / "training.xml"
    if source.is_file():
        named, note = _pairs_of_xml(source)
        notes += [note] if note else []
    if named is None:
        named, note = _pairs_of_folders(root)
        notes.append(note)
        source = root
    pairs, missing, unknown = [], [], []
    for image, label in named:
        paths = inside(root, image, source), inside(root, label, source)
        folder = paths[1].parent.name
        category, person = who(folder)
        lost = [path for path in paths if not path.is_file()]
        missing += lost[:1]
        if not category:
            unknown.append(folder)
        elif not lost:
            image, label = (path.relative_to(root).as_posix() for path in paths)
            pairs.append(Pair(image, label, folder, person, category))
    if missing:
        notes.append(f"{len(missing)} of the pairs lack a file, first {missing[0]}: left out")
    if unknown:
        notes.append(f"{len(unknown)} pairs in folders that are neither male, female, multi nor real, such as "
                     f"{unknown[0]}: left out")  # fmt: skip
    if not pairs:
        raise InputError(
            f"{root}: looked for training.xml, or samples/PERSON/NAME.png with labels/PERSON/NAME.png, and found no "
            f"pair{'; ' + '; '.join(notes) if named else ''}; give Mut1ny's or CelebAMask-HQ's folder"
        )
    return sorted(set(pairs)), notes


def _pairs_of_xml(path: Path) -> tuple[list[tuple[str, str]] | None, str]:
    """The names that training.xml gives, or None and why it cannot be read. A document type is refused: it can name
    files of this machine or grow without end."""
    try:
        text = path.read_bytes()
        text = text.decode("utf-16" if text[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig", errors="replace")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; make it readable") from None
    if "<!doctype" in text.lower() or "<!entity" in text.lower():
        raise InputError(f"{path}: has a document type or entities, which a list of pairs does not need; remove them")
    try:
        tree = ElementTree.fromstring(re.sub(r"^\s*<\?xml.*?\?>", "", text, count=1, flags=re.DOTALL))
    except ElementTree.ParseError as error:
        return None, f"{path.name} is not well-formed ({error}): pairs matched by their folders instead"
    pairs, image = [], None
    for element in tree.iter():
        name = element.get("name", "").strip()
        if element.tag == "srcimg":
            image = name
        elif element.tag == "labelimg" and image and name:
            pairs.append((image, name))
            image = None
    if not pairs:
        return None, f"{path.name} names no pairs of srcimg and labelimg: matched by their folders instead"
    return pairs, ""


def _label_folder(name: str, folders: set[str]) -> str:
    """The label folder of samples/NAME, "" if there is none: NAME or what stands before a "_" in it, not any beginning,
    for femalebarbera2_park is not of femalebarbera. male06_1 and male06_2 are male06_... with and without light, of
    which the latter say "nolight". Of real and multi any beginning will do: they mix up no people.
    """
    parts = name.split("_")
    fitting = ["_".join(parts[:n]) for n in range(len(parts), 0, -1)] + [f"{parts[0]}_{1 + ('nolight' in name)}"]
    fitting += [folder for folder in sorted(folders) if not who(folder)[1] and name.startswith(folder)]
    return next((folder for folder in fitting if folder in folders), "")


def _pairs_of_folders(root: Path) -> tuple[list[tuple[str, str]], str]:
    """samples/FOLDER.../NAME with labels/FOLDER/NAME, for the folders that belong together."""
    labels = {}
    for path in files_below(root / "labels"):
        if path.suffix.lower() in PHOTO_SUFFIXES:
            labels[path.parent.name, path.stem] = path
    folders = {folder for folder, _ in labels}
    images = [path for path in files_below(root / "samples") if path.suffix.lower() in PHOTO_SUFFIXES]
    found = [(path, labels.get((_label_folder(path.parent.name, folders), path.stem))) for path in images]
    pairs = [tuple(p.relative_to(root).as_posix() for p in pair) for pair in found if pair[1]]
    lonely = [path.relative_to(root).as_posix() for path, label in found if not label]
    first = f" (first {lonely[0]})" if lonely else ""
    return pairs, f"{len(pairs)} pairs matched by folder and name, {len(lonely)} images without a label{first} left out"


# ---- Duplicates ----------------------------------------------------------------------------------------------------


def difference_hash(image: Image.Image) -> int:
    """64 bits: the image in grey at 9 x 8 px, one bit for each pixel that is darker than its right neighbour."""
    small = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), np.int16)
    bits = small[:, :-1] < small[:, 1:]
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def hash_images(paths: list[Path]) -> list[int]:
    """The hashes, computed with all cores; raises InputError, naming the file, for one that cannot be decoded."""

    def attempt(path: Path) -> int:
        try:
            with Image.open(path) as image:
                return difference_hash(image)
        except Exception as error:  # decoders of broken files raise a dozen kinds
            raise InputError(f"{path}: cannot be read as an image ({reason(error)}); replace or remove it") from None

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            return list(tqdm(pool.map(attempt, paths), "hashing", len(paths), disable=None, unit="image"))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def find_duplicates(hashes: list[int], distance: int = 0) -> dict[int, int]:
    """Index of each image to drop -> index of the earlier image, itself kept, whose hash is within `distance` bits.

    The distance of all pairs is a matrix product: of rows of +-1, the product is 64 minus twice the differing bits.
    """
    n = len(hashes)
    packed = np.array(hashes, dtype=">u8").view(np.uint8).reshape(n, 8)
    signs = 1 - 2 * np.unpackbits(packed, axis=1).astype(np.float32)  # n 64
    copy_of: dict[int, int] = {}
    block = 512
    for start in range(0, n, block):
        rows = signs[start : start + block]
        near = rows @ signs[: start + len(rows)].T >= 64 - 2 * distance
        for i in range(start, start + len(rows)):
            for j in np.flatnonzero(near[i - start, :i]).tolist():
                if j not in copy_of:
                    copy_of[i] = j
                    break
    return copy_of


def subsample(pairs: list[Pair], seed: int) -> list[int]:
    """Indices of all of real, 50 of multi, 10 of each other label folder, at random but the same for a seed.

    Sec. III-C.6 says 10 of every other category, such as a person; that a person's two folders count apart is ours.
    Every folder has a generator of its own: what is drawn of one does not depend on the others.
    """
    groups: dict[str, list[int]] = {}
    for i, pair in enumerate(pairs):
        groups.setdefault(pair.category if pair.category in ("real", "multi") else pair.folder, []).append(i)
    chosen = list(groups.pop("real", []))
    for name, members in groups.items():
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        chosen += rng.permutation(members)[: N_MULTI if name == "multi" else N_PERSON].tolist()
    return sorted(chosen)


# ---- The manifest --------------------------------------------------------------------------------------------------


def prepare(root: Path, manifest: Path, seed: int = 0, distance: int = 0, out: Path | None = None) -> None:
    """All steps: print the counts, write the manifest, and to `out` the tables and the sheet of dropped pairs."""
    pairs, notes = read_pairs(root)
    for note in notes:
        print(f"note       {note}")
    hashes = hash_images([root / pair.image for pair in pairs])
    copies = find_duplicates(hashes, distance)
    kept = [i for i in range(len(pairs)) if i not in copies]
    chosen = [kept[i] for i in subsample([pairs[i] for i in kept], seed)]
    counts = [["step", *CATEGORIES, "all", "paper"]]
    for step, indices in (("found", range(len(pairs))), ("without duplicates", kept), ("subsample", chosen)):
        numbers = [sum(pairs[i].category == category for i in indices) for category in CATEGORIES]
        counts.append([step, *map(str, numbers), str(sum(numbers)), PAPER_COUNTS[step]])
    print_table(counts)
    write_csv(manifest, [list(COLUMNS), *([*pairs[i], f"{hashes[i]:016x}"] for i in chosen)])
    people = {pairs[i].person for i in chosen} - {""}
    print(f"{len(chosen)} images of {len(people)} known people, --seed {seed}, --distance {distance} -> {manifest}")
    if out is not None:
        make_folder(out)
        write_csv(out / "counts.csv", counts)
        bits = {i: (hashes[i] ^ hashes[j]).bit_count() for i, j in copies.items()}
        rows = [[pairs[i].image, pairs[j].image, str(bits[i])] for i, j in copies.items()]
        write_csv(out / "dropped.csv", [["dropped", "kept", "bits"], *rows])
        draw_dropped(out / "dropped.png", root, pairs, copies, bits, seed)


def draw_dropped(
    path: Path, root: Path, pairs: list[Pair], copies: dict[int, int], bits: dict[int, int], seed: int
) -> None:
    """Up to 18 dropped images, each beside the one that was kept: the most different first, then at random."""
    if not copies:
        path.unlink(missing_ok=True)
        return
    order = np.random.default_rng(seed).permutation(list(copies)).tolist()
    shown = sorted(order, key=lambda i: -bits[i])[:6]
    shown += [i for i in order if i not in shown][:12]
    cells, titles = [], []
    for i in shown:
        for index, what in ((copies[i], "kept"), (i, f"dropped, {bits[i]} bits")):
            photo = read_photo(root / pairs[index].image)
            photo.thumbnail((200, 200))
            cells.append(np.asarray(photo))
            titles.append(f"{what}\n{pairs[index].folder}/{Path(pairs[index].image).name}")
    rows = [slice(start, start + 6) for start in range(0, len(cells), 6)]
    pictures.save_grid(path, [cells[r] for r in rows], titles=[titles[r] for r in rows], cell=1.7)


def main() -> None:
    parser = cli.Parser(__doc__)
    add = parser.add_argument_group("what to prepare").add_argument
    add("--data", type=Path, metavar="PATH",
        help="Mut1ny's folder (default: data/mut1ny here; if neither that nor data/CelebAMask-HQ is there, generated "
        "pictures)")  # fmt: skip
    add("--distance", type=number(int, 0, 63), default=0, metavar="N",
        help="drop images whose hashes differ in at most N of 64 bits (0, identical: Sec. III-C.4)")  # fmt: skip
    add("--seed", type=number(int, 0), default=0, metavar="N", help="of the subsample (default 0: ours)")
    add("--manifest", type=Path, metavar="FILE", help="default: manifest.csv in the data folder")
    add("--out", type=Path, default=HERE / "runs" / "prepare", metavar="DIR", help="default: runs/prepare here")
    args = parser.parse_args()
    root, source = locate(args.data)
    if is_celebamask(root):
        raise InputError(f"{root}: CelebAMask-HQ needs no preparing; give it to train.py as it is")
    print(f"data       {source}")
    if args.manifest:
        make_folder(args.manifest.resolve().parent, "--manifest")
    elif not os.access(root, os.W_OK):
        raise InputError(f"{root / 'manifest.csv'}: cannot be written; give --manifest FILE, to the other scripts too")
    prepare(root, args.manifest or root / "manifest.csv", args.seed, args.distance, args.out)
    drawn = ", dropped.png" if (args.out / "dropped.png").exists() else ""
    print(f"counts.csv, dropped.csv{drawn} -> {args.out}")


if __name__ == "__main__":
    cli.run(main)

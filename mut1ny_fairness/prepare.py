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
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from PIL import Image

from common import cli, pictures
from common.celebamask import celebamask_root
from common.cli import InputError, number
from common.data import try_all
from common.images import PHOTO_SUFFIXES, files_below, name_of, read_photo
from mut1ny_fairness.generate import write_mut1ny
from mut1ny_fairness.tables import inside, read_text

HERE = Path(__file__).resolve().parent
CATEGORIES = ("male", "female", "real", "multi")  # Sec. III-C.3
N_MULTI, N_PERSON = 50, 10  # Sec. III-C.6, of several people in a picture and of every other folder; all of real
PAPER_COUNTS = {"found": "16557", "without duplicates": "about 14000", "subsample": "2096"}  # Sec. III-C


class Pair(NamedTuple):
    """An image and its label, as paths relative to the data folder, with slashes."""

    image: str
    label: str
    folder: str  # of the label
    person: str  # empty if unknown
    category: str


# ---- Reading the folder (Sec. III-C.2, III-C.3) --------------------------------------------------------------------


def locate(data: str | None) -> tuple[Path, str]:
    """The folder to read and a line that says which: --data, else data/mut1ny or data/CelebAMask-HQ here, else
    generated pictures."""
    if data is not None:
        return Path(data), data
    for name in ("mut1ny", "CelebAMask-HQ"):
        if (HERE / "data" / name).is_dir():
            return HERE / "data" / name, f"data/{name} of this folder"
    return write_mut1ny(HERE / "data" / "generated"), f"GENERATED (no --data, no data/mut1ny in {HERE.name})"


def who(folder: str) -> tuple[str, str]:
    """A folder's name -> category and person: femalealison1 -> female, femalealison; male06_2 -> male, male06.

    real and multi give no person. An unknown name gives two empty strings.
    """
    name = folder.lower()
    for category in ("multi", "real"):
        if category in name:
            return category, ""
    match = re.match(r"(female|male)([a-z]*)", name)
    if not match:
        return "", ""
    # alison1 and alison2 are one person; 03 and 10 of female03 and female10 are two
    return match[1], match[0] if match[2] else name.split("_")[0]


def read_pairs(root: Path) -> tuple[list[Pair], list[str]]:
    """The pairs of a Mut1ny folder, sorted, and lines on what is odd about it. Raises InputError if there are none."""
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give the one with training.xml, samples/ and labels/ in it")
    xml, notes = root / "training.xml", []
    named, problem = pairs_of_xml(xml) if xml.is_file() else ([], f"there is no {xml.name}")
    named = [tuple(inside(root, name, str(xml)) for name in pair) for pair in named]
    found = [pair for pair in named if pair[0].is_file() and pair[1].is_file()]
    if len(found) < len(named):
        lost = next(path for pair in named for path in pair if not path.is_file())
        problem = f"{len(named) - len(found)} of {len(named)} pairs of {xml.name} lack a file, first {lost}"
        notes += [f"{problem}: left out"] if 2 * len(found) >= len(named) else []
    if not found or 2 * len(found) < len(named):  # its paths have other letter case, or one folder too many
        found, lonely = pairs_of_folders(root)
        first = f" (first {lonely[0]})" if lonely else ""
        notes.append(f"{problem}: {len(found)} pairs matched by folder and name, {len(lonely)} images without a "
                     f"label{first} left out")  # fmt: skip
    pairs = set()
    for paths in found:
        image, label = (path.relative_to(root).as_posix() for path in paths)
        category, person = who(paths[1].parent.name)
        pairs.add(Pair(image, label, paths[1].parent.name, person, category))
    unknown = sorted(pair.folder for pair in pairs if not pair.category)
    if unknown:
        notes.append(f"{len(unknown)} pairs in folders that are neither male, female, multi nor real, such as "
                     f"{unknown[0]}: left out")  # fmt: skip
    if len(pairs) == len(unknown):
        raise InputError(
            f"{root}: looked for training.xml, or samples/PERSON/NAME.png with labels/PERSON/NAME.png, and found no "
            f"pair ({'; '.join(notes)}); give Mut1ny's or CelebAMask-HQ's folder"
        )
    return sorted(pair for pair in pairs if pair.category), notes


def pairs_of_xml(path: Path) -> tuple[list[tuple[str, str]], str]:
    """The names in training.xml, or none and why. The shipped file is known not to be well-formed. A document type is
    refused: it can name files of this machine or grow without end."""
    text = read_text(path, errors="replace")
    if "<!doctype" in text.lower() or "<!entity" in text.lower():
        raise InputError(f"{path}: has a document type or entities, which a list of pairs does not need; remove them")
    try:  # without the declaration, whose encoding is no longer that of the text
        tree = ElementTree.fromstring(re.sub(r"^\s*<\?xml.*?\?>", "", text, count=1, flags=re.DOTALL))
    except ElementTree.ParseError as error:
        return [], f"{path.name} is not well-formed ({error})"
    pairs, image = [], ""
    for element in tree.iter():
        name = element.get("name", "").strip()
        if element.tag == "srcimg":
            image = name
        elif element.tag == "labelimg" and image and name:
            pairs.append((image, name))
            image = ""
    return pairs, f"{path.name} names no pairs of srcimg and labelimg"


def pairs_of_folders(root: Path) -> tuple[list[tuple[Path, Path]], list[str]]:
    """samples/FOLDER.../NAME with labels/FOLDER/NAME, for the folders that belong together; and the images that have no
    label. Upper and lower case are one."""
    files = [path for path in files_below(root) if path.suffix.lower() in PHOTO_SUFFIXES]
    under = {top: [p for p in files if p.relative_to(root).parts[0].lower() == top] for top in ("samples", "labels")}
    labels = {(path.parent.name.lower(), name_of(path).lower()): path for path in under["labels"]}
    folders = {folder for folder, _ in labels}
    found = [(path, labels.get((label_folder(path.parent.name.lower(), folders), name_of(path).lower())))
             for path in under["samples"]]  # fmt: skip
    lonely = [path.relative_to(root).as_posix() for path, label in found if not label]
    return [pair for pair in found if pair[1]], lonely


def label_folder(name: str, folders: set[str]) -> str:
    """The label folder of samples/NAME, "" if there is none: NAME or what stands before a "_" in it, not any beginning,
    for femalebarbera2_park is not of femalebarbera. male06_1 and male06_2 are male06_... with and without light, of
    which the latter say "nolight". Of real and multi any beginning will do: they mix up no people.
    """
    parts = name.split("_")
    fitting = ["_".join(parts[:n]) for n in range(len(parts), 0, -1)] + [f"{parts[0]}_{1 + ('nolight' in name)}"]
    fitting += [folder for folder in sorted(folders) if not who(folder)[1] and name.startswith(folder)]
    return next((folder for folder in fitting if folder in folders), "")


# ---- Duplicates and subsample (Sec. III-C.4 to III-C.7) ------------------------------------------------------------


def difference_hash(image: Image.Image) -> int:
    """64 bits: the image in grey at 9 x 8 px, one bit for each pixel that is darker than its right neighbour."""
    small = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), np.int16)
    return int.from_bytes(np.packbits(small[:, :-1] < small[:, 1:]).tobytes(), "big")


def find_duplicates(hashes: list[int], distance: int = 0) -> dict[int, int]:
    """Index of each image to drop -> index of the earlier image, itself kept, whose hash is within `distance` bits.

    The distance of all pairs is a matrix product: of rows of +-1, the product is 64 minus twice the differing bits.
    """
    packed = np.array(hashes, dtype=">u8").view(np.uint8).reshape(len(hashes), 8)
    signs = 1 - 2 * np.unpackbits(packed, axis=1).astype(np.float32)  # n 64
    copy_of: dict[int, int] = {}
    for start in range(0, len(hashes), 512):
        rows = signs[start : start + 512]
        near = rows @ signs[: start + len(rows)].T >= 64 - 2 * distance
        for i in range(start, start + len(rows)):
            earlier = np.flatnonzero(near[i - start, :i]).tolist()
            kept = next((j for j in earlier if j not in copy_of), None)
            if kept is not None:
                copy_of[i] = kept
    return copy_of


def subsample(pairs: list[Pair], seed: int) -> list[int]:
    """Indices of all of real, 50 of multi, 10 of each other label folder, at random but the same for a seed.

    Sec. III-C.6 says 10 of every other category, such as a person; that a person's two folders count apart is ours.
    Every folder has a generator of its own: what is drawn of one does not depend on the others.
    """
    groups: dict[str, list[int]] = {}
    for i, pair in enumerate(pairs):
        groups.setdefault(pair.category if pair.category in ("real", "multi") else pair.folder, []).append(i)
    chosen = groups.pop("real", [])
    for name, members in groups.items():
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        chosen += rng.permutation(members)[: N_MULTI if name == "multi" else N_PERSON].tolist()
    return sorted(chosen)


# ---- The manifest --------------------------------------------------------------------------------------------------


def prepare(root: Path, manifest: Path, seed: int = 0, distance: int = 0, out: Path | None = None) -> None:
    """All steps: print the counts, write the manifest, and to `out` the tables and the sheet of dropped pairs."""
    pairs, notes = read_pairs(root)
    if not os.access(manifest.parent, os.W_OK):  # known before all the hashing
        raise InputError(f"{manifest}: cannot be written; give prepare.py --manifest FILE, and it to the other scripts")
    for note in notes:
        print(f"note       {note}")
    hashes, problems = try_all(lambda i: difference_hash(read_photo(root / pairs[i].image)), len(pairs))
    if problems:
        raise InputError(f"{problems[0]} ({len(problems)} of {len(pairs)} images cannot be read)")
    copies = find_duplicates([hashes[i] for i in range(len(pairs))], distance)
    kept = [i for i in range(len(pairs)) if i not in copies]
    chosen = [kept[i] for i in subsample([pairs[i] for i in kept], seed)]
    counts = [["step", *CATEGORIES, "all", "paper"]]
    for step, indices in (("found", range(len(pairs))), ("without duplicates", kept), ("subsample", chosen)):
        numbers = [sum(pairs[i].category == category for i in indices) for category in CATEGORIES]
        counts.append([step, *map(str, numbers), str(sum(numbers)), PAPER_COUNTS[step]])
    pictures.print_table(counts)
    pictures.write_csv(manifest, [[*Pair._fields, "hash"], *([*pairs[i], f"{hashes[i]:016x}"] for i in chosen)])
    people = {pairs[i].person for i in chosen} - {""}
    print(f"{len(chosen)} images of {len(people)} known people, --seed {seed}, --distance {distance} -> {manifest}")
    if out is not None:
        pictures.make_folder(out)
        pictures.write_csv(out / "counts.csv", counts)
        dropped = [(pairs[i], pairs[j], (hashes[i] ^ hashes[j]).bit_count()) for i, j in copies.items()]
        rows = [[copy.image, kept.image, bits] for copy, kept, bits in dropped]
        pictures.write_csv(out / "dropped.csv", [["dropped", "kept", "bits"], *rows])
        draw_dropped(out / "dropped.png", root, dropped, seed)


def draw_dropped(path: Path, root: Path, dropped: list[tuple[Pair, Pair, int]], seed: int) -> None:
    """A dozen dropped images, each below the one that was kept: the most different ones, and among equals at random."""
    path.unlink(missing_ok=True)  # of an earlier run
    order = [dropped[i] for i in np.random.default_rng(seed).permutation(len(dropped))]
    rows, titles = [[], []], [[], []]
    for copy, kept, bits in sorted(order, key=lambda drop: -drop[2])[:12]:
        for r, (pair, what) in enumerate(((kept, "kept"), (copy, f"dropped, {bits} bits"))):
            photo = read_photo(root / pair.image)
            photo.thumbnail((200, 200))
            rows[r].append(np.asarray(photo))
            titles[r].append(f"{what}\n{pair.folder}/{Path(pair.image).name}")
    if dropped:
        pictures.save_grid(path, rows, titles=titles, cell=1.7)


def main() -> None:
    parser = cli.Parser(__doc__)
    add = parser.add_argument_group("what to prepare").add_argument
    add("--data", metavar="PATH", help="Mut1ny's folder (default: data/mut1ny here, else generated)")
    add("--distance", type=number(int, 0, 63), default=0, metavar="N",
        help="drop images whose hashes differ in at most N of 64 bits (0, identical: Sec. III-C.4)")  # fmt: skip
    add("--seed", type=number(int, 0), default=0, metavar="N", help="of the subsample (default 0: ours)")
    add("--manifest", type=Path, metavar="FILE", help="default: manifest.csv in the data folder")
    add("--out", type=Path, default=HERE / "runs" / "prepare", metavar="DIR", help="default: runs/prepare here")
    args = parser.parse_args()
    root, source = locate(args.data)
    if celebamask_root(root):
        raise InputError(f"{root}: CelebAMask-HQ needs no preparing; give it to train.py as it is")
    print(f"data       {source}")
    if args.manifest:
        pictures.make_folder(args.manifest.resolve().parent, "--manifest")
    prepare(root, args.manifest or root / "manifest.csv", args.seed, args.distance, args.out)
    drawn = ", dropped.png" if (args.out / "dropped.png").exists() else ""
    print(f"counts.csv, dropped.csv{drawn} -> {args.out}")


if __name__ == "__main__":
    cli.run(main)

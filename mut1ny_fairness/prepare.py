"""Mut1ny's folder as it is shipped -> a manifest: which images to train on, and whose they are (Sec. III-C).

    Mut1ny/
      training.xml                     pairs: <srcimg name="femalealison1_...\\..."/> <labelimg name="labels\\..."/>
      femalealison1_.../NAME.png       images, or all of them below samples/; a person may have several folders
      labels/femalealison1/NAME.png    label images in the vendor's colours; one folder or two a person,
      labels/multiperson, labels/real  one for several people in a picture, one for photographs

    python mut1ny_fairness/prepare.py --data Mut1ny                   the paper's steps
    python mut1ny_fairness/prepare.py --data Mut1ny --distance 4      near-duplicates too
    python mut1ny_fairness/prepare.py                                 on generated pictures

Writes manifest.csv into the data folder (or to --manifest), and beside it manifest-dropped.csv, which says what is a
copy of what. No image is moved, copied or deleted. The data set, community edition, 16,557 images, is at
https://store.mut1ny.com, under the vendor's terms.
"""

import html
import os
import re
import sys
import zlib
from pathlib import Path, PurePosixPath
from typing import NamedTuple

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from PIL import Image

from common import cli, pictures
from common.celebamask import celebamask_root
from common.cli import InputError, number
from common.data import try_all
from common.images import files_below, read_photo
from mut1ny_fairness.generate import write_mut1ny

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
    """The pairs of a Mut1ny folder, sorted, and lines on what is odd about it. Raises InputError if there are none.

    Those that training.xml names; where half of them or more are not there, those of folders that belong together.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give the one with the pictures and labels/ in it")
    xml, files = root / "training.xml", [path.relative_to(root).as_posix() for path in files_below(root)]
    text = xml.read_text("utf-8", "replace") if xml.is_file() else ""
    (found, lost), notes = pairs_of_xml(text, files), []
    if lost:
        notes.append(f"{len(lost)} names in training.xml are no files, first {lost[0]!r}: their pairs are left out")
    if 2 * len(found) <= text.count("<labelimg"):
        found = pairs_of_folders(files)
        notes.append(f"training.xml is missing or of no use: {len(found)} pairs matched by folder and name")
    unused = sorted({name for name in files if name.lower().startswith("labels/")} - {label for _, label in found})
    if unused:
        notes.append(f"{len(unused)} label files are in no pair, first {unused[0]}")
    pairs = set()
    for image, label in found:
        folder = Path(label).parent.name
        category, person = who(folder)
        pairs.add(Pair(image, label, folder, person, category))
    unknown = sorted(pair.folder for pair in pairs if not pair.category)
    if unknown:
        notes.append(f"{len(unknown)} pairs left out: {unknown[0]}, say, is neither male, female, multi nor real")
    if len(pairs) == len(unknown):
        raise InputError(
            f"{root}: looked for training.xml, or PERSON/NAME.png with labels/PERSON/NAME.png, and found no "
            f"pair ({'; '.join(notes)}); give Mut1ny's or CelebAMask-HQ's folder"
        )
    return sorted(pair for pair in pairs if pair.category), notes


def pairs_of_xml(text: str, files: list[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """The pairs of image and label in training.xml that are among the files, and the names that are not.

    One edition's XML is known not to be well-formed, so its tags are looked for in the text. Letter case does not
    matter, nor whether samples/ stands before the images' folders.
    """

    def key(name: str) -> str:
        return name.lower().removeprefix("samples/")

    known, pairs, lost, image = {key(name): name for name in files}, [], [], None
    for tag, name in re.findall(r"""<(srcimg|labelimg)\b[^>]*\bname=["']([^"']+)""", text):
        file = known.get(key(html.unescape(name).strip().replace("\\", "/")))
        if file is None:
            lost.append(name)
        elif tag == "labelimg" and image:
            pairs.append((image, file))
        image = file if tag == "srcimg" else None
    return pairs, lost


def pairs_of_folders(files: list[str]) -> list[tuple[str, str]]:
    """FOLDER/NAME or FOLDER_.../NAME, below samples/ or not, with labels/FOLDER/NAME, whatever their letter case.

    male06 has its pictures without light in labels/male06_2, the others in labels/male06_1.
    """
    paths, labels, pairs = [PurePosixPath(name) for name in files], {}, []
    for path in paths:
        if path.parts[0].lower() == "labels":
            labels[path.parent.name.lower(), path.stem.lower()] = str(path)
    for path in paths:
        words = path.parent.name.lower().split("_")
        folders = ["_".join(words[:n]) for n in range(len(words), 0, -1)]
        folders.append(f"{words[0]}_{2 if 'nolight' in path.parent.name.lower() else 1}")
        label = next(filter(None, (labels.get((folder, path.stem.lower())) for folder in folders)), None)
        if path.parts[0].lower() != "labels" and label:
            pairs.append((str(path), label))
    return pairs


# ---- Duplicates and subsample (Sec. III-C.4 to III-C.7) ------------------------------------------------------------


def difference_hash(image: Image.Image) -> int:
    """64 bits: the image in grey at 9 x 8 px, one bit for each pixel that is darker than its right neighbour."""
    small = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), np.int16)
    return int.from_bytes(np.packbits(small[:, :-1] < small[:, 1:]).tobytes(), "big")


def find_duplicates(hashes: list[int], distance: int = 0) -> dict[int, int]:
    """Index of each image to drop -> index of the earlier image, itself kept, whose hash is within `distance` bits."""
    bits = np.unpackbits(np.array(hashes, ">u8").view(np.uint8).reshape(-1, 8), axis=1)  # n 64
    copy_of: dict[int, int] = {}
    for i in range(len(hashes)):
        earlier = np.flatnonzero((bits[:i] != bits[i]).sum(1) <= distance).tolist()
        kept = next((j for j in earlier if j not in copy_of), None)
        if kept is not None:
            copy_of[i] = kept
    return copy_of


def subsample(pairs: list[Pair], seed: int = 0) -> list[int]:
    """Indices of all of real, 50 of multi, 10 of each other label folder, at random but the same for a seed (ours).

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


def prepare(root: Path, manifest: Path, distance: int = 0) -> None:
    """All steps: print the counts, write the manifest and what was dropped."""
    pairs, notes = read_pairs(root)
    if not os.access(manifest.parent, os.W_OK):  # known before all the hashing
        raise InputError(f"{manifest}: cannot be written; give prepare.py --manifest FILE, and that to train.py")
    for note in notes:
        print(f"note       {note}")
    hashes, problems = try_all(lambda i: difference_hash(read_photo(root / pairs[i].image)), len(pairs))
    if problems:
        raise InputError(f"{problems[0]} ({len(problems)} of {len(pairs)} images cannot be read)")
    copies = find_duplicates([hashes[i] for i in range(len(pairs))], distance)
    kept = [i for i in range(len(pairs)) if i not in copies]
    chosen = [kept[i] for i in subsample([pairs[i] for i in kept])]
    counts = [["step", *CATEGORIES, "all", "paper"]]
    for step, indices in (("found", range(len(pairs))), ("without duplicates", kept), ("subsample", chosen)):
        numbers = [sum(pairs[i].category == category for i in indices) for category in CATEGORIES]
        counts.append([step, *map(str, numbers), str(sum(numbers)), PAPER_COUNTS[step]])
    pictures.print_table(counts)
    pictures.write_csv(manifest, [[*Pair._fields, "hash"], *([*pairs[i], f"{hashes[i]:016x}"] for i in chosen)])
    people = {pairs[i].person for i in chosen} - {""}
    print(f"{len(chosen)} images of {len(people)} known people, --distance {distance} -> {manifest}")
    rows = [[pairs[i].image, pairs[j].image, (hashes[i] ^ hashes[j]).bit_count()] for i, j in copies.items()]
    pictures.write_csv(manifest.with_name(f"{manifest.stem}-dropped.csv"), [["dropped", "kept", "bits"], *rows])


def main() -> None:
    parser = cli.Parser(__doc__)
    add = parser.add_argument_group("what to prepare").add_argument
    add("--data", metavar="PATH", help="Mut1ny's folder (default: data/mut1ny here, else generated)")
    add("--distance", type=number(int, 0, 63), default=0, metavar="N",
        help="drop images whose hashes differ in at most N of 64 bits (0, identical: Sec. III-C.4)")  # fmt: skip
    add("--manifest", type=Path, metavar="FILE", help="default: manifest.csv in the data folder")
    args = parser.parse_args()
    root, source = locate(args.data)
    if celebamask_root(root):
        raise InputError(f"{root}: CelebAMask-HQ needs no preparing; give it to train.py as it is")
    print(f"data       {source}")
    prepare(root, args.manifest or root / "manifest.csv", args.distance)


if __name__ == "__main__":
    cli.run(main)

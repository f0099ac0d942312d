"""Do the models differ between groups of people? The paper's grid of photos, and what it could not give: numbers,
intervals and a null.

    python mut1ny_fairness/fairness.py mut1ny_fairness/runs/*-rgb/best.pt --groups groups.csv      both models
    python mut1ny_fairness/fairness.py best.pt --groups groups.csv --classes eyes,eyebrows,lips --by group gender
    python mut1ny_fairness/fairness.py --simulate                              what nine photos can show

groups.csv has a row for each photo: `image`, the column(s) of --by, and where there are such: `label` (a label image in
Mut1ny's colours), `person`, `emotion`. Paths are relative to its folder. Who belongs to which group is read from that
file, as people have said it of themselves; nothing here guesses it from a photo.

Writes grid.png, and where there are labels scores.csv, gaps.csv, differences.csv, scores.png, null.png, fairness.json;
with --simulate power.csv and power.png.
"""

import sys
from argparse import ArgumentTypeError, Namespace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from PIL import Image

from common import cli, pictures
from common.cli import InputError, number
from common.data import progress
from common.images import add_crop_argument, check_crop, cropped, read_photo
from common.metrics import confusion_matrix, counts_from_confusion
from common.run import Trained
from mut1ny_fairness import group_pictures, group_stats
from mut1ny_fairness.dataset import HERE, read_label
from mut1ny_fairness.eval import describe, load_all, outputs
from mut1ny_fairness.group_stats import HEADLINE
from mut1ny_fairness.group_tables import all_numbers, difference_table, gap_table, score_table
from mut1ny_fairness.groups import MIN_RANKED, Groups, Photo, find_groups, read_groups
from mut1ny_fairness.losses import predicted_classes
from mut1ny_fairness.palette import CLASSES

SIMULATED = (3, 10, 30, 100)  # people per group; 3 is the paper's grid
BATCH = 8
TOO_LOW = 0.1  # ours: a mean IoU under it is of a network that finds almost nothing
OF_LABELS = ("scores.csv", "gaps.csv", "differences.csv", "scores.png", "null.png", "fairness.json")


# ---- From photos to counts -----------------------------------------------------------------------------------------


def read_pair(photo: Photo, crop: list[float], size: int) -> tuple[np.ndarray, np.ndarray | None, int]:
    """The photo and (where there is one) its label, size x size, brought there as in training; and how many pixels of
    the label file are in none of the colours."""
    image, label, off = read_photo(photo.image), None, 0
    if photo.label is not None:
        classes, off = read_label(photo.label, image)
        classes = cropped(Image.fromarray(classes), crop)
        label = np.asarray(classes.resize((size, size), Image.Resampling.NEAREST))
    return np.asarray(cropped(image, crop).resize((size, size), Image.Resampling.BILINEAR)), label, off


def predict_photos(
    network: Trained, photos: list[Photo], crop: list[float]
) -> tuple[list[np.ndarray], list[np.ndarray | None], int]:
    """The predicted and (where there is a label) the true classes of each photo, size x size; and the pixels of the
    label files that are in none of the colours."""
    model, checkpoint, device, amp = network
    predicted, true, off, args = [], [], 0, checkpoint["args"]
    for batch in progress([photos[start : start + BATCH] for start in range(0, len(photos), BATCH)], "predicting"):
        images, labels, n = zip(*(read_pair(photo, crop, args["size"]) for photo in batch), strict=True)
        output = outputs(model, torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2), device, amp)
        predicted += [*predicted_classes(output, args["target"]).byte().cpu().numpy()]
        true += labels
        off += sum(n)
    return predicted, true, off


def count(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Two H x W arrays of classes -> 11 x 3: TP, FP, FN of each class."""
    matrix = confusion_matrix(torch.tensor(predicted), torch.tensor(true), len(CLASSES))
    return counts_from_confusion(matrix)[:, :3].double().numpy()


def class_numbers(text: str) -> list[int]:
    """An argparse type: names of classes with commas between them -> their numbers."""
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in CLASSES:
            raise ArgumentTypeError(f"no class {name!r}; they are {', '.join(CLASSES)}")
    return sorted({CLASSES.index(name) for name in names})


# ---- The two things that the script does ---------------------------------------------------------------------------


def simulate(args: Namespace) -> None:
    """Print and draw what photos of n people per group can show of a true gap."""
    gaps = np.round(np.arange(0, 0.2001, 0.02), 2)
    power, observed = group_stats.simulate_power(SIMULATED, gaps, args.sd, seed=args.seed)
    print(f"three groups, one photo of each person; scores of people differ by a standard deviation of {args.sd:g}")
    rows = [["people per group", "gap seen where there is none", *(f"finds {g:.2f}" for g in gaps[1:])]]
    for n, seen, found in zip(SIMULATED, observed, power, strict=True):
        rows.append([str(n), f"{seen.mean():.3f}", *(f"{p:.0%}" for p in found[1:])])
    pictures.print_table(rows)
    out = pictures.make_folder(args.out or HERE / "runs" / "simulate")
    pictures.write_csv(out / "power.csv", rows)
    group_pictures.draw_power(out / "power.png", SIMULATED, gaps, power, observed, args.sd)
    print(f"power.csv, power.png -> {out}")


def compare(
    args: Namespace, photos: list[Photo], counts: dict[str, np.ndarray]
) -> tuple[Groups, dict, list[int], list[str]]:
    """n labelled photos, counts: model -> n x 11 x 3 -> the groups, analyse()'s result of each model, the classes that
    are scored and the names of those left out of means. Prints what is to be known of them."""
    in_truth = np.stack([c[:, :, 0] + c[:, :, 2] > 0 for c in counts.values()])  # models n 11, at each model's size
    wanted = args.classes or list(range(1, len(CLASSES)))
    classes = [c for c in wanted if in_truth[:, :, c].any()]
    if not classes or (args.classes and len(classes) < len(wanted)):
        absent = ", ".join(CLASSES[c] for c in wanted if c not in classes)
        raise InputError(f"--groups {args.groups}: no label holds {absent}; give other --classes or labels")
    groups = find_groups(photos, args.by)
    shared = group_stats.shared_classes(in_truth[:, :, classes].all(0), groups)
    left_out = [CLASSES[c] for c, s in zip(classes, shared, strict=True) if not s]
    if left_out:
        who = f"{MIN_RANKED} people of every ranked group" if groups.ranked.sum() > 1 else "every group"
        print(f"note: {', '.join(left_out)}: not in the labels of {who}, so left out of all means")
    for name, (varied, people) in group_stats.what_varies(groups, args.by).items():
        first = photos[groups.person.tolist().index(varied[0])].person
        print(f"note: {name} differs between the photos of {len(varied)} of {people} people (first: {first}), so the "
              "permutation test shuffles it within people, and only these tell anything; if it should not differ, "
              "correct the file")  # fmt: skip
    numbers = (args.bootstrap, args.permutations, args.seed)
    results = {title: group_stats.analyse(c[:, classes], shared, groups, *numbers) for title, c in counts.items()}
    return groups, results, classes, left_out


def report(out: Path, groups: Groups, results: dict, classes: list[int]) -> None:
    """Print and write the tables, draw the pictures."""
    table = score_table(groups, results, classes)
    pictures.write_csv(out / "scores.csv", table)
    # printed without F1, and of a class only the IoU per image
    columns = [c for c, name in enumerate(table[0]) if "F1" not in name and not name.startswith("IoU, pooled")]
    pictures.print_table([[row[c] for c in columns] for row in table], left=2)
    print()
    pictures.write_csv(out / "gaps.csv", gap_table(results))
    if groups.ranked.sum() < 2:
        print(f"no gap: fewer than two groups have {MIN_RANKED} people with a labelled photo")
    elif not all(result["gaps"] for result in results.values()):
        print(f"no gap: no class is in the labels of {MIN_RANKED} people of every ranked group")
    else:
        for title, result in results.items():
            if (found := result["gaps"][HEADLINE]["overall"]) < TOO_LOW:
                print(f"note: {title} finds almost nothing (mean IoU {found:.3f}), so its p say little")
        pictures.print_table(gap_table(results), left=4)
        group_pictures.draw_nulls(out / "null.png", results)
    if len(results) > 1:
        table = difference_table(groups, results)
        pictures.write_csv(out / "differences.csv", table)
        print()
        pictures.print_table([row[:6] + row[-1:] for row in table], left=3)
    group_pictures.draw_scores(out / "scores.png", groups, results, classes)


# fmt: off
def parse_args() -> Namespace:
    """The arguments."""
    parser = cli.Parser(__doc__)
    add = parser.add_argument_group("what to compare (Sec. V)").add_argument
    add("checkpoints", nargs="*", type=Path, metavar="CHECKPOINT", help="best.pt of one or more runs")
    add("--groups", type=Path, metavar="FILE", help="groups.csv")
    add("--by", nargs="+", type=str.lower, default=["group"], metavar="COLUMN",
        help="one or two columns (default group: Sec. V)")
    add("--columns", type=str.lower, metavar="COLUMN",
        help="of the grid (default: emotion if there is one: Sec. V, table II)")
    add("--classes", type=class_numbers, metavar="A,B",
        help="score only these (default: all in the labels but the background; "
        f"means leave out what is not in the labels of {MIN_RANKED} people of every ranked group)")
    add_crop_argument(add)
    add("--out", type=Path, metavar="DIR",
        help="default: fairness-BY beside the first checkpoint; with --simulate runs/simulate here")
    add = parser.add_argument_group("statistics (ours)").add_argument
    add("--bootstrap", type=number(int, 100), default=2000, metavar="N", help="resamples of the people (default 2000)")
    add("--permutations", type=number(int, 100), default=5000, metavar="N",
        help="of the null (default 5000; --simulate always takes 499)")
    add("--seed", type=number(int, 0), default=0, metavar="N",
        help="of the statistics and of the grid's photos (default 0)")
    add = parser.add_argument_group("simulation (ours)").add_argument
    add("--simulate", action="store_true", help="show what few photos can find, without any photo or checkpoint")
    add("--sd", type=number(float, 0, above=True), default=0.06, metavar="X",
        help="of --simulate: standard deviation of the score between people (default 0.06, a round guess)")
    cli.add_machine_arguments(parser)
    args = parser.parse_args()
    if len(args.by) > 2 or len(set(args.by)) < len(args.by):
        parser.error(f"--by {' '.join(args.by)}: give one column or two different ones")
    check_crop(args.crop)
    if not args.simulate and (not args.checkpoints or not args.groups):
        parser.error("give checkpoints and --groups FILE, or --simulate")
    return args
# fmt: on


def main() -> None:
    args = parse_args()
    if args.simulate:
        return simulate(args)
    photos, columns = read_groups(args.groups, args.by)
    if "person" not in columns:
        print("note: no column person, so every photo counts as another person's; where it is not, p is too small")
    if args.columns and args.columns not in columns:
        raise InputError(f"--columns {args.columns}: {args.groups} has no such column; it has {', '.join(columns)}")
    across = args.columns or ("emotion" if "emotion" in columns else None)
    grid = group_pictures.choose_grid(photos, args.by, across, args.seed)
    labelled = [photo for photo in photos if photo.label is not None]
    needed = labelled + [p for cells in grid.values() for p in cells.values() if p is not None and p.label is None]
    networks = load_all(args.checkpoints, args.device, args.amp)
    counts, drawn = {}, {}
    for title, network in networks.items():
        print(describe(title, network))
        predicted, true, off = predict_photos(network, needed, args.crop)
        drawn[title] = dict(zip((photo.image for photo in needed), predicted, strict=True))
        counts[title] = np.array([count(p, t) for p, t in zip(predicted, true, strict=True) if t is not None])
    if off:
        print(f"note: {off:,} label pixels are off the palette and count as the class of the nearest colour")
    compared = compare(args, labelled, counts) if labelled else None
    out = pictures.make_folder(args.out or args.checkpoints[0].parent / f"fairness-{'-'.join(args.by)}")
    for name in OF_LABELS:  # of an earlier run: not every run writes all of them
        (out / name).unlink(missing_ok=True)
    group_pictures.draw_grid(out / "grid.png", grid, drawn, args.crop)
    if compared:
        groups, results, classes, left_out = compared
        print(f"{args.groups}: {len(labelled)} photos with a label, of {groups.person.max() + 1} people; scored: "
              f"{', '.join(CLASSES[c] for c in classes)}\n")  # fmt: skip
        report(out, groups, results, classes)
        print(f"\n[95 % interval: {args.bootstrap} resamples of people]; p: {args.permutations} permutations of the "
              "groups")  # fmt: skip
        facts = {"checkpoints": list(map(str, args.checkpoints)), "by": args.by}
        facts |= {"classes": [CLASSES[c] for c in classes], "left_out_of_means": left_out}
        facts |= {name: getattr(args, name) for name in ("bootstrap", "permutations", "seed", "crop")}
        pictures.write_json(out / "fairness.json", facts | all_numbers(groups, results))
    else:
        print(f"{len(photos)} photos, none with a label: nothing to score")
    for name, instead in group_pictures.NUMBERED.items():
        print(f"{instead} in the pictures is {name}, whose letters their font lacks")
    print(f"{', '.join(name for name in ('grid.png', *OF_LABELS) if (out / name).exists())} -> {out}")


if __name__ == "__main__":
    cli.run(main)

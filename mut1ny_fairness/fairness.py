"""Do the models differ between groups of people? The paper's grid of photos, with numbers, intervals and a null.

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

from common import cli, pictures
from common.cli import InputError, number
from common.data import progress
from common.images import add_crop_argument, check_crop
from common.metrics import confusion_matrix, counts_from_confusion
from common.run import Trained
from mut1ny_fairness import group_pictures, group_stats
from mut1ny_fairness.dataset import HERE, decode
from mut1ny_fairness.eval import load_all, outputs
from mut1ny_fairness.group_stats import HEADLINE, PERMUTATIONS, RESAMPLES, SEED
from mut1ny_fairness.group_tables import all_numbers, difference_table, gap_table, score_table
from mut1ny_fairness.groups import MIN_RANKED, Groups, Photo, find_groups, read_groups
from mut1ny_fairness.losses import predicted_classes
from mut1ny_fairness.palette import CLASSES

SIMULATED = (3, 10, 30, 100)  # people per group; 3 is the paper's grid
BATCH = 8
TOO_LOW = 0.1  # ours: a mean IoU under it is of a network that finds almost nothing
OF_LABELS = ("scores.csv", "gaps.csv", "differences.csv", "scores.png", "null.png", "fairness.json")


# ---- From photos to counts -----------------------------------------------------------------------------------------


def predict_photos(
    network: Trained, photos: list[Photo], crop: list[float]
) -> tuple[list[np.ndarray], np.ndarray, int]:
    """The predicted classes of each photo, size x size; n x 11 x 3 TP, FP and FN of each class, which mean nothing
    without a label; and how many pixels of the label files are in none of the colours."""
    model, checkpoint, device, amp = network
    predicted, counts, off, args = [], [], 0, checkpoint["args"]
    for start in progress(range(0, len(photos), BATCH), "predicting"):
        decoded = [decode(photo, args["size"], crop) for photo in photos[start : start + BATCH]]
        images = torch.from_numpy(np.stack([one["images"] for one in decoded])).permute(0, 3, 1, 2)
        classes = predicted_classes(outputs(model, images, device, amp), args["target"]).byte().cpu()
        for one, label in zip(decoded, classes, strict=True):
            matrix = confusion_matrix(label, torch.tensor(one["labels"]), len(CLASSES))
            counts.append(counts_from_confusion(matrix)[:, :3].double().numpy())
            off += int(one["off"])
        predicted += [*classes.numpy()]
    return predicted, np.array(counts), off


def class_numbers(text: str) -> list[int]:
    """An argparse type: names of classes with commas between them -> their numbers."""
    try:
        return sorted({CLASSES.index(name.strip()) for name in text.split(",")})
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is not of the classes {', '.join(CLASSES)}") from None


# ---- The two things that the script does ---------------------------------------------------------------------------


def simulate(args: Namespace) -> None:
    """Print and draw what photos of n people per group can show of a true gap."""
    gaps = np.round(np.arange(0, 0.2001, 0.02), 2)
    power, observed = group_stats.simulate_power(SIMULATED, gaps, args.sd)
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
    args: Namespace, photos: list[Photo], groups: Groups, counts: dict[str, np.ndarray]
) -> tuple[dict, list[int], list[str]]:
    """n labelled photos, counts: model -> n x 11 x 3 -> analyse()'s result of each model, the classes that are scored
    and the names of those left out of means. Prints what is to be known of them."""
    in_truth = np.stack([c[:, :, 0] + c[:, :, 2] > 0 for c in counts.values()])  # models n 11, at each model's size
    wanted = args.classes or list(range(1, len(CLASSES)))
    classes = [c for c in wanted if in_truth[:, :, c].any()]
    if not classes or (args.classes and len(classes) < len(wanted)):
        absent = ", ".join(CLASSES[c] for c in wanted if c not in classes)
        raise InputError(f"--groups {args.groups}: no label holds {absent}; give other --classes or labels")
    shared = group_stats.shared_classes(in_truth[:, :, classes].all(0), groups)
    left_out = [CLASSES[c] for c, s in zip(classes, shared, strict=True) if not s]
    if left_out:
        who = f"{MIN_RANKED} people of every ranked group" if groups.ranked.sum() > 1 else "every group"
        print(f"note: {', '.join(left_out)}: not in the labels of {who}, so left out of all means")
    for name, people in groups.varying.items():
        if people:
            first = photos[groups.person.tolist().index(people[0])].person
            print(f"note: {name} differs between the photos of {len(people)} people (first: {first}), so the "
                  "permutation test shuffles it within people, and only these tell anything; if it should not differ, "
                  "correct the file")  # fmt: skip
    results = {title: group_stats.analyse(c[:, classes], shared, groups) for title, c in counts.items()}
    return results, classes, left_out


def report(out: Path, groups: Groups, results: dict, classes: list[int]) -> None:
    """Print and write the tables, draw the pictures."""
    table = score_table(groups, results, classes)
    pictures.write_csv(out / "scores.csv", table)
    # printed without F1, and of a class only the IoU per image
    columns = [c for c, name in enumerate(table[0]) if "F1" not in name and not name.startswith("IoU, pooled")]
    pictures.print_table([[row[c] for c in columns] for row in table], left=2)
    print()
    pictures.write_csv(out / "gaps.csv", gap_table(results))
    if not all(result["gaps"] for result in results.values()):
        print(f"no gap: fewer than two groups have {MIN_RANKED} people with a labelled photo, or they share no class")
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
    add("--classes", type=class_numbers, metavar="A,B",
        help="score only these (default: all in the labels but the background; "
        f"means are over those that {MIN_RANKED} people of every ranked group have)")
    add_crop_argument(add)
    add("--out", type=Path, metavar="DIR",
        help="default: fairness-BY beside the first checkpoint; with --simulate runs/simulate here")
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
    grid = group_pictures.choose_grid(photos, args.by)
    labelled = [photo for photo in photos if photo.labels]
    needed = labelled + [p for cells in grid.values() for p in cells.values() if p is not None and not p.labels]
    groups = find_groups(labelled, args.by) if labelled else None
    networks = load_all(args.checkpoints, args.device, args.amp)
    counts, drawn = {}, {}
    for title, network in networks.items():
        predicted, found, off = predict_photos(network, needed, args.crop)
        drawn[title] = dict(zip((photo.image for photo in needed), predicted, strict=True))
        counts[title] = found[: len(labelled)]
    if off:
        print(f"note: {off:,} label pixels are off the palette and count as the class of the nearest colour")
    compared = compare(args, labelled, groups, counts) if labelled else None
    out = pictures.make_folder(args.out or args.checkpoints[0].parent / f"fairness-{'-'.join(args.by)}")
    for name in OF_LABELS:  # of an earlier run: not every run writes all of them
        (out / name).unlink(missing_ok=True)
    group_pictures.draw_grid(out / "grid.png", grid, drawn, args.crop)
    if compared:
        results, classes, left_out = compared
        print(f"{args.groups}: {len(labelled)} photos with a label, of {groups.person.max() + 1} people; scored: "
              f"{', '.join(CLASSES[c] for c in classes)}\n")  # fmt: skip
        report(out, groups, results, classes)
        print(f"\n[95 % interval: {RESAMPLES} resamples of people]; p: {PERMUTATIONS} permutations of the groups")
        facts = {"checkpoints": list(map(str, args.checkpoints)), "by": args.by}
        facts |= {"classes": [CLASSES[c] for c in classes], "left_out_of_means": left_out}
        facts |= {"bootstrap": RESAMPLES, "permutations": PERMUTATIONS, "seed": SEED, "crop": args.crop}
        pictures.write_json(out / "fairness.json", facts | all_numbers(groups, results))
    else:
        print(f"{len(photos)} photos, none with a label: nothing to score")
    print(f"{', '.join(name for name in ('grid.png', *OF_LABELS) if (out / name).exists())} -> {out}")


if __name__ == "__main__":
    cli.run(main)

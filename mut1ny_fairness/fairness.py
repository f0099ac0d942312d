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
from argparse import Namespace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from PIL import Image
from torch import nn
from tqdm import tqdm

from common import cli
from common.checkpoint import make_folder
from common.cli import InputError, number
from common.device import for_inference, pick_amp, pick_device
from common.images import read_photo
from common.metrics import confusion_matrix, counts_from_confusion
from common.tables import print_table, write_csv
from mut1ny_fairness import dataset, group_pictures, group_stats
from mut1ny_fairness.eval import load_model, predict, titles_of
from mut1ny_fairness.group_stats import MIN_RANKED, SCORES
from mut1ny_fairness.group_tables import (
    OF_LABELS,
    difference_table,
    gap_table,
    remove_earlier,
    score_table,
    write_results,
)
from mut1ny_fairness.groups import Groups, Photo, find_groups, read_groups
from mut1ny_fairness.palette import CLASSES, predicted_classes

SIMULATED = (3, 10, 30, 100)  # people per group; 3 is the paper's grid
BATCH = 8
ALIKE = 1e-9  # a smaller gap is one of rounding


def scored_classes(text: str | None) -> list[int]:
    """--classes -> class numbers; without it all but the background. Raises InputError for names that are no class."""
    names = [name.strip() for name in text.split(",")] if text else list(CLASSES[1:])
    unknown = [name for name in names if name not in CLASSES]
    if unknown:
        raise InputError(f"--classes {text}: no class {unknown[0]!r}; they are {', '.join(CLASSES)}")
    return sorted({CLASSES.index(name) for name in names})


# ---- From photos to counts -----------------------------------------------------------------------------------------


def cropped(image: Image.Image, crop: list[float]) -> Image.Image:
    """The part of an image that --crop keeps: left, top, right, bottom as fractions of its width and height."""
    W, H = image.size
    return image.crop([round(part * side) for part, side in zip(crop, (W, H, W, H), strict=True)])


def read_pair(photo: Photo, crop: list[float], size: int) -> tuple[np.ndarray, np.ndarray | None, int]:
    """The photo and (where there is one) its label, size x size, brought there as in training; and how many pixels of
    the label file are in none of the colours."""
    image, label, off = read_photo(photo.image), None, 0
    if photo.label is not None:
        classes, off = dataset.read_label(photo.label, image)
        classes = cropped(Image.fromarray(classes), crop)
        label = np.asarray(classes.resize((size, size), Image.Resampling.NEAREST))
    return np.asarray(cropped(image, crop).resize((size, size), Image.Resampling.BILINEAR)), label, off


def predict_photos(
    model: nn.Module, photos: list[Photo], checkpoint: dict, crop: list[float], device: torch.device, amp: bool
) -> tuple[list[np.ndarray], list[np.ndarray | None], int]:
    """The predicted and (where there is a label) the true classes of each photo, size x size; and the pixels of the
    label files that are in none of the colours."""
    predicted, true, off = [], [], 0
    args = checkpoint["args"]
    for start in tqdm(range(0, len(photos), BATCH), "predicting", disable=None, unit="batch"):
        pairs = [read_pair(photo, crop, args["size"]) for photo in photos[start : start + BATCH]]
        images = torch.from_numpy(np.stack([image for image, *_ in pairs])).permute(0, 3, 1, 2)
        predicted += [*predicted_classes(predict(model, images, device, amp), args["target"]).byte().cpu().numpy()]
        true += [label for _, label, _ in pairs]
        off += sum(n for *_, n in pairs)
    return predicted, true, off


def count(predicted: np.ndarray, true: np.ndarray, classes: list[int]) -> np.ndarray:
    """Two H x W arrays of classes -> C x 3: TP, FP, FN of each of `classes`."""
    matrix = confusion_matrix(torch.tensor(predicted), torch.tensor(true), len(CLASSES))
    return counts_from_confusion(matrix)[classes, :3].double().numpy()


def in_labels(counts: dict[str, np.ndarray], classes: list[int], args: Namespace) -> np.ndarray:
    """Each model's counts, n x C x 3 -> models x n x C bool: whether a photo's label, at a model's size, has a class.

    Raises InputError if a class that --classes names is in no label, or none of all of them.
    """
    present = np.stack([c[:, :, 0] + c[:, :, 2] > 0 for c in counts.values()])
    absent = [CLASSES[c] for c, found in zip(classes, present.any((0, 1)), strict=True) if not found]
    if absent and (args.classes or len(absent) == len(classes)):
        raise InputError(f"--groups {args.groups}: no label holds {', '.join(absent)}; give other --classes or labels")
    return present


# ---- Scores, gaps, differences -------------------------------------------------------------------------------------


def analyse(counts: np.ndarray, shared: np.ndarray, groups: Groups, args: Namespace) -> dict:
    """n x C x 3 counts of a model, C bool -> observed scores (means over the classes `shared`), their resamples, and of
    each score gap, p and null."""
    G, ranked, kept = len(groups.names), np.flatnonzero(groups.ranked), groups.tested
    observed = group_stats.weighted_scores(counts, group_stats.one_hot(groups.of_image, G), shared)
    rng = np.random.default_rng(args.seed)  # the same resamples for every model
    weights = group_stats.person_weights(groups.person, groups.columns, kept, args.bootstrap, rng)
    resampled = group_stats.bootstrap(counts, groups.person, groups.of_image, G, weights, shared)
    for values in resampled.values():
        values[:, np.array(groups.people) < 2] = np.nan  # one person says nothing about the next
    result = {"observed": observed, "resampled": resampled, "gaps": {}}
    if len(ranked) < 2 or not shared.any():
        return result
    # the null knows only the people of ranked groups
    new_number = np.full(G + 1, -1)  # the last for -1, a combination that no photo has
    new_number[ranked] = np.arange(len(ranked))
    person = np.unique(groups.person[kept], return_inverse=True)[1]
    rng = np.random.default_rng([args.seed, 1])
    columns = [column[kept] for column in groups.columns]
    permuted = group_stats.permuted_groups(person, columns, new_number[groups.table], args.permutations, rng)
    nulls = group_stats.permutation_null(counts[kept][:, shared], permuted, len(ranked))
    overall = group_stats.weighted_scores(counts[kept], np.ones((1, kept.sum())), shared)
    for score in SCORES:
        values = observed[score][ranked]
        best, worst = ranked[values.argmax()], ranked[values.argmin()]
        low, high = group_stats.interval(resampled[score][:, best] - resampled[score][:, worst])
        size = float(group_stats.gap(values))
        result["gaps"][score] = {
            "best": groups.names[best] if size > ALIKE else None,
            "worst": groups.names[worst] if size > ALIKE else None,
            "gap": size,
            "gap_low": float(low),
            "gap_high": float(high),
            "p": group_stats.p_value(nulls[score], size),
            "null_median": float(np.median(nulls[score])),
            "overall": float(overall[score][0]),
            "equity_scaled": group_stats.equity_scaled(float(overall[score][0]), values),
            "null": nulls[score],
        }
    return result


def print_what_varies(photos: list[Photo], groups: Groups, by: list[str]) -> None:
    """Say so where a column of --by differs between the tested photos of a person."""
    kept = groups.tested
    people = np.unique(groups.person[kept])
    for name, column in zip(by, groups.columns, strict=True):
        varied = people[~group_stats.same_within_people(groups.person[kept], column[kept])]
        if varied.size and groups.ranked.sum() > 1:
            one = next(photo.person for photo, p in zip(photos, groups.person, strict=True) if p == varied[0])
            print(f"note: {name} differs between the photos of {varied.size} of {people.size} people (first: {one}), "
                  "so the permutation test shuffles it within people, and only these tell anything; if it should not "
                  "differ, correct the file")  # fmt: skip


# ---- The two things that the script does ---------------------------------------------------------------------------


def simulate(args: Namespace) -> None:
    """Print and draw what photos of n people per group can show of a true gap."""
    gaps = np.round(np.arange(0, 0.2001, 0.02), 2)
    power, observed = group_stats.simulate_power(SIMULATED, gaps, args.sd, seed=args.seed)
    print(f"three groups, one photo of each person; scores of people differ by a standard deviation of {args.sd:g}")
    rows = [["people per group", "gap seen where there is none", *(f"finds {g:.2f}" for g in gaps[1:])]]
    for n, seen, found in zip(SIMULATED, observed, power, strict=True):
        rows.append([str(n), f"{seen.mean():.3f}", *(f"{p:.0%}" for p in found[1:])])
    print_table(rows)
    out = make_folder(args.out or dataset.HERE / "runs" / "simulate")
    write_csv(out / "power.csv", rows)
    group_pictures.draw_power(out / "power.png", SIMULATED, gaps, power, observed, args.sd)
    print(f"power.csv, power.png -> {out}")


# fmt: off
def parse_args(argv: list[str] | None = None) -> Namespace:
    """The arguments."""
    parser = cli.Parser(__doc__)
    add = parser.add_argument_group("what to compare (Sec. V)").add_argument
    add("checkpoints", nargs="*", type=Path, metavar="CHECKPOINT", help="best.pt of one or more runs")
    add("--groups", type=Path, metavar="FILE", help="groups.csv")
    add("--by", nargs="+", default=["group"], metavar="COLUMN", help="one or two columns (default group: Sec. V)")
    add("--columns", metavar="COLUMN", help="of the grid (default: emotion if there is one: Sec. V, table II)")
    add("--classes", metavar="A,B", help="score only these (default: all in the labels but the background; "
        f"means leave out what is not in the labels of {MIN_RANKED} people of every ranked group)")
    add("--crop", nargs=4, type=number(float, 0, 1), default=[0.0, 0.0, 1.0, 1.0], metavar=("L", "T", "R", "B"),
        help="the part of every photo to use, in fractions of its sides: frame the faces as the training photos do "
        "(default: the whole photo)")
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
    cli.add_machine_arguments(parser, workers=False)
    args = parser.parse_args(argv)
    args.by, args.columns = [name.lower() for name in args.by], args.columns and args.columns.lower()
    if len(args.by) > 2 or len(set(args.by)) < len(args.by):
        parser.error(f"--by {' '.join(args.by)}: give one column or two different ones")
    left, top, right, bottom = args.crop
    if right - left < 0.05 or bottom - top < 0.05:
        parser.error(f"--crop {left:g} {top:g} {right:g} {bottom:g}: keeps nothing; give left < right and top < bottom")
    if not args.simulate and (not args.checkpoints or not args.groups):
        parser.error("give checkpoints and --groups FILE, or --simulate")
    return args
# fmt: on


def main() -> None:
    args = parse_args()
    if args.simulate:
        return simulate(args)
    photos, columns = read_groups(args.groups, args.by)
    classes = scored_classes(args.classes)
    if "person" not in columns:
        print("note: no column person, so every photo counts as another person's; where it is not, p is too small")
    device = pick_device(args.device)
    labelled = [photo for photo in photos if photo.label is not None]
    if args.columns and args.columns not in columns:
        raise InputError(f"--columns {args.columns}: {args.groups} has no such column; it has {', '.join(columns)}")
    across = args.columns or ("emotion" if "emotion" in columns else None)
    grid = group_pictures.choose_grid(photos, args.by, across, args.seed)
    needed = labelled + [photo for row in grid.cells for photo in row if photo is not None and photo.label is None]
    loaded = [load_model(path, device) for path in args.checkpoints]
    titles = titles_of(args.checkpoints, [checkpoint for _, checkpoint in loaded])
    out = make_folder(args.out or args.checkpoints[0].parent / f"fairness-{'-'.join(args.by)}")
    counts, drawn = {}, {}
    for path, title, (model, checkpoint) in zip(args.checkpoints, titles, loaded, strict=True):
        saved = checkpoint["args"]
        amp = pick_amp(args.amp or saved["amp"], device)
        print(f"{title}: {path}, epoch {checkpoint['epoch']}, {saved['size']} px, weights {checkpoint['weights']}")
        predicted, true, off = predict_photos(for_inference(model, amp), needed, checkpoint, args.crop, device, amp)
        drawn[title] = dict(zip((photo.image for photo in needed), predicted, strict=True))
        if labelled:
            pairs = zip(predicted[: len(labelled)], true, strict=False)
            counts[title] = np.stack([count(p, t, classes) for p, t in pairs])
    if off:
        print(f"note: {off:,} label pixels are off the palette and count as the class of the nearest colour")
    present = in_labels(counts, classes, args) if labelled else None
    remove_earlier(out)
    group_pictures.draw_grid(out / "grid.png", grid, drawn, lambda image: cropped(image, args.crop))
    if not labelled:
        print(f"{len(photos)} photos, none with a label: nothing to score; grid.png -> {out}")
        return
    found = present.any((0, 1))
    classes = [c for c, there in zip(classes, found, strict=True) if there]
    counts = {title: c[:, found] for title, c in counts.items()}
    groups = find_groups(labelled, args.by)
    present = present[:, :, found].all(0)
    shared = group_stats.shared_classes(present, groups.person, groups.of_image, groups.ranked)
    left_out = [CLASSES[c] for c, s in zip(classes, shared, strict=True) if not s]
    if left_out:
        who = f"{MIN_RANKED} people of every ranked group" if groups.ranked.sum() > 1 else "every group"
        print(f"note: {', '.join(left_out)}: not in the labels of {who}, so left out of all means")
    print_what_varies(labelled, groups, args.by)
    results = {title: analyse(c, shared, groups, args) for title, c in counts.items()}
    names = ", ".join(CLASSES[c] for c in classes)
    print(f"{args.groups}: {len(labelled)} photos with a label, of {groups.person.max() + 1} people; scored: {names}\n")
    table = score_table(groups, results, classes)
    of_class = 4 + len(SCORES)  # four columns, SCORES (of which IoU per image and pooled are shown), IoU of each class
    iou = [4 + SCORES.index(name) for name in ("iou_image", "iou_pooled")]
    shown = [*range(4), *iou, *range(of_class, of_class + len(classes)), -1]
    print_table([[row[c] for c in shown] for row in table], left=2)
    print()
    write_results(out, groups, results, classes, left_out, args)
    if groups.ranked.sum() < 2:
        print(f"no gap: fewer than two groups have {MIN_RANKED} people with a labelled photo")
    elif not all(group_pictures.HEADLINE in result["gaps"] for result in results.values()):
        print(f"no gap: no class is in the labels of {MIN_RANKED} people of every ranked group")
    else:
        print_table(gap_table(results), left=4)
        group_pictures.draw_nulls(out / "null.png", results)
    if len(results) > 1:
        print()
        print_table([row[:6] + row[-1:] for row in difference_table(groups, results)], left=3)
    group_pictures.draw_scores(out / "scores.png", groups, results, classes)
    print(f"\n[95 % interval: {args.bootstrap} resamples of people]; p: {args.permutations} permutations of the groups")
    print(f"{', '.join(name for name in ('grid.png', *OF_LABELS) if (out / name).exists())} -> {out}")


if __name__ == "__main__":
    cli.run(main)

"""The pictures of fairness.py: the paper's grid, scores with intervals, the null of a gap, what few photos can find."""

from pathlib import Path

import numpy as np
from PIL import Image

from common import pictures
from common.images import cropped, read_photo
from mut1ny_fairness.group_stats import HEADLINE, SEED
from mut1ny_fairness.groups import NOT_GIVEN, Groups, Photo, group_of
from mut1ny_fairness.palette import CLASSES, LEGEND, PALETTE

SIDE = 256  # of a photo in the grid, at most
Grid = dict[str, dict[str, Photo | None]]  # row -> column -> photo; None: no such photo


def choose_grid(photos: list[Photo], by: list[str]) -> Grid:
    """Rows are groups, columns are emotions (Sec. V, table II): in each cell a photo at random, in a row of different
    people as long as there are some."""
    rng = np.random.default_rng(SEED)
    cells: dict[tuple[str, str], list[Photo]] = {}
    has_columns = "emotion" in photos[0].row and "emotion" not in by
    for photo in photos:
        emotion = photo.row["emotion"] or NOT_GIVEN if has_columns else ""
        cells.setdefault((" / ".join(group_of(photo, by)), emotion), []).append(photo)
    rows, columns = (sorted(set(names)) for names in zip(*cells, strict=True))
    grid: Grid = {}
    for row in rows:
        used, grid[row] = set(), {}
        for value in columns:
            fitting = cells.get((row, value), [])
            fitting = [photo for photo in fitting if photo.person not in used] or fitting
            grid[row][value] = fitting[rng.integers(len(fitting))] if fitting else None
            used |= {grid[row][value].person} if fitting else set()
    return grid


def draw_grid(path: Path, grid: Grid, drawn: dict[str, dict[Path, np.ndarray]], crop: list[float]) -> None:
    """Tables II to IV: in each cell the photo and every model's segmentation of it.

    drawn: model -> photo -> H x W classes; crop: as --crop.
    """

    def cell(photo: Photo | None) -> list[np.ndarray | None]:
        if photo is None:
            return [None] * (1 + len(drawn))
        image = cropped(read_photo(photo.image), crop)
        image.thumbnail((SIDE, SIDE))
        painted = (Image.fromarray(PALETTE[predicted[photo.image]]) for predicted in drawn.values())
        return [np.asarray(image), *(np.asarray(p.resize(image.size, Image.Resampling.NEAREST)) for p in painted)]

    rows = [[picture for photo in cells.values() for picture in cell(photo)] for cells in grid.values()]
    columns = [f"{value}\n{what}" for value in next(iter(grid.values())) for what in ("photo", *drawn)]
    names = [name.replace(" / ", "\n") for name in grid]
    pictures.save_grid(path, rows, column_titles=columns, row_titles=names, legend=LEGEND, cell=1.7)


def draw_scores(path: Path, groups: Groups, results: dict[str, dict], classes: list[int]) -> None:
    """One panel for the mean, one for each class: a point and its interval for every group and model.

    Hollow points are groups that are not ranked.
    """
    panels = [("mean IoU per image", HEADLINE, None)]
    panels += [(f"IoU per image, {CLASSES[c]}", f"class_{HEADLINE}", k) for k, c in enumerate(classes)]
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    size = (2.6 * columns + 1.6, rows * (0.34 * len(groups.names) + 0.9) + 0.6)
    figure, axes = pictures.subplots(rows, columns, figsize=size, sharey=True)
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    y = np.arange(len(groups.names))
    for axis, (title, name, k) in zip(axes.flat, panels, strict=False):
        lines = []
        for m, result in enumerate(results.values()):
            value, low, high = (v if k is None else v[:, k] for v in result["scores"][name].values())
            at = y + 0.22 * (m - (len(results) - 1) / 2)
            lines.append(axis.hlines(at, low, high, color=f"C{m}", linewidth=1.5))
            axis.scatter(value, at, s=22, color=np.where(groups.ranked, f"C{m}", "white"), edgecolor=f"C{m}", zorder=3)
        axis.set_title(title, fontsize=9)
        axis.grid(axis="x", alpha=0.3)
        axis.tick_params(labelsize=8)
    names = [f"{name} ({people})" for name, people in zip(groups.names, groups.people, strict=True)]
    axes[0, 0].set_yticks(y, names, parse_math=False)  # a $ in a group's name is no formula
    axes[0, 0].set_ylim(len(y) - 0.5, -0.5)
    figure.legend(lines, map(pictures.plain, results), loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    figure.suptitle("95 % intervals over people (their number in brackets); hollow: too few to rank", fontsize=8)
    pictures.save_figure(path, figure, dpi=130)


def draw_nulls(path: Path, results: dict[str, dict]) -> None:
    """Of each model the gaps that arise by chance, and the one that was observed."""
    figure, axes = pictures.subplots(1, len(results), figsize=(4.4 * len(results), 3.2), sharex=True)
    found = {title: result["gaps"][HEADLINE] for title, result in results.items()}
    widest = 1.05 * max(max(g["gap"], g["null"].max()) for g in found.values()) or 1
    for axis, (title, g) in zip(axes[0], found.items(), strict=True):
        axis.hist(g["null"], bins=np.linspace(0, widest, 61), color="0.75")
        axis.axvline(g["gap"], color="C3")
        seen = f"best {g['best']}, worst {g['worst']}: gap {g['gap']:.3f}, p = {g['p']:.4f}"
        axis.set_title(f"{title}\n{seen}", fontsize=8, parse_math=False)
        axis.set_xlabel("gap in mean IoU if groups meant nothing (line: observed)", fontsize=8)
        axis.set_ylabel("permutations", fontsize=8)
        axis.tick_params(labelsize=8)
    pictures.save_figure(path, figure, dpi=120)


def draw_power(
    path: Path, sizes: tuple[int, ...], gaps: np.ndarray, power: np.ndarray, observed: np.ndarray, sd: float
) -> None:
    """Left: how often a true gap is found. Right: the gap that is seen where there is none.

    gaps: G; power: sizes x G in 0..1; observed: sizes x simulations; sd: of a person's mean IoU, 0..1.
    """
    figure, ((left, right),) = pictures.subplots(1, 2, figsize=(10, 3.8))
    for n, found, seen in zip(sizes, power, observed, strict=True):
        label = f"{n} people a group" + (" (nine photos)" if n == 3 else "")
        left.plot(gaps, 100 * found, marker=".", label=label)
        right.hist(seen, bins=np.linspace(0, 4 * sd, 61), histtype="step", density=True, label=label)
    left.axhline(5, color="0.5", linewidth=0.8, linestyle="--", label="5 %: what chance alone finds")
    left.set(xlabel="true gap: one group's mean is lower by", ylabel="% of studies that find it (p <= 0.05)")
    left.set_ylim(0, 102)
    right.set(xlabel="gap seen between best and worst group where there is none", ylabel="how often", yticks=[])
    for axis in (left, right):
        axis.legend(fontsize=8)
        axis.grid(alpha=0.3)
    figure.suptitle(f"three groups, one photo of each person, standard deviation between people {sd:g}", fontsize=9)
    pictures.save_figure(path, figure, dpi=110)

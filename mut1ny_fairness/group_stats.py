"""Scores per group with intervals, the gap between groups with a null, and what a handful of photos can show.

Everything starts from `counts`, n x C x 3: the pixels of each image that are TP, FP, FN of each class. A score of a
group is a function of the images' weights (how often each counts), so that the bootstrap and the permutation test,
which only change weights, are matrix products.
"""

import numpy as np

SCORES = ("iou_image", "f1_image", "iou_pooled", "f1_pooled")
CLASS_SCORES = tuple(f"class_{name}" for name in SCORES)
MIN_RANKED, MIN_NARROW = 10, 30  # ours: people in a group that is ranked, and in one whose interval is not wide
BLOCK_BYTES = 64e6


def ratios(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """... x C x 3 counts -> IoU and F1, ... x C; nan where a class is neither in the truth nor predicted."""
    tp, wrong = counts[..., 0], counts[..., 1] + counts[..., 2]
    with np.errstate(invalid="ignore"):
        return tp / (tp + wrong), 2 * tp / (2 * tp + wrong)


def mean_over_classes(values: np.ndarray) -> np.ndarray:
    """... x C -> ..., mean of what is not nan; nan if nothing is."""
    present = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(present, values, 0).sum(-1) / present.sum(-1)


def shared_classes(present: np.ndarray, person: np.ndarray, group: np.ndarray, ranked: np.ndarray) -> np.ndarray:
    """n x C bool, the classes in each image's truth; n person and n group numbers; G bool -> C bool: those that
    MIN_RANKED people or more of every ranked group have, or, with fewer than two such groups, anybody of every group.

    Means over others would compare one group's teeth with another group's eyes.
    """
    has = np.zeros((person.max() + 1, len(ranked), present.shape[1]), bool)
    np.logical_or.at(has, (person, group), present)
    people = has.sum(0)  # G C, how many have the class
    return (people[ranked] >= MIN_RANKED).all(0) if ranked.sum() > 1 else (people > 0).all(0)


def weighted_scores(
    counts: np.ndarray, weights: np.ndarray, shared: np.ndarray | slice = slice(None)
) -> dict[str, np.ndarray]:
    """n x C x 3 counts, ... x n weights -> each of SCORES (...) and each of CLASS_SCORES (... x C).

    pooled: pixels are summed over the images, divided once per class, and averaged over the classes. image: each image
    has its mean over the classes that are in its truth or its prediction, and these are averaged; of a class, the mean
    over the images with it in either. shared: C bool, the classes that SCORES are means over (default all).
    """
    n, C, _ = counts.shape
    class_iou, class_f1 = ratios((weights @ counts.reshape(n, -1)).reshape(*weights.shape[:-1], C, 3))
    scores = {"class_iou_pooled": class_iou, "class_f1_pooled": class_f1}
    for name, by_class, of_image in zip(("iou", "f1"), (class_iou, class_f1), ratios(counts), strict=True):
        image = mean_over_classes(of_image[:, shared])
        counted = ~np.isnan(image)
        with np.errstate(invalid="ignore"):
            scores[f"{name}_image"] = (weights @ np.where(counted, image, 0)) / (weights @ counted.astype(float))
        scores[f"{name}_pooled"] = mean_over_classes(by_class[..., shared])
        shown = ~np.isnan(of_image)
        with np.errstate(invalid="ignore"):
            scores[f"class_{name}_image"] = (weights @ np.where(shown, of_image, 0)) / (weights @ shown.astype(float))
    return scores


def one_hot(group: np.ndarray, G: int) -> np.ndarray:
    """... x n group numbers (-1: none) -> ... x G x n weights of 0 and 1."""
    return (group[..., None, :] == np.arange(G)[:, None]).astype(np.float64)


# ---- Bootstrap over people -----------------------------------------------------------------------------------------


def same_within_people(person: np.ndarray, column: np.ndarray) -> np.ndarray:
    """n person numbers, n codes -> people bool: whether all images of a person have the same code (group, gender)."""
    _, first, person = np.unique(person, return_index=True, return_inverse=True)  # first: an image of each person
    return np.bincount(person, column != column[first][person]) == 0


def person_weights(
    person: np.ndarray, columns: list[np.ndarray], tested: np.ndarray, repeats: int, rng: np.random.Generator
) -> np.ndarray:
    """repeats x people: how often each person is drawn, with replacement, among those of the same group.

    Only columns that are the same in all images of each person (group, gender) divide the people; one that varies
    (emotion) does not: who is happy and sad is drawn for both at once. Whether one varies is seen from the images
    that are `tested` (n bool) alone, as in the permutation test, and a person's group is that of such an image.
    """
    order = np.lexsort((~tested, person))  # each person's images, the tested ones first
    first = order[np.unique(person[order], return_index=True)[1]]
    same = [same_within_people(person[tested], column[tested]).all() for column in columns]
    fixed = [column[first] for column, s in zip(columns, same, strict=True) if s]
    strata = np.unique(np.stack(fixed), axis=1, return_inverse=True)[1].ravel() if fixed else np.zeros(len(first), int)
    weights = np.zeros((repeats, len(first)))
    for s in range(strata.max() + 1):
        members = np.flatnonzero(strata == s)
        weights[:, members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), size=repeats)
    return weights


def bootstrap(
    counts: np.ndarray,
    person: np.ndarray,
    group: np.ndarray,
    G: int,
    weights: np.ndarray,
    shared: np.ndarray | slice = slice(None),
) -> dict[str, np.ndarray]:
    """The scores of the groups in resamples of the people: repeats x G (class_*: repeats x G x C).

    group: n group numbers; weights: repeats x people. Two models get the same weights, so that their difference can be
    taken resample by resample.
    """
    members = one_hot(group, G)
    block = max(1, int(BLOCK_BYTES / (8 * members.size)))
    parts = [
        weighted_scores(counts, weights[start : start + block][:, None, person] * members, shared)
        for start in range(0, len(weights), block)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """repeats x ... -> the 2.5 and 97.5 % points; nan where no repeat has a value."""
    empty = np.isnan(values).all(0)
    low, high = np.nanquantile(np.where(empty, 0, values), [0.025, 0.975], axis=0)
    return np.where(empty, np.nan, low), np.where(empty, np.nan, high)


# ---- Permutation test of the gap -----------------------------------------------------------------------------------


def permuted_groups(
    person: np.ndarray, columns: list[np.ndarray], group_table: np.ndarray, repeats: int, rng: np.random.Generator
) -> np.ndarray:
    """Group numbers under the null, repeats x n. columns: the code of each image in each column; group_table[codes]:
    the group of each combination of codes, -1 for those that are none.

    A column that is the same in all images of each person (group, gender) is shuffled among the people; one that
    differs (emotion) among the images of each person. Columns of a kind stay together.
    """
    first = np.unique(person, return_index=True)[1]  # an image of each person
    constant = [bool(same_within_people(person, column).all()) for column in columns]
    by_person = np.argsort(person, kind="stable")
    groups = np.empty((repeats, len(person)), int)
    for r in range(repeats):
        between, within = np.arange(len(person)), np.arange(len(person))  # the image whose label each image gets
        if any(constant):
            between = first[rng.permutation(len(first))][person]
        if not all(constant):
            within[by_person] = np.lexsort((rng.random(len(person)), person))  # each person's images, shuffled
        drawn = (column[between if c else within] for column, c in zip(columns, constant, strict=True))
        groups[r] = group_table[tuple(drawn)]
    return groups


def gap(values: np.ndarray) -> np.ndarray:
    """... x G -> ..., best minus worst; nan groups do not count."""
    return np.nanmax(values, -1) - np.nanmin(values, -1)


def permutation_null(counts: np.ndarray, groups: np.ndarray, G: int) -> dict[str, np.ndarray]:
    """repeats x n groups of the null -> the gap of each of SCORES, repeats."""
    block = max(1, int(BLOCK_BYTES / (8 * G * groups.shape[1])))
    parts = [
        weighted_scores(counts, one_hot(groups[start : start + block], G)) for start in range(0, len(groups), block)
    ]
    return {name: np.concatenate([gap(part[name]) for part in parts]) for name in SCORES}


def p_value(null: np.ndarray, observed: float) -> float:
    """Share of the null that is at least as large, the observed arrangement being one of them."""
    return float((1 + (null >= observed - 1e-12).sum()) / (1 + len(null)))


def equity_scaled(overall: float, groups: np.ndarray) -> float:
    """The overall score over 1 + the sum of the groups' distances from it (Tian et al., FairSeg, ICLR 2024)."""
    return float(overall / (1 + np.abs(groups - overall).sum()))


# ---- What nine photos can show -------------------------------------------------------------------------------------


def simulate_power(
    sizes: tuple[int, ...], gaps: np.ndarray, sd: float, repeats: int = 1000, permutations: int = 499, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Three groups of n people, one photo each; scores are normal with deviation `sd`, one group's mean lower by a gap.

    -> power, sizes x gaps: how often the permutation test finds the difference at 5 %; and observed, sizes x repeats:
    the gap between best and worst group where there is none.
    """
    rng = np.random.default_rng(seed)
    power, observed = np.zeros((len(sizes), len(gaps))), np.zeros((len(sizes), repeats))
    for s, n in enumerate(sizes):
        group = np.repeat(np.arange(3), n)
        # the same arrangements serve all repeats: their scores are drawn independently of them
        drawn = np.array([group, *(rng.permutation(group) for _ in range(permutations))])
        members = one_hot(drawn, 3).reshape(-1, 3 * n).T.astype(np.float32) / n  # 3n x 3 (1 + permutations)
        noise = rng.normal(0, sd, (repeats, 3 * n)).astype(np.float32) @ members
        shift = (group == 0).astype(np.float32) @ members
        for g, size in enumerate(gaps):
            means = (noise - size * shift).reshape(repeats, -1, 3)
            spread = means.max(-1) - means.min(-1)
            p = (spread >= spread[:, :1] - 1e-6).mean(1)  # the true arrangement is the first of them
            power[s, g] = (p <= 0.05).mean()
        spread = noise.reshape(repeats, -1, 3)[:, 0]
        observed[s] = spread.max(-1) - spread.min(-1)
    return power, observed

"""Scores per group with intervals, the gap between groups with a null, and what a handful of photos can show.

Everything starts from `counts`, n x C x 3: the pixels of each image that are TP, FP, FN of each class. A score of a
group is a function of the images' weights (how often each counts), so that the bootstrap and the permutation test,
which only change weights, are matrix products.
"""

from collections.abc import Callable

import numpy as np

from mut1ny_fairness.groups import MIN_RANKED, Groups, varied

SCORES = ("iou_image", "f1_image", "iou_pooled", "f1_pooled")
HEADLINE = "iou_image"  # the score that is drawn; all are in the CSV files
CLASS_SCORES = tuple(f"class_{name}" for name in SCORES)
RESAMPLES, PERMUTATIONS, SEED = 2000, 5000, 0  # ours


# ---- Scores --------------------------------------------------------------------------------------------------------


@np.errstate(invalid="ignore")
def ratios(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """... x C x 3 counts -> IoU and F1, ... x C; nan where a class is neither in the truth nor predicted."""
    tp, wrong = counts[..., 0], counts[..., 1] + counts[..., 2]
    return tp / (tp + wrong), 2 * tp / (2 * tp + wrong)


@np.errstate(invalid="ignore")
def mean_over_classes(values: np.ndarray) -> np.ndarray:
    """... x C -> ..., mean of what is not nan; nan if nothing is."""
    present = ~np.isnan(values)
    return np.where(present, values, 0).sum(-1) / present.sum(-1)


@np.errstate(invalid="ignore")
def mean_over_images(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """n (x C), ... x n weights -> ... (x C), weighted mean of what is not nan; nan if nothing is."""
    present = ~np.isnan(values)
    return (weights @ np.where(present, values, 0)) / (weights @ present.astype(float))


def shared_classes(present: np.ndarray, groups: Groups) -> np.ndarray:
    """n x C bool, the classes in each image's truth -> C bool: those that MIN_RANKED people or more of every ranked
    group have, or, with fewer than two such groups, anybody of every group.

    Means over others would compare one group's teeth with another group's eyes.
    """
    has = np.zeros((groups.person.max() + 1, len(groups.names), present.shape[1]), bool)
    np.logical_or.at(has, (groups.person, groups.of_image), present)
    people = has.sum(0)  # G C, how many have the class
    return (people[groups.ranked] >= MIN_RANKED).all(0) if groups.ranked.sum() > 1 else (people > 0).all(0)


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
        scores[f"{name}_image"] = mean_over_images(mean_over_classes(of_image[:, shared]), weights)
        scores[f"{name}_pooled"] = mean_over_classes(by_class[..., shared])
        scores[f"class_{name}_image"] = mean_over_images(of_image, weights)
    return scores


def one_hot(group: np.ndarray, G: int) -> np.ndarray:
    """... x n group numbers -> ... x G x n weights of 0 and 1."""
    return (group[..., None, :] == np.arange(G)[:, None]).astype(np.float64)


def in_blocks(drawn: np.ndarray, scores_of: Callable[[np.ndarray], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The scores of resamples or permutations, repeats x n: of 100 at a time, for the weights of all could fill the
    memory."""
    parts = [scores_of(block) for block in np.split(drawn, range(100, len(drawn), 100))]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


# ---- Bootstrap over people -----------------------------------------------------------------------------------------


def person_weights(groups: Groups, repeats: int, rng: np.random.Generator) -> np.ndarray:
    """repeats x people: how often each person is drawn, with replacement, among those of the same group.

    Groups that vary within people (emotion) do not divide them: who is happy and sad is drawn for both at once.
    Whether they vary is seen from the images that are `tested` alone, as in the permutation test, and a person's group
    is that of such an image.
    """
    person, tested = groups.person, groups.tested
    order = np.lexsort((~tested, person))  # each person's images, the tested ones first
    first = order[np.unique(person[order], return_index=True)[1]]
    varies = varied(person[tested], groups.of_image[tested])
    strata = np.zeros(len(first), int) if varies else groups.of_image[first]
    weights = np.zeros((repeats, len(first)))
    for s in np.unique(strata):
        members = np.flatnonzero(strata == s)
        weights[:, members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), size=repeats)
    return weights


def bootstrap(
    counts: np.ndarray, groups: Groups, weights: np.ndarray, shared: np.ndarray | slice = slice(None)
) -> dict[str, np.ndarray]:
    """The scores of the groups in resamples of the people: repeats x G (class_*: repeats x G x C).

    weights: repeats x people, the same for every model, so that differences can be taken resample by resample. One
    person says nothing about the next: a group of one has nan.
    """
    members = one_hot(groups.of_image, len(groups.names))
    scores = in_blocks(weights, lambda block: weighted_scores(counts, block[:, None, groups.person] * members, shared))
    for values in scores.values():
        values[:, np.array(groups.people) < 2] = np.nan
    return scores


def with_bounds(value: np.ndarray, resampled: np.ndarray) -> dict[str, np.ndarray]:
    """What was observed, ..., and the 2.5 and 97.5 % points of its resamples, repeats x ... (nan where all are)."""
    empty = np.isnan(resampled).all(0)
    bounds = np.nanquantile(np.where(empty, 0, resampled), [0.025, 0.975], axis=0)
    low, high = np.where(empty, np.nan, bounds)
    return {"value": value, "low": low, "high": high}


# ---- Permutation test of the gap -----------------------------------------------------------------------------------


def permuted_groups(person: np.ndarray, group: np.ndarray, repeats: int, rng: np.random.Generator) -> np.ndarray:
    """n numbers of people and groups -> n group numbers under the null, repeats x n.

    Groups that are the same in all images of each person (group, gender) are shuffled among the people; those that
    differ (emotion) among the images of each person.
    """
    first = np.unique(person, return_index=True)[1]  # an image of each person
    varies, by_person = varied(person, group), np.argsort(person, kind="stable")
    drawn = np.empty((repeats, len(person)), int)
    for r in range(repeats):
        if varies:
            drawn[r, by_person] = group[np.lexsort((rng.random(len(person)), person))]  # each person's images, shuffled
        else:
            drawn[r] = group[first[rng.permutation(len(first))]][person]
    return drawn


def gap(values: np.ndarray) -> np.ndarray:
    """... x G -> ..., best minus worst; nan groups do not count."""
    return np.nanmax(values, -1) - np.nanmin(values, -1)


def permutation_null(counts: np.ndarray, groups: np.ndarray, G: int) -> dict[str, np.ndarray]:
    """repeats x n groups of the null -> the gap of each of SCORES, repeats."""
    scores = in_blocks(groups, lambda block: weighted_scores(counts, one_hot(block, G)))
    return {name: gap(scores[name]) for name in SCORES}


def p_value(null: np.ndarray, observed: float) -> float:
    """Share of the null that is at least as large, the observed arrangement being one of them."""
    return float((1 + (null >= observed - 1e-12).sum()) / (1 + len(null)))


# ---- All of it, for one model --------------------------------------------------------------------------------------


def analyse(
    counts: np.ndarray, shared: np.ndarray, groups: Groups, repeats: int = RESAMPLES, permutations: int = PERMUTATIONS
) -> dict:
    """n x C x 3 counts of a model, C bool -> the groups' scores (means over the classes `shared`) with intervals, their
    resamples, and of each of SCORES the gap with its interval, p and null ({}: fewer than two groups to rank)."""
    G, ranked, kept = len(groups.names), np.flatnonzero(groups.ranked), groups.tested
    observed = weighted_scores(counts, one_hot(groups.of_image, G), shared)
    rng = np.random.default_rng(SEED)  # the same resamples for every model
    resampled = bootstrap(counts, groups, person_weights(groups, repeats, rng), shared)
    scores = {name: with_bounds(observed[name], values) for name, values in resampled.items()}
    result = {"scores": scores, "resampled": resampled, "gaps": {}}
    if len(ranked) < 2 or not shared.any():
        return result
    # the null knows only the people of ranked groups
    person, group = (np.unique(x[kept], return_inverse=True)[1] for x in (groups.person, groups.of_image))
    permuted = permuted_groups(person, group, permutations, np.random.default_rng([SEED, 1]))
    nulls = permutation_null(counts[kept][:, shared], permuted, len(ranked))
    overall = weighted_scores(counts[kept], np.ones((1, kept.sum())), shared)
    for score in SCORES:
        values, together = observed[score][ranked], float(overall[score][0])
        best, worst = ranked[values.argmax()], ranked[values.argmin()]
        size = float(gap(values))
        bounds = with_bounds(size, resampled[score][:, best] - resampled[score][:, worst])
        result["gaps"][score] = {
            "best": groups.names[best],
            "worst": groups.names[worst],
            "gap": size,
            "gap_low": float(bounds["low"]),
            "gap_high": float(bounds["high"]),
            "p": p_value(nulls[score], size),
            "null_median": float(np.median(nulls[score])),
            "overall": together,
            # Tian et al., FairSeg, ICLR 2024: less the farther the groups are from the overall score
            "equity_scaled": float(together / (1 + np.abs(values - together).sum())),
            "null": nulls[score],
        }
    return result


def first_minus(results: dict[str, dict]) -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """The first model's scores minus each other's, on the same resamples: other -> score -> value, low, high (G)."""
    (_, a), *others = results.items()

    def minus(b: dict, s: str) -> dict[str, np.ndarray]:
        return with_bounds(a["scores"][s]["value"] - b["scores"][s]["value"], a["resampled"][s] - b["resampled"][s])

    return {other: {s: minus(b, s) for s in SCORES} for other, b in others}


# ---- What nine photos can show -------------------------------------------------------------------------------------


def simulate_power(
    sizes: tuple[int, ...], gaps: np.ndarray, sd: float, repeats: int = 1000, permutations: int = 499
) -> tuple[np.ndarray, np.ndarray]:
    """Three groups of n people, one photo each; scores are normal with deviation `sd`, one group's mean lower by a gap.

    -> power, sizes x gaps: how often the permutation test finds the difference at 5 %; and observed, sizes x repeats:
    the gap between best and worst group where there is none.
    """
    rng = np.random.default_rng(SEED)
    power, observed = np.zeros((len(sizes), len(gaps))), np.zeros((len(sizes), repeats))
    for s, n in enumerate(sizes):
        group = np.repeat(np.arange(3), n)
        # the same arrangements serve all repeats: their scores are drawn independently of them
        drawn = np.array([group, *(rng.permutation(group) for _ in range(permutations))])
        members = one_hot(drawn, 3).reshape(-1, 3 * n).T.astype(np.float32) / n  # 3n x 3 (1 + permutations)
        noise = rng.normal(0, sd, (repeats, 3 * n)).astype(np.float32) @ members
        shift = (group == 0).astype(np.float32) @ members
        for g, size in enumerate(gaps):
            spread = np.ptp((noise - size * shift).reshape(repeats, -1, 3), axis=-1)
            p = (spread >= spread[:, :1] - 1e-6).mean(1)  # the true arrangement is the first of them
            power[s, g] = (p <= 0.05).mean()
        observed[s] = np.ptp(noise[:, :3], axis=1)
    return power, observed

"""README.md's table of the five papers: what each does, its number beside ours, and the commands that gave it."""

import statistics
from collections.abc import Callable

from mut1ny_fairness.scores import positives, share_in_labels

Rows = list[list[str]]


def front(results: dict[str, dict[str, dict]]) -> Rows:
    """One row a folder: what it does, what the paper says, what we measured with which commands, and in which time.

    results: of all folders, folder -> file name -> record.
    """
    rows = [["folder", "what it does", "the paper's number", "ours", "on", MINUTES]]
    for folder, (what, paper, ours, names) in FRONT.items():
        found, link = results[folder], f"[`{folder}/`]({folder}/README.md)"
        if any(name not in found for name in names):
            rows.append([link, what, paper, "not measured yet", "", f"`python {folder}/train.py --data PATH`"])
            continue
        runs = [found[name] for name in names]
        minutes: dict[str, list[str]] = {}  # of each command, which may have run on several data sets
        for run in runs:
            minutes.setdefault(f"`{run['command']}`", []).append(f"{run['minutes']:.0f}")
        data = "; ".join(dict.fromkeys(run["data"] for run in runs))
        each = "<br>".join(f"{command}: {' and '.join(times)} min" for command, times in minutes.items())
        rows.append([link, what, paper, ours(*runs), data, each])
    return rows


def _lrn_jaccard(run: dict) -> float:
    (scores,) = run["results"].values()
    return 100 * scores["jaccard"]


def _all_positive_f1(run: dict) -> float:
    support = [scores["support"] for scores in run["results"]["per_class"].values()]
    return positives(share_in_labels(support))["all_positive_f1"]


def _ssl_gain(run: dict) -> str:
    runs, methods, words = run["results"]["runs"], list(run["results"]["methods"])[:2], []
    for fraction in sorted({r["fraction"] for r in runs}):
        of = [[100 * r["miou"] for r in runs if (r["fraction"], r["method"]) == (fraction, m)] for m in methods]
        words.append("{:g} %: {:.1f}, {:.1f}".format(100 * fraction, *map(statistics.mean, of)))
    return f"mIoU without pretraining, and with, by the share of the labels: {'; '.join(words)}"


MINUTES = "commands, and minutes on a CPU, in bf16 (`--mean-mask`: float32)"
# what it does, the paper's number, ours, from which results
FRONT: dict[str, tuple[str, str, Callable[..., str], tuple[str, ...]]] = {
    "nu_deeplabv3plus": (
        (
            "Zhakyp, Alenov, Adilkyzy, *Semantic Image Segmentation of Human Faces*: DeepLabV3+ with "
            "squeeze-and-excitation, 18 binary face-part masks at 128 px"
        ),
        "mean IoU .7255 as printed, of 16 parts; .647 over its 18 rows; lower when mirrored pictures are added",
        lambda *runs: "mean IoU of 18 parts {:.3f}; mirrored {:.3f}; mirrored, left and right swapped {:.3f}".format(
            *(run["results"]["iou_18"] for run in runs)
        ),
        ("none", "flip", "flip-swap"),
    ),
    "hair_transfer": (
        "Česnik 2020, *Segmentation of human hair*: DeepLabV3-ResNet101 pretrained against random; recolours hair",
        (
            "AUROC .968 from random weights, .982 from COCO's (perhaps .978 and .991: its code may have averaged in a "
            "batch of score 0)"
        ),
        lambda a, skin, b, mean: (
            "AUROC {:.3f} from random weights, {:.3f} after first training on skin; {:.3f} with the mean mask of the "
            "training faces for every face".format(*(run["results"]["batch_auroc"] for run in (a, b, mean)))
        ),
        ("random", "skin", "from-skin", "mean-mask"),
    ),
    "lrn_headtorso": (
        (
            "Pinto, Cardoso 2019, *Fine Segmentation of Head and Torso Using Label Refinement Networks*: against a "
            "U-Net; puts people on white"
        ),
        "Jaccard index 91.67 % LRN, 89.25 % U-Net; from ImageNet's weights 92.73 %, 87.98 %",
        lambda *runs: "{:.2f} % LRN, {:.2f} % U-Net; on 290 cut-outs of any framing {:.2f} %, {:.2f} %".format(
            *map(_lrn_jaccard, runs)
        ),
        ("celebamask-lrn", "celebamask-unet", "headtorso-lrn", "headtorso-unet"),
    ),
    "mut1ny_fairness": (
        (
            "Cunha 2024, *How do different semantic segmentation models perform at recognizing faces with different "
            "cultural backgrounds?*: DeepLabV3 against PSPNet, compared over groups of people"
        ),
        "F1 over the three colour channels .756 DeepLabV3, .566 PSPNet (.46, .44 for an image that is white all over)",
        lambda *runs: (
            "{:.3f} DeepLabV3, {:.3f} PSPNet (all positive: {:.2f}); that score ignores which part a pixel is: mean "
            "IoU {:.2f}, {:.2f}".format(
                *(run["results"]["f1"] for run in runs),
                _all_positive_f1(runs[0]),
                *(run["results"]["class_iou"] for run in runs),
            )
        ),
        ("deeplabv3-rgb", "pspnet-rgb"),
    ),
    "masked_ssl": (
        "Zaidi, Kumar, Khan 2024, *A masked self-supervised face parsing pretraining technique*: UNet++, few labels",
        "mIoU with 0.2 % of the labels: 74.41 with pretraining, 5.02 more than without",
        lambda step_1, fractions: _ssl_gain(fractions),
        ("pretrain", "fractions"),
    ),
}

"""README.md's table: one number of each paper beside ours, which is a cell of its folder's own tables."""

import tables_hair
import tables_lrn
import tables_mut1ny
import tables_nu
import tables_ssl
from report import Results, Rows

# folder -> the score, the paper's; ours: the table, row and column there; whose minutes; measured on
FRONT = {
    "nu_deeplabv3plus": ("mean IoU, 18 parts", ".647", tables_nu.means, 1, 2, "none", "798 faces"),
    "hair_transfer": ("AUROC, random start", ".968", tables_hair.scores, 1, 3, "random", "967 faces"),
    "lrn_headtorso": ("Jaccard index, LRN", "91.7 %", tables_lrn.runs, 1, 1, "celebamask-lrn-224", "298 faces"),
    "mut1ny_fairness": ("F1 of colours, DeepLabV3", ".755", tables_mut1ny.scores, 1, 3, "deeplabv3-rgb", "798 faces"),
    "masked_ssl": ("mIoU gained by step 1", "+5.0", tables_ssl.gain, 3, 4, "fractions", "32 labels"),
}


def front(results: dict[str, Results]) -> Rows:
    """One row a folder, one number a cell; results: of all folders."""
    rows = [["folder", "score", "paper", "ours", "on", "min"]]
    for folder, (score, paper, table, row, column, run, on) in FRONT.items():
        ours = table(results[folder])[row][column].split(" ±")[0].lstrip("0") + " %" * paper.endswith("%")
        rows.append([f"`{folder}`", score, paper, ours, on, f"{results[folder][run]['minutes']:.0f}"])
    return rows


TABLES = {"front": front}

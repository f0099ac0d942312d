"""The classes of the two data sets, their colours, their shares in the paper, and what they become in a mirror."""

import numpy as np

from common.celebamask import NAMES, PARTS

# LaPa's, left and right by CelebAMask-HQ's names of the same parts; mouth is the inner mouth
LAPA = ("background", "skin", "l_brow", "r_brow", "l_eye", "r_eye", "nose", "u_lip", "mouth", "l_lip", "hair")
LAYOUTS = {"lapa": LAPA, "celebamask": ("background", *PARTS)}
# Table of the Discussions, % of the pixels of CelebAMask-HQ's training set. Hair's 0.31 is a misprint, of 31 perhaps:
# the rows add up to 40 % with it, and hair is nowhere near as rare as an eye.
PAPER_SHARE = {
    "skin": 25.34, "nose": 2.06, "eye_g": 0.27, "l_eye": 0.22, "r_eye": 0.22, "l_brow": 0.42, "r_brow": 0.41,
    "l_ear": 0.46, "r_ear": 0.39, "mouth": 0.30, "u_lip": 0.41, "l_lip": 0.68, "hair": 0.31, "hat": 0.90,
    "ear_r": 0.24, "neck_l": 0.017, "neck": 4.10, "cloth": 3.35,
}  # fmt: skip
COLOURS = {
    "background": (0, 0, 0), "skin": (236, 188, 160), "nose": (214, 120, 92), "eye_g": (70, 70, 80),
    "l_eye": (40, 120, 220), "r_eye": (60, 200, 240), "l_brow": (120, 80, 30), "r_brow": (190, 140, 60),
    "l_ear": (250, 130, 190), "r_ear": (200, 70, 140), "mouth": (120, 20, 40), "u_lip": (230, 60, 70),
    "l_lip": (170, 20, 90), "hair": (120, 70, 200), "hat": (240, 220, 60), "ear_r": (90, 240, 200),
    "neck_l": (150, 240, 80), "neck": (240, 150, 40), "cloth": (60, 140, 90),
}  # fmt: skip


def palette(classes: tuple[str, ...]) -> np.ndarray:
    """The colours of C classes, C x 3 uint8."""
    return np.array([COLOURS[name] for name in classes], np.uint8)


def legend(classes: tuple[str, ...]) -> dict[str, tuple[int, int, int]]:
    """Full name -> colour of the classes but the background, for pictures."""
    return {NAMES[name]: COLOURS[name] for name in classes[1:]}


def mirrored_classes(classes: tuple[str, ...]) -> np.ndarray:
    """256 uint8: what each label is called in the mirror image; l_eye is r_eye there, the lower lip l_lip itself."""
    table = np.arange(256, dtype=np.uint8)
    for c, name in enumerate(classes):
        other = {"l_": "r_", "r_": "l_"}.get(name[:2], "?") + name[2:]
        table[c] = classes.index(other) if other in classes else c
    return table

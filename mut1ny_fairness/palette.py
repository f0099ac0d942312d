"""The 11 classes and their colours (Sec. III-B, table I), and CelebAMask-HQ's parts in them.

paper: its table gives eyebrows the ears' turquoise, ears the eyebrows' magenta, and teeth (0, 128, 255); here: the
vendor's colours, with which the paper's own text ("turquoise ... for ears") agrees.
"""

import numpy as np

CLASSES = ("background", "eyes", "nose", "lips", "ears", "hair", "eyebrows", "teeth", "face", "facial hair", "specs")
PALETTE = np.array(
    [(0, 0, 0), (0, 255, 0), (0, 0, 255), (255, 0, 0), (0, 255, 255), (255, 255, 0), (255, 0, 255), (255, 255, 255),
     (128, 128, 128), (255, 192, 192), (0, 128, 128)],
    np.uint8,
)  # fmt: skip
LEGEND = dict(zip(CLASSES, PALETTE, strict=True))

# CelebAMask-HQ's parts (and two that generated faces have) in the order in which they are painted, and the class of
# each. Clothes and hats have none: background. A necklace counts as the neck, which Mut1ny's heads include; what hangs
# from an ear is left out.
PAINTED = {
    "neck": "face", "neck_l": "face", "cloth": "background", "skin": "face", "facial_hair": "facial hair",
    "l_ear": "ears", "r_ear": "ears", "nose": "nose", "mouth": "lips", "u_lip": "lips",
    "l_lip": "lips", "teeth": "teeth", "eye_g": "specs", "l_eye": "eyes", "r_eye": "eyes", "l_brow": "eyebrows",
    "r_brow": "eyebrows", "hair": "hair", "hat": "background",
}  # fmt: skip


def celebamask_to_mut1ny(masks: dict[str, np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """CelebAMask-HQ's part masks (part -> H x W bool) -> H x W uint8 classes of Mut1ny; left and right are one."""
    label = np.zeros(shape, np.uint8)
    for part, name in PAINTED.items():
        if part in masks:
            label[masks[part]] = CLASSES.index(name)
    return label


def to_classes(rgb: np.ndarray) -> tuple[np.ndarray, int]:
    """H x W x 3 uint8 label image -> H x W uint8, the class of the nearest colour, and how many pixels were off it."""
    colours = PALETTE.astype(np.float32)
    # |x - c|^2 without |x|^2, which is the same for all c; exact in float32, all are integers below 2^24
    distance = (colours**2).sum(1) - 2 * (rgb.reshape(-1, 3).astype(np.float32) @ colours.T)
    label = distance.argmin(1).astype(np.uint8).reshape(rgb.shape[:2])
    return label, int((PALETTE[label] != rgb).any(-1).sum())

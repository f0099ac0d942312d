"""The 11 classes and their colours, and what the two targets make of them.

The paper's table I has three rows wrong: it gives eyebrows the ears' turquoise, ears the eyebrows' magenta and teeth
(0, 128, 255). Below are the vendor's colours, with which the paper's own text ("turquoise ... for ears") agrees.

    --target rgb       the paper: 3 outputs, mean squared error with label / 255; a pixel's class is its nearest colour
    --target labels    11 outputs, cross-entropy
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from common.device import to_device

CLASSES = ("background", "eyes", "nose", "lips", "ears", "hair", "eyebrows", "teeth", "face", "facial hair", "specs")
PALETTE = np.array(
    [(0, 0, 0), (0, 255, 0), (0, 0, 255), (255, 0, 0), (0, 255, 255), (255, 255, 0), (255, 0, 255), (255, 255, 255),
     (128, 128, 128), (255, 192, 192), (0, 128, 128)],
    np.uint8,
)  # fmt: skip
TRUE_ABOVE, PREDICTED_ABOVE = 0.0, 0.1  # the public template's thresholds on a channel's value (README)

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
            label[masks[part].astype(bool)] = CLASSES.index(name)
    return label


# ---- Colours to classes and back -----------------------------------------------------------------------------------


def to_colours(label: np.ndarray) -> np.ndarray:
    """H x W classes -> H x W x 3 uint8, the vendor's colours."""
    return PALETTE[label]


def to_classes(rgb: np.ndarray) -> tuple[np.ndarray, int]:
    """H x W x 3 uint8 label image -> H x W uint8, the class of the nearest colour, and how many pixels were off it."""
    colours = PALETTE.astype(np.float32)
    # |x - c|^2 without |x|^2, which is the same for all c; exact in float32, all are integers below 2^24
    distance = (colours**2).sum(1) - 2 * (rgb.reshape(-1, 3).astype(np.float32) @ colours.T)
    label = distance.argmin(1).astype(np.uint8).reshape(rgb.shape[:2])
    return label, int((PALETTE[label] != rgb).any(-1).sum())


def _colours(bgr: bool, device: torch.device) -> Tensor:
    """11 x 3 in 0..1, in the order RGB or BGR."""
    colours = PALETTE[:, ::-1].copy() if bgr else PALETTE
    return to_device(torch.from_numpy(colours), device).float() / 255


def nearest_class(output: Tensor) -> Tensor:
    """B x 3 x H x W colours in 0..1 (what lies beyond is cut off) -> B x H x W, the class of the nearest colour."""
    colours = _colours(False, output.device)  # 11 3
    kernel = -2 * colours[:, :, None, None]
    return F.conv2d(output.float().clamp(0, 1), kernel, (colours**2).sum(1)).argmin(1)


# ---- The two targets -----------------------------------------------------------------------------------------------


def outputs_of(target: str) -> int:
    """How many channels the network puts out for --target."""
    return 3 if target == "rgb" else len(CLASSES)


def true_channels(label: Tensor, bgr: bool = False) -> Tensor:
    """B x H x W classes -> B x 3 x H x W, label / 255: the paper's target. bgr: the label file read as OpenCV does."""
    return _colours(bgr, label.device)[label.long()].permute(0, 3, 1, 2)


def loss_of(output: Tensor, label: Tensor, target: str, bgr: bool = False) -> Tensor:
    """Output of the network and B x H x W true classes -> scalar, float32."""
    if target == "rgb":
        return F.mse_loss(output.float(), true_channels(label, bgr))
    if bgr:  # read in the wrong order, the file's yellow is turquoise, and the hair in it is ears
        label = nearest_class(true_channels(label, bgr=True))
    return F.cross_entropy(output.float(), label.long())


def predicted_channels(output: Tensor, target: str) -> Tensor:
    """Output of the network -> B x 3 x H x W; of 11 classes the colours of the best one."""
    return output.float() if target == "rgb" else true_channels(output.argmax(1))


def predicted_classes(output: Tensor, target: str, bgr: bool = False) -> Tensor:
    """Output of the network -> B x H x W classes. bgr: its colours read in the other channel order."""
    if target == "rgb":
        return nearest_class(output.flip(1) if bgr else output)
    classes = output.argmax(1)
    return nearest_class(true_channels(classes, bgr=True)) if bgr else classes

"""Where the network starts: from random weights, from COCO's (Sec. II, figure 2), or from another file's ResNet-101."""

from argparse import Namespace
from pathlib import Path

import torch

from common.cache import count_seen
from common.checkpoint import first_not_finite
from common.cli import InputError
from common.weights import load_pretrained
from hair_transfer.dataset import Face
from hair_transfer.model import DeepLabV3, backbone_of, from_coco


def build_model(args: Namespace, test: list[Face]) -> tuple[DeepLabV3, str, set[str]]:
    """The network as --init asks for it, where its weights came from, and the photos they have seen (fingerprints).

    Of a checkpoint of this folder it also says how many of the `test` faces are among them: with any, the scores would
    flatter the transfer. Raises InputError if the weights cannot be had.
    """
    if args.init == "random":
        return DeepLabV3(output=args.output, aux=args.aux > 0), "random (--init random)", set()
    if args.init == "pretrained":
        return *from_torchvision(args), set()
    model = DeepLabV3(output=args.output, aux=args.aux > 0)
    state_dict, source, seen = read_backbone(Path(args.init))
    try:
        model.backbone.load_state_dict(state_dict, strict=True)
    except RuntimeError as error:
        raise InputError(
            f"--init {args.init}: not a ResNet-101's weights ({first_misfit(error)}); give another file"
        ) from None
    if name := first_not_finite(model.backbone.state_dict()):
        raise InputError(f"--init {args.init}: its {name} holds nan or inf; give another file")
    if known := count_seen([face.photo for face in test], seen):
        source += f"; IT WAS TRAINED ON {known} OF THE {len(test)} TEST FACES"
    return model, source, seen


def from_torchvision(args: Namespace) -> tuple[DeepLabV3, str]:
    """COCO's weights under new heads (Sec. II, figure 2); never anything else in their place."""
    coco, source = load_pretrained(
        "pretrained",
        "DeepLabV3_ResNet101_Weights.COCO_WITH_VOC_LABELS_V1",
        name="pretrained",
        none="random",
        flag="--init",
    )
    try:
        return from_coco(coco, output=args.output, aux=args.aux > 0), f"backbone of {source}, new heads"
    except RuntimeError as error:
        raise InputError(
            f"--init pretrained: {source} is not what it should be ({first_misfit(error)}); remove it"
        ) from None


def first_misfit(error: RuntimeError) -> str:
    """The first of the keys or shapes that load_state_dict complains of."""
    return str(error).splitlines()[1].strip()[:100]


def read_backbone(path: Path) -> tuple[dict[str, torch.Tensor], str, set[str]]:
    """The ResNet-101 in a file, a line on where it comes from, and the photos that it has seen, as fingerprints.

    For honest stand-ins for COCO's weights. Takes a checkpoint of this repository (any folder's), a state dict of
    torchvision's DeepLabV3 or of its ResNet-101.
    """
    if path.is_dir():
        raise InputError(f"--init {path}: is a folder; give a file, such as the best.pt in it")
    try:
        file = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"--init {path}: no such file; give pretrained, random or a file of weights") from None
    except Exception as error:  # torch.load raises a dozen kinds for broken files
        problem = (str(error) or type(error).__name__).splitlines()[0].split(". ")[0][:80]
        raise InputError(f"--init {path}: cannot be loaded ({problem}); give another file") from None
    source, seen = f"backbone of {path}", set()
    if isinstance(file, dict) and "paper" in file:
        args, seen = file.get("args", {}), file.get("trained_on", [])
        if not isinstance(args, dict) or not isinstance(seen, list) or not all(isinstance(key, str) for key in seen):
            raise InputError(f"--init {path}: its args or trained_on are not what train.py writes; give another file")
        task, seen = args.get("part", "its own task"), set(seen)
        source += f" ({file['paper']} on {task}, epoch {file.get('epoch')}, itself from {file.get('weights')})"
        file = file.get("model")
    named = isinstance(file, dict) and all(isinstance(name, str) for name in file)
    state_dict = backbone_of(file) if named else {}
    if not state_dict:
        raise InputError(
            f"--init {path}: holds no ResNet-101; give a checkpoint that has one, or a file of torchvision's"
        )
    return state_dict, source + ", new heads", seen

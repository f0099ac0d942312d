"""From arguments and files to networks and back: which of the paper's four models a run is, and what it starts from."""

from argparse import Namespace
from pathlib import Path

import torch

from common.cache import count_seen
from common.checkpoint import load_checkpoint, restore
from common.cli import InputError
from common.weights import load_pretrained
from lrn_headtorso.dataset import SIZE
from lrn_headtorso.model import LRN, UNet
from lrn_headtorso.pairs import Pair
from lrn_headtorso.phases import FROZEN, phases

PAPER = Path(__file__).resolve().parent.name
IMAGENET_FILE = "vgg16-397923af.pth"  # torchvision's, also where its path is given


def make_model(args: dict) -> LRN | UNet:
    """The network that `args` (of train.py) ask for."""
    return LRN(channel_reduction=args["channel_reduction"]) if args["model"] == "lrn" else UNet()


def load_model(path: Path, device: torch.device) -> tuple[LRN | UNet, dict]:
    """The network of a checkpoint, ready to evaluate, and the checkpoint."""
    checkpoint = load_checkpoint(path, PAPER)
    model = make_model(checkpoint["args"])
    restore(path, lambda: model.load_state_dict(checkpoint["model"]))
    return model.to(device).eval(), checkpoint


def load_encoder(model: LRN | UNet, choice: str, test: list[Pair]) -> tuple[str | None, str, set[str]]:
    """Fill the encoder as --weights says -> (None, "imagenet" or "file"), where the weights came from in words, and the
    photos that they have seen, as fingerprints.

    A checkpoint of this folder gives its encoder: weights that were learned here, on whatever that run saw; the words
    say how many of the `test` pictures are among it. Raises InputError if the weights cannot be had or are not a
    VGG-16's.
    """
    path, seen = Path(choice), set()
    if path.suffix == ".pt" and path.is_file():
        other = load_checkpoint(path, PAPER)
        start = "encoder.features."
        found = {name[len("encoder.") :]: value for name, value in other["model"].items() if name.startswith(start)}
        words = f"encoder of {choice}: {other['args']['model']}, epoch {other['epoch']}, {other['source']}"
        seen = set(other.get("trained_on", ()))
        if known := count_seen([pair.photo for pair in test], seen):
            words += f"; IT WAS TRAINED ON {known} OF THE {len(test)} TEST PICTURES"
    else:
        found, words = load_pretrained(choice, "VGG16_Weights.IMAGENET1K_V1")
    if found is None:
        return None, words, seen
    try:
        model.encoder.load_imagenet(found)
    except RuntimeError as error:
        problem = str(error).splitlines()[1].strip()[:100]
        raise InputError(f"--weights {choice}: not torchvision's VGG-16 ({problem}); give its state dict") from None
    return "imagenet" if choice in ("imagenet", "auto") or path.name == IMAGENET_FILE else "file", words, seen


def run_name(args: Namespace, pretrained: str | None) -> str:
    """The folder in runs/: lrn, unet, lrn-vgg, ... and what else differs from the paper's recipe."""
    parts = [args.model, {None: "", "imagenet": "vgg", "file": "own"}[pretrained]]
    parts += ["plain" if args.augment == "none" else ""]
    parts += ["reduced" if args.channel_reduction else "", "backgrounds" if args.backgrounds else ""]
    parts += [str(args.size) if args.size != SIZE else ""]
    return "-".join(part for part in parts if part)


def method(checkpoint: dict) -> str:
    """The run's name in table 1, such as LRN-VGG; what the paper did not do is added in words."""
    args = checkpoint["args"]
    name = ("LRN" if args["model"] == "lrn" else "UNET") + ("-VGG" if checkpoint["pretrained"] == "imagenet" else "")
    weights = Path(args["weights"])  # a run's best.pt goes by the run's name
    source = weights.resolve().parent.name if weights.suffix == ".pt" else weights.name
    extras = [f"encoder of {source}"] if checkpoint["pretrained"] == "file" else []
    extras += ["frozen encoder"] if phases(checkpoint["pretrained"])[checkpoint["phase"]] == FROZEN else []
    extras += ["channel reduction"] if args["channel_reduction"] else []
    extras += [f"{args['size']} px"] if args["size"] != SIZE else []
    extras += ["backgrounds"] if args["backgrounds"] else []
    extras += ["no augmentation"] if args["augment"] == "none" else []
    return name + (f" ({', '.join(extras)})" if extras else "")

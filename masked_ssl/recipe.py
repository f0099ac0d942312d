"""What both steps share: their common arguments, what a network starts from, its optimiser and its learning rate."""

import math
from argparse import BooleanOptionalAction, Namespace
from collections.abc import Callable
from pathlib import Path

import torch

from common.cli import InputError, Parser, number
from common.data import among
from common.run import Checkpoint, arguments, load_checkpoint, restore
from common.weights import fill, load_weights, read_state_dict
from masked_ssl.dataset import CACHE
from masked_ssl.model import STRIDE, Network
from masked_ssl.splits import HERE, Data

# ---- Arguments -----------------------------------------------------------------------------------------------------


# fmt: off
def add_training_arguments(parser: Parser, defaults: dict[str, float], generated: dict[str, float]) -> Callable:
    """The arguments of both steps' training -> the group's add_argument(), for those of one step."""
    add = parser.add_argument_group("training (ours: the 2024 text gives none of this)").add_argument
    add("--epochs", type=number(int, 1), metavar="N",
        help=f"default {defaults['epochs']}, on generated faces {generated['epochs']}")
    add("--batch-size", type=number(int, 2), default=8, metavar="N",
        help="default 8; under torchrun of all processes together")
    add("--lr", type=number(float, 0, above=True), metavar="X",
        help=f"of AdamW; in train.py the decoder's (default {defaults['lr']}, on generated faces {generated['lr']})")
    add("--checkpointing", action=BooleanOptionalAction, default=False,
        help="compute again what the backward pass needs: less memory, slower")
    add("--cache", type=Path, default=CACHE, metavar="DIR", help="decoded pictures (default: data/cache here)")
    return add
# fmt: on


def parse(parser: Parser, stage: str, free: tuple[str, ...], limit_help: str) -> tuple[Namespace, Checkpoint | None]:
    """A step's arguments, and the checkpoint that --resume names (`free`, `limit_help`: see common/run.py).

    Exits with one line for a size or flags that do not work; raises InputError for a checkpoint of the other step.
    """
    args, saved = arguments(parser, HERE.name, free=(*free, "checkpointing"), limit_help=limit_help)
    if args.size and args.size % STRIDE:
        parser.error(f"--size {args.size} must be a multiple of {STRIDE}, such as {args.size // STRIDE * STRIDE}")
    if args.checkpointing and args.compile:
        parser.error("--checkpointing: torch.compile cannot follow it; leave it or --compile out (--no-compile)")
    if saved and saved["stage"] != stage:
        other = "train.py" if stage == "pretrain" else "pretrain.py"
        raise InputError(f"--resume {args.resume}: a checkpoint of {other}; resume it with that")
    return args, saved


def fill_in(args: Namespace, defaults: dict[str, float]) -> None:
    """Set the arguments that were not given."""
    for name, value in defaults.items():
        if getattr(args, name) is None:
            setattr(args, name, value)


# ---- Where a network starts ----------------------------------------------------------------------------------------


def load_backbone(network: Network, choice: str) -> tuple[str, str]:
    """Fill the ResNet-50 as --weights says -> "random", "imagenet" or the file, and the same in words.

    Everything else keeps its random weights, as in the paper's baseline (Fine-Tuning Process). Raises InputError if
    what is asked for is not available.
    """
    state_dict, words, _ = load_weights(choice, "ResNet50_Weights.IMAGENET1K_V1")
    if state_dict is None:
        return "random", words
    trunk = {name: x for name, x in state_dict.items() if not name.startswith("fc.")}  # without its classifier
    fill(network.encoder.backbone, trunk, "torchvision's ResNet-50", choice)
    start = "imagenet" if choice in ("auto", "imagenet") else str(Path(choice).resolve())
    return start, f"ResNet-50 of {words}, the rest random"


def load_pretraining(path: Path) -> Checkpoint:
    """The checkpoint of step 1 at `path`; raises InputError if it is none, or has not finished an epoch."""
    saved = load_checkpoint(path, HERE.name)
    if saved["stage"] != "pretrain":
        raise InputError(f"{path}: a checkpoint of train.py; give the pretrain.pt of a run of pretrain.py")
    if not saved["log"]:
        raise InputError(f"{path}: has not finished an epoch yet; let pretrain.py finish one")
    return saved


def newest_pretraining(data: Data) -> tuple[Path | None, str]:
    """The pretrain.pt that pretrain.py wrote last in this folder's runs/, if it was made with this data; else None, and
    in words what was passed over."""
    found = (HERE / "runs").glob("*/pretrain.pt")
    newest = max(found, key=lambda path: path.stat().st_mtime, default=None)
    if newest is None or load_pretraining(newest)["folder"] == str(data.folder.resolve()):
        return newest, ""
    return None, f"; not {newest}, which was made with other data"


def start_from(network: Network, choice: str, data: Data) -> tuple[str, str, list[str]]:
    """Fill the network as --weights says -> "random", "imagenet", "pretrained" or the file; where its weights come
    from, in words; and the identities of the photos that step 1 has seen.

    Raises InputError for an encoder that has seen test photos in step 1: its scores would not count.
    """
    path, skipped = newest_pretraining(data) if choice == "auto" else (None, "")
    if choice not in ("auto", "imagenet", "none") and read_state_dict(Path(choice))[1]:  # a checkpoint of ours
        path = Path(choice)
    if path is None:
        kind, words = load_backbone(network, choice)
        return kind, words + skipped, []
    saved = load_pretraining(path)
    pool = saved["split"]["pool"]
    tested = among([face.identity for face in data.parts["test"]], pool)
    if tested:
        raise InputError(
            f"--weights {path}: was pretrained on {len(tested)} of the test photos of {data.folder}, such as "
            f"{tested[0].split(':')[0]}; pretrain with --data, which keeps them out"
        )
    # Figure 1: the whole encoder, and nothing of the decoder
    weights = saved["model"].items()
    saved["encoder"] = {name.removeprefix("encoder."): x for name, x in weights if name.startswith("encoder.")}
    restore(saved, encoder=network.encoder)
    words = f"encoder of {path}: {saved['epoch']} epochs at {saved['args']['size']} px on {saved['source']}"
    return "pretrained", f"{words}, itself from {saved['weights']}", pool


# ---- How it learns -------------------------------------------------------------------------------------------------


def adamw(network: Network, encoder_lr: float, decoder_lr: float) -> torch.optim.AdamW:
    """Fused AdamW with PyTorch's other defaults (ours); the encoder's and the decoder's learning rate apart."""
    rates = ((network.encoder, encoder_lr), (network.decoder, decoder_lr))
    groups = [{"params": list(part.parameters()), "lr": lr, "peak_lr": lr} for part, lr in rates]
    return torch.optim.AdamW(groups, fused=True)


def set_learning_rates(optimizer: torch.optim.Optimizer, step: int, steps: int) -> None:
    """Set them for `step` of 0 ... steps - 1, in all epochs together (ours): half a cosine wave down to 0, after a
    twentieth of the steps in which they rise from 0."""
    warm_up = max(1, steps // 20)
    if step < warm_up:
        factor = (step + 1) / warm_up
    else:
        factor = 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor

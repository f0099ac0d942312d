"""Pretrained weights by torchvision's names, through torchvision's own cache, or from a file."""

import re
import socket
from pathlib import Path

import torch
from torch import Tensor, nn

from common.cli import InputError

TIMEOUT_S = 8  # a download that stalls ends


def load_weights(choice: str, weights: str, name: str = "imagenet") -> tuple[dict[str, Tensor] | None, str, dict]:
    """--weights -> state dict or None, where it came from in words, and the checkpoint of ours that held it ({}: none).

    choice: `none`; `auto`, the pretrained weights if they are available, else None; `name` (imagenet, coco), which must
    be available; or a file. weights: torchvision's name, such as "ResNet50_Weights.IMAGENET1K_V1". Raises InputError if
    what is asked for is not available.
    """
    if choice == "none":
        return None, "random (--weights none)", {}
    if choice not in ("auto", name):
        state_dict, checkpoint = read_state_dict(Path(choice))
        return state_dict, choice, checkpoint
    from torchvision.models import get_weight  # here, because it takes as long to import as all of PyTorch

    weights = get_weight(weights)
    file = weights.url.rsplit("/", 1)[1]
    cached = Path(torch.hub.get_dir()) / "checkpoints" / file
    if cached.is_file():
        return read_state_dict(cached)[0], f"{file} ({weights})", {}
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_S)
    try:
        return weights.get_state_dict(progress=True, check_hash=True, weights_only=True), f"{file} ({weights})", {}
    except (OSError, RuntimeError) as error:
        problem = str(getattr(error, "reason", error))
    finally:
        socket.setdefaulttimeout(timeout)
    if choice == "auto":
        return None, f"RANDOM: {file} is not available ({problem})", {}
    raise InputError(
        f"--weights {choice}: {file} is not available ({problem}); download {weights.url} by hand to {cached}, or "
        "train from random weights with --weights none"
    )


def read_state_dict(path: Path) -> tuple[dict[str, Tensor], dict]:
    """The state dict in a file of any name, and the checkpoint of ours that it is the "model" of ({}: of none).

    Without the prefixes of DataParallel and torch.compile. Raises InputError for anything else.
    """
    content = load_safely(path, "--weights takes a saved model.state_dict(), such as torchvision's; see --help")
    checkpoint = content if isinstance(content, dict) and "paper" in content else {}
    state_dict = checkpoint.get("model", content)
    tensors = isinstance(state_dict, dict) and all(isinstance(x, Tensor) for x in state_dict.values())
    if not tensors or not state_dict:
        raise InputError(f"--weights {path}: not a state dict of tensors; give a file of torchvision's kind")
    return {re.sub(r"^((module|_orig_mod)\.)+", "", name): x for name, x in state_dict.items()}, checkpoint


def load_safely(path: Path, remedy: str) -> object:
    """What torch.save() wrote, on the CPU. Raises InputError, with the remedy, for a file that is not there, that holds
    more than tensors and primitives (nothing pickled runs), or a tensor with nan or inf."""
    if not path.is_file():
        raise InputError(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}; {remedy}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises a dozen kinds for broken files
        why = str(error).strip().split("\n")[0].split(". ")[0][:100] or type(error).__name__
        if "unsupported global" in str(error).lower():
            why = "it holds more than tensors, as a pickled model does"
        raise InputError(f"{path}: cannot be loaded safely ({why}); {remedy}") from None
    if name := first_not_finite(content):
        raise InputError(f"{path}: its {name} holds nan or inf; {remedy}")
    return content


def first_not_finite(part: object, name: str = "") -> str:
    """The name of the first tensor in a checkpoint, model or optimiser, that holds nan or inf; "" if there is none."""
    if isinstance(part, Tensor):
        return name if part.is_floating_point() and not part.isfinite().all() else ""
    inner = part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list | tuple) else ()
    return next(filter(None, (first_not_finite(x, f"{name} {key}".lstrip()) for key, x in inner)), "")


def fill(module: nn.Module, state_dict: dict[str, Tensor], what: str, source: str) -> None:
    """Load strictly; raises InputError if a key is missing or left over: `source` is not `what`."""
    try:
        module.load_state_dict(state_dict, strict=True)
    except RuntimeError as error:
        problem = str(error).splitlines()[1].strip()[:100]
        raise InputError(f"--weights {source}: not {what} ({problem}); give its state dict") from None

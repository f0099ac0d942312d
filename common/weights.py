"""Pretrained weights by torchvision's names, through torchvision's own cache."""

import socket
import threading
import urllib.error
import urllib.request
from pathlib import Path

import torch
from torch import Tensor
from torchvision.models import WeightsEnum

from common.cli import InputError

TIMEOUT_S = 8  # without a network, give up within 10 s


def load_pretrained(choice: str, weights: WeightsEnum) -> tuple[dict[str, Tensor] | None, str]:
    """--weights -> (state dict or None, where it came from in words).

    choice: `none`; `auto`, the pretrained weights if they can be had, else None; a path to a state dict; anything else
    (`imagenet`, `coco`) means that they must be had. Raises InputError if they must and cannot.
    """
    if choice == "none":
        return None, "random (--weights none)"
    if choice not in ("auto", "imagenet", "coco"):
        return _read(Path(choice)), choice
    name = weights.url.rsplit("/", 1)[1]
    cached = Path(torch.hub.get_dir()) / "checkpoints" / name
    if cached.is_file():
        return _read(cached), f"{name} ({weights})"
    problem = _unreachable(weights.url)
    if problem is None:
        timeout = socket.getdefaulttimeout()
        socket.setdefaulttimeout(TIMEOUT_S)  # a download that stalls ends too
        try:
            state_dict = weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
            return state_dict, f"{name} ({weights})"
        except (OSError, RuntimeError) as error:
            problem = str(error)
        finally:
            socket.setdefaulttimeout(timeout)
    if choice == "auto":
        return None, f"RANDOM: {name} could not be had ({problem})"
    raise InputError(
        f"--weights {choice}: {name} could not be had ({problem}); download {weights.url} by hand to {cached}, or "
        "train from random weights with --weights none"
    )


def _read(path: Path) -> dict[str, Tensor]:
    try:
        state_dict = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(
            f"--weights {path}: no such file; give auto, imagenet, none or the path of a state dict"
        ) from None
    except Exception as error:  # torch.load raises a dozen kinds for broken files
        problem = (str(error) or type(error).__name__).splitlines()[0][:80]
        raise InputError(f"--weights {path}: cannot be loaded ({problem}); download it again") from None
    if (
        not isinstance(state_dict, dict)
        or not state_dict
        or not all(isinstance(v, Tensor) for v in state_dict.values())
    ):
        raise InputError(f"--weights {path}: not a state dict of tensors; give a file of torchvision's kind")
    return state_dict


def _unreachable(url: str) -> str | None:
    """None if the server answers, else why not, within TIMEOUT_S even if the name look-up hangs."""
    result = ["no answer from the network"]

    def ask():
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=TIMEOUT_S).close()
            result[0] = None
        except (OSError, ValueError) as error:
            result[0] = str(getattr(error, "reason", error))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(TIMEOUT_S)
    return result[0]

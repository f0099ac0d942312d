"""Pretrained weights by torchvision's names, through torchvision's own cache."""

import socket
import threading
import urllib.error
import urllib.request
from pathlib import Path

import torch
from torch import Tensor

from common.cli import InputError

TIMEOUT_S = 8  # without a network, give up within 10 s


def load_pretrained(
    choice: str, weights: str, *, name: str = "imagenet", none: str = "none", flag: str = "--weights"
) -> tuple[dict[str, Tensor] | None, str]:
    """--weights -> (state dict or None, where it came from in words).

    choice: `none`; `auto`, the pretrained weights if they can be had, else None; `name` (imagenet, coco), which must be
    had; or the path of a state dict. Raises InputError if what must be had cannot. A paper may have other words for
    `name`, `none` and the flag. weights: torchvision's name for them, such as "ResNet50_Weights.IMAGENET1K_V1".
    """
    if choice == none:
        return None, f"random ({flag} {none})"
    if choice not in ("auto", name):
        return _read(Path(choice), flag, f"{none}, auto, {name}"), choice
    from torchvision.models import get_weight  # here, because it takes as long to import as all of PyTorch

    weights = get_weight(weights)
    file = weights.url.rsplit("/", 1)[1]
    cached = Path(torch.hub.get_dir()) / "checkpoints" / file
    if cached.is_file():
        return _read(cached, flag, name), f"{file} ({weights})"
    problem = _unreachable(weights.url)
    if problem is None:
        timeout = socket.getdefaulttimeout()
        socket.setdefaulttimeout(TIMEOUT_S)  # a download that stalls ends too
        try:
            state_dict = weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
            return state_dict, f"{file} ({weights})"
        except (OSError, RuntimeError) as error:
            problem = str(error)
        finally:
            socket.setdefaulttimeout(timeout)
    if choice == "auto":
        return None, f"RANDOM: {file} could not be had ({problem})"
    raise InputError(
        f"{flag} {choice}: {file} could not be had ({problem}); download {weights.url} by hand to {cached}, or "
        f"train from random weights with {flag} {none}"
    )


def _read(path: Path, flag: str, choices: str) -> dict[str, Tensor]:
    if path.is_dir():
        raise InputError(f"{flag} {path}: is a folder; give {choices} or the path of a state dict")
    try:
        state_dict = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{flag} {path}: no such file; give {choices} or the path of a state dict") from None
    except Exception as error:  # torch.load raises a dozen kinds for broken files
        problem = (str(error) or type(error).__name__).splitlines()[0].split(". ")[0][:80]
        raise InputError(f"{flag} {path}: cannot be loaded ({problem}); download it again") from None
    if (
        not isinstance(state_dict, dict)
        or not state_dict
        or not all(isinstance(v, Tensor) for v in state_dict.values())
    ):
        raise InputError(f"{flag} {path}: not a state dict of tensors; give a file of torchvision's kind")
    return state_dict


def _unreachable(url: str) -> str | None:
    """None if the server answers, else why not, within TIMEOUT_S even if the name look-up hangs."""
    result = ["no answer from the network"]

    def ask():
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=TIMEOUT_S).close()
            result[0] = None
        except Exception as error:  # also of http.client and of proxies
            result[0] = str(getattr(error, "reason", error)) or type(error).__name__

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(TIMEOUT_S)
    return result[0]

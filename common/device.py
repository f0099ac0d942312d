"""Device, precision and seeds: what a training loop must settle about the machine first."""

import copy
import ctypes
import os
import random
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from common.cli import InputError


def pick_device(choice: str = "auto") -> torch.device:
    """`auto` is CUDA, then MPS, then CPU; raises InputError for a device that is not there.

    Under torchrun the CUDA device is the one of LOCAL_RANK. For the CPU the process is told to keep freed memory.
    """
    if choice == "auto":
        choice = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if choice == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "--device cuda: PyTorch sees no CUDA GPU here; use --device auto or cpu, or install a CUDA build"
        )
    if choice == "mps" and not torch.backends.mps.is_available():
        raise InputError("--device mps: PyTorch sees no Apple GPU here; use --device auto or cpu")
    if choice == "cuda":
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        if local_rank >= torch.cuda.device_count():
            raise InputError(
                f"torchrun started more processes than the {torch.cuda.device_count()} GPU(s) of this machine; lower "
                "--nproc_per_node or give --device cpu"
            )
        torch.cuda.set_device(local_rank)
        return torch.device("cuda", local_rank)
    if choice == "cpu":
        keep_freed_memory()
    return torch.device(choice)


def keep_freed_memory() -> None:
    """Have glibc keep freed blocks for the next step instead of returning them to the system; elsewhere nothing.

    A training step frees and takes gigabytes of activations. Large blocks are mapped and unmapped each time, and much
    of a step with large activations is then the page faults of memory that comes back as new.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # of malloc.h
        libc.mallopt(M_TRIM_THRESHOLD, -1)  # never shrink the heap,
        libc.mallopt(M_TOP_PAD, 64 << 20)  # let it grow by 64 MB at a time,
        libc.mallopt(M_MMAP_MAX, 0)  # and map no block outside of it


def has_native_bf16(device: torch.device) -> bool:
    """True where bf16 matrix products are computed by the hardware: CUDA from 8.0, CPUs with AMX or AVX512-BF16."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    cpuinfo = Path("/proc/cpuinfo")  # Linux; elsewhere the answer is a safe no
    if device.type == "cpu" and cpuinfo.exists():
        return bool({"amx_bf16", "avx512_bf16"} & set(cpuinfo.read_text().split()))
    return False


def pick_amp(choice: str, device: torch.device) -> bool:
    """Whether to autocast to bfloat16. Losses and metrics cast back to float32 themselves."""
    return choice == "bf16" or (choice == "auto" and has_native_bf16(device))


def autocast(device: torch.device, amp: bool) -> torch.autocast:
    """Context manager: bf16 autocast on `device` where `amp`, else nothing."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=amp)


def memory_format(device: torch.device, amp: bool, training: bool = True) -> torch.memory_format:
    """The layout of a network's weights in which its convolutions are fastest; the images that it is given may be NCHW.

    channels_last for the matrix units of GPUs and for bf16. In float32 on a CPU it is mostly faster forward too, but a
    training step is not: contiguous, the LRN's is 1.2 times as fast (tests/benchmarks). MPS has PyTorch's default.
    """
    last = device.type == "cuda" or (device.type == "cpu" and (amp or not training))
    return torch.channels_last if last else torch.contiguous_format


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """`x` on the device. CUDA does not wait for a copy from pinned memory; on MPS its source could be gone by then."""
    return x.to(device, non_blocking=device.type != "mps")


def adam(model: nn.Module, lr: float) -> torch.optim.Adam:
    """Fused Adam with PyTorch's other defaults over what requires a gradient."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.Adam(parameters, lr=lr, fused=True)


def for_inference(model: nn.Module, amp: bool) -> nn.Module:
    """A copy of `model` in evaluation mode that computes the same, up to rounding, in less time.

    Each batch norm is folded into the convolution that is registered right before it, which in our models is the one
    whose output it takes. With `amp` the weights become bfloat16 once, which autocast would do in every forward pass.
    """
    device = next(model.parameters()).device
    model = copy.deepcopy(model).to(memory_format=memory_format(device, amp, training=False)).eval()
    parents = [m for m in model.modules() if any(m.children())]  # no convolution: each is freed when it is replaced
    for module in parents:
        layers = list(module.named_children())
        for (conv_name, conv), (norm_name, norm) in pairwise(layers):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.modules.batchnorm._BatchNorm):
                setattr(module, conv_name, fuse_conv_bn_eval(conv, norm))
                setattr(module, norm_name, nn.Identity())
    for layer in model.modules():
        if amp and isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.bfloat16()
    return model


def seed_everything(seed: int, deterministic: bool = False) -> None:
    """Seed Python, NumPy and PyTorch (all devices); `deterministic` also asks for deterministic kernels."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False
    else:
        torch.backends.cudnn.benchmark = True

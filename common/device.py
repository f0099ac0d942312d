"""Device, precision, seeds, and torchrun: everything about the machine that a training loop must settle first."""

import os
import random
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from common.cli import InputError


def pick_device(choice: str = "auto") -> torch.device:
    """`auto` is CUDA, then MPS, then CPU; raises InputError for a device that is not there.

    Under torchrun the CUDA device is the one of LOCAL_RANK.
    """
    if choice == "auto":
        choice = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if choice == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: PyTorch sees no CUDA GPU here; use --device auto or cpu, or install a CUDA build")
    if choice == "mps" and not torch.backends.mps.is_available():
        raise InputError("--device mps: PyTorch sees no Apple GPU here; use --device auto or cpu")
    if choice == "cuda":
        local_rank = int(os.environ.get("LOCAL_RANK", 0))
        if local_rank >= torch.cuda.device_count():
            raise InputError(f"torchrun started more processes than the {torch.cuda.device_count()} GPUs of this machine")
        torch.cuda.set_device(local_rank)
        return torch.device("cuda", local_rank)
    return torch.device(choice)


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


def adam(model: nn.Module, lr: float, device: torch.device) -> torch.optim.Adam:
    """Adam with PyTorch's other defaults over what requires a gradient; fused where PyTorch has it (CUDA, MPS, CPU)."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.Adam(parameters, lr=lr, fused=device.type in ("cuda", "mps", "cpu"))


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


# ---- torchrun: without it there is no process group, and each function below does nothing --------------------------


def start_processes(device: torch.device) -> tuple[int, int]:
    """Join torchrun's process group (NCCL on CUDA, gloo on CPU) and return rank, world_size; 0, 1 without torchrun."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return 0, 1
    if device.type == "mps":
        raise InputError("torchrun needs CUDA GPUs or --device cpu; an Apple GPU trains in a single process")
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return dist.get_rank(), dist.get_world_size()


def stop_processes() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def world() -> tuple[int, int]:
    """rank, world_size."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def barrier() -> None:
    """Wait until every process is here."""
    if dist.is_initialized():
        dist.barrier()


def parallel(model: nn.Module, device: torch.device) -> nn.Module:
    """`model` in DistributedDataParallel under torchrun, itself otherwise."""
    if not dist.is_initialized():
        return model
    return nn.parallel.DistributedDataParallel(model, device_ids=[device.index] if device.type == "cuda" else None)


def sum_over_processes(x: Tensor) -> Tensor:
    """The sum of `x` over all processes, without gradient."""
    if dist.is_initialized():
        x = x.clone()
        dist.all_reduce(x)
    return x


class _SumWithGradient(torch.autograd.Function):
    """All-reduce whose backward is an all-reduce too: every process' loss depends on every process' x."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return sum_over_processes(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return sum_over_processes(grad)


def sum_with_gradient(x: Tensor) -> Tensor:
    """The sum of `x` over all processes, differentiable.

    For losses that are ratios of sums over the batch, such as dice: computed on the summed parts, they are the loss of the
    global batch, and DistributedDataParallel's mean of the gradients is then exactly its gradient.
    """
    return _SumWithGradient.apply(x) if dist.is_initialized() else x


def copy_from_first(model: nn.Module) -> None:
    """Give every process the buffers of rank 0 (batch-norm statistics differ between ranks after a training step)."""
    if dist.is_initialized():
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)

"""Device, precision and seeds, and torchrun's processes. Without torchrun there is one process, and what concerns
several of them does nothing."""

import ctypes
import os
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from common.cli import InputError


def start(args: Namespace, least: int = 1) -> tuple[torch.device, bool]:
    """The device and whether to autocast to bf16, by --device and --amp; joins torchrun's processes and seeds PyTorch.

    Raises InputError if --batch-size does not give every process the same number of images, `least` or more.
    """
    device = pick_device(args.device)
    n = int(os.environ.get("WORLD_SIZE", "1"))
    if n > 1:
        if device.type == "mps":
            raise InputError("torchrun needs CUDA GPUs or --device cpu; an Apple GPU trains in a single process")
        # two hours: the others wait while the first process of a machine decodes a large data set
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(hours=2))
    if args.batch_size % n or args.batch_size // n < least:
        raise InputError(
            f"--batch-size {args.batch_size} over {n} process(es): each needs the same number of images, at least "
            f"{least}; give --batch-size {4 * n}"
        )
    torch.manual_seed(args.seed)
    torch.backends.cudnn.benchmark = True
    return device, pick_amp(args.amp, device)


def pick_device(choice: str = "auto") -> torch.device:
    """`auto` is CUDA, then MPS, then CPU; under torchrun the GPU of LOCAL_RANK. InputError if it is not there."""
    if choice == "auto":
        choice = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if choice == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: PyTorch sees no CUDA GPU here; give --device cpu or install a CUDA build")
    if choice == "mps" and not torch.backends.mps.is_available():
        raise InputError("--device mps: PyTorch sees no Apple GPU here; give --device cpu")
    if choice == "cuda":
        local_rank, n = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if local_rank >= n:
            raise InputError(f"torchrun started more processes than this machine has GPUs; give --nproc_per_node={n}")
        torch.cuda.set_device(local_rank)
        return torch.device("cuda", local_rank)
    if choice == "cpu":
        keep_freed_memory()
    return torch.device(choice)


def keep_freed_memory(keep: bool = True) -> None:
    """Have glibc keep freed blocks for the next step, or no longer; elsewhere nothing.

    A training step frees and takes gigabytes of activations. Large blocks are mapped and unmapped each time, and much
    of a step with large activations is then the page faults of memory that comes back as new. But where blocks of many
    sizes come and go, as with large photos, kept ones do not fit the next and the peak is higher.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # of malloc.h
        libc.mallopt(M_TRIM_THRESHOLD, -1 if keep else 128 << 10)  # never shrink the heap,
        libc.mallopt(M_TOP_PAD, 64 << 20 if keep else 128 << 10)  # let it grow by 64 MB at a time,
        libc.mallopt(M_MMAP_MAX, 0 if keep else 65536)  # and map no block outside of it; or glibc's defaults


def pick_amp(choice: str, device: torch.device) -> bool:
    """Whether to autocast to bfloat16: `auto` where the hardware computes it, CUDA from 8.0, CPUs with AMX or
    AVX512-BF16; never on an Apple GPU, where PyTorch's batch norm aborts in it (pytorch#154887). Losses and metrics
    cast back to float32 themselves."""
    if choice != "auto":
        return choice == "bf16" and device.type != "mps"
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    cpuinfo = Path("/proc/cpuinfo")  # Linux; elsewhere the answer is a safe no
    known = device.type == "cpu" and cpuinfo.exists()
    return known and bool({"amx_bf16", "avx512_bf16"} & set(cpuinfo.read_text().split()))


def autocast(device: torch.device, amp: bool) -> torch.autocast:
    """Context manager: bf16 autocast on `device` where `amp`, else nothing."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=amp)


def memory_format(device: torch.device, amp: bool, training: bool = True) -> torch.memory_format:
    """The layout of a network's weights in which its convolutions are fastest; the images that it is given may be NCHW.

    channels_last for the matrix units of GPUs and for bf16. In float32 on a CPU it is mostly faster forward too, but a
    training step is not. MPS has PyTorch's default.
    """
    last = device.type == "cuda" or (device.type == "cpu" and (amp or not training))
    return torch.channels_last if last else torch.contiguous_format


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """`x` on the device; CUDA copies from pinned memory while it still computes the step before."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)


def adam(model: nn.Module, lr: float) -> torch.optim.Adam:
    """Fused Adam with PyTorch's other defaults over what requires a gradient."""
    return torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=lr, fused=True)


# ---- Processes ------------------------------------------------------------------------------------------------------


def world() -> tuple[int, int]:
    """rank, world_size."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def seed_epoch(seed: int, epoch: int) -> None:
    """Seed PyTorch for an epoch, each process differently: what it draws depends on seed, epoch and rank alone."""
    torch.manual_seed(int(np.random.SeedSequence([seed, epoch, world()[0]]).generate_state(1, np.uint64)[0]))


@contextmanager
def first_process_first() -> Iterator[None]:
    """The block runs in one process of each machine, then in the others, which find its work done (cache, download)."""
    first = int(os.environ.get("LOCAL_RANK", "0")) == 0
    if dist.is_initialized() and not first:
        dist.barrier()
    yield
    if dist.is_initialized() and first:
        dist.barrier()


def parallel(model: nn.Module, device: torch.device, compiled: bool = False) -> nn.Module:
    """The network for the training step: `model` itself, in DistributedDataParallel under torchrun."""
    if dist.is_initialized():
        model = nn.parallel.DistributedDataParallel(model, [device.index] if device.type == "cuda" else None)
    return torch.compile(model) if compiled else model


class _Sum(torch.autograd.Function):
    """All-reduce whose backward is an all-reduce too: every process' loss depends on every process' x."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return _Sum.apply(grad)


def sum_over_processes(x: Tensor) -> Tensor:
    """The sum of `x` over all processes; differentiable, for losses that are ratios of sums over the batch, as dice.

    Computed on the summed parts, they are the loss of the global batch, and DistributedDataParallel's mean of the
    gradients is then exactly its gradient.
    """
    return _Sum.apply(x) if dist.is_initialized() else x


def copy_from_first(model: nn.Module) -> None:
    """Give every process the buffers of rank 0 (batch-norm statistics differ between ranks after a training step)."""
    if dist.is_initialized():
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)


def leave() -> None:
    """End this process, if it is one of torchrun's, at once with the others: the first one may still be writing.

    At once, because while Python shuts down, gloo's threads can still want to free tensors, and abort (pytorch#190489).
    """
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
        sys.stdout.flush()
        os._exit(0)

"""torchrun on PyTorch's own DistributedDataParallel. Without torchrun there is no process group, and each function here
does nothing."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from common.cli import InputError


def start(device: torch.device) -> tuple[int, int]:
    """Join torchrun's process group (NCCL on CUDA, gloo on CPU) and return rank, world_size; 0, 1 without torchrun."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return 0, 1
    if device.type == "mps":
        raise InputError("torchrun needs CUDA GPUs or --device cpu; an Apple GPU trains in a single process")
    # two hours: the others wait while the first process of a machine decodes a large data set
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(hours=2))
    return world()


def stop() -> None:
    """Leave the process group, all at once: the others wait for the first process, which still writes.

    gloo's threads let go of the tensors of a collective a moment after it; a process that ends in that moment can
    abort, and torchrun would stop the first one in the midst of its last files.
    """
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def world() -> tuple[int, int]:
    """rank, world_size."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


@contextmanager
def first_process_first() -> Iterator[None]:
    """The block runs in one process of each machine, then in the others, which find its work done (cache, download)."""
    first = int(os.environ.get("LOCAL_RANK", "0")) == 0
    if dist.is_initialized() and not first:
        dist.barrier()
    yield
    if dist.is_initialized() and first:
        dist.barrier()


def wrap(model: nn.Module, device: torch.device, sync_batch_norm: bool = False, compiled: bool = False) -> nn.Module:
    """The network for the training step: `model` itself, in DistributedDataParallel under torchrun.

    sync_batch_norm: the model's batch norms are replaced, in place, by ones that take their statistics over all
    processes; parameters, buffers and their names stay. Raises InputError for a device or a single process that cannot.
    """
    if sync_batch_norm and device.type != "cuda":
        raise InputError("--sync-batch-norm: PyTorch has it for CUDA GPUs alone; leave it out (--no-sync-batch-norm)")
    if sync_batch_norm and not dist.is_initialized():
        raise InputError("--sync-batch-norm: is for the processes of torchrun, here is one; leave it out")
    network = model
    if dist.is_initialized():
        if sync_batch_norm:
            nn.SyncBatchNorm.convert_sync_batchnorm(model)
        ids = [device.index] if device.type == "cuda" else None
        network = nn.parallel.DistributedDataParallel(model, device_ids=ids)
    return torch.compile(network) if compiled else network


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

    For losses that are ratios of sums over the batch, such as dice: computed on the summed parts, they are the loss of
    the global batch, and DistributedDataParallel's mean of the gradients is then exactly its gradient.
    """
    return _SumWithGradient.apply(x) if dist.is_initialized() else x


def copy_from_first(model: nn.Module) -> None:
    """Give every process the buffers of rank 0 (batch-norm statistics differ between ranks after a training step)."""
    if dist.is_initialized():
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)

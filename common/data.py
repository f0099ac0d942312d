"""Which sample comes when: batches that depend on the seed and the epoch alone."""

import signal
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from common.cli import InputError, hold_signals
from common.distributed import world


class TrainBatches(Sampler[list[int]]):
    """Shuffled batches of indices for one epoch; `epoch` is set by the loop, so a resumed run sees the same order.

    `batch_size` is the global batch: under torchrun every process gets its share of each. A last batch of a single
    image would break batch norm, so it joins the batch before it; under torchrun an incomplete last batch is filled up
    from the start of the shuffled list, so that all processes make the same steps.
    """

    def __init__(self, n: int, batch_size: int, seed: int):
        self.n, self.batch_size, self.seed, self.epoch = n, batch_size, seed, 0
        self.rank, self.world_size = world()

    def __len__(self) -> int:
        whole, rest = divmod(self.n, self.batch_size)
        joins = rest == 1 and whole > 0 and self.world_size == 1
        return whole if joins else whole + (rest > 0)

    def __iter__(self) -> Iterator[list[int]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.n)
        if self.world_size > 1:
            order = np.resize(order, len(self) * self.batch_size)
        for step in range(len(self)):
            last = step == len(self) - 1
            batch = order[step * self.batch_size : None if last else (step + 1) * self.batch_size]
            yield batch[self.rank :: self.world_size].tolist()


class EvalBatches(Sampler[list[int]]):
    """Batches of indices in order; under torchrun each process takes whole batches in turn, so none counts twice."""

    def __init__(self, n: int, batch_size: int):
        self.n, self.batch_size = n, batch_size
        self.rank, self.world_size = world()

    def __len__(self) -> int:
        return len(range(self.rank * self.batch_size, self.n, self.world_size * self.batch_size))

    def __iter__(self) -> Iterator[list[int]]:
        for start in range(self.rank * self.batch_size, self.n, self.world_size * self.batch_size):
            yield list(range(start, min(start + self.batch_size, self.n)))


class Loader(DataLoader):
    """A DataLoader whose loader processes end in one line that names the file, instead of their tracebacks."""

    def __iter__(self) -> Iterator:
        try:
            with hold_signals():  # what a handler raises while a process forks is lost
                batches = super().__iter__()
        except OSError as error:
            raise InputError(f"--workers {self.num_workers}: {error.strerror}; try fewer, or --workers 0") from None
        try:
            yield from batches
        except InputError as error:  # a loader process hands it on behind its traceback
            raise InputError(str(error).rpartition("common.cli.InputError: ")[2]) from None
        except OSError as error:  # likewise
            last = str(error).strip().splitlines()[-1]
            raise InputError(f"{last}; the data must stay as they are while a run reads them") from None
        except RuntimeError as error:
            if not str(error).startswith("DataLoader worker"):  # "Caught ... in DataLoader worker" is a bug of ours
                raise
            problem = str(error).splitlines()[0]
            raise InputError(f"--workers {self.num_workers}: {problem}; try fewer, or --workers 0") from None


def loader(dataset: Dataset, batches: Sampler[list[int]], workers: int, pin_memory: bool = False) -> DataLoader:
    """A DataLoader that asks `dataset` for a whole batch at a time: dataset[[3, 1, 4]] -> tensors with B in front."""
    return Loader(
        dataset,
        sampler=batches,
        batch_size=None,
        num_workers=workers,
        pin_memory=pin_memory,
        worker_init_fn=_leave_ctrl_c_to_main,
    )


def _leave_ctrl_c_to_main(worker: int) -> None:
    """A terminal sends Ctrl-C to loader processes too; the main process ends them, and says so once.

    SIGTERM stays as PyTorch has set it: a loader process that its parent ends has not failed.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def check_finite(losses: list[Tensor], batches: DataLoader, where: str) -> None:
    """Raise InputError with the names of the images (dataset.name(i)) in the first batch whose loss is nan or inf.

    `losses`: one scalar for each batch so far. Waits for the device, so call it now and then, not at every step.
    """
    finite = torch.stack(losses).isfinite().tolist() if losses else [True]
    if not all(finite):
        step = finite.index(False)
        names = ", ".join(batches.dataset.name(i) for i in list(batches.sampler)[step])
        raise InputError(
            f"{where}, batch {step + 1}: the loss is not finite; its images are {names}; look at them, or try --amp "
            "off and, in training, a lower --lr"
        )

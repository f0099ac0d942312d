"""What test_distributed.py runs twice: in its own process, and in two processes of one job.

Each of the two writes FOLDER/RANK.pt; FOLDER is the argument. With --lose in its place the second one is killed at its
second step.
"""

import os
import signal
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common import cli
from common.data import shuffled
from common.device import (
    copy_from_first,
    first_process_first,
    leave,
    parallel,
    seed_epoch,
    start,
    sum_over_processes,
    world,
)
from common.losses import dice_loss
from lrn_headtorso.losses import summed_bce
from masked_ssl.dataset import IGNORED
from masked_ssl.masking import reconstruction_loss
from masked_ssl.train import parsing_loss
from mut1ny_fairness.losses import loss_of
from nu_deeplabv3plus.dataset import FaceParts
from nu_deeplabv3plus.eval import evaluate, scale

CPU = torch.device("cpu")
SIZE, N = 16, 11


def a_dataset(n: int = N) -> FaceParts:
    """n noisy pictures with 18 random masks; the masks of some parts are rare, of one absent."""
    rng = np.random.default_rng(0)
    masks = rng.random((n, 18, SIZE, SIZE)) < np.linspace(0, 0.5, 18)[:, None, None]
    images = rng.integers(0, 256, (n, SIZE, SIZE, 3), dtype=np.uint8)
    arrays = {"images": images, "masks": np.packbits(masks, axis=-1)}
    return FaceParts(arrays, list(range(n)), [f"{i}.jpg" for i in range(n)])


def a_model() -> nn.Module:
    """Convolutions without batch norm, whose statistics would be each process' own."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 18, 3, padding=1))


def labels_of(masks: Tensor) -> Tensor:
    """The masks as one map of classes, IGNORED where there is none."""
    return torch.where(masks.bool().any(1), masks.byte().argmax(1), IGNORED)


LOSSES = {  # of each folder's training: 18 logits, images in 0..1, 18 masks -> scalar
    "nu_deeplabv3plus": lambda x, images, masks: dice_loss(x, masks, over_processes=True),
    "hair_transfer": lambda x, images, masks: F.mse_loss(torch.sigmoid(x[:, 0]), masks[:, 0].float()),
    "lrn_headtorso": lambda x, images, masks: summed_bce([torch.sigmoid(x[:, :1])], 255 * masks[:, :1]).mean(),
    "mut1ny_fairness rgb": lambda x, images, masks: loss_of(x[:, :3], labels_of(masks) % 11, "rgb"),
    "mut1ny_fairness labels": lambda x, images, masks: loss_of(x[:, :11], labels_of(masks) % 11, "labels"),
    "masked_ssl step 1": lambda x, images, masks: reconstruction_loss(
        x[:, :3], images, masks[:, -1:].bool(), (2, 14), on="masked"
    ),
    "masked_ssl step 2": lambda x, images, masks: sum(parsing_loss(x, labels_of(masks))),
}


def gradients(loss_of_batch: Callable[[Tensor, Tensor, Tensor], Tensor], epochs: int = 2) -> dict:
    """Train a little; the loss, as a mean over the processes, and the gradient of each step."""
    model, data, steps = a_model(), a_dataset(12), []
    network = parallel(model, CPU)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for epoch in range(epochs):
        for batch in shuffled(len(data), 6, seed=0, epoch=epoch):
            images, masks = data.batch(batch)
            images = scale(images, CPU)
            loss = loss_of_batch(network(images), images, masks)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            mean = sum_over_processes(loss.detach()) / world()[1]
            steps.append((len(images), mean.item(), [p.grad.clone() for p in model.parameters()]))
    return {"sizes": [s[0] for s in steps], "losses": [s[1] for s in steps], "gradients": [s[2] for s in steps]}


def evaluation(n: int, batch_size: int = 4) -> dict:
    """evaluate() on n images; with few of them a process has no batch at all."""
    return evaluate(a_model(), a_dataset(n), batch_size, CPU, amp=False)


def collectives(folder: Path) -> dict:
    """What the smaller functions of common/device.py do between processes."""
    rank, _ = world()
    mine = torch.tensor([1.0 + rank])
    total = sum_over_processes(mine)
    norm = nn.BatchNorm1d(2)
    norm.running_mean += rank + 1
    copy_from_first(norm)
    with first_process_first():
        found = (folder / "done").exists()
        if rank == 0:
            time.sleep(0.3)  # the others would be here by now
        (folder / "done").touch()
    seed_epoch(0, 1)
    dropped = torch.rand(1)
    return {"mine": mine, "total": total, "mean": norm.running_mean, "found": found, "dropped": dropped}


def everything(folder: Path) -> dict:
    return {
        "gradients": {folder: gradients(loss) for folder, loss in LOSSES.items()},
        "evaluation": {n: evaluation(n) for n in (N, 8, 3)},
        "collectives": collectives(folder),
    }


def lose_a_process() -> None:
    network = parallel(a_model(), CPU)
    for step in range(1000):
        if world()[0] == 1 and step == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        network(torch.zeros(1, 3, SIZE, SIZE)).sum().backward()


def main() -> None:
    start(Namespace(device="cpu", amp="off", batch_size=2, seed=0))
    if sys.argv[1] == "--lose":
        cli.Stop.hint = "; go on with: python train.py --resume run/last.pt"
        lose_a_process()
        return
    folder = Path(sys.argv[1])
    torch.save({"world_size": world()[1], **everything(folder)}, folder / f"{world()[0]}.pt")
    leave()

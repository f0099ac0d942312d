"""Two processes compute what one process computes.

They are forked, with the environment that torchrun gives, which spares them PyTorch's import; torchrun itself starts a
training in test_scripts.py.
"""

import os
import socket
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.data import shuffled
from common.device import first_process_first, leave, parallel, seed_epoch, start, sum_over_processes, world
from common.losses import dice_loss
from lrn_headtorso.losses import summed_bce
from masked_ssl.dataset import IGNORED
from masked_ssl.masking import reconstruction_loss
from masked_ssl.train import parsing_loss
from mut1ny_fairness.losses import loss_of, soft_dice
from nu_deeplabv3plus.dataset import FaceParts
from nu_deeplabv3plus.eval import evaluate, scale

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
CPU, SIZE = torch.device("cpu"), 16
SETS = (11, 8, 3)  # pictures; of the last a process has no batch at all

# ---- What is computed ----------------------------------------------------------------------------------------------


def a_dataset(n: int) -> FaceParts:
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
    "mut1ny_fairness labels": lambda x, images, masks: loss_of(x[:, :11], labels_of(masks) % 11, "labels"),
    "mut1ny_fairness ours": lambda x, images, masks: soft_dice(x[:, :11], labels_of(masks) % 11),
    "masked_ssl step 1": lambda x, images, masks: reconstruction_loss(x[:, :3], images, (2, 14)),
    "masked_ssl step 2": lambda x, images, masks: sum(parsing_loss(x, labels_of(masks))),
}


def gradients(loss_of_batch: Callable[[Tensor, Tensor, Tensor], Tensor]) -> list[tuple[int, float, list[Tensor]]]:
    """Train for two epochs; of each step its images, the loss as a mean over the processes, and the gradient."""
    model, data, steps = a_model(), a_dataset(12), []
    network = parallel(model, CPU)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for epoch in range(2):
        for batch in shuffled(len(data), 6, seed=0, epoch=epoch):
            images, masks = data.batch(batch)
            images = scale(images, CPU)
            loss = loss_of_batch(network(images), images, masks)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            mean = sum_over_processes(loss.detach()) / world()[1]
            steps.append((len(images), mean.item(), [p.grad.clone() for p in model.parameters()]))
    return steps


def everything(folder: Path) -> dict:
    with first_process_first():
        found = (folder / "made by the first").exists()
        time.sleep(0.3)  # the others would be here by now
        (folder / "made by the first").touch()
    gradients_of = {name: gradients(loss) for name, loss in LOSSES.items()}
    evaluated = {n: evaluate(a_model(), a_dataset(n), 4, CPU, amp=False) for n in SETS}
    seed_epoch(0, 1)
    return {"gradients": gradients_of, "evaluation": evaluated, "found": found, "dropped": torch.rand(1).item()}


# ---- In two processes ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return everything(tmp_path_factory.mktemp("single"))


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """everything() of each process."""
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def process(rank: int) -> None:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "CUDA_VISIBLE_DEVICES": ""}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        start(Namespace(device="cpu", amp="off", batch_size=2, seed=0))
        torch.save(everything(folder), folder / f"{rank}.pt")
        leave()

    torch.multiprocessing.start_processes(process, nprocs=2, start_method="fork")
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("name", LOSSES)
def test_two_processes_have_the_loss_and_the_gradient_of_the_whole_batch(one, two, name):
    expected = one["gradients"][name]
    assert len({loss for _, loss, _ in expected}) == 4
    for result in two:
        for (n, loss, found), (whole_n, whole_loss, whole) in zip(result["gradients"][name], expected, strict=True):
            assert (n, whole_n) == (3, 6) and loss == pytest.approx(whole_loss, rel=1e-5)
            assert max(gradient.abs().max() for gradient in whole) > 1e-4
            torch.testing.assert_close(found, whole, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("n", SETS)
def test_two_processes_evaluate_like_one(one, two, n):
    expected = one["evaluation"][n]
    for result in two:
        found = result["evaluation"][n]
        assert torch.equal(found["counts"], expected["counts"])
        assert [found[x] for x in ("loss", "iou")] == pytest.approx([expected[x] for x in ("loss", "iou")], abs=1e-6)
    assert expected["counts"].sum(1).tolist() == [n * SIZE**2] * 18  # every pixel once


def test_the_first_process_is_first_and_each_has_dropout_of_its_own(one, two):
    assert [result["found"] for result in two] == [False, True]
    assert two[0]["dropped"] == one["dropped"] != two[1]["dropped"]

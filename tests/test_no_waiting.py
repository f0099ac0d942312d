"""No training step waits for the device. Each train_epoch runs on PyTorch's "meta" device, whose tensors have shapes
and no values: what would let a GPU's queue run empty (item(), a boolean index, a copy that is waited for) fails."""

import contextlib
import inspect
from collections.abc import Callable
from types import MappingProxyType, SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from trainings import TRAININGS, make_networks_small

import hair_transfer.model
import lrn_headtorso.model
import masked_ssl.model
import mut1ny_fairness.pspnet
import nu_deeplabv3plus.model
from masked_ssl.masking import find_region

META = torch.device("meta")
SIZE, B = 32, 2
IMAGES = torch.zeros(B, 3, SIZE, SIZE, dtype=torch.uint8)
LABELS = torch.zeros(B, SIZE, SIZE, dtype=torch.uint8)
MASK = torch.zeros(B, 1, SIZE, SIZE, dtype=torch.uint8)


class EndOfEpoch(Exception):
    pass


class NoBlockingCopy(TorchDispatchMode):
    """Fails where a tensor of the CPU is copied to the device and the copy is waited for."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.ops.aten._to_copy.default and args[0].device.type == "cpu" and kwargs.get("device") == META:
            assert kwargs.get("non_blocking"), "a copy to the device that is waited for"
        return func(*args, **kwargs)


class Batches(list):
    dataset = SimpleNamespace(region=find_region(SIZE))


class Case(NamedTuple):
    network: Callable[[], nn.Module]
    targets: torch.Tensor
    arguments: dict = MappingProxyType({})  # of train_epoch, beside those that all have


MASKED = SimpleNamespace(loss="l1", loss_on="region")
CASES = {
    "nu_deeplabv3plus": Case(nu_deeplabv3plus.model.DeepLabV3Plus, torch.cat(18 * [MASK], 1)),
    "hair_transfer": Case(lambda: hair_transfer.model.DeepLabV3(aux=True), MASK, {"aux": 0.5}),
    "lrn_headtorso": Case(lrn_headtorso.model.LRN, MASK),
    "mut1ny_fairness": Case(
        lambda: mut1ny_fairness.pspnet.PSPNet(num_outputs=3), LABELS,
        {"args": SimpleNamespace(target="rgb", bgr=False, aux=0.4)},
    ),
    "mut1ny_fairness, labels": Case(
        lambda: mut1ny_fairness.pspnet.PSPNet(num_outputs=11), LABELS,
        {"args": SimpleNamespace(target="labels", bgr=True, aux=0.4)},
    ),
    "masked_ssl/pretrain": Case(
        lambda: masked_ssl.model.Network(3), MASK.bool(), {"args": MASKED, "set_lr": lambda: None}
    ),
    "masked_ssl": Case(lambda: masked_ssl.model.Network(19), LABELS, {"set_lr": lambda: None}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_no_step_waits_for_the_device(name, monkeypatch):
    case, module = CASES[name], TRAININGS[name.split(",")[0]].module
    make_networks_small(module.__name__.split(".")[0], monkeypatch.setattr)
    network = case.network().to(META)
    monkeypatch.setattr(module, "autocast", lambda device, amp: contextlib.nullcontext())  # it knows no meta device
    make, steps = torch.tensor, []

    def tensor(*args, device=None, **kwargs):
        assert device != META, "torch.tensor(..., device=...) waits for its copy"
        return make(*args, device=device, **kwargs)

    def check_finite(losses, batches, where):  # the first look at the losses: after the last batch
        steps.append(len(losses))
        raise EndOfEpoch

    monkeypatch.setattr(torch, "tensor", tensor)
    monkeypatch.setattr(module, "check_finite", check_finite)
    taken = inspect.signature(module.train_epoch).parameters
    arguments = case.arguments | {name: network for name in ("model", "network") if name in taken}
    with NoBlockingCopy(), pytest.raises(EndOfEpoch):
        module.train_epoch(
            batches=Batches([(IMAGES, case.targets)] * 3), optimizer=torch.optim.SGD(network.parameters(), lr=0.1),
            device=META, amp=False, epoch=1, **arguments,
        )  # fmt: skip
    assert steps == [3]


def test_what_waits_is_found():
    x = torch.zeros(3)
    with NoBlockingCopy():
        y = x.to(META, non_blocking=True)
        with pytest.raises(AssertionError, match="waited for"):
            x.to(META)
        for wait in (lambda: y.sum().item(), lambda: y[y > 0], lambda: y.tolist()):
            with pytest.raises((RuntimeError, NotImplementedError)):
                wait()

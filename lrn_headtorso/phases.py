"""Sec. 2.3: a pretrained encoder is frozen until the decoder has converged, then everything is trained, more gently."""

import torch
from torch import nn

from common import distributed
from common.device import adam
from lrn_headtorso.model import LRN, UNet

FROZEN, EVERYTHING = "frozen encoder", "everything"


class Plateau:
    """Sec. 2.3 trains until the loss stops falling: here `patience` epochs in a row that do not beat the phase's best
    validation loss (ours: the paper gives no rule)."""

    def __init__(self, patience: int):
        self.patience, self.best, self.bad_epochs = patience, float("inf"), 0

    def count(self, loss: float) -> None:
        """An epoch of the phase, with its validation loss."""
        self.best, self.bad_epochs = (loss, 0) if loss < self.best else (self.best, self.bad_epochs + 1)

    @property
    def reached(self) -> bool:
        """True after `patience` epochs in a row that were not better; never with patience 0."""
        return 0 < self.patience <= self.bad_epochs


def phases(pretrained: str | None) -> tuple[str, ...]:
    """The phases in their order: random weights learn all at once."""
    return (FROZEN, EVERYTHING) if pretrained else (EVERYTHING,)


def start_phase(
    model: LRN | UNet, phase: str, lr: float, device: torch.device, compiled: bool = False
) -> tuple[nn.Module, torch.optim.Adam]:
    """The network to call and the optimiser of a phase. Frozen is frozen: VGG-16 has no batch norm, so without gradient
    and optimiser nothing of it moves."""
    model.encoder.requires_grad_(phase != FROZEN)
    model.zero_grad(set_to_none=True)
    return distributed.wrap(model, device, compiled=compiled), adam(model, lr)

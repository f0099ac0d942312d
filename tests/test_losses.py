"""common/losses.py against numbers worked out by hand."""

import math

import pytest
import torch

from common.losses import dice_loss

LN3 = math.log(3)  # sigmoid(ln 3) = 3/4, sigmoid(-ln 3) = 1/4


def test_dice_by_hand_with_an_absent_class_and_sums_over_the_batch():
    logits = torch.tensor([[[[0.0, LN3]], [[-LN3, -LN3]]]])  # 1 2 1 2, probabilities 1/2 3/4 and 1/4 1/4
    target = torch.tensor([[[[1, 0]], [[0, 0]]]])
    s = 1e-5
    present, absent = (2 * 0.5 + s) / (1.25 + 1 + s), s / (0.5 + s)
    assert dice_loss(logits, target).item() == pytest.approx(1 - (present + absent) / 2, abs=1e-6)
    assert dice_loss(torch.full((1, 1, 1, 1), -200.0), torch.zeros(1, 1, 1, 1)).item() == 0  # of practically zero
    logits, target = torch.tensor([0.0, LN3]).reshape(2, 1, 1, 1), torch.tensor([1, 0]).reshape(2, 1, 1, 1)
    assert dice_loss(logits, target).item() == pytest.approx(1 - 1 / 2.25, abs=1e-4)  # not the mean over images


def test_the_loss_and_its_gradient_are_those_of_the_formula_in_float32_whatever_is_given():
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(3, 4, 6, 6, generator=generator)
    target = (torch.rand(logits.shape, generator=generator) < 0.3).to(torch.uint8)
    found, expected = logits.clone().requires_grad_(), logits.double().requires_grad_()
    p, y = torch.sigmoid(expected).transpose(0, 1).flatten(1), target.double().transpose(0, 1).flatten(1)
    exact = (1 - (2 * (p * y).sum(1) + 1e-5) / (p.sum(1) + y.sum(1) + 1e-5)).mean()
    for kind in (torch.bool, torch.uint8, torch.float32):
        loss = dice_loss(found, target.to(kind))
        assert loss.item() == pytest.approx(exact.item(), abs=1e-6)
    loss.backward()
    exact.backward()
    assert expected.grad.abs().max() > 1e-3
    torch.testing.assert_close(found.grad.double(), expected.grad, atol=1e-6, rtol=1e-4)
    loss = dice_loss(logits.bfloat16(), target)
    assert loss.dtype == torch.float32 and loss.item() == dice_loss(logits.bfloat16().float(), target).item()

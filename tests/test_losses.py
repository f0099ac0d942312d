"""common/losses.py against numbers worked out by hand."""

import math

import pytest
import torch

from common.losses import dice_loss

LN3 = math.log(3)  # sigmoid(ln 3) = 3/4, sigmoid(-ln 3) = 1/4


def dice_in_double(logits, target, smooth=1e-5):
    """The formula again, class by class, in float64."""
    loss = 0
    for c in range(logits.shape[1]):
        p, y = 1 / (1 + torch.exp(-logits[:, c].double())), target[:, c].double()
        loss = loss + 1 - (2 * (p * y).sum() + smooth) / (p.sum() + y.sum() + smooth)
    return loss / logits.shape[1]


def example(B=3, C=4, size=6):
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(B, C, size, size, generator=generator)
    return logits, (torch.rand(B, C, size, size, generator=generator) < 0.3).to(torch.uint8)


def test_dice_by_hand_with_an_absent_class():
    logits = torch.tensor([[[[0.0, LN3]], [[-LN3, -LN3]]]])  # 1 2 1 2, probabilities 1/2 3/4 and 1/4 1/4
    target = torch.tensor([[[[1, 0]], [[0, 0]]]])
    s = 1e-5
    present, absent = (2 * 0.5 + s) / (1.25 + 1 + s), s / (0.5 + s)
    assert dice_loss(logits, target).item() == pytest.approx(1 - (present + absent) / 2, abs=1e-6)


def test_sums_run_over_the_batch_before_the_ratio():
    logits, target = torch.tensor([0.0, LN3]).reshape(2, 1, 1, 1), torch.tensor([1, 0]).reshape(2, 1, 1, 1)
    assert dice_loss(logits, target).item() == pytest.approx(1 - 1 / 2.25, abs=1e-4)  # not the mean over images


def test_an_absent_class_costs_about_one_until_it_is_pushed_to_zero():
    target = torch.zeros(1, 1, 8, 8)
    assert dice_loss(torch.full((1, 1, 8, 8), -5.0), target).item() > 0.9999
    assert dice_loss(torch.full((1, 1, 8, 8), -30.0), target).item() < 1e-4


def test_the_loss_is_in_float32_whatever_it_is_given():
    logits, target = example(B=2, size=32)
    for kind in (torch.bool, torch.uint8, torch.float32):
        assert dice_loss(logits, target.to(kind)).item() == pytest.approx(
            dice_in_double(logits, target).item(), abs=1e-6
        )
    loss = dice_loss(logits.bfloat16(), target)
    assert loss.dtype == torch.float32 and loss.item() == dice_loss(logits.bfloat16().float(), target).item()


def test_the_gradient_is_that_of_the_formula():
    logits, target = example(B=2, C=2, size=3)
    found, expected = logits.clone().requires_grad_(), logits.double().requires_grad_()
    dice_loss(found, target).backward()
    dice_in_double(expected, target).backward()
    assert expected.grad.abs().max() > 1e-3
    torch.testing.assert_close(found.grad.double(), expected.grad, atol=1e-6, rtol=1e-4)

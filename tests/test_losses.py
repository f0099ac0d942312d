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


def example(seed=0, B=3, C=4, size=6):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(B, C, size, size, generator=generator)
    return logits, (torch.rand(B, C, size, size, generator=generator) < 0.3).to(torch.uint8)


def test_dice_by_hand_with_an_absent_class():
    logits = torch.tensor([[[[0.0, LN3]], [[-LN3, -LN3]]]])  # 1 2 1 2, probabilities 1/2 3/4 and 1/4 1/4
    target = torch.tensor([[[[1, 0]], [[0, 0]]]])
    s = 1e-5
    present, absent = (2 * 0.5 + s) / (1.25 + 1 + s), s / (0.5 + s)
    assert dice_loss(logits, target).item() == pytest.approx(1 - (present + absent) / 2, abs=1e-6)


def test_sums_run_over_the_batch_before_the_ratio():
    logits = torch.tensor([0.0, LN3]).reshape(2, 1, 1, 1)
    target = torch.tensor([1, 0]).reshape(2, 1, 1, 1)
    assert dice_loss(logits, target).item() == pytest.approx(1 - 1 / 2.25, abs=1e-4)
    mean_over_images = (dice_loss(logits[:1], target[:1]) + dice_loss(logits[1:], target[1:])).item() / 2
    assert abs(mean_over_images - (1 - 1 / 2.25)) > 0.05


def test_a_perfect_prediction_costs_nothing():
    _, target = example()
    target[:, 1] = 0  # an absent class too
    assert dice_loss((target.float() - 0.5) * 80, target).item() == pytest.approx(0, abs=1e-6)


def test_an_absent_class_costs_about_one_until_it_is_pushed_to_zero():
    target = torch.zeros(1, 1, 8, 8)
    assert dice_loss(torch.full((1, 1, 8, 8), -5.0), target).item() > 0.9999
    assert dice_loss(torch.full((1, 1, 8, 8), -30.0), target).item() < 1e-4


def test_bf16_logits_give_a_float32_loss():
    logits, target = example(B=2, size=32)
    loss = dice_loss(logits.bfloat16(), target)
    assert loss.dtype == torch.float32
    assert loss.item() == dice_loss(logits.bfloat16().float(), target).item()


@pytest.mark.parametrize("kind", [torch.bool, torch.uint8, torch.float32])
def test_the_dtype_of_the_target_does_not_matter(kind):
    logits, target = example()
    assert dice_loss(logits, target.to(kind)).item() == pytest.approx(dice_in_double(logits, target).item(), abs=1e-6)


def test_the_gradient_equals_finite_differences():
    logits, target = example(B=2, C=2, size=3)
    logits.requires_grad_()
    dice_loss(logits, target).backward()
    numeric = torch.zeros_like(logits)
    for i in range(logits.numel()):
        step = torch.zeros(logits.numel(), dtype=torch.float64)
        step[i] = 1e-5
        step = step.reshape(logits.shape)
        up, down = (dice_in_double(logits.detach().double() + sign * step, target) for sign in (1, -1))
        numeric.view(-1)[i] = (up - down) / 2e-5
    assert numeric.abs().max() > 1e-3
    torch.testing.assert_close(logits.grad, numeric, atol=1e-6, rtol=1e-4)


def test_over_processes_changes_nothing_in_a_single_process():
    logits, target = example()
    assert dice_loss(logits, target, over_processes=True).item() == dice_loss(logits, target).item()

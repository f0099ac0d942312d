"""The plateau rule and early stopping of nu_deeplabv3plus/train.py are Keras', whose rules are worked out by hand.

After keras/src/callbacks/reduce_lr_on_plateau.py (factor=0.1, patience=5, min_delta=1e-4, cooldown=0, min_lr=1e-7) and
early_stopping.py (min_delta=0).
"""

import numpy as np
import pytest
import torch

from nu_deeplabv3plus.train import epochs_since_best, reduce_on_plateau


def rates(losses, lr=1e-3):
    """The learning rate after each epoch."""
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    plateau = reduce_on_plateau(optimizer)
    found = []
    for loss in losses:
        plateau.step(loss)
        found.append(optimizer.param_groups[0]["lr"])
    return found


def test_the_rate_falls_on_the_fifth_bad_epoch_down_to_its_floor():
    # epoch 1 is the best; 2 to 6 are bad; the count starts again; 7 to 11 are bad
    assert rates([0.5] * 12) == pytest.approx([1e-3] * 5 + [1e-4] * 5 + [1e-5] * 2)
    # a better epoch starts the count again; after a jump the best stays the best
    assert rates([0.5] * 4 + [0.4] + [0.6] * 4 + [0.45]) == pytest.approx([1e-3] * 9 + [1e-4])
    assert rates([0.5] * 30, 1.05e-7)[-1] == pytest.approx(1e-7, rel=1e-9)  # however small the last step is
    assert rates([0.5] * 30, 5e-8) == [5e-8] * 30


def test_the_threshold_is_absolute_and_must_be_exceeded():
    threshold = 0.25 - 1e-4
    assert rates([0.25] + [threshold] * 5)[-1] == pytest.approx(1e-4)
    assert rates([0.25] + [np.nextafter(threshold, 0)] * 5)[-1] == pytest.approx(1e-3)
    # a ten-thousandth of 100 would be 0.01: relative, 99.9995 would be no improvement
    assert rates([100.0, 99.9995, 99.999, 99.9985, 99.998, 99.9975, 99.997]) == pytest.approx([1e-3] * 7)


def test_early_stopping_counts_from_the_best_epoch():
    assert epochs_since_best([]) == 0
    assert epochs_since_best([0.5, 0.5, 0.5]) == 2  # an equal loss is not better
    assert epochs_since_best([0.5, 0.3, 0.4, 0.35]) == 2
    assert epochs_since_best([0.5, 0.5 - 1e-9]) == 0  # min_delta is 0, unlike the plateau's

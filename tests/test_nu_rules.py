"""The plateau rule and early stopping of nu_deeplabv3plus/train.py.

Keras' rules are written down once more here, after keras/src/callbacks/reduce_lr_on_plateau.py and early_stopping.py.
"""

import numpy as np
import pytest
import torch

from nu_deeplabv3plus.train import epochs_since_best, reduce_on_plateau

INF = float("inf")


class KerasPlateau:
    """ReduceLROnPlateau(monitor="val_loss", factor=0.1, patience=5, min_delta=1e-4, cooldown=0, min_lr=1e-7)."""

    def __init__(self, lr):
        self.lr, self.best, self.wait = lr, INF, 0

    def on_epoch_end(self, loss):
        if loss < self.best - 1e-4:
            self.best, self.wait = loss, 0
        else:
            self.wait += 1
            if self.wait >= 5 and self.lr > 1e-7:
                self.lr = max(self.lr * 0.1, 1e-7)
                self.wait = 0


class KerasStopping:
    """EarlyStopping(monitor="val_loss", min_delta=0)."""

    def __init__(self):
        self.best, self.wait = INF, 0

    def on_epoch_end(self, loss):
        self.wait += 1
        if loss < self.best:
            self.best, self.wait = loss, 0


def rates(losses, lr=1e-3):
    """The learning rate after each epoch."""
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    plateau = reduce_on_plateau(optimizer)
    found = []
    for loss in losses:
        plateau.step(loss)
        found.append(optimizer.param_groups[0]["lr"])
    return found


def losses_of_a_run(seed, n=120):
    """A validation loss that falls, rests and jumps; many of its steps are about 1e-4, some are 0."""
    rng = np.random.default_rng(seed)
    steps = rng.choice([0.0, -1e-4, -5e-5, -2e-4, 1e-4, -0.01, 0.02], n) * rng.choice([1.0, 1.0, rng.random()], n)
    return (0.7 + np.cumsum(steps)).tolist()


@pytest.mark.parametrize("seed", range(20))
def test_plateau_and_early_stopping_are_keras_rules(seed):
    losses, lr = losses_of_a_run(seed), (1e-3, 1e-2, 3e-4, 7e-3)[seed % 4]
    plateau, stopping, expected = KerasPlateau(lr), KerasStopping(), []
    for n, loss in enumerate(losses, 1):
        plateau.on_epoch_end(loss)
        expected.append(plateau.lr)
        stopping.on_epoch_end(loss)
        assert epochs_since_best(losses[:n]) == stopping.wait
    assert rates(losses, lr) == pytest.approx(expected, rel=1e-9)
    assert len(set(expected)) > 1  # the rate fell at least once


def test_the_rate_falls_on_the_fifth_bad_epoch_down_to_its_floor():
    # epoch 1 is the best; 2 to 6 are bad; the count starts again; 7 to 11 are bad
    assert rates([0.5] * 12) == pytest.approx([1e-3] * 5 + [1e-4] * 5 + [1e-5] * 2)
    assert rates([0.5] * 30, 1.05e-7)[-1] == pytest.approx(1e-7, rel=1e-9)  # however small the last step is
    assert rates([0.5] * 30, 5e-8) == [5e-8] * 30


def test_the_threshold_is_absolute_and_must_be_exceeded():
    threshold = 0.25 - 1e-4
    assert rates([0.25] + [threshold] * 5)[-1] == pytest.approx(1e-4)
    assert rates([0.25] + [np.nextafter(threshold, 0)] * 5)[-1] == pytest.approx(1e-3)
    # a ten-thousandth of 100 would be 0.01: relative, 99.9995 would be no improvement
    assert rates([100.0, 99.9995, 99.999, 99.9985, 99.998, 99.9975, 99.997]) == pytest.approx([1e-3] * 7)


def test_an_equal_loss_is_not_better_and_a_slightly_smaller_one_is():
    assert epochs_since_best([]) == 0
    assert epochs_since_best([0.5, 0.5, 0.5]) == 2
    assert epochs_since_best([0.5, 0.5 - 1e-9]) == 0  # min_delta is 0, unlike the plateau's

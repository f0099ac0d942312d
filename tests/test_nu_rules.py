"""The plateau rule and early stopping of nu_deeplabv3plus/train.py, and the check for losses that are not finite.

Keras' rules are written down once more here, after keras/src/callbacks/reduce_lr_on_plateau.py and early_stopping.py.
"""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from common.celebamask import FaceFiles
from common.cli import InputError
from common.data import TrainBatches, check_finite, loader
from nu_deeplabv3plus.dataset import FaceParts
from nu_deeplabv3plus.train import EarlyStopping, reduce_on_plateau

INF, NAN = float("inf"), float("nan")


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
    """EarlyStopping(monitor="val_loss", min_delta=0, patience=...)."""

    def __init__(self, patience):
        self.patience, self.best, self.wait, self.stopped = patience, INF, 0, False

    def on_epoch_end(self, loss):
        self.wait += 1
        if loss < self.best:
            self.best, self.wait = loss, 0
        elif self.wait >= self.patience:
            self.stopped = True


def an_optimizer(lr):
    return torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=lr)


def rates(losses, lr=1e-3):
    """The learning rate after each epoch."""
    optimizer = an_optimizer(lr)
    plateau = reduce_on_plateau(optimizer)
    found = []
    for loss in losses:
        plateau.step(loss)
        found.append(optimizer.param_groups[0]["lr"])
    return found


def losses_of_a_run(rng, n=120):
    """A validation loss that falls, rests and jumps; many of its steps are about 1e-4, some are 0 or nan."""
    steps = rng.choice([0.0, -1e-4, -5e-5, -2e-4, 1e-4, -0.01, 0.02], n) * rng.choice([1.0, 1.0, rng.random()], n)
    losses = 0.7 + np.cumsum(steps)
    if rng.random() < 0.3:
        losses[rng.integers(0, n, 3)] = NAN
    return losses.tolist()


# ---- Plateau -------------------------------------------------------------------------------------------------------


def test_the_rate_falls_on_the_fifth_bad_epoch():
    # epoch 1 is the best; 2 to 6 are bad; the count starts again; 7 to 11 are bad
    assert rates([0.5] * 12) == pytest.approx([1e-3] * 5 + [1e-4] * 5 + [1e-5] * 2)


def test_four_bad_epochs_do_nothing():
    losses = [0.5, 0.5, 0.6, 0.5, 0.7, 0.4, 0.4, 0.4, 0.4, 0.4, 0.3]
    assert rates(losses) == pytest.approx([1e-3] * 11)


def test_less_than_a_ten_thousandth_better_is_not_better():
    # all are below 0.5, none by 0.0001
    assert rates([0.5, 0.49995, 0.49993, 0.49992, 0.49991, 0.49991]) == pytest.approx([1e-3] * 5 + [1e-4])
    # the best stays 0.5 while nothing beats it by 0.0001: a slow fall is an improvement in the end
    assert rates([0.5, 0.49996, 0.49992, 0.49988, 0.49984, 0.4998]) == pytest.approx([1e-3] * 6)


def test_exactly_the_threshold_is_not_better():
    threshold = 0.25 - 1e-4
    assert rates([0.25] + [threshold] * 5)[-1] == pytest.approx(1e-4)
    assert rates([0.25] + [np.nextafter(threshold, 0)] * 5)[-1] == pytest.approx(1e-3)


def test_the_threshold_is_absolute():
    # a ten-thousandth of 100 would be 0.01: relative, 99.9995 would be no improvement
    assert rates([100.0, 99.9995, 99.999, 99.9985, 99.998, 99.9975, 99.997]) == pytest.approx([1e-3] * 7)


def test_the_rate_stays_at_its_floor():
    found = rates([0.5] * 40)
    assert found[20:] == pytest.approx([1e-7] * 20)
    assert found[15:20] == pytest.approx([1e-6] * 5)


@pytest.mark.parametrize("lr", [1.05e-7, 1.05e-3])
def test_the_last_step_to_the_floor_is_made_however_small(lr):
    assert rates([0.5] * 30, lr)[-1] == pytest.approx(1e-7, rel=1e-9)


def test_a_rate_below_the_floor_is_left_alone():
    assert rates([0.5] * 30, 5e-8) == [5e-8] * 30


@pytest.mark.parametrize("seed", range(40))
def test_the_plateau_rule_is_keras_rule(seed):
    rng = np.random.default_rng(seed)
    losses, lr = losses_of_a_run(rng), float(rng.choice([1e-3, 1e-2, 3e-4, 7e-3]))
    keras, expected = KerasPlateau(lr), []
    for loss in losses:
        keras.on_epoch_end(loss)
        expected.append(keras.lr)
    assert rates(losses, lr) == pytest.approx(expected, rel=1e-9)
    assert len(set(expected)) > 1  # the rate fell at least once


@pytest.mark.parametrize("cut", [1, 4, 5, 17])
def test_the_plateau_rule_goes_on_after_its_state_was_saved(cut):
    losses = losses_of_a_run(np.random.default_rng(1), 30)
    optimizer = an_optimizer(1e-3)
    plateau = reduce_on_plateau(optimizer)
    for loss in losses[:cut]:
        plateau.step(loss)
    resumed = an_optimizer(1e-3)
    resumed.load_state_dict(optimizer.state_dict())
    plateau_again, found = reduce_on_plateau(resumed), []
    plateau_again.load_state_dict(plateau.state_dict())
    for loss in losses[cut:]:
        plateau_again.step(loss)
        found.append(resumed.param_groups[0]["lr"])
    assert found == rates(losses)[cut:]


# ---- Early stopping ------------------------------------------------------------------------------------------------


def stops_after(losses, patience):
    """The number of epochs until training stops, or None."""
    stopping = EarlyStopping(patience)
    for epoch, loss in enumerate(losses, 1):
        stopping.better(loss)
        if stopping.stop:
            return epoch
    return None


def test_training_stops_after_patience_epochs_without_a_better_loss():
    assert stops_after([0.5, 0.4, 0.41, 0.42, 0.43, 0.1], 3) == 5
    assert stops_after([0.5, 0.4, 0.41, 0.42, 0.39, 0.40, 0.41, 0.42], 3) == 8
    assert stops_after([0.5, 0.4, 0.41, 0.42], 3) is None


def test_an_equal_loss_is_not_better_and_a_slightly_smaller_one_is():
    assert stops_after([0.5, 0.5, 0.5], 2) == 3
    assert stops_after([0.5, 0.5 - 1e-9, 0.5 - 2e-9, 0.5 - 3e-9], 1) is None  # min_delta is 0, unlike the plateau's


def test_better_says_which_epochs_are_the_best_so_far():
    stopping = EarlyStopping(10)
    best_so_far = [stopping.better(loss) for loss in (0.5, 0.6, 0.4, 0.4, 0.45, 0.3)]
    assert best_so_far == [True, False, True, False, False, True]
    assert (stopping.best, stopping.bad_epochs) == (0.3, 0)


def test_patience_0_never_stops():
    assert stops_after([0.5] * 100, 0) is None


@pytest.mark.parametrize("seed", range(40))
def test_early_stopping_is_keras_rule(seed):
    rng = np.random.default_rng(seed)
    losses, patience = losses_of_a_run(rng), int(rng.integers(1, 15))
    if np.isnan(losses[0]):
        losses[0] = 0.7  # Keras does not look at the rule before the second epoch
    keras, ours = KerasStopping(patience), EarlyStopping(patience)
    for loss in losses:
        keras.on_epoch_end(loss)
        assert ours.better(loss) is (keras.wait == 0)
        assert (ours.best, ours.bad_epochs, ours.stop) == (keras.best, keras.wait, keras.stopped)
        if keras.stopped:
            break


def test_those_runs_stop_at_many_different_epochs():
    assert len({stops_after(losses_of_a_run(np.random.default_rng(seed)), 8) for seed in range(40)}) > 10


def test_a_resumed_count_goes_on():
    stopping = EarlyStopping(3)
    stopping.best, stopping.bad_epochs = 0.4, 2
    assert not stopping.stop
    assert not stopping.better(0.4)
    assert stopping.stop


# ---- A loss that is not finite -------------------------------------------------------------------------------------


@pytest.fixture
def batches():
    """A loader of epoch 2: batches of 4 from 6 faces with ids 100 to 105 and their mirror images."""
    cache = {"images": np.zeros((6, 16, 16, 3), np.uint8), "masks": np.zeros((6, 18, 16, 2), np.uint8)}
    data = FaceParts(cache, list(range(6)), [FaceFiles(100 + i, Path(f"{100 + i}.jpg"), {}) for i in range(6)], "flip")
    sampler = TrainBatches(len(data), 4, seed=0)
    sampler.epoch = 2
    return loader(data, sampler, workers=0)


def names_of(batch):
    return {f"{100 + i % 6}.jpg" + (" mirrored" if i >= 6 else "") for i in batch}


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("step", [0, 2])
def test_a_loss_that_is_not_finite_names_the_images_of_its_batch(batches, bad, step):
    losses = [torch.tensor(0.5)] * 3
    losses[step] = torch.tensor(bad)
    with pytest.raises(InputError) as error:
        check_finite(losses, batches, "epoch 2")
    message = str(error.value)
    names = re.findall(r"\d+\.jpg(?: mirrored)?", message)
    assert set(names) == names_of(list(batches.sampler)[step]) and len(names) == 4
    assert "epoch 2" in message and f"batch {step + 1}:" in message and "\n" not in message


def test_the_first_such_batch_is_named(batches):
    with pytest.raises(InputError, match="batch 2:"):
        check_finite([torch.tensor(0.5), torch.tensor(NAN), torch.tensor(NAN)], batches, "epoch 2")


def test_finite_losses_pass(batches):
    assert check_finite([torch.tensor(0.5), torch.tensor(0.0)], batches, "epoch 2") is None
    assert check_finite([], batches, "epoch 2") is None

"""lrn_headtorso/model.py against torchvision and the published figure; the loss and the scores by hand."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.vgg import cfgs, make_layers

from lrn_headtorso.dataset import normalize
from lrn_headtorso.eval import EVERYTHING, FROZEN, score
from lrn_headtorso.losses import summed_bce
from lrn_headtorso.model import LRN, VGG16, UNet, up
from lrn_headtorso.train import load_encoder, phase_after


def image(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def test_the_encoder_equals_torchvision():
    torch.manual_seed(0)
    ours, x = VGG16(), image(2, 3, 64, 96)
    reference = nn.ModuleDict({"features": make_layers(cfgs["D"])})  # without 124 million parameters that classify
    for module in reference.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.normal_(module.bias, std=0.1)
    ours.load_state_dict(ours.trunk_of(reference.state_dict()))
    expected, y = [], x
    with torch.no_grad():
        for layer in reference["features"]:
            y = layer(y)
            if isinstance(layer, nn.MaxPool2d):
                expected.append(y)
        found = ours(x)
    assert [tuple(p.shape[1:]) for p in found] == [(64, 32, 48), (128, 16, 24), (256, 8, 12), (512, 4, 6), (512, 2, 3)]
    for a, b in zip(found, expected, strict=True):
        assert b.std() > 0.01
        torch.testing.assert_close(a, b)


def test_the_lrn_is_the_published_figure():
    """Each unit sees a max-pool output and the map before it; the first and the second see pool5. Six maps."""
    torch.manual_seed(0)
    lrn, reduced, x = LRN(), LRN(channel_reduction=True), image(1, 3, 96, 64) - 0.5
    assert sum(p.numel() for p in lrn.parameters()) == 15_864_198
    with torch.no_grad():
        maps = lrn(x)
        pool1, pool2, pool3, pool4, pool5 = lrn.encoder(x)
        assert torch.equal(maps[0], lrn.units[0](pool5))
        for i, pool in enumerate([pool5, pool4, pool3, pool2, pool1], 1):
            unit = lrn.units[i]
            seen = torch.cat([pool, maps[i - 1]], dim=1)
            torch.testing.assert_close(maps[i], up(torch.sigmoid(unit.conv2(F.relu(unit.conv1(seen))))))
    assert [tuple(p.shape) for p in maps] == [(1, 1, 96 // k, 64 // k) for k in (32, 16, 8, 4, 2, 1)]
    assert [unit.conv1.in_channels for unit in lrn.units] == [512, 513, 513, 257, 129, 65]
    assert [unit.conv1.in_channels for unit in reduced.units] == [512, 2, 2, 2, 2, 2]


def test_the_unet_returns_one_map_and_sizes_must_be_multiples_of_32():
    model = UNet()
    assert sum(p.numel() for p in model.parameters()) == 15_895_553
    with torch.no_grad():
        (found,) = model(image(2, 3, 32, 64) - 0.5)
    assert found.shape == (2, 1, 32, 64) and 0 <= found.min() and found.max() <= 1
    with pytest.raises(AssertionError, match="multiples of 32, got 32 x 48"):
        model(torch.zeros(1, 3, 32, 48))


def test_images_are_normalised_for_vgg():
    images = torch.tensor([0, 255], dtype=torch.uint8).repeat(1, 3, 1, 1)  # 1 3 1 2
    black, white = normalize(images)[0].permute(2, 1, 0)[:, 0]
    torch.testing.assert_close(black, torch.tensor([-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225]))
    torch.testing.assert_close(white, torch.tensor([0.515 / 0.229, 0.544 / 0.224, 0.594 / 0.225]))


def test_the_loss_by_hand():
    alphas = torch.zeros(1, 1, 4, 4, dtype=torch.uint8)
    alphas[0, 0, 0, :2], alphas[0, 0, 1, 0], alphas[0, 0, 3, 3] = 255, 255, 51
    coarse = torch.tensor([[0.8, 0.1], [0.2, 0.3]])[None, None]
    fine = torch.full((1, 1, 4, 4), 0.25)

    def bce(p, y):
        return -(y * math.log(p) + (1 - y) * math.log(1 - p))

    # areas of 2 x 2 pixels: three of four, none, none, a fifth of one of four
    first = (bce(0.8, 0.75) + bce(0.1, 0) + bce(0.2, 0) + bce(0.3, 0.05)) / 4
    second = (3 * bce(0.25, 1) + 12 * bce(0.25, 0) + bce(0.25, 0.2)) / 16
    assert summed_bce([coarse, fine], alphas).tolist() == pytest.approx([first + second], rel=1e-5)
    assert summed_bce([fine], alphas).tolist() == pytest.approx([second], rel=1e-5)


def test_scores_of_empty_masks_and_of_holes():
    nobody, square = np.zeros((32, 32), bool), np.zeros((32, 32), bool)
    square[8:16, 8:16] = True
    diagonal = math.hypot(224, 224)
    assert score(nobody, square) == pytest.approx((0, diagonal, 100, 0, 0, 1, 0))
    assert score(square, nobody) == pytest.approx((0, diagonal, 0, 0, 0, 0, 1))
    assert score(nobody, nobody) == pytest.approx((100, 0, 0, 0, 0, 1, 1))
    moved = np.roll(square, 2, axis=1)  # 6 of 8 columns in common
    assert score(moved, square) == pytest.approx((60, 2 * 7, 25, 0, 25, 0, 0))
    predicted = square.copy()
    predicted[10:12, 10:14] = False  # a hole: the mask surrounds it
    predicted[14:16, 10:11] = False  # open to below
    predicted[20:26, 20:26] = True
    predicted[22, 22] = False  # in what is no person
    assert score(predicted, square)[2:5] == pytest.approx((1000 / 64, 800 / 64, 3500 / 64))


def test_weights_fill_the_encoder_and_nothing_else(tmp_path):
    state, path, model = VGG16().state_dict(), tmp_path / "vgg.bin", LRN()
    torch.save({**state, "classifier.0.weight": torch.zeros(1)}, path)
    before = model.units[0].conv1.weight.clone()
    assert load_encoder(model, str(path), []) == ("vgg.bin", str(path), [])
    assert torch.equal(model.encoder.features[28].weight, state["features.28.weight"])
    assert torch.equal(model.units[0].conv1.weight, before)


def test_the_plateau_rule_and_the_phases():
    def log(*phases):
        return [{"phase": phase, "val_loss": loss} for phase, losses in phases for loss in losses]

    both = [FROZEN, EVERYTHING]
    assert phase_after([], both, 3) == FROZEN and phase_after([], [EVERYTHING], 3) == EVERYTHING
    assert phase_after(log((FROZEN, (3.0, 2.0, 2.0, 2.5))), both, 3) == FROZEN
    assert phase_after(log((FROZEN, (3.0, 2.0, 2.0, 2.5, 2.1))), both, 3) == EVERYTHING
    assert phase_after(log((FROZEN, (2.0, 3.0)), (EVERYTHING, (9.0, 9.5))), both, 2) == EVERYTHING  # its own best
    assert phase_after(log((FROZEN, (2.0, 3.0)), (EVERYTHING, (9.0, 9.5, 9.0))), both, 2) is None
    assert phase_after(log((EVERYTHING, (1.0, 1.0))), [EVERYTHING], 1) is None

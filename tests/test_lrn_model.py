"""lrn_headtorso/model.py against torchvision and the published figure; the loss by hand; what freezing means."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.spatial.distance import cdist
from torch import nn
from torchvision.models.vgg import cfgs, make_layers

from common.cli import InputError
from common.metrics import contour
from lrn_headtorso.checkpoints import load_encoder
from lrn_headtorso.dataset import normalize
from lrn_headtorso.eval import score, summed_bce
from lrn_headtorso.model import LRN, VGG16, RefinementUnit, UNet, up
from lrn_headtorso.phases import Plateau, phases, start_phase
from lrn_headtorso.train import train_epoch

CPU = torch.device("cpu")


class TorchvisionTrunk(nn.Module):
    """torchvision's VGG-16 without its classifier of 124 million parameters."""

    def __init__(self):
        super().__init__()
        self.features = make_layers(cfgs["D"])


@pytest.fixture(scope="module")
def reference():
    torch.manual_seed(0)
    trunk = TorchvisionTrunk()
    for module in trunk.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.normal_(module.bias, std=0.1)
    return trunk


@pytest.fixture(scope="module")
def lrn():
    torch.manual_seed(0)
    return LRN()


def image(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def parameters(model):
    return sum(p.numel() for p in model.parameters())


# ---- VGG-16 --------------------------------------------------------------------------------------------------------


def test_the_encoder_equals_torchvision(reference):
    ours = VGG16()
    ours.load_imagenet(reference.state_dict())
    x = image(2, 3, 64, 96)
    expected, y = [], x
    with torch.no_grad():
        for layer in reference.features:
            y = layer(y)
            if isinstance(layer, nn.MaxPool2d):
                expected.append(y)
        found = ours(x)
    assert [tuple(p.shape[1:]) for p in found] == [(64, 32, 48), (128, 16, 24), (256, 8, 12), (512, 4, 6), (512, 2, 3)]
    for a, b in zip(found, expected, strict=True):
        assert b.std() > 0.01
        torch.testing.assert_close(a, b)


def test_torchvisions_keys_are_loaded_strictly(reference):
    state = reference.state_dict()
    whole = {**state, "classifier.0.weight": torch.zeros(1), "classifier.6.bias": torch.zeros(1)}
    ours = VGG16()
    ours.load_imagenet(whole)  # the classifier is left out
    assert ours.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in ours.state_dict().items())
    with pytest.raises(RuntimeError, match="features.28.bias"):
        VGG16().load_imagenet({name: value for name, value in state.items() if name != "features.28.bias"})
    with pytest.raises(RuntimeError, match="features.31"):
        VGG16().load_imagenet({**state, "features.31.weight": torch.zeros(1)})


def test_weights_of_another_network_are_refused_in_one_line(lrn, tmp_path):
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, tmp_path / "resnet.pth")
    with pytest.raises(InputError) as error:
        load_encoder(lrn, str(tmp_path / "resnet.pth"), [])
    assert "not torchvision's VGG-16" in str(error.value) and "\n" not in str(error.value)


def test_a_state_dict_fills_the_encoder_and_nothing_else(reference, tmp_path):
    torch.save(reference.state_dict(), tmp_path / "vgg16.pth")
    model = LRN()
    before = model.units[0].conv1.weight.clone()
    path = str(tmp_path / "vgg16.pth")
    assert load_encoder(model, path, []) == ("file", path, set())
    assert torch.equal(model.encoder.features[28].weight, reference.features[28].weight)
    assert torch.equal(model.units[0].conv1.weight, before)


# ---- The two networks ----------------------------------------------------------------------------------------------


def test_the_numbers_of_parameters(lrn):
    assert parameters(lrn) == 15_864_198 and parameters(UNet()) == 15_895_553
    assert parameters(lrn.encoder) == parameters(UNet().encoder) == 14_714_688


@pytest.mark.parametrize("H, W", [(224, 224), (32, 64), (96, 64)])
def test_the_six_maps(lrn, H, W):
    with torch.no_grad():
        maps = lrn(image(1, 3, H, W) - 0.5)
    assert [tuple(p.shape) for p in maps] == [(1, 1, H // k, W // k) for k in (32, 16, 8, 4, 2, 1)]
    assert all(p.dtype == torch.float32 and 0 <= p.min() and p.max() <= 1 for p in maps)


def test_the_lrn_is_the_published_figure(lrn):
    """Each unit sees a max-pool output and the map before it; the first and the second see pool5."""
    x = image(1, 3, 64, 64) - 0.5
    with torch.no_grad():
        maps = lrn(x)
        pool1, pool2, pool3, pool4, pool5 = lrn.encoder(x)
        assert torch.equal(maps[0], lrn.units[0](pool5))
        for i, pool in enumerate([pool5, pool4, pool3, pool2, pool1], 1):
            unit = lrn.units[i]
            seen = torch.cat([pool, maps[i - 1]], dim=1)
            assert seen.shape[1] == unit.conv1.in_channels == (513, 513, 257, 129, 65)[i - 1]
            y = torch.sigmoid(unit.conv2(F.relu(unit.conv1(seen))))
            assert unit.conv1.out_channels == 64 and unit.conv2.out_channels == 1
            torch.testing.assert_close(maps[i], up(y))


def test_channel_reduction_leaves_the_units_two_channels():
    unit = RefinementUnit(256, channel_reduction=True)
    assert unit.conv1.in_channels == 2
    assert unit(torch.zeros(1, 256, 4, 4), torch.zeros(1, 1, 4, 4)).shape == (1, 1, 4, 4)
    model = LRN(channel_reduction=True)
    assert [unit.conv1.in_channels for unit in model.units] == [512, 2, 2, 2, 2, 2]
    assert model.units[0].reduce is None


def test_the_unet_returns_one_map():
    model = UNet()
    with torch.no_grad():
        (found,) = model(image(2, 3, 32, 64) - 0.5)
    assert found.shape == (2, 1, 32, 64) and 0 <= found.min() and found.max() <= 1


def test_sizes_must_be_multiples_of_32(lrn):
    with pytest.raises(AssertionError, match="multiples of 32, got 32 x 48"):
        lrn(torch.zeros(1, 3, 32, 48))


def test_initialisation_is_glorot_uniform():
    torch.manual_seed(0)
    for model in (LRN(), UNet()):
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                bound = math.sqrt(6 / (9 * (module.in_channels + module.out_channels)))
                assert module.weight.abs().max() <= bound
                assert module.bias.abs().max() == 0
                if module.weight.numel() > 10_000:
                    assert module.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.03)


def test_gradients_reach_every_parameter():
    torch.manual_seed(0)
    for model in (LRN(), LRN(channel_reduction=True), UNet()):
        sum(p.square().mean() for p in model(image(1, 3, 32, 32) - 0.5)).backward()
        assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
        assert sum(bool(p.grad.any()) for p in model.parameters()) > 0.8 * len(list(model.parameters()))


def test_images_are_normalised_for_vgg():
    images = torch.tensor([0, 255], dtype=torch.uint8).repeat(1, 3, 1, 1)  # 1 3 1 2
    black, white = normalize(images, CPU)[0].permute(2, 1, 0)[:, 0]
    torch.testing.assert_close(black, torch.tensor([-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225]))
    torch.testing.assert_close(white, torch.tensor([0.515 / 0.229, 0.544 / 0.224, 0.594 / 0.225]))


# ---- Loss and scores -----------------------------------------------------------------------------------------------


def test_the_loss_by_hand():
    alphas = torch.tensor([[255, 255, 0, 0], [255, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 51]], dtype=torch.uint8)[
        None, None
    ]
    coarse = torch.tensor([[0.8, 0.1], [0.2, 0.3]])[None, None]
    fine = torch.full((1, 1, 4, 4), 0.25)
    bce = lambda p, y: -(y * math.log(p) + (1 - y) * math.log(1 - p))  # noqa: E731
    # areas of 2 x 2 pixels: three of four, none, none, a fifth of one of four
    first = (bce(0.8, 0.75) + bce(0.1, 0) + bce(0.2, 0) + bce(0.3, 0.05)) / 4
    second = (3 * bce(0.25, 1) + 12 * bce(0.25, 0) + bce(0.25, 0.2)) / 16
    assert summed_bce([coarse, fine], alphas).tolist() == pytest.approx([first + second], rel=1e-5)
    assert summed_bce([fine], alphas).tolist() == pytest.approx([second], rel=1e-5)


def test_the_loss_is_float32_and_finite_where_the_network_is_sure_and_wrong():
    alphas = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    loss = summed_bce([torch.ones(2, 1, 4, 4, dtype=torch.bfloat16)], alphas)
    assert loss.dtype == torch.float32 and loss.isfinite().all() and loss.shape == (2,)


@pytest.mark.parametrize("seed", range(5))
def test_the_distance_is_that_of_a_brute_force_matrix(seed):
    rng = np.random.default_rng(seed)
    predicted, true = rng.random((2, 24, 24)) < (0.1, 0.6)[seed % 2]
    a, b = np.argwhere(contour(predicted)), np.argwhere(contour(true))
    matrix = cdist(a, b)
    expected = max(matrix.min(0).max(), matrix.min(1).max()) * 224 / 24  # in pixels of a 224 px picture
    assert score(predicted, true)[1] == pytest.approx(expected)


def test_scores_of_empty_masks():
    nobody, square = np.zeros((32, 32), bool), np.zeros((32, 32), bool)
    square[8:16, 8:16] = True
    diagonal = math.hypot(224, 224)
    assert score(nobody, square) == pytest.approx((0, diagonal, 1, 0, 0, 1, 0))
    assert score(square, nobody) == pytest.approx((0, diagonal, 0, 0, 0, 0, 1))
    assert score(nobody, nobody) == pytest.approx((1, 0, 0, 0, 0, 1, 1))
    moved = np.roll(square, 2, axis=1)  # 6 of 8 columns in common
    assert score(moved, square) == pytest.approx((48 / 80, 2 * 7, 0.25, 0, 0.25, 0, 0))


def test_a_hole_is_a_patch_that_the_mask_surrounds():
    true, predicted = np.zeros((32, 32), bool), np.zeros((32, 32), bool)
    true[8:16, 8:16] = True
    predicted[8:16, 8:16] = True
    predicted[10:12, 10:14] = False  # inside
    predicted[14:16, 10:11] = False  # open to below
    predicted[20:26, 20:26] = True
    predicted[22, 22] = False  # in what is no person
    assert score(predicted, true)[2:5] == pytest.approx((10 / 64, 8 / 64, 35 / 64))


# ---- Two phases ----------------------------------------------------------------------------------------------------


class Batches(list):
    """A loader of two batches, for train_epoch."""

    dataset = sampler = None


@pytest.mark.parametrize("kind", [LRN, UNet])
def test_frozen_means_frozen(kind):
    torch.manual_seed(0)
    model = kind()
    batches = Batches(
        (torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8), torch.randint(0, 2, (2, 1, 32, 32)).byte() * 255)
        for _ in range(2)
    )
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def moved():
        return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}

    network, optimizer = start_phase(model, "frozen encoder", 1e-3, CPU)
    assert sum(p.numel() for group in optimizer.param_groups for p in group["params"]) == parameters(model) - 14_714_688
    train_epoch(network, batches, optimizer, CPU, False, 1)
    assert moved() == {name for name in before if not name.startswith("encoder.")}
    assert all(p.grad is None for p in model.encoder.parameters())
    network, optimizer = start_phase(model, "everything", 1e-3, CPU)
    train_epoch(network, batches, optimizer, CPU, False, 2)
    assert moved() == set(before)


def test_random_weights_have_one_phase():
    assert phases(None) == ("everything",)
    assert phases("imagenet") == phases("file") == ("frozen encoder", "everything")


def test_the_plateau_rule():
    def run(patience, losses):
        plateau, reached = Plateau(patience), []
        for loss in losses:
            plateau.count(loss)
            reached.append(plateau.reached)
        return reached

    assert run(3, (3.0, 2.0, 2.0, 2.5, 1.9, 1.9, 2.0, float("nan"))) == [False] * 7 + [True]
    assert run(0, [1.0] * 50) == [False] * 50

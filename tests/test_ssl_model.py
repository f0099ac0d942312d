"""masked_ssl: UNet++ against torchvision and a plain re-computation, what is hidden, the losses, the learning rate."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import resnet50
from torchvision.models.feature_extraction import create_feature_extractor

from masked_ssl import model as ssl_model
from masked_ssl.masking import draw_mask, error_where_hidden, find_region, hide, patch_sides, reconstruction_loss
from masked_ssl.model import Network, UNetPlusPlus
from masked_ssl.recipe import adamw, load_backbone, set_learning_rates
from masked_ssl.train import parsing_loss, repeats


def count(module):
    return sum(p.numel() for p in module.parameters())


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def narrow(monkeypatch):
    """The same network with an eighth of the ResNet's channels: 64 times faster, wired alike."""
    monkeypatch.setattr(ssl_model, "WIDTH", 8)


def shake(module, seed=0):
    """Batch-norm parameters and statistics that are not 0 and 1."""
    torch.manual_seed(seed)
    for m in module.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.weight, 0.5, 1.5)
            nn.init.normal_(m.bias, std=0.1)
            nn.init.normal_(m.running_mean, std=0.1)
            nn.init.uniform_(m.running_var, 0.5, 1.5)
    return module


def test_numbers_of_parameters_and_a_decoder_of_one_convolution():
    with torch.device("meta"):
        full = UNetPlusPlus()
        assert count(full) == 48_985_600
        assert count(full.backbone) == 23_508_032 and count(full.nodes) == 25_477_568
        for classes, parameters in ((3, 435), (11, 1595), (19, 2755)):
            assert count(Network(classes).decoder) == parameters


def test_the_trunk_is_torchvisions_and_takes_its_file_under_any_name(tmp_path):
    torch.manual_seed(0)
    reference, network, file = shake(resnet50(weights=None)).eval(), Network(3).eval(), tmp_path / "my weights.bin"
    torch.save({f"_orig_mod.module.{name}": x for name, x in reference.state_dict().items()}, file)
    assert load_backbone(network, str(file)) == (str(file), f"ResNet-50 of {file}, the rest random")
    x, stages = noise(1, 3, 64, 32), ["relu", "layer1", "layer2", "layer3", "layer4"]
    with torch.no_grad():
        theirs, ours = create_feature_extractor(reference, stages)(x), network.encoder.backbone(x)
    assert [m.shape[1] for m in ours] == [64, 256, 512, 1024, 2048]
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs.values(), strict=True))


def plain_node(state, name, below, *skips):
    """A node by its weights alone: nearest enlargement, concat, conv, batch norm, ReLU, conv, batch norm, ReLU."""
    x = torch.cat([below.repeat_interleave(2, 2).repeat_interleave(2, 3), *skips], 1)
    for half in ("conv1", "conv2"):
        get = lambda key, half=half: state[f"nodes.{name}.{half}.{key}"]  # noqa: E731
        x = F.conv2d(x, get("0.weight"), padding=1)
        x = F.batch_norm(x, get("1.running_mean"), get("1.running_var"), get("1.weight"), get("1.bias"))
        x = F.relu(x)
    return x


def test_dense_connections_against_a_plain_recomputation(narrow):
    net = shake(UNetPlusPlus()).eval()
    s, x = net.state_dict(), noise(2, 3, 64, 96)
    with torch.no_grad():
        f1, f2, f3, f4, f5 = net.backbone(x)  # 1/2 ... 1/32
        x00, x11 = plain_node(s, "x_0_0", f5, f4), plain_node(s, "x_1_1", f4, f3)
        x22, x33 = plain_node(s, "x_2_2", f3, f2), plain_node(s, "x_3_3", f2, f1)
        x01, x12 = plain_node(s, "x_0_1", x00, x11, f3), plain_node(s, "x_1_2", x11, x22, f2)
        x23 = plain_node(s, "x_2_3", x22, x33, f1)
        x02, x13 = plain_node(s, "x_0_2", x01, x12, x22, f2), plain_node(s, "x_1_3", x12, x23, x33, f1)
        x03 = plain_node(s, "x_0_3", x02, x13, x23, x33, f1)
        x04 = plain_node(s, "x_0_4", x03)
        assert torch.allclose(net(x), x04, atol=1e-5, rtol=1e-4)
    assert x04.shape == (2, 16, 64, 96)


def test_checkpointing_changes_neither_gradients_nor_statistics(narrow):
    torch.manual_seed(0)
    plain = Network(3)
    thrifty = Network(3, checkpointing=True)
    thrifty.load_state_dict(plain.state_dict())
    x, kept = noise(3, 3, 32, 32), {plain: [], thrifty: []}
    for network, sizes in kept.items():
        with torch.autograd.graph.saved_tensors_hooks(lambda t, sizes=sizes: sizes.append(t.numel()) or t, lambda t: t):
            loss = network(x).square().mean()
        loss.backward()
    assert sum(kept[thrifty]) < sum(kept[plain])
    for a, b in zip(plain.parameters(), thrifty.parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, rtol=1e-4, atol=1e-7)
    assert all(torch.equal(a, b) for a, b in zip(plain.buffers(), thrifty.buffers(), strict=True))


def test_the_central_two_thirds_and_patches_of_32_to_64_px():
    assert find_region(512) == (85, 426)  # 341 of 512 px
    assert find_region(128) == (21, 106) and find_region(96, "whole") == (0, 96)
    assert [patch_sides(size) for size in (512, 256, 64)] == [(32, 64), (16, 32), (4, 8)]


@pytest.mark.parametrize(("size", "ratio", "region"), [(64, 0.1, "whole"), (128, 0.75, "center"), (512, 0.5, "center")])
def test_whole_patches_inside_the_region_hide_the_share_asked_for(size, ratio, region):
    first, end = bounds = find_region(size, region)
    area, (low, high) = (end - first) ** 2, patch_sides(size)
    for seed in range(3):
        mask = draw_mask(np.random.default_rng(seed), size, bounds, ratio)
        inside = mask[first:end, first:end]
        assert mask.shape == (size, size) and mask.sum() == inside.sum()
        assert ratio * area <= inside.sum() <= ratio * area + high**2
    rebuilt = np.zeros_like(mask)  # of hidden squares of the smallest side
    for y, x in np.argwhere(np.lib.stride_tricks.sliding_window_view(mask, (low, low)).all((2, 3))):
        rebuilt[y : y + low, x : x + low] = True
    assert (rebuilt == mask).all()


def test_the_losses_are_the_means_they_say():
    """So nothing outside the region counts."""
    images, output, region = noise(3, 3, 64, 64), noise(3, 3, 64, 64, seed=1), find_region(64)
    masks = np.stack([draw_mask(np.random.default_rng(i), 64, region, 0.3 + 0.2 * i) for i in range(3)])
    masks = torch.from_numpy(masks)[:, None]
    assert torch.equal(hide(images, masks), images * ~masks)
    error = (output - images).abs()
    inside = error[..., slice(*region), slice(*region)].mean().item()
    assert reconstruction_loss(output, images, region) == pytest.approx(inside, rel=1e-5)
    everywhere = error[masks.expand_as(images)].mean().item()
    assert error_where_hidden(output, images, masks) == pytest.approx(everywhere, rel=1e-5)


def test_cross_entropy_and_dice_leave_ignored_pixels_and_absent_classes_out():
    logits = noise(2, 5, 8, 8)
    labels = torch.randint(0, 4, (2, 8, 8), generator=torch.Generator().manual_seed(0)).byte()  # class 4 is absent
    labels[:, :2] = 255
    cross_entropy, dice = parsing_loss(logits, labels)
    assert cross_entropy == pytest.approx(F.cross_entropy(logits, labels.long(), ignore_index=255).item(), rel=1e-5)
    p, used = logits.softmax(1).permute(0, 2, 3, 1)[labels != 255], labels[labels != 255]
    y = F.one_hot(used.long(), 5)
    f1 = (2 * (p * y).sum(0) + 1) / (p.sum(0) + y.sum(0) + 1)
    assert dice == pytest.approx(1 - f1[:4].mean().item(), rel=1e-5)


def test_rates_of_encoder_and_decoder_rise_then_fall_to_almost_nothing(narrow):
    network = Network(3)
    optimizer = adamw(network, 1e-5, 1e-3)
    groups = [{id(p) for p in group["params"]} for group in optimizer.param_groups]
    assert groups == [{id(p) for p in part.parameters()} for part in (network.encoder, network.decoder)]

    def factor(step, steps=100):
        set_learning_rates(optimizer, step, steps)
        encoder, decoder = (group["lr"] for group in optimizer.param_groups)
        assert decoder == pytest.approx(100 * encoder)
        return decoder / 1e-3

    falling = [0.5 * (1 + math.cos(math.pi * step / 95)) for step in range(95)]
    assert [factor(step) for step in range(100)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, *falling])
    assert factor(3) == pytest.approx(0.8) and factor(0, steps=1) == pytest.approx(1)  # a resumed run, a single step


def test_few_labels_are_repeated_until_there_are_enough_steps():
    """An epoch of 6 labels has one step of 8: 54 times are 41 steps in each of 50 epochs."""
    assert repeats(n=6, batch_size=8, epochs=50, min_steps=2000) == 54
    assert repeats(638, 8, 50, 2000) == repeats(9, 8, 5, 0) == 1

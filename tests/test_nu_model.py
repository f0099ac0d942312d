"""nu_deeplabv3plus: the network against torchvision and its own parts put together by hand, the rules by hand."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import resnet50

from nu_deeplabv3plus.model import ASPP, DeepLabV3Plus, ResNet50, SqueezeExcite
from nu_deeplabv3plus.train import epochs_since_best, reduce_on_plateau


def image(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def test_the_trunk_equals_torchvision():
    """With batch-norm statistics that are not 0 and 1."""
    torch.manual_seed(0)
    ours, reference, x = ResNet50(), resnet50(weights=None), image(2, 3, 64, 96)
    for module in reference.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    ours.load_state_dict(ours.trunk_of(reference.state_dict()))
    for training in (False, True):
        ours.train(training), reference.train(training)
        with torch.no_grad():
            found = ours(x)
            low_level = reference.layer1(reference.maxpool(reference.relu(reference.bn1(reference.conv1(x)))))
            expected = low_level, reference.layer3(reference.layer2(low_level))
        assert found[0].shape == (2, 256, 16, 24) and found[1].shape == (2, 1024, 4, 6)
        for a, b in zip(found, expected, strict=True):
            assert b.std() > 0.01 and (a - b).abs().max() <= 1e-5


def test_squeeze_excite_by_hand():
    torch.manual_seed(0)
    block, x = SqueezeExcite(64), torch.randn(2, 64, 3, 4)
    assert block.squeeze.weight.shape == (8, 64)  # ratio 8: Sec. 3.3
    squeezed = (x.mean((2, 3)) @ block.squeeze.weight.T).clamp(min=0)
    factors = 1 / (1 + torch.exp(-squeezed @ block.excite.weight.T))
    torch.testing.assert_close(block(x), x * factors[:, :, None, None])


def test_aspp_concatenates_its_five_branches():
    torch.manual_seed(0)
    aspp, seen = ASPP(16, 8).eval(), []
    aspp.project.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    x = torch.randn(2, 16, 8, 6)
    assert aspp(x).shape == (2, 8, 8, 6)
    branches = seen[0].split(8, dim=1)
    pooled = F.relu(aspp.image_pooling[2](aspp.image_pooling[1](x.mean((2, 3), keepdim=True))))
    torch.testing.assert_close(branches[0], pooled.expand(2, 8, 8, 6))
    torch.testing.assert_close(branches[1], aspp.conv1x1(x))
    for branch, rate, conv in zip(branches[2:], (6, 12, 18), aspp.atrous, strict=True):
        by_hand = F.conv2d(x, conv[0].weight, padding=rate, dilation=rate)
        torch.testing.assert_close(branch, F.relu(conv[1](by_hand)))
    assert len(branches) == 5 and all(branch.abs().max() > 0 for branch in branches)


def test_the_network_is_its_parts_in_the_order_of_the_figure_with_the_papers_number_of_parameters():
    """Keras' order: up x4, then the 1x1; ours is the other way round."""
    torch.manual_seed(0)
    model, x = DeepLabV3Plus(), image(4, 3, 32, 64)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 17_817_266
    model(x).square().mean().backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    assert [name for name, g in gradients.items() if g is None or not g.any() or not g.isfinite().all()] == []
    model.eval()
    with torch.no_grad():
        nn.init.normal_(model.classifier.bias)  # 0 would hide where the bias is added
        low_level, high_level = model.encoder(x)
        y = model.encoder_se(model.aspp(high_level))
        y = F.interpolate(y, scale_factor=4, mode="bilinear", align_corners=False)
        y = model.decoder_se(model.decoder(torch.cat([y, model.low_level(low_level)], 1)))
        y = model.classifier(F.interpolate(y, scale_factor=4, mode="bilinear", align_corners=False))
        found = model(x)
    assert found.shape == (4, 18, 32, 64) and found.std() > 0.01 and (found - y).abs().max() <= 1e-4


# ---- The rules of train.py -----------------------------------------------------------------------------------------


def rates(losses, lr=1e-3):
    """The learning rate after each epoch."""
    optimizer = torch.optim.Adam([nn.Parameter(torch.zeros(1))], lr=lr)
    plateau, found = reduce_on_plateau(optimizer), []
    for loss in losses:
        plateau.step(loss)
        found.append(optimizer.param_groups[0]["lr"])
    return found


def test_the_plateau_rule_is_keras():
    """keras/src/callbacks/reduce_lr_on_plateau.py: factor=0.1, patience=5, min_delta=1e-4, cooldown=0, min_lr=1e-7."""
    # epoch 1 is the best; 2 to 6 are bad; the count starts again; 7 to 11 are bad
    assert rates([0.5] * 12) == pytest.approx([1e-3] * 5 + [1e-4] * 5 + [1e-5] * 2)
    # a better epoch starts the count again; after a jump the best stays the best
    assert rates([0.5] * 4 + [0.4] + [0.6] * 4 + [0.45]) == pytest.approx([1e-3] * 9 + [1e-4])
    assert rates([0.5] * 30, 5e-8) == [5e-8] * 30
    threshold = 0.25 - 1e-4  # which must be exceeded
    assert rates([0.25] + [threshold] * 5)[-1] == pytest.approx(1e-4)
    assert rates([0.25] + [np.nextafter(threshold, 0)] * 5)[-1] == pytest.approx(1e-3)
    # it is absolute: a ten-thousandth of 100 would be 0.01, and 99.9995 no improvement
    assert rates([100.0, 99.9995, 99.999, 99.9985, 99.998, 99.9975, 99.997]) == pytest.approx([1e-3] * 7)


def test_early_stopping_counts_from_the_best_epoch_as_keras_does():
    assert epochs_since_best([]) == 0
    assert epochs_since_best([0.5, 0.5, 0.5]) == 2  # an equal loss is not better
    assert epochs_since_best([0.5, 0.3, 0.4, 0.35]) == 2
    assert epochs_since_best([0.5, 0.5 - 1e-9]) == 0  # min_delta is 0, unlike the plateau's

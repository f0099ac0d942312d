"""nu_deeplabv3plus/model.py against torchvision and against its own parts put together by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import resnet50

from nu_deeplabv3plus.model import ASPP, DeepLabV3Plus, ResNet50, SqueezeExcite


@pytest.fixture(scope="module")
def reference():
    """torchvision's ResNet-50 with batch-norm statistics that are not 0 and 1."""
    torch.manual_seed(0)
    model = resnet50(weights=None)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model


def image(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("training", [False, True])
def test_the_trunk_equals_torchvision(reference, training):
    ours, state = ResNet50(), {name: value.clone() for name, value in reference.state_dict().items()}
    ours.load_state_dict(ours.trunk_of(state))
    ours.train(training), reference.train(training)
    x = image(2, 3, 64, 96)
    with torch.no_grad():
        found = ours(x)
        low_level = reference.layer1(reference.maxpool(reference.relu(reference.bn1(reference.conv1(x)))))
        expected = low_level, reference.layer3(reference.layer2(low_level))
    reference.load_state_dict(state)  # the training pass moved its statistics
    assert found[0].shape == (2, 256, 16, 24) and found[1].shape == (2, 1024, 4, 6)
    for a, b in zip(found, expected, strict=True):
        assert b.std() > 0.01 and (a - b).abs().max() <= 1e-5


def test_squeeze_excite_by_hand():
    block = SqueezeExcite(4, ratio=2)
    with torch.no_grad():
        block.squeeze.weight.copy_(torch.tensor([[1.0, 0, 0, 0], [0, -1.0, 0, 0]]))
        block.excite.weight.copy_(torch.tensor([[1.0, 5], [-1.0, 5], [2.0, 5], [0.0, 5]]))
    x = torch.arange(2 * 4 * 2 * 3.0).reshape(2, 4, 2, 3) / 10
    mean = x[:, :1].mean((2, 3), keepdim=True)  # the second unit sees a negative number, which ReLU cuts off
    factors = torch.tensor([1.0, -1, 2, 0]).reshape(1, 4, 1, 1)
    torch.testing.assert_close(block(x), x / (1 + torch.exp(-factors * mean)))


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


def test_the_number_of_parameters_and_that_gradients_reach_them_all():
    torch.manual_seed(0)
    model = DeepLabV3Plus()
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 17_817_266
    model(image(4, 3, 32, 32)).square().mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_the_network_is_its_parts_in_the_order_of_the_figure():
    """Keras' order: up x4, then the 1x1; ours is the other way round."""
    torch.manual_seed(0)
    model, x = DeepLabV3Plus().eval(), image(2, 3, 64, 96)
    with torch.no_grad():
        nn.init.normal_(model.classifier.bias)  # 0 would hide where the bias is added
        low_level, high_level = model.encoder(x)
        y = model.encoder_se(model.aspp(high_level))
        y = F.interpolate(y, scale_factor=4, mode="bilinear", align_corners=False)
        y = model.decoder_se(model.decoder(torch.cat([y, model.low_level(low_level)], 1)))
        y = model.classifier(F.interpolate(y, scale_factor=4, mode="bilinear", align_corners=False))
        found = model(x)
    assert found.shape == (2, 18, 64, 96) and found.std() > 0.01 and (found - y).abs().max() <= 1e-4

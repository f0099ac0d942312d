"""nu_deeplabv3plus/model.py against torchvision and against its own parts put together by hand."""

import pytest
import torch
import torch.nn.functional as F
from conftest import refused
from torch import nn
from torchvision.models import resnet50

from common.weights import fill
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


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return DeepLabV3Plus().eval()


def forward_of_torchvision(net, x):
    x = net.maxpool(net.relu(net.bn1(net.conv1(x))))
    low_level = net.layer1(x)
    return low_level, net.layer3(net.layer2(low_level))


def image(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


# ---- ResNet-50 -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [False, True])
def test_the_trunk_equals_torchvision(reference, training):
    ours = ResNet50()
    state = {name: value.clone() for name, value in reference.state_dict().items()}
    ours.load_state_dict(ours.trunk_of(state))
    ours.train(training), reference.train(training)
    x = image(2, 3, 64, 96)
    with torch.no_grad():
        found, expected = ours(x), forward_of_torchvision(reference, x)
    reference.load_state_dict(state)  # the training pass moved its statistics
    assert found[0].shape == (2, 256, 16, 24) and found[1].shape == (2, 1024, 4, 6)
    for a, b in zip(found, expected, strict=True):
        assert b.std() > 0.01
        assert (a - b).abs().max() <= 1e-5


# ---- Blocks --------------------------------------------------------------------------------------------------------


def test_squeeze_excite_by_hand():
    block = SqueezeExcite(4, ratio=2)
    with torch.no_grad():
        block.squeeze.weight.copy_(torch.tensor([[1.0, 0, 0, 0], [0, -1.0, 0, 0]]))
        block.excite.weight.copy_(torch.tensor([[1.0, 5], [-1.0, 5], [2.0, 5], [0.0, 5]]))
    x = torch.arange(2 * 4 * 2 * 3.0).reshape(2, 4, 2, 3) / 10
    found = block(x)
    for b in range(2):
        mean = x[b, 0].mean()  # the second unit sees a negative number, which ReLU cuts off
        for c, factor in enumerate([1, -1, 2, 0]):
            weight = 1 / (1 + torch.exp(-factor * mean))
            torch.testing.assert_close(found[b, c], x[b, c] * weight)


@pytest.fixture
def aspp():
    torch.manual_seed(0)
    return ASPP(16, 8).eval()


def test_aspp_concatenates_its_five_branches(aspp):
    seen = []
    aspp.project.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    x = torch.randn(2, 16, 8, 6)
    assert aspp(x).shape == (2, 8, 8, 6)
    branches = seen[0].split(8, dim=1)
    pooled = F.relu(aspp.image_pooling[2](aspp.image_pooling[1](x.mean((2, 3), keepdim=True))))
    up = F.interpolate(pooled, size=(8, 6), mode="bilinear", align_corners=False)
    torch.testing.assert_close(branches[0], up)
    torch.testing.assert_close(branches[1], aspp.conv1x1(x))
    for branch, rate, conv in zip(branches[2:], (6, 12, 18), aspp.atrous, strict=True):
        by_hand = F.conv2d(x, conv[0].weight, padding=rate, dilation=rate)
        torch.testing.assert_close(branch, F.relu(conv[1](by_hand)))
    assert len(branches) == 5 and all(branch.abs().max() > 0 for branch in branches)


def test_on_an_8_by_8_map_only_the_centre_of_rates_12_and_18_is_used(aspp):
    aspp(torch.randn(2, 16, 8, 8)).square().sum().backward()
    for conv, reached in zip(aspp.atrous, (9, 1, 1), strict=True):
        taps = conv[0].weight.grad.abs().sum((0, 1)) > 0
        assert taps.sum() == reached and taps[1, 1]


# ---- The whole network ---------------------------------------------------------------------------------------------


def test_the_number_of_parameters():
    assert sum(p.numel() for p in DeepLabV3Plus().parameters() if p.requires_grad) == 17_817_266


@pytest.mark.parametrize("H, W", [(128, 128), (64, 96), (16, 16)])
def test_the_output_has_the_size_of_the_input(model, H, W):
    with torch.no_grad():
        logits = model(image(1, 3, H, W))
    assert logits.shape == (1, 18, H, W) and logits.dtype == torch.float32
    assert logits.std() > 0


@pytest.mark.parametrize("H, W", [(60, 64), (64, 100)])
def test_a_size_that_does_not_divide_by_16_is_refused(model, H, W):
    with pytest.raises(AssertionError, match=f"multiples of 16, got {H} x {W}"):
        model(image(1, 3, H, W))


def test_the_network_is_its_parts_in_the_order_of_the_figure(model):
    """The paper's order: up x4, then the 1x1; ours is the other way round."""
    x = image(2, 3, 64, 96)
    with torch.no_grad():
        nn.init.normal_(model.classifier.bias)  # 0 would hide where the bias is added
        low_level, high_level = model.encoder(x)
        y = model.encoder_se(model.aspp(high_level))
        y = F.interpolate(y, scale_factor=4, mode="bilinear", align_corners=False)
        y = model.decoder_se(model.decoder(torch.cat([y, model.low_level(low_level)], 1)))
        y = model.classifier(F.interpolate(y, scale_factor=4, mode="bilinear", align_corners=False))
        found = model(x)
        nn.init.zeros_(model.classifier.bias)
    assert found.std() > 0.01
    assert (found - y).abs().max() <= 1e-4


def test_a_batch_equals_its_images_one_by_one(model):
    x = image(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model(x), torch.cat([model(x[:1]), model(x[1:])]), atol=1e-4, rtol=1e-4)


def test_channels_last_changes_nothing(model):
    x = image(1, 3, 32, 32)
    with torch.no_grad():
        expected = model(x)
        found = model.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    model.to(memory_format=torch.contiguous_format)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_gradients_reach_every_parameter():
    torch.manual_seed(0)
    model = DeepLabV3Plus()
    model(image(4, 3, 32, 32)).square().mean().backward()
    unreached = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert unreached == []
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_the_encoder_of_the_network_takes_the_weights_of_torchvision(reference):
    model = DeepLabV3Plus()
    before, state = model.classifier.weight.clone(), reference.state_dict()
    fill(model.encoder, model.encoder.trunk_of(state), "torchvision's ResNet-50", "imagenet")
    assert torch.equal(model.encoder.layer3[5].conv3.weight, reference.layer3[5].conv3.weight)
    assert torch.equal(model.encoder.bn1.running_var, reference.bn1.running_var)
    assert torch.equal(model.classifier.weight, before)
    other = {"features.0.weight": torch.zeros(1)}
    message = refused(fill, model.encoder, model.encoder.trunk_of(other), "torchvision's ResNet-50", "vgg.pth")
    assert "--weights vgg.pth: not torchvision's ResNet-50" in message

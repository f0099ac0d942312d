"""mut1ny_fairness: DeepLabV3 against torchvision's, PSPNet against a plain re-computation, weights, batches of one."""

import argparse

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import resnet101
from torchvision.models.segmentation import deeplabv3_resnet101

from common.cli import InputError
from mut1ny_fairness import resnet
from mut1ny_fairness.deeplabv3 import DeepLabV3
from mut1ny_fairness.pspnet import PSPNet, PyramidPooling, pool
from mut1ny_fairness.resnet import BatchNorm, ResNet101, upsample
from mut1ny_fairness.train import load_weights


@pytest.fixture
def shallow(monkeypatch):
    """One block in each layer instead of 33."""
    monkeypatch.setattr(resnet, "BLOCKS", (1, 1, 1, 1))


def settle(model: nn.Module) -> nn.Module:
    """Batch norm with weights of its own and the statistics of a batch, so that outputs are of order 1."""
    with torch.no_grad():
        for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
            norm.momentum = None  # the running statistics become the batch's
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.normal_(std=0.1)
        model.train()(torch.randn(2, 3, 48, 48))
    return model.eval()


@pytest.fixture(scope="module")
def reference():
    torch.manual_seed(0)
    return settle(deeplabv3_resnet101(weights=None, weights_backbone=None, num_classes=21, aux_loss=True))


# ---- DeepLabV3 -----------------------------------------------------------------------------------------------------


def test_deeplabv3_is_torchvisions_key_for_key_and_number_for_number(reference):
    ours = DeepLabV3(num_outputs=21, aux=True).eval()
    shapes = [{name: x.shape for name, x in model.state_dict().items()} for model in (ours, reference)]
    assert list(shapes[0]) == list(shapes[1]) and shapes[0] == shapes[1]
    ours.load_state_dict(reference.state_dict(), strict=True)
    x = torch.randn(1, 3, 57, 70)  # sizes that no stride divides
    with torch.inference_mode():
        theirs, layer3 = reference(x), ours.backbone(x)[0]
        assert theirs["out"].std() > 0.01
        assert torch.allclose(ours(x), theirs["out"], atol=1e-4)
        assert torch.allclose(upsample(ours.aux_classifier(layer3), (57, 70)), theirs["aux"], atol=1e-4)
    assert sum(p.numel() for p in ours.parameters()) == 60_996_202


def test_the_number_of_parameters_with_three_outputs():
    with torch.device("meta"):
        assert sum(p.numel() for p in DeepLabV3().parameters()) == 58_626_371
        full, cut = PSPNet(), PSPNet(aux=False, truncated=True)
        # encoder, pyramid, 3x3 and 1x1, auxiliary head
        pyramid = 4 * (2048 * 512 + 2 * 512)
        head = 4096 * 512 * 9 + 2 * 512 + 512 * 3 + 3
        auxiliary = 1024 * 256 * 9 + 2 * 256 + 256 * 3 + 3
        assert sum(p.numel() for p in full.parameters()) == 42_500_160 + pyramid + head + auxiliary
        assert sum(p.numel() for p in cut.backbone.parameters()) == 1_444_928  # what the public library uses too


# ---- PSPNet --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bins", [1, 2, 3, 6])
@pytest.mark.parametrize("size", [(32, 32), (7, 13), (4, 4)])
def test_pooling_is_adaptive_average_pooling(bins, size):
    x = torch.randn(2, 5, *size, requires_grad=True)
    ours, theirs = pool(x, bins), F.adaptive_avg_pool2d(x, bins)
    assert torch.allclose(ours, theirs, atol=1e-6)
    gradients = [torch.autograd.grad((y * y).sum(), x)[0] for y in (ours, theirs)]
    assert torch.allclose(*gradients, atol=1e-5)


def test_pyramid_pooling_against_loops():
    torch.manual_seed(0)
    module = PyramidPooling(8).eval()
    for conv in module.convs:
        conv[1].running_mean.normal_()
        conv[1].running_var.uniform_(0.5, 2)
    x = torch.randn(1, 8, 5, 7)
    with torch.inference_mode():
        found = module(x)
    expected = [x[0]]
    for n, (conv, norm, _) in zip((1, 2, 3, 6), module.convs, strict=True):
        level = torch.zeros(2, n, n)
        for r in range(n):
            for c in range(n):
                rows = slice(r * 5 // n, -(-(r + 1) * 5 // n))
                columns = slice(c * 7 // n, -(-(c + 1) * 7 // n))
                mean = x[0, :, rows, columns].mean((1, 2))
                y = conv.weight[:, :, 0, 0] @ mean
                y = (y - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
                level[:, r, c] = y.clamp(min=0)
        expected.append(F.interpolate(level[None], size=(5, 7), mode="bilinear", align_corners=False)[0].detach())
    assert found.shape == (1, 16, 5, 7)
    assert torch.allclose(found[0], torch.cat(expected), atol=1e-5)


def test_the_auxiliary_head_learns_and_a_cut_encoder_has_none(shallow):
    model = PSPNet(num_outputs=11).train()
    output, auxiliary = model(torch.randn(2, 3, 24, 32))
    assert output.shape == auxiliary.shape == (2, 11, 24, 32) and output.dtype == torch.float32
    (output.square().mean() + auxiliary.square().mean()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    assert model.eval()(torch.randn(1, 3, 24, 32)).shape == (1, 11, 24, 32)
    cut = PSPNet(aux=False, truncated=True)
    assert cut(torch.randn(2, 3, 16, 16)).shape == (2, 3, 16, 16)
    assert not any("layer3" in name or "layer4" in name for name, _ in cut.named_parameters())
    with pytest.raises(AssertionError, match="layer3"):
        PSPNet(aux=True, truncated=True)


# ---- A batch of one image ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [DeepLabV3, PSPNet])
def test_a_training_step_on_one_image_does_not_crash(shallow, build):
    model = build(aux=False).train()
    output = model(torch.randn(1, 3, 24, 24))
    output.square().mean().backward()
    assert output.isfinite().all() and all(p.grad.isfinite().all() for p in model.parameters())


def test_batch_norm_of_one_value_uses_the_running_statistics_and_otherwise_is_pytorchs():
    ours, theirs = BatchNorm(3), nn.BatchNorm2d(3)
    for norm in (ours, theirs):
        norm.running_mean.copy_(torch.tensor([1.0, 2.0, 3.0]))
    x = torch.randn(1, 3, 1, 1)
    before = ours.running_mean.clone()
    assert torch.allclose(ours.train()(x), theirs.eval()(x)) and torch.equal(ours.running_mean, before)
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(ours(x), theirs.train()(x)) and torch.equal(ours.running_mean, theirs.running_mean)


# ---- Weights -------------------------------------------------------------------------------------------------------


def arguments(**changes):
    return argparse.Namespace(**{"weights": "auto", "model": "deeplabv3"} | changes)


def test_the_encoder_takes_coco_and_imagenet_weights_and_a_cut_one_what_it_has(reference, tmp_path, monkeypatch):
    """Read from torchvision's cache under torchvision's names."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    torch.save(reference.state_dict(), tmp_path / "checkpoints" / "deeplabv3_resnet101_coco-586e9e4e.pth")
    torch.manual_seed(2)
    classifier = resnet101()
    torch.save(classifier.state_dict(), tmp_path / "checkpoints" / "resnet101-63fe2227.pth")

    holder = nn.Module()
    holder.backbone = ResNet101()
    assert "coco" in load_weights(holder, arguments())
    assert torch.equal(holder.backbone.layer4[2].conv3.weight, reference.backbone.layer4[2].conv3.weight)
    assert "resnet101-63fe2227.pth" in load_weights(holder, arguments(model="pspnet"))
    assert torch.equal(holder.backbone.layer3[22].bn2.running_var, classifier.layer3[22].bn2.running_var)
    assert torch.equal(holder.backbone.conv1.weight, classifier.conv1.weight)
    holder.backbone = ResNet101(truncated=True)
    load_weights(holder, arguments(model="pspnet", weights="imagenet"))
    assert torch.equal(holder.backbone.layer2[3].conv2.weight, classifier.layer2[3].conv2.weight)

    broken = dict(classifier.state_dict())
    del broken["layer1.0.conv1.weight"]
    torch.save(broken, tmp_path / "broken.pth")
    with pytest.raises(InputError, match="not torchvision's ResNet-101"):
        load_weights(holder, arguments(weights=str(tmp_path / "broken.pth")))
    for path in tmp_path.rglob("*.pth"):
        path.unlink()


def test_without_weights_auto_says_random_and_coco_stops(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("common.weights._unreachable", lambda url: "no route to host")
    assert load_weights(None, arguments()).startswith("RANDOM: deeplabv3_resnet101_coco")
    assert load_weights(None, arguments(model="pspnet")).startswith("RANDOM: resnet101-63fe2227")
    assert load_weights(None, arguments(weights="none")) == "random (--weights none)"
    with pytest.raises(InputError, match="--weights none"):
        load_weights(None, arguments(weights="coco"))

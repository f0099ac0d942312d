"""hair_transfer/model.py against torchvision's DeepLabV3-ResNet101, and where its weights may come from."""

from argparse import Namespace

import pytest
import torch
from torch import nn
from torchvision.models import resnet101
from torchvision.models.segmentation import deeplabv3_resnet101

from hair_transfer.model import DeepLabV3
from hair_transfer.train import build_model

COCO = "deeplabv3_resnet101_coco-586e9e4e.pth"


@pytest.fixture(scope="module")
def reference():
    """torchvision's network with COCO's 21 classes, its batch norm such that logits are of order 1."""
    torch.manual_seed(0)
    model = deeplabv3_resnet101(weights=None, weights_backbone=None, num_classes=21, aux_loss=True)
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.momentum = None  # the running statistics become the batch's
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.1)
    with torch.no_grad():
        model.train()(torch.randn(2, 3, 64, 64))
    return model.eval()


def build(weights, output="sigmoid"):
    return build_model(Namespace(weights=str(weights), output=output), [])


def geometry(model: nn.Module) -> dict[str, tuple]:
    """Of each convolution: on a small map large rates meet nothing but padding, and outputs do not show them."""
    convolutions = ((name, m) for name, m in model.named_modules() if isinstance(m, nn.Conv2d) and "aux" not in name)
    return {name: (m.kernel_size, m.stride, m.padding, m.dilation) for name, m in convolutions}


def test_keys_parameters_and_logits_are_torchvisions_and_all_of_it_learns(reference):
    ours = DeepLabV3(num_outputs=21).eval()
    theirs = {name: x for name, x in reference.state_dict().items() if not name.startswith("aux_classifier.")}
    assert list(ours.state_dict()) == list(theirs) and geometry(ours) == geometry(reference)
    ours.load_state_dict(theirs, strict=True)
    for H, W in ((64, 48), (41, 58)):  # the second: no stride divides it
        x = torch.randn(1, 3, H, W, generator=torch.Generator().manual_seed(H))
        with torch.inference_mode():
            expected, logits = reference(x)["out"], ours(x)
        assert logits.shape == (1, 21, H, W) and logits.std() > 0.01
        assert (logits - expected).abs().max() < 1e-4
    ours.train()(torch.randn(2, 3, 16, 16)).square().mean().backward()
    assert [name for name, p in ours.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    for output, expected in (("sigmoid", [0, 0.5, 1]), ("tanh", [-1, 0, 1])):
        ours.output = output
        found = ours.activate(torch.tensor([-50.0, 0.0, 50.0], dtype=torch.bfloat16))
        assert found.dtype == torch.float32 and found.tolist() == pytest.approx(expected, abs=1e-9)


def test_cocos_backbone_gets_new_heads(reference, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    torch.save(reference.state_dict(), tmp_path / "checkpoints" / COCO)
    model, source, seen = build("coco")
    assert COCO in source and "new heads" in source and not seen
    expected = {name: x for name, x in reference.state_dict().items() if name.startswith("backbone.")}
    assert all(torch.equal(x, expected[f"backbone.{name}"]) for name, x in model.backbone.state_dict().items())
    assert not torch.equal(model.classifier[0].convs[0][0].weight, reference.classifier[0].convs[0][0].weight)
    assert model.classifier[-1].weight.shape == (1, 256, 1, 1)
    assert sum(p.numel() for p in model.parameters()) == 58_625_857


def test_a_classifiers_resnet_101_is_a_backbone_too(tmp_path):
    classifier, path = resnet101(), tmp_path / "resnet101.pth"
    torch.save(classifier.state_dict(), path)
    model, source, _ = build(path, output="tanh")
    assert torch.equal(model.backbone.layer1[0].downsample[0].weight, classifier.layer1[0].downsample[0].weight)
    assert "resnet101.pth" in source and model.output == "tanh"

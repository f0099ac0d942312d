"""mut1ny_fairness: DeepLabV3 against torchvision's, PSPNet against a plain re-computation, weights."""

import re
from argparse import Namespace

import pytest
import torch
import torch.nn.functional as F
from conftest import succeed
from torch import nn
from torchvision.models import resnet101
from torchvision.models.segmentation import deeplabv3_resnet101
from trainings import make_networks_small

from common.run import load_checkpoint
from mut1ny_fairness import train
from mut1ny_fairness.deeplabv3 import DeepLabV3
from mut1ny_fairness.pspnet import PSPNet, PyramidPooling
from mut1ny_fairness.resnet import ResNet101, encoder_of


@pytest.fixture(scope="module")
def reference():
    """torchvision's, its batch norms with the statistics of a batch, so that outputs are of order 1."""
    torch.manual_seed(0)
    model = deeplabv3_resnet101(weights=None, weights_backbone=None, num_classes=21, aux_loss=True)
    with torch.no_grad():
        for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
            norm.momentum = None
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.normal_(std=0.1)
        model.train()(torch.randn(2, 3, 48, 48))
    return model.eval()


def geometry(model: nn.Module) -> dict[str, tuple]:
    """Of each convolution: on a small map large rates meet nothing but padding, and outputs do not show them."""
    convolutions = ((name, m) for name, m in model.named_modules() if isinstance(m, nn.Conv2d) and "aux" not in name)
    return {name: (m.kernel_size, m.stride, m.padding, m.dilation) for name, m in convolutions}


def test_deeplabv3_is_torchvisions_key_for_key_and_number_for_number(reference):
    ours = DeepLabV3(num_outputs=21).eval()
    theirs = {name: x for name, x in reference.state_dict().items() if not name.startswith("aux_classifier.")}
    assert list(ours.state_dict()) == list(theirs) and geometry(ours) == geometry(reference)
    ours.load_state_dict(theirs, strict=True)
    x = torch.randn(1, 3, 57, 70)  # sizes that no stride divides
    with torch.inference_mode():
        expected = reference(x)["out"]
        assert expected.std() > 0.01 and torch.allclose(ours(x), expected, atol=1e-4)


def test_the_number_of_parameters_with_three_outputs():
    with torch.device("meta"):
        assert sum(p.numel() for p in DeepLabV3().parameters()) == 58_626_371
        head, auxiliary = (9 * n * k + 2 * k + 3 * k + 3 for n, k in ((4096, 512), (1024, 256)))  # 3x3, norm, 1x1
        pyramid = 4 * (2048 * 512 + 2 * 512)
        assert sum(p.numel() for p in PSPNet().parameters()) == 42_500_160 + pyramid + head + auxiliary
        cut = PSPNet(truncated=True).backbone
        assert sum(p.numel() for p in cut.parameters()) == 1_444_928  # what the public library uses too


def test_pyramid_pooling_against_pytorchs_adaptive_means():
    torch.manual_seed(0)
    module, x = PyramidPooling(8).eval(), torch.randn(1, 8, 5, 7)
    with torch.inference_mode():
        levels = [conv(F.adaptive_avg_pool2d(x, n)) for n, conv in zip((1, 2, 3, 6), module.convs, strict=True)]
        levels = [F.interpolate(level, size=(5, 7), mode="bilinear", align_corners=False) for level in levels]
        assert torch.allclose(module(x), torch.cat([x, *levels], dim=1), atol=1e-5)


def test_the_encoder_takes_coco_and_imagenet_weights_and_a_cut_one_what_it_has(reference):
    torch.manual_seed(2)
    classifier = resnet101()
    for source, expected, truncated in ((reference, reference.backbone, False), (classifier, classifier, True)):
        encoder, theirs = ResNet101(truncated), expected.state_dict()
        encoder.load_state_dict(encoder_of(source.state_dict(), truncated), strict=True)
        assert all(torch.equal(x, theirs[name]) for name, x in encoder.state_dict().items())


def test_the_rate_of_our_recipe_falls_along_a_cosine_and_the_papers_is_constant():
    for recipe, expected in (("ours", [0.4, 0.3414, 0.2, 0.0586]), ("paper", [0.4] * 4)):
        args = Namespace(lr=0.4, epochs=4, recipe=recipe)
        assert [train.rate_of(args, epoch) for epoch in (1, 2, 3, 4)] == pytest.approx(expected, abs=1e-4)


def test_a_whole_pspnet_learns_from_its_auxiliary_loss_too(call, faces, tmp_path, monkeypatch, no_pictures):
    make_networks_small("mut1ny_fairness", monkeypatch.setattr)
    common = ("--data", faces, "--limit", 5, "--size", 16, "--epochs", 1, "--device", "cpu", "--weights", "none")
    heads = []
    for lr in (1e-30, 1e-3):
        out = ("--lr", lr, "--out", tmp_path / str(lr), "--cache", tmp_path / "cache")
        succeed(call(train, *common, "--model", "pspnet", *out))
        model = load_checkpoint(tmp_path / str(lr) / "last.pt", "mut1ny_fairness")["model"]
        heads.append({name: x for name, x in model.items() if re.match(r"aux_classifier.*weight", name)})
    assert heads[0] and all(not torch.equal(x, heads[1][name]) for name, x in heads[0].items())


def test_weights_are_the_papers_by_name_or_of_a_file(call, faces, tmp_path, monkeypatch, no_pictures):
    """From torchvision's cache under torchvision's names; without them auto says RANDOM."""
    make_networks_small("mut1ny_fairness", monkeypatch.setattr)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    get = "torchvision.models._api.WeightsEnum.get_state_dict"
    monkeypatch.setattr(get, lambda *args, **kwargs: (_ for _ in ()).throw(OSError("no route")))
    coco = tmp_path / "checkpoints" / "deeplabv3_resnet101_coco-586e9e4e.pth"
    coco.parent.mkdir()
    common = ("--data", faces, "--limit", 5, "--size", 16, "--epochs", 1, "--device", "cpu", "--lr", 1e-30)
    small = ("--model", "pspnet", "--truncated", "--cache", tmp_path / "cache")

    def start(run, *args):
        return call(train, *common, *small, "--out", tmp_path / run, *args)

    def first_layer(run):
        return load_checkpoint(tmp_path / run / "last.pt", "mut1ny_fairness")["model"]["backbone.conv1.weight"]

    assert "weights    RANDOM: resnet101-63fe2227.pth is not available (no route)" in succeed(start("random"))
    torch.save(load_checkpoint(tmp_path / "random" / "last.pt", "mut1ny_fairness")["model"], coco)
    assert f"weights    encoder of {coco.name}" in succeed(start("coco", "--weights", "coco", "--seed", 1))
    succeed(start("file", "--weights", tmp_path / "random" / "last.pt", "--seed", 1))
    assert all(torch.equal(first_layer(run), first_layer("random")) for run in ("coco", "file"))

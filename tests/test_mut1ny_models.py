"""mut1ny_fairness: DeepLabV3 against torchvision's, PSPNet against a plain re-computation, weights."""

import pytest
import torch
import torch.nn.functional as F
from conftest import one_line_error, succeed
from torch import nn
from torchvision.models import resnet101
from torchvision.models.segmentation import deeplabv3_resnet101
from trainings import make_networks_small

from common.run import load_checkpoint
from mut1ny_fairness import train
from mut1ny_fairness.deeplabv3 import DeepLabV3
from mut1ny_fairness.pspnet import PSPNet, PyramidPooling
from mut1ny_fairness.resnet import BatchNorm, ResNet101, encoder_of, upsample


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
    convolutions = ((name, m) for name, m in model.named_modules() if isinstance(m, nn.Conv2d))
    return {name: (m.kernel_size, m.stride, m.padding, m.dilation) for name, m in convolutions}


def test_deeplabv3_is_torchvisions_key_for_key_and_number_for_number(reference):
    ours = DeepLabV3(num_outputs=21, aux=True).eval()
    shapes = [{name: x.shape for name, x in model.state_dict().items()} for model in (ours, reference)]
    assert list(shapes[0]) == list(shapes[1]) and shapes[0] == shapes[1] and geometry(ours) == geometry(reference)
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


def test_pyramid_pooling_against_pytorchs_adaptive_means():
    torch.manual_seed(0)
    module = PyramidPooling(8).eval()
    for conv in module.convs:
        conv[1].running_mean.normal_()
        conv[1].running_var.uniform_(0.5, 2)
    x, levels = torch.randn(1, 8, 5, 7), []
    with torch.inference_mode():
        for n, (conv, norm, _) in zip((1, 2, 3, 6), module.convs, strict=True):
            y = torch.einsum("oc,chw->ohw", conv.weight[:, :, 0, 0], F.adaptive_avg_pool2d(x, n)[0])
            mean, std = norm.running_mean[:, None, None], (norm.running_var + norm.eps).sqrt()[:, None, None]
            level = ((y - mean) / std * norm.weight[:, None, None] + norm.bias[:, None, None]).clamp(min=0)
            levels.append(F.interpolate(level[None], size=(5, 7), mode="bilinear", align_corners=False))
        assert torch.allclose(module(x), torch.cat([x, *levels], dim=1), atol=1e-5)


def test_batch_norm_of_one_value_uses_the_running_statistics_and_otherwise_is_pytorchs():
    ours, theirs = BatchNorm(3), nn.BatchNorm2d(3)
    for norm in (ours, theirs):
        norm.running_mean.copy_(torch.tensor([1.0, 2.0, 3.0]))
    x, before = torch.randn(1, 3, 1, 1), ours.running_mean.clone()
    assert torch.allclose(ours.train()(x), theirs.eval()(x)) and torch.equal(ours.running_mean, before)
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(ours(x), theirs.train()(x)) and torch.equal(ours.running_mean, theirs.running_mean)


# ---- Weights -------------------------------------------------------------------------------------------------------


def test_the_encoder_takes_coco_and_imagenet_weights_and_a_cut_one_what_it_has(reference):
    torch.manual_seed(2)
    classifier = resnet101()
    for source, expected, truncated in ((reference, reference.backbone, False), (classifier, classifier, True)):
        encoder, theirs = ResNet101(truncated), expected.state_dict()
        encoder.load_state_dict(encoder_of(source.state_dict(), truncated), strict=True)
        assert all(torch.equal(x, theirs[name]) for name, x in encoder.state_dict().items())


def test_weights_are_the_papers_by_name_or_of_a_file(call, faces, tmp_path, monkeypatch, no_pictures):
    """From torchvision's cache under torchvision's names; without them auto says RANDOM, and a name is refused."""
    make_networks_small("mut1ny_fairness", monkeypatch.setattr)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    get = "torchvision.models._api.WeightsEnum.get_state_dict"
    monkeypatch.setattr(get, lambda *args, **kwargs: (_ for _ in ()).throw(OSError("no route")))
    coco = tmp_path / "checkpoints" / "deeplabv3_resnet101_coco-586e9e4e.pth"
    coco.parent.mkdir()
    common = ("--data", faces, "--limit", 5, "--size", 16, "--epochs", 1, "--device", "cpu", "--lr", 1e-30)

    def start(run, *args):
        small = ("--model", "pspnet", "--truncated", "--cache", tmp_path / "cache", "--out", tmp_path / run)
        return call(train, *common, *small, *args)

    def first_layer(run):
        return load_checkpoint(tmp_path / run / "last.pt", "mut1ny_fairness")["model"]["backbone.conv1.weight"]

    out = succeed(start("random"))
    assert "weights    RANDOM: resnet101-63fe2227.pth is not available (no route)" in out
    assert f"{coco.name} is not available" in one_line_error(start("coco", "--weights", "coco"))
    weights = load_checkpoint(tmp_path / "random" / "last.pt", "mut1ny_fairness")["model"]
    weights = {name: x for name, x in weights.items() if name.startswith("backbone.")}
    torch.save(weights, coco)
    assert f"weights    encoder of {coco.name}" in succeed(start("coco", "--weights", "coco", "--seed", 1))
    succeed(start("file", "--weights", tmp_path / "random" / "last.pt", "--seed", 1))
    assert all(torch.equal(first_layer(run), first_layer("random")) for run in ("coco", "file"))

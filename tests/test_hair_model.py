"""hair_transfer/model.py against torchvision's DeepLabV3-ResNet101, and where its weights may come from."""

import argparse

import pytest
import torch
from torch import nn
from torchvision.models import resnet101
from torchvision.models.segmentation import deeplabv3_resnet101

from common.cli import InputError
from common.data import TrainBatches
from hair_transfer.model import DeepLabV3, backbone_of, from_coco, upsample
from hair_transfer.weights import build_model

COCO = "deeplabv3_resnet101_coco-586e9e4e.pth"


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """A second one gains nothing on maps of 8 x 8, and waits for the first."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def settle(model: nn.Module) -> nn.Module:
    """Batch norm with weights of its own and the statistics of a batch, so that logits are of order 1."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            norm.momentum = None  # the running statistics become the batch's
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.normal_(std=0.1)
        model.train()(torch.randn(2, 3, 64, 64))
    return model.eval()


@pytest.fixture(scope="module")
def reference():
    """torchvision's network with COCO's 21 classes."""
    torch.manual_seed(0)
    return settle(deeplabv3_resnet101(weights=None, weights_backbone=None, num_classes=21, aux_loss=True))


@pytest.fixture(scope="module")
def ours():
    torch.manual_seed(1)
    return settle(DeepLabV3(num_outputs=21, aux=True))


def arguments(**changes):
    return argparse.Namespace(**{"init": "random", "output": "sigmoid", "aux": 0.0} | changes)


def difference(model, reference, H=64, W=48):
    x = torch.randn(1, 3, H, W, generator=torch.Generator().manual_seed(H))
    with torch.inference_mode():
        theirs = reference(x)
        layer3, _ = model.backbone(x)
        auxiliary = upsample(model.aux_classifier(layer3), (H, W))
        logits = model(x)
    assert logits.shape == (1, 21, H, W) and logits.std() > 0.01
    return max((logits - theirs["out"]).abs().max().item(), (auxiliary - theirs["aux"]).abs().max().item())


def test_keys_and_shapes_are_torchvisions(ours, reference):
    shapes = [{name: x.shape for name, x in model.state_dict().items()} for model in (ours, reference)]
    assert list(shapes[0]) == list(shapes[1]) and shapes[0] == shapes[1]


def test_logits_equal_torchvisions_with_weights_copied_both_ways(ours, reference):
    own, theirs = ({name: x.clone() for name, x in model.state_dict().items()} for model in (ours, reference))
    assert difference(ours, reference) > 1e-2
    ours.load_state_dict(theirs, strict=True)
    assert difference(ours, reference) < 1e-4
    ours.load_state_dict(own, strict=True)
    reference.load_state_dict(own, strict=True)
    assert difference(ours, reference, 57, 70) < 1e-4  # sizes that no stride divides
    reference.load_state_dict(theirs)


def test_the_number_of_parameters(ours):
    assert sum(p.numel() for p in ours.parameters()) == 60_996_202
    ours_alone = sum(p.numel() for name, p in ours.named_parameters() if not name.startswith("aux"))
    assert ours_alone - 20 * 257 == 58_625_857  # 20 outputs of 256 weights and a bias fewer


def test_the_coco_checkpoint_in_the_cache_loads_and_gets_new_heads(reference, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    torch.save(reference.state_dict(), tmp_path / "checkpoints" / COCO)
    model, source, seen = build_model(arguments(init="pretrained"), [])
    assert COCO in source and "new heads" in source and not seen
    assert torch.equal(model.backbone.layer4[2].conv3.weight, reference.backbone.layer4[2].conv3.weight)
    assert torch.equal(model.backbone.layer3[22].bn2.running_var, reference.backbone.layer3[22].bn2.running_var)
    assert not torch.equal(model.classifier[0].convs[0][0].weight, reference.classifier[0].convs[0][0].weight)
    assert model.classifier[-1].weight.shape == (1, 256, 1, 1) and model.aux_classifier is None
    assert sum(p.numel() for p in model.parameters()) == 58_625_857
    (tmp_path / "checkpoints" / COCO).unlink()


def test_a_coco_checkpoint_that_lacks_a_key_is_refused(reference):
    state_dict = dict(reference.state_dict())
    del state_dict["classifier.4.bias"]
    with pytest.raises(RuntimeError, match="classifier.4.bias"):
        from_coco(state_dict)


def test_pretrained_without_the_weights_stops_and_names_file_and_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("common.weights._unreachable", lambda url: "no route to host")
    with pytest.raises(InputError) as error:
        build_model(arguments(init="pretrained"), [])
    message = str(error.value)
    assert COCO in message and "--init pretrained" in message and "--init random" in message
    assert "--weights" not in message and "\n" not in message


def test_a_classifiers_resnet_101_is_a_backbone_too(tmp_path):
    torch.manual_seed(2)
    classifier = resnet101()
    torch.save(classifier.state_dict(), tmp_path / "resnet101.pth")
    model, source, _ = build_model(arguments(init=str(tmp_path / "resnet101.pth"), output="tanh", aux=0.5), [])
    assert torch.equal(model.backbone.layer1[0].downsample[0].weight, classifier.layer1[0].downsample[0].weight)
    assert "resnet101.pth" in source and model.output == "tanh" and model.aux_classifier is not None
    (tmp_path / "resnet101.pth").unlink()


def test_backbone_of_drops_heads():
    x = torch.zeros(1)
    assert backbone_of({"backbone.conv1.weight": x, "classifier.4.bias": x}) == {"conv1.weight": x}
    assert backbone_of({"layer4.0.bn1.bias": x, "fc.bias": x}) == {"layer4.0.bn1.bias": x}
    assert backbone_of({"features.0.weight": x}) == {}


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (None, "no such file"),
        (b"no weights", "cannot be loaded"),
        ({"features.0.weight": torch.zeros(1)}, "holds no ResNet-101"),
        ({"backbone.conv1.weight": torch.zeros(64, 3, 7, 7)}, "not a ResNet-101's weights"),
        ([1, 2], "holds no ResNet-101"),
        ({1: torch.zeros(1)}, "holds no ResNet-101"),
        ({"paper": "a_paper", "model": {1: torch.zeros(1)}}, "holds no ResNet-101"),
        ({"paper": "a_paper", "args": None}, "its args or trained_on are not what train.py writes"),
        ({"paper": "a_paper", "args": {}, "trained_on": None}, "its args or trained_on"),
        ({"paper": "a_paper", "args": {}, "trained_on": [[1]]}, "its args or trained_on"),
        ({"backbone.conv1.weight": "text"}, "not a ResNet-101's weights"),
    ],
)
def test_files_that_are_no_resnet_101_are_one_clear_line(content, named, tmp_path):
    path = tmp_path / "file.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(InputError) as error:
        build_model(arguments(init=str(path)), [])
    assert named in str(error.value) and f"--init {path}" in str(error.value) and "\n" not in str(error.value)


def test_the_output_is_float32_and_in_its_range(ours):
    logits = torch.tensor([-50.0, 0.0, 50.0], dtype=torch.bfloat16)
    for output, expected in (("sigmoid", [0, 0.5, 1]), ("tanh", [-1, 0, 1])):
        ours.output = output
        found = ours.activate(logits)
        assert found.dtype == torch.float32 and found.tolist() == pytest.approx(expected, abs=1e-9)
    ours.output = "sigmoid"


def test_a_last_batch_of_one_image_joins_the_one_before_and_the_auxiliary_head_learns(ours):
    """7 images in batches of 6: one step with 7 images, because batch norm after the image pooling needs two."""
    batches = list(TrainBatches(7, 6, seed=0))
    assert [len(batch) for batch in batches] == [7]
    ours.train()
    logits, auxiliary = ours(torch.randn(2, 3, 16, 16))
    (logits.square().mean() + auxiliary.square().mean()).backward()
    unreached = [name for name, p in ours.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert unreached == [] and logits.dtype == torch.float32
    ours.zero_grad(set_to_none=True)
    ours.eval()

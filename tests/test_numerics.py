"""A network may run in bfloat16; what is computed from its output, losses and metrics, is computed in float32."""

import ast

import pytest
import torch
from conftest import ROOT
from torch import Tensor
from trainings import make_networks_small

import hair_transfer.scores
import mut1ny_fairness.scores
from common import metrics
from common.losses import dice_loss
from hair_transfer.model import DeepLabV3
from lrn_headtorso.eval import summed_bce
from masked_ssl.masking import error_where_hidden, reconstruction_loss
from masked_ssl.train import parsing_loss
from mut1ny_fairness.palette import loss_of, predicted_channels, predicted_classes

CPU = torch.device("cpu")
GENERATOR = torch.Generator().manual_seed(0)
B, SIZE = 3, 16
MASKS = torch.randint(0, 2, (B, 1, SIZE, SIZE), generator=GENERATOR).byte()
HIDDEN = MASKS.bool()
CLASSES = torch.randint(0, 11, (B, SIZE, SIZE), generator=GENERATOR)
PHOTOS = torch.randn(B, 3, SIZE, SIZE, generator=GENERATOR)


def hair_scores(x: Tensor) -> list[float]:
    tally = hair_transfer.scores.Tally(CPU)
    output = torch.sigmoid(x[:, :1].float())
    tally.add(x[:, :1], output, MASKS, output.mean())
    return list(tally.scores().values())


def mut1ny_scores(x: Tensor, target: str) -> list[float]:
    tally = mut1ny_fairness.scores.Tally(CPU, target)
    tally.add(x, CLASSES, loss_of(x, CLASSES, target))
    return [value for value in tally.scores().values() if not isinstance(value, Tensor)]


LOSSES = {
    "dice": lambda x: dice_loss(x[:, :1], MASKS),
    "summed BCE": lambda x: summed_bce([x[:, :1].clamp(0, 1)], 255 * MASKS),
    "parsing": lambda x: torch.stack(parsing_loss(x, CLASSES)),
    "reconstruction, l1": lambda x: reconstruction_loss(x[:, :3], PHOTOS, HIDDEN, (2, 14)),
    "reconstruction, l2": lambda x: reconstruction_loss(x[:, :3], PHOTOS, HIDDEN, (2, 14), loss="l2", on="masked"),
    "error where hidden": lambda x: error_where_hidden(x[:, :3], PHOTOS, HIDDEN),
    "colours": lambda x: loss_of(x[:, :3], CLASSES, "rgb"),
    "cross-entropy": lambda x: loss_of(x, CLASSES, "labels", bgr=True),
}
METRICS = {
    "AUROC": lambda x: metrics.auroc(x[:, :1], MASKS),
    "AUROC in one pass": hair_scores,
    "colours": lambda x: mut1ny_scores(x[:, :3], "rgb"),
    "classes": lambda x: mut1ny_scores(x, "labels"),
    "channels": lambda x: predicted_channels(x[:, :3], "rgb").tolist(),
    "nearest colours": lambda x: predicted_classes(x[:, :3], "rgb").tolist(),
}


@pytest.fixture
def logits():
    """B x 11 x SIZE x SIZE in bfloat16, with many ties and close calls."""
    return torch.randn(B, 11, SIZE, SIZE, generator=torch.Generator().manual_seed(1)).bfloat16()


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_of_bf16_is_that_of_the_same_numbers_in_float32(name, logits):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = LOSSES[name](logits)  # stricter than need be: the trainings leave autocast before
    assert inside.dtype == torch.float32 and torch.equal(inside, LOSSES[name](logits.float()))


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_of_bf16_is_that_of_the_same_numbers_in_float32(name, logits):
    assert METRICS[name](logits) == METRICS[name](logits.float())


AUTOCASTS = [p for p in ROOT.glob("*/*.py") if "with autocast(device" in p.read_text() and p.parent.name != "tests"]
NETWORKS = {"model", "network", "encoder", "decoder"}
AROUND = {"scale", "normalize", "hide", "from_numpy", "permute", "float", "argmax", "byte", "cpu", "numpy"}


@pytest.mark.parametrize("path", AUTOCASTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_autocast_holds_the_network_and_nothing_that_is_computed_from_its_output(path):
    """Convolutions and products of a metric would run in bfloat16 in there, whatever they are given."""
    for block in ast.walk(ast.parse(path.read_text())):
        if isinstance(block, ast.With) and ast.unparse(block.items[0]).startswith("autocast("):
            calls = [node.func for part in block.body for node in ast.walk(part) if isinstance(node, ast.Call)]
            called = {getattr(call, "id", None) or call.attr for call in calls}
            assert called & NETWORKS and called <= NETWORKS | AROUND


def test_the_auroc_ranks_float32_logits_of_a_network_that_runs_in_bf16(monkeypatch):
    make_networks_small("hair_transfer", monkeypatch.setattr)
    model = DeepLabV3().eval()
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
        found = model(PHOTOS)
    assert found.dtype == torch.float32
    assert (found != found.bfloat16()).any()  # enlarged in float32: there are more ranks than bfloat16 has numbers


def test_a_map_of_nan_gives_a_loss_of_nan_and_others_keep_their_gradient():
    """PyTorch's binary cross-entropy would stop at it before anybody could say which images it came from."""
    maps = torch.rand(B, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(2)).requires_grad_()
    loss = summed_bce([maps], 255 * MASKS)
    loss.sum().backward()
    plain = maps.detach().clone().requires_grad_()
    expected = torch.nn.functional.binary_cross_entropy(plain, MASKS.float(), reduction="none").mean((1, 2, 3))
    expected.sum().backward()
    assert torch.equal(loss, expected) and torch.equal(maps.grad, plain.grad)
    with torch.no_grad():
        maps[1, 0, 3, 4] = torch.nan
    assert summed_bce([maps], 255 * MASKS).isnan().tolist() == [False, True, False]

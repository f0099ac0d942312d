"""common/device.py and common/weights.py: what is not there is an error in one line, or said aloud."""

import ctypes
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, refused
from torchvision.models import ResNet50_Weights

from common import device, weights
from common.device import (
    adam,
    autocast,
    for_inference,
    has_native_bf16,
    memory_format,
    pick_amp,
    pick_device,
    seed_everything,
)

CPU = torch.device("cpu")
WEIGHTS = "ResNet50_Weights.IMAGENET1K_V1"
NAME = "resnet50-0676ba61.pth"


# ---- Device --------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is here")
def test_cuda_that_is_not_there_is_refused():
    assert "--device cuda" in refused(pick_device, "cuda")


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="MPS is here")
def test_mps_that_is_not_there_is_refused():
    assert "--device mps" in refused(pick_device, "mps")


def test_cpu_is_always_there():
    assert pick_device("cpu") == CPU


@pytest.mark.parametrize("cuda, mps, expected", [(False, False, "cpu"), (False, True, "mps")])
def test_auto_takes_the_best_there_is(monkeypatch, cuda, mps, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert pick_device("auto").type == expected


def test_auto_prefers_cuda_and_takes_the_gpu_of_the_local_rank(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert pick_device("auto") == torch.device("cuda", 0)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert pick_device("cuda") == torch.device("cuda", 1)
    assert chosen == [0, 1]
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert "2 GPU(s)" in refused(pick_device, "cuda")


@pytest.mark.parametrize("flags, native", [
    ("flags : sse avx512f avx512_bf16", True), ("flags : sse amx_bf16", True), ("flags : sse avx2 avx512f", False),
    ("flags : not_amx_bf16", False), (None, False),
])  # fmt: skip
def test_amp_auto_follows_the_processor(monkeypatch, tmp_path, flags, native):
    cpuinfo = tmp_path / "cpuinfo"
    if flags:
        cpuinfo.write_text(f"processor : 0\n{flags}\n")
    monkeypatch.setattr(device, "Path", lambda path: cpuinfo if path == "/proc/cpuinfo" else Path(path))
    assert has_native_bf16(CPU) is native
    assert pick_amp("auto", CPU) is native
    assert pick_amp("bf16", CPU) is True
    assert pick_amp("off", CPU) is False


@pytest.mark.parametrize("capability, native", [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_amp_auto_follows_the_gpu(monkeypatch, capability, native):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert pick_amp("auto", torch.device("cuda", 0)) is native


def test_amp_is_off_on_an_apple_gpu_unless_asked_for():
    assert pick_amp("auto", torch.device("mps")) is False


@pytest.mark.parametrize("amp, kind", [(True, torch.bfloat16), (False, torch.float32)])
def test_autocast_does_what_it_was_told(amp, kind):
    with autocast(CPU, amp):
        assert torch.nn.Linear(4, 4)(torch.ones(2, 4)).dtype == kind


def test_adam_trains_what_requires_a_gradient():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
    model[0].requires_grad_(False)
    optimizer = adam(model, 0.1)
    (group,) = optimizer.param_groups
    assert group["params"] == list(model[1].parameters())
    assert (group["lr"], group["betas"], group["eps"], group["weight_decay"]) == (0.1, (0.9, 0.999), 1e-8, 0)
    before = model[1].bias.item()
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert model[1].bias.item() == pytest.approx(before - 0.1, abs=1e-5)  # Adam's first step has the length lr


# ---- Memory --------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None) if sys.platform == "linux" else None, "mallopt"), reason="no glibc")
def test_freed_memory_is_kept_for_the_next_step():
    """Touching 64 MB that were freed before faults no page, once keep_freed_memory() has been called.

    Not at once: aligned blocks leave crumbs behind them that glibc joins to the rest after the seventh.
    """
    code = (
        "import resource, torch; from common.device import keep_freed_memory\n"
        "def faults():\n"
        "    for _ in range(20): torch.ones(2**24)\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    torch.ones(2**24)\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
        "before = faults(); keep_freed_memory(); print(before, faults())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True, text=True)
    before, after = map(int, done.stdout.split())
    assert after < 0.1 * before


# ---- Inference -----------------------------------------------------------------------------------------------------


class Small(torch.nn.Module):
    """Convolutions with a batch norm behind them, as attributes and in a Sequential, and one without."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = torch.nn.Conv2d(3, 8, 3, bias=False), torch.nn.BatchNorm2d(8)
        self.block = torch.nn.Sequential(torch.nn.Conv2d(8, 8, 1), torch.nn.BatchNorm2d(8), torch.nn.ReLU())
        self.head = torch.nn.Conv2d(8, 2, 1)

    def forward(self, x):
        return self.head(self.block(self.bn1(self.conv1(x))))


def trained_a_little() -> Small:
    torch.manual_seed(0)
    model = Small().to(memory_format=torch.channels_last)
    for norm in (model.bn1, model.block[1]):
        torch.nn.init.normal_(norm.weight, 1, 0.3)
        torch.nn.init.normal_(norm.bias)
    for _ in range(3):
        model(torch.randn(4, 3, 9, 9))
    return model


def test_gpus_bf16_and_inference_want_channels_last():
    cuda, mps = torch.device("cuda"), torch.device("mps")
    cases = [(d, amp, training) for d in (CPU, cuda, mps) for amp in (False, True) for training in (False, True)]
    last = {(str(d), *how) for d, *how in cases if memory_format(d, *how) == torch.channels_last}
    cpu = {("cpu", amp, training) for amp, training in ((False, False), (True, False), (True, True))}
    assert last == cpu | {("cuda", amp, training) for amp in (False, True) for training in (False, True)}


def test_the_layout_of_the_weights_is_that_of_everything_behind_them():
    """The images may be in the other one: this is what lets normalize() ignore it."""
    x = torch.rand(2, 3, 9, 9)
    for layout in (torch.contiguous_format, torch.channels_last):
        found = trained_a_little().to(memory_format=layout).eval()(x)
        assert found.shape[1] > 1 and found.is_contiguous(memory_format=layout)


def test_the_network_for_inference_has_no_batch_norm_and_computes_the_same():
    model, x = trained_a_little(), torch.randn(2, 3, 9, 9)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = for_inference(model, amp=False)
    assert model.training and not found.training
    assert not [m for m in found.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert found.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found(x), model.eval()(x), atol=1e-5, rtol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_with_bf16_its_weights_are_what_autocast_would_make_of_them():
    model, x = trained_a_little(), torch.randn(2, 3, 9, 9)
    with torch.inference_mode(), autocast(CPU, True):
        found = for_inference(model, amp=True)(x)
        expected = for_inference(model, amp=False)(x)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, expected)


# ---- Seeds ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def keep_settings():
    benchmark, deterministic = torch.backends.cudnn.benchmark, torch.are_deterministic_algorithms_enabled()
    yield
    torch.backends.cudnn.benchmark = benchmark
    torch.use_deterministic_algorithms(deterministic)


def draw():
    return random.random(), np.random.rand(), torch.rand(1).item()


def test_the_seed_fixes_all_three_generators(keep_settings):
    draws = []
    for seed in (1, 1, 2):
        seed_everything(seed)
        draws.append(draw())
    assert draws[0] == draws[1]
    assert all(a != b for a, b in zip(draws[0], draws[2], strict=True))


def test_a_large_seed_is_taken(keep_settings):
    seed_everything(2**40 + 1)
    assert len(draw()) == 3


def test_deterministic_asks_for_deterministic_kernels(keep_settings, monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    seed_everything(0)
    assert torch.backends.cudnn.benchmark and not torch.are_deterministic_algorithms_enabled()
    seed_everything(0, deterministic=True)
    assert torch.are_deterministic_algorithms_enabled() and not torch.backends.cudnn.benchmark
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)


# ---- Pretrained weights --------------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """torch.hub's folder, empty, and no network."""
    before = torch.hub.get_dir()
    torch.hub.set_dir(tmp_path / "hub")
    monkeypatch.setattr(weights, "_unreachable", lambda url: "no answer from the network")
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    yield tmp_path / "hub" / "checkpoints"
    torch.hub.set_dir(before)


def test_none_is_random_and_says_so(hub):
    state_dict, words = weights.load_pretrained("none", WEIGHTS)
    assert state_dict is None and "random" in words


@pytest.mark.parametrize("choice", ["auto", "imagenet"])
def test_weights_in_the_cache_of_torchvision_are_taken(hub, choice):
    torch.save({"fc.bias": torch.arange(3.0)}, hub / NAME)
    state_dict, words = weights.load_pretrained(choice, WEIGHTS)
    assert state_dict["fc.bias"].tolist() == [0, 1, 2]
    assert NAME in words and "random" not in words.lower()


def test_weights_that_must_be_had_and_cannot_are_refused(hub):
    message = refused(weights.load_pretrained, "imagenet", WEIGHTS)
    assert NAME in message and ResNet50_Weights.IMAGENET1K_V1.url in message and str(hub / NAME) in message
    assert "--weights imagenet" in message and "--weights none" in message


def test_auto_without_weights_goes_on_and_says_random(hub):
    state_dict, words = weights.load_pretrained("auto", WEIGHTS)
    assert state_dict is None
    assert words.startswith("RANDOM") and NAME in words and "no answer from the network" in words


@pytest.mark.parametrize("error", [OSError("broken pipe"), RuntimeError("invalid hash value")])
def test_a_download_that_fails_is_no_network(hub, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(weights, "_unreachable", lambda url: None)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fail)
    assert str(error) in refused(weights.load_pretrained, "imagenet", WEIGHTS)
    assert weights.load_pretrained("auto", WEIGHTS)[1].startswith("RANDOM")


def test_a_path_is_taken(hub, tmp_path):
    torch.save({"conv1.weight": torch.ones(2)}, tmp_path / "mine.pth")
    state_dict, words = weights.load_pretrained(str(tmp_path / "mine.pth"), WEIGHTS)
    assert state_dict["conv1.weight"].tolist() == [1, 1]
    assert words == str(tmp_path / "mine.pth")


def test_a_missing_path_is_refused(hub, tmp_path):
    assert str(tmp_path / "no.pth") in refused(weights.load_pretrained, str(tmp_path / "no.pth"), WEIGHTS)
    assert f"{tmp_path}: is a folder; give none, auto," in refused(weights.load_pretrained, str(tmp_path), WEIGHTS)
    assert "imagnet" in refused(weights.load_pretrained, "imagnet", WEIGHTS)  # a slip of the pen


@pytest.mark.parametrize("content", [{"paper": "x", "epoch": 1}, [torch.zeros(1)], torch.zeros(1), {}])
def test_what_is_no_state_dict_is_refused(hub, tmp_path, content):
    path = tmp_path / "mine.pth"
    torch.save(content, path)
    assert str(path) in refused(weights.load_pretrained, str(path), WEIGHTS)


@pytest.mark.parametrize("data", [b"", b"not weights", b"\x80\x02.", b"PK\x03\x04"])
def test_a_broken_file_is_refused(hub, tmp_path, data):
    path = tmp_path / "mine.pth"
    path.write_bytes(data)
    assert str(path) in refused(weights.load_pretrained, str(path), WEIGHTS)
    (hub / NAME).write_bytes(data)  # a download that was cut off
    assert str(hub / NAME) in refused(weights.load_pretrained, "imagenet", WEIGHTS)


def test_an_unreachable_server_is_named_quickly():
    assert weights._unreachable("http://127.0.0.1:9/nothing") is not None

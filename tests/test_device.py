"""common/device.py and common/weights.py: what the machine can do, and where weights come from."""

from pathlib import Path

import torch
from conftest import Malice, refused
from torchvision.models import ResNet50_Weights

from common import device
from common.device import pick_amp, pick_device
from common.weights import load_weights, read_state_dict

CPU = torch.device("cpu")
WEIGHTS = "ResNet50_Weights.IMAGENET1K_V1"
NAME = ResNet50_Weights.IMAGENET1K_V1.url.rsplit("/", 1)[1]

# ---- Device and precision ------------------------------------------------------------------------------------------


def test_auto_prefers_cuda_and_takes_the_gpu_of_the_local_rank(monkeypatch):
    for kind in (torch.cuda, torch.backends.mps):
        monkeypatch.setattr(kind, "is_available", lambda: False)
    for choice in ("cuda", "mps"):
        assert f"--device {choice}" in refused(pick_device, choice)
    assert pick_device("auto") == CPU
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert pick_device("auto").type == "mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda index: None)
    for rank in ("0", "1"):
        monkeypatch.setenv("LOCAL_RANK", rank)
        assert pick_device("auto") == torch.device("cuda", int(rank))
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert "give --nproc_per_node=2" in refused(pick_device, "cuda")


def test_amp_auto_follows_the_hardware(monkeypatch, tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    monkeypatch.setattr(device, "Path", lambda path: cpuinfo if path == "/proc/cpuinfo" else Path(path))
    assert pick_amp("auto", CPU) is False  # where there is no such file
    for flag, native in (("avx512_bf16", True), ("amx_bf16", True), ("avx512f", False)):
        cpuinfo.write_text(f"processor : 0\nflags : sse {flag}\n")
        assert [pick_amp(choice, CPU) for choice in ("auto", "bf16", "off")] == [native, True, False]
    for capability, native in (((7, 5), False), ((8, 0), True)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, capability=capability: capability)
        assert pick_amp("auto", torch.device("cuda", 0)) is native
    assert not any(pick_amp(choice, torch.device("mps")) for choice in ("auto", "bf16", "off"))


# ---- Pretrained weights --------------------------------------------------------------------------------------------


def test_weights_by_name(tmp_path, monkeypatch):
    """With an empty cache of torch.hub's and no network; then from that cache."""

    def fail(url, *_, check_hash, **__):
        assert check_hash
        raise errors.pop()("no answer from the network")

    errors = [OSError, RuntimeError]  # the latter for a download with another hash
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fail)
    hub = tmp_path / "checkpoints"
    hub.mkdir()
    assert load_weights("none", WEIGHTS) == (None, "random (--weights none)", {})
    state_dict, words, _ = load_weights("auto", WEIGHTS)
    assert state_dict is None and words == f"RANDOM: {NAME} is not available (no answer from the network)"
    message = refused(load_weights, "imagenet", WEIGHTS)
    assert ResNet50_Weights.IMAGENET1K_V1.url in message and str(hub / NAME) in message and "--weights none" in message
    torch.save({"fc.bias": torch.arange(3.0)}, hub / NAME)
    state_dict, words, _ = load_weights("auto", WEIGHTS)
    assert state_dict["fc.bias"].tolist() == [0, 1, 2] and words.startswith(NAME)
    (hub / NAME).write_bytes(b"PK\x03\x04")  # a download that was cut off
    assert str(hub / NAME) in refused(load_weights, "imagenet", WEIGHTS)
    assert "imagnet: no such file" in refused(load_weights, "imagnet", WEIGHTS)  # a slip of the pen


def test_weights_from_a_file_of_any_name(tmp_path):
    path = tmp_path / "mine.bin"
    for prefix in ("", "module.", "_orig_mod.module."):
        torch.save({f"{prefix}conv1.weight": torch.ones(2)}, path)
        state_dict, words, checkpoint = load_weights(str(path), WEIGHTS)
        assert state_dict["conv1.weight"].tolist() == [1, 1] and words == str(path) and checkpoint == {}
    torch.save({"paper": "hair_transfer", "epoch": 3, "model": {"conv1.weight": torch.ones(2)}}, path)
    state_dict, checkpoint = read_state_dict(path)
    assert set(state_dict) == {"conv1.weight"} and checkpoint["paper"] == "hair_transfer"


def test_what_is_no_state_dict_is_refused(tmp_path):
    path, marker = tmp_path / "mine.pth", tmp_path / "marker"
    for content in ({"paper": "x", "epoch": 1}, [torch.zeros(1)], torch.zeros(1), {}):
        torch.save(content, path)
        assert f"{path}: not a state dict of tensors" in refused(read_state_dict, path)
    torch.save({"a": torch.zeros(2), "b": torch.tensor([1.0, torch.inf])}, path)
    assert f"{path}: its b holds nan or inf" in refused(read_state_dict, path)
    for pickled in (torch.nn.Linear(2, 2), Malice(marker)):
        torch.save(pickled, path)
        error = refused(read_state_dict, path)
        assert "holds more than tensors" in error and "saved model.state_dict()" in error and not marker.exists()

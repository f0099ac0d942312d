"""tests/benchmarks: its pieces at tiny sizes, without a look at any clock. Peers that are not installed are skipped."""

import functools
import importlib
import sys
import time

import pytest
import torch
import torch.nn.functional as F
from benchmarks import contest, emulated_bf16, loading, metrics, networks, parity, readme, run, scale, throughput

from common.celebamask import list_celebamask

ROWS = [
    contest.Row("training", "a network, 8 px", "a peer", "s", 0.5, 1.0, 3, machine="a machine"),
    contest.Row("metrics", "counts, 8 px", "a peer", "ms", 2.0, 18.0, 3, 1e-7, "a machine"),
]


class Listed(torch.nn.Module):
    def forward(self, x):
        return [x]


def test_contenders_are_processes_that_take_turns(monkeypatch, capsys):
    """The first round does not count; a peer that is not installed is left out."""
    calls = []
    runs = {name: lambda name=name: calls.append(name) or float(len(calls)) for name in "ab"}
    assert contest.in_turns(runs, rounds=2, budget=100) == {"a": [3.0, 5.0], "b": [4.0, 6.0]}
    sleep = (functools.partial, time.sleep, 0.02)  # prepare(*args) -> what is timed
    seconds, peaks = contest.contest({"ours": sleep, "another": (importlib.import_module, "no_such_package")}, 2, 5)
    assert list(seconds) == ["ours"] and len(seconds["ours"]) == 2 and min(seconds["ours"]) >= 0.02
    assert peaks["ours"][0] >= 0 and "left out: another (No module named" in capsys.readouterr().out


def test_one_part_replaces_its_own_rows_of_this_machine_alone(tmp_path, monkeypatch):
    csv, here = tmp_path / "r.csv", [row._replace(machine=contest.machine()) for row in ROWS]
    run.write_rows(csv, [*here, ROWS[1]])
    assert run.read_rows(csv) == [*here, ROWS[1]] and [row.ratio for row in ROWS] == [2, 9]
    monkeypatch.setattr(run, "measure", lambda part, quick, data: iter([here[1]._replace(ours=1.0)]))
    monkeypatch.setattr(sys, "argv", ["run.py", "--only", "metrics", "--csv", str(csv)])
    run.main()
    assert run.read_rows(csv) == [here[0], ROWS[1], here[1]._replace(ours=1.0)]


def test_the_tables_of_the_readme_are_those_of_the_measurements(tmp_path):
    """`python tests/benchmarks/readme.py` would change nothing; of other measurements there are other tables."""
    text = (readme.HERE / "README.md").read_text()
    assert readme.render(text) == text
    run.write_rows(tmp_path / "results.csv", ROWS)
    text = readme.render(text, tmp_path)
    assert "| a network, 8 px | a peer | 0.5 | 1 | 2.00 | 3 |" in text and "a machine" in text
    assert "| **geometric mean** | **the peers** |  |  | **2.00** |  |" in text


@pytest.mark.parametrize("name", networks.CASES)
def test_steps_and_inference_of_a_case_run(name, monkeypatch):
    """With a convolution in its network's place, run as ours and as theirs; the operations of a step are counted."""
    monkeypatch.setattr(networks, "keep_freed_memory", lambda: None)
    classes = {"nu": 18, "unetplusplus": 19}.get(name, 3 if "pspnet" in name else 1)
    small = [torch.nn.Conv2d(3, classes, 1)]
    if name in ("lrn", "unet"):  # whose outputs are a list of probabilities
        small += [torch.nn.Sigmoid(), Listed()]
    monkeypatch.setitem(networks.CASES, name, networks.CASES[name]._replace(ours=lambda: torch.nn.Sequential(*small)))
    for options in (networks.Options(), networks.AS_THEIRS):
        networks.prepare_training(name, options, 16, 2)()
        networks.prepare_inference(name, options, 16, 1)()
    seconds, flops = throughput.steps(name, networks.CPU, 16, 2, compiled=False, n=1)
    # forward and the gradient of the weights: 2 operations for each of 3 x classes weights at each pixel
    assert seconds > 0 and flops == 2 * (2 * 3 * classes * 2 * 16 * 16)
    assert throughput.matrix_peak(networks.CPU, False, 16, repeats=2) > 0


@pytest.mark.parametrize("target", ["masks", "hair", "labels"])
def test_the_loop_over_the_files_gives_what_the_cache_gives(target, faces, tmp_path):
    files = {face.photo.name: face for face in list_celebamask(faces)}
    ours = loading.cached(faces, 12, 32, target, tmp_path)
    for name, image, of_face in zip(ours.names, *ours.batch(list(range(12))), strict=True):
        wanted, truth = loading.decode(files.pop(name.split("/")[-1]), 32, target)
        assert torch.equal(image, (wanted * 255).round().byte()) and torch.equal(of_face, truth)


def test_the_peers_compute_the_same_values():
    if not (rows := list(metrics.metrics(quick=True))):
        pytest.skip("no peer is installed")
    assert all(row.difference < 1e-5 for row in rows)


def test_the_projection_is_a_straight_line_and_never_below_what_was_measured():
    rows = {n: {name: 5 + 2 * n for name in scale.COLUMNS} | {"found again, s": 9 - n / 10} for n in (10, 20, 40)}
    projected, off = scale.project(rows, to=1000)
    found = projected["build, s"], projected["found again, s"], off["build, s"]
    assert found == pytest.approx((2005, 8, 0), abs=1e-9)


def test_parity_is_judged_by_the_seeds():
    assert parity.verdict([0.50, 0.52, 0.51], [0.50, 0.49, 0.51]) == "within the spread"
    assert parity.verdict([0.50, 0.52, 0.51], [0.45, 0.46, 0.47]) == "BEYOND the spread"
    assert parity.verdict([0.5], [0.5]) == parity.verdict([0.5, 0.6], []) == "too few runs"


def test_the_commands_of_parity_are_ones_that_the_scripts_take(monkeypatch, tmp_path):
    monkeypatch.setattr(parity, "HERE", tmp_path)
    monkeypatch.setattr(parity, "native_bf16", lambda: False)
    emulated = str(tmp_path / "emulated_bf16.py")
    for folder in parity.TRAININGS:
        for precision, amp in parity.PRECISIONS.items():
            train, evaluate = parity.commands(folder, "/faces", precision, 1)
            assert (emulated in train) == (emulated in evaluate) == (amp == "bf16")
            monkeypatch.setattr(sys, "argv", [word for word in train[1:] if word != emulated])
            args, _ = importlib.import_module(f"{folder}.train").parse_args()
            assert (args.seed, args.amp) == (1, amp) and str(args.out / "last.pt") in evaluate
    args.out.mkdir(parents=True)
    (args.out / "last.pt").touch()  # of a run that was stopped
    assert parity.commands(folder, "/faces", precision, 1)[0][-2:] == ["--resume", str(args.out / "last.pt")]


def test_emulated_bf16_is_the_rounded_result_of_rounded_operands(monkeypatch):
    """Output and gradients of a convolution against float64: nearly all the same bits, the others next to them."""
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(8, 16, 3, stride=2, padding=2, dilation=2)
    images, upstream = torch.randn(2, 8, 12, 12, requires_grad=True), torch.randn(2, 16, 6, 6).bfloat16()
    exact = [x.detach().bfloat16().double().requires_grad_() for x in (images, conv.weight, conv.bias)]
    expected = F.conv2d(*exact, stride=2, padding=2, dilation=2)
    expected.backward(upstream.double())
    plain = conv(images)
    monkeypatch.setattr(torch.nn.Conv2d, "_conv_forward", torch.nn.Conv2d._conv_forward)
    emulated_bf16.emulate()
    assert torch.equal(conv(images), plain)  # without autocast nothing changes
    with torch.autocast("cpu", torch.bfloat16):
        output = conv(images)
    output.backward(upstream)
    found = [output, images.grad, conv.weight.grad, conv.bias.grad]
    for ours, theirs in zip(found, [expected, *(x.grad for x in exact)], strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=2**-7, atol=1e-6)
        assert (ours.float() != theirs.bfloat16().float()).float().mean() < 0.02
    assert (plain.bfloat16() != expected.bfloat16()).float().mean() > 0.1  # had the operands not been rounded

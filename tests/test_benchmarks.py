"""tests/benchmarks: its pieces at tiny sizes, without a look at any clock. Peers that are not installed are skipped."""

import importlib.util
import multiprocessing
import threading

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from benchmarks import contest, emulated_bf16, loading, metrics, networks, parity, readme, run, scale, throughput
from benchmarks.contest import Row

from common.celebamask import list_celebamask
from common.tables import write_csv

PACKAGES = {"torchmetrics": "torchmetrics", metrics.UNCHECKED: "torchmetrics", "scikit-learn": "sklearn",
            "MONAI": "monai", "scikit-image": "skimage",
            "segmentation_models_pytorch": "segmentation_models_pytorch"}  # fmt: skip
ROWS = [
    Row("training", "a network, 8 px", "a peer", "s", 0.5, 1.0, 3, machine="a machine"),
    Row("memory", "a network, 8 px", "a peer", "MB", 100.0, 50.0, 1, machine="a machine"),
    Row("metrics", "counts, 8 px", "a peer", "ms", 2.0, 18.0, 3, 1e-7, "a machine"),
]


# ---- Taking turns --------------------------------------------------------------------------------------------------


def test_contenders_take_turns_and_the_first_round_does_not_count(monkeypatch):
    calls = []
    runs = {name: lambda name=name: calls.append(name) or float(len(calls)) for name in "ab"}
    assert contest.in_turns(runs, rounds=2, budget=100) == {"a": [3.0, 5.0], "b": [4.0, 6.0]}
    assert calls == list("ababab")
    calls.clear()
    now = iter([0, 1, 2, 3, 4, 5])  # each round takes a second
    monkeypatch.setattr(contest.time, "perf_counter", lambda: next(now))
    assert contest.in_turns(runs, rounds=9, budget=1.5) == {"a": [3.0, 5.0, 7.0], "b": [4.0, 6.0, 8.0]}  # no fewer
    calls.clear()
    now = iter([0, 100, 200])
    assert contest.in_turns(runs, rounds=9, budget=1.5) == {"a": [3.0], "b": [4.0]}  # but for very slow ones


def serve(prepare):
    """What a contender's process does, in a thread."""
    ours, theirs = multiprocessing.Pipe()
    threading.Thread(target=contest._serve, args=(theirs, prepare, ("x",)), daemon=True).start()
    return ours


def test_a_contender_prepares_once_and_runs_when_told_to():
    done = []
    pipe = serve(lambda argument: lambda: done.append(argument))
    assert pipe.recv() == ("ready", 0.0) and done == []
    pipe.send("run")
    kind, seconds = pipe.recv()
    assert kind == "seconds" and seconds >= 0 and done == ["x"]
    pipe.send("stop")
    kind, megabytes = pipe.recv()
    assert kind == "peak" and megabytes >= 0


@pytest.mark.parametrize("error, kind", [(ImportError("no peer"), "missing"), (ValueError("no sense"), "error")])
def test_a_contender_says_what_went_wrong(error, kind):
    def prepare(_):
        raise error

    found = serve(prepare).recv()
    assert found[0] == kind and str(error) in found[1]


# ---- The table -----------------------------------------------------------------------------------------------------


def test_rows_are_written_and_read_back(tmp_path):
    run.write_rows(tmp_path / "r.csv", ROWS)
    assert run.read_rows(tmp_path / "r.csv") == ROWS
    assert run.read_rows(tmp_path / "none.csv") == []
    assert [row.ratio for row in ROWS] == [2, 0.5, 9]


def test_one_part_replaces_its_own_rows_of_this_machine_alone(tmp_path, monkeypatch, capsys):
    here = [row._replace(machine=contest.machine()) for row in ROWS]
    elsewhere = ROWS[2]
    run.write_rows(tmp_path / "r.csv", [*here, elsewhere])
    again = ROWS[2]._replace(ours=1.0, machine="")
    monkeypatch.setattr(run, "measure", lambda part, quick, data: iter([again]))
    run.main(["--only", "metrics", "--csv", str(tmp_path / "r.csv")])
    expected = [*here[:2], elsewhere, again._replace(machine=contest.machine())]
    assert run.read_rows(tmp_path / "r.csv") == expected
    printed = capsys.readouterr().out
    assert "18.00" in printed and "9.00" not in printed


def test_the_tables_of_the_readme_are_those_of_the_measurements():
    """`python tests/benchmarks/readme.py` would change nothing."""
    text = (readme.HERE / "README.md").read_text()
    assert readme.render(text) == text


def test_the_readme_is_filled_in(tmp_path):
    run.write_rows(tmp_path / "results.csv", ROWS)
    text = readme.render((readme.HERE / "README.md").read_text(), tmp_path)
    assert "| a network, 8 px | a peer | 0.5 | 1 | 2.00 | 3 |" in text and "a machine" in text
    assert "| **geometric mean** | **the peers** |  |  | **0.50** |  |" in text
    assert readme.mean_ratio([ROWS[0], ROWS[2]]) == pytest.approx(18**0.5)


def test_machines_stand_apart_in_a_table():
    other = ROWS[0]._replace(ours=0.25, machine="another machine")
    lines = readme.part_table([ROWS[0], other], "training")
    assert [line[0] for line in lines] == [
        "what", "**a machine**", "a network, 8 px", "**geometric mean**",
        "**another machine**", "a network, 8 px", "**geometric mean**",
    ]  # fmt: skip
    assert [line[4] for line in lines if "mean" in line[0]] == ["**2.00**", "**4.00**"]


def test_of_all_the_helps_the_slowest_is_shown():
    helps = [Row("start-up", f"{x}.py --help", "target", "s", s, 2.0, 2) for x, s in (("a", 1.5), ("b", 2.5))]
    step = Row("start-up", "first step", "target", "s", 5.0, 10.0, 2)
    lines = readme.part_table([*helps, step], "start-up")
    assert [line[0] for line in lines[1:]] == ["b.py --help, the slowest of 2 scripts", "first step"]


# ---- What is measured ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [networks.Options(), networks.AS_THEIRS], ids=["ours", "as theirs"])
def test_a_training_step_and_inference_run(options, monkeypatch):
    monkeypatch.setattr(networks, "keep_freed_memory", lambda: None)
    small = networks.CASES["nu"]._replace(ours=lambda: torch.nn.Conv2d(3, 18, 3, padding=1))
    monkeypatch.setitem(networks.CASES, "nu", small)
    networks.prepare_training("nu", True, options, 16, 2)()
    networks.prepare_inference("nu", True, options, 16, 1)()


@pytest.mark.parametrize("name", networks.CASES)
def test_the_target_of_a_case_fits_its_loss(name):
    case = networks.CASES[name]
    logits = torch.zeros(2, {"nu": 18, "unetplusplus": 19}.get(name, 3 if "pspnet" in name else 1), 16, 16)
    output, target = [torch.sigmoid(logits)] if name in ("lrn", "unet") else logits, case.target(2, 16)
    assert case.loss(output, target).ndim == 0
    if case.peer_loss:
        peers = {"out": logits} if name == "hair" else logits
        assert case.peer_loss(peers, target) == pytest.approx(case.loss(output, target))


def test_the_order_of_the_classifier_changes_nothing_but_rounding():
    torch.manual_seed(0)
    ours, theirs = networks.CASES["nu"].ours().eval(), networks.ClassifierLast().eval()
    theirs.load_state_dict(ours.state_dict())
    with torch.inference_mode():
        x = torch.rand(1, 3, 32, 32)
        torch.testing.assert_close(ours(x), theirs(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("target", ["masks", "hair", "labels"])
def test_the_loop_over_the_files_gives_what_the_cache_gives(target, faces, tmp_path):
    files = list_celebamask(faces)
    ours, theirs = loading.cached(files, faces, 32, target, tmp_path), loading.PerFile(files, 32, target)
    assert len(ours) == len(theirs) == 12
    order = [next(i for i, f in enumerate(files) if f.photo.name == ours.name(k).split("/")[-1]) for k in range(12)]
    images, targets = ours[list(range(12))]
    for k, i in enumerate(order):
        image, wanted = theirs[i]
        assert torch.equal(images[k], (image * 255).round().byte())
        assert torch.equal(targets[k], wanted)


@pytest.mark.parametrize("what, measure, batch, size", metrics.MEASURES, ids=lambda x: x if isinstance(x, str) else "")
def test_the_peers_compute_the_same_values(what, measure, batch, size):
    torch.manual_seed(0)
    ours, peers = measure(2, 24)
    installed = {name: peer for name, peer in peers.items() if importlib.util.find_spec(PACKAGES[name])}
    if not installed:
        pytest.skip("no peer is installed")
    for name, peer in installed.items():
        np.testing.assert_allclose(ours(), peer(), rtol=1e-5, err_msg=name)


def test_the_operations_of_a_step_are_counted(monkeypatch):
    small = networks.CASES["nu"]._replace(ours=lambda: torch.nn.Conv2d(3, 18, 1))
    monkeypatch.setitem(networks.CASES, "nu", small)
    seconds, flops = throughput.steps("nu", torch.device("cpu"), False, 16, 2, compiled=False, n=1)
    # forward and the gradient of the weights: 2 operations for each of 3 x 18 weights at each pixel
    assert seconds > 0 and flops == 2 * (2 * 3 * 18 * 2 * 16 * 16)
    assert throughput.matrix_peak(torch.device("cpu"), False, 16, repeats=2) > 0


# ---- Scale and parity ----------------------------------------------------------------------------------------------


def test_many_faces_are_the_few_under_other_names(faces, tmp_path):
    many = list_celebamask(scale.many_faces(tmp_path / "many", 30, faces))
    few = list_celebamask(faces)
    assert [face.id for face in many] == list(range(30))
    for i, face in enumerate(many):
        assert face.photo.read_bytes() == few[i % 12].photo.read_bytes()
        assert set(face.masks) == set(few[i % 12].masks)


def test_the_projection_is_a_straight_line():
    rows = {n: {name: 5 + 2 * n for name in scale.COLUMNS} for n in (10, 20, 40)}
    projected, off = scale.project(rows, to=1000)
    assert all(value == pytest.approx(2005) for value in projected.values())
    assert all(value == pytest.approx(0, abs=1e-9) for value in off.values())
    flat = {n: row | {"found again, s": 9 - n / 10} for n, row in rows.items()}
    assert scale.project(flat, to=1000)[0]["found again, s"] == 8  # 30,000 faces do not take less than nothing
    rows[20]["build, s"] *= 1.2
    assert scale.project(rows)[1]["build, s"] > 0.05
    assert [line[0] for line in scale.table(rows)][1:4] == ["10", "20", "40"]


def test_parity_is_judged_by_the_spread_of_the_seeds():
    assert parity.verdict([0.50, 0.52, 0.51], [0.50, 0.49, 0.51]) == "within the spread"
    assert parity.verdict([0.50, 0.52, 0.51], [0.45, 0.46, 0.47]) == "BEYOND the spread"
    assert parity.verdict([0.5], [0.5]) == parity.verdict([0.5, 0.6], []) == "too few runs"


def test_parity_of_one_folder_keeps_the_lines_of_the_others_and_of_other_machines(tmp_path):
    header, csv = ["folder", "score", "machine"], tmp_path / "parity.csv"
    new = [header, ["nu_deeplabv3plus", "iou_18", "here"]]
    assert parity.with_older(new, csv) == new
    elsewhere = ["nu_deeplabv3plus", "loss", "there"]
    older = [["masked_ssl", "miou", "here"], ["nu_deeplabv3plus", "loss", "here"], elsewhere]
    write_csv(csv, [header, *older])
    assert parity.with_older(new, csv) == [*new, older[0], elsewhere]
    write_csv(csv, [["folder", "machine"], ["masked_ssl", "here"]])  # of columns that no longer are
    assert parity.with_older(new, csv) == new


@pytest.mark.parametrize("native", [True, False], ids=["bf16 instructions", "none"])
def test_the_commands_of_parity_are_ones_that_the_scripts_take(native, monkeypatch, tmp_path):
    monkeypatch.setattr(parity, "HERE", tmp_path)
    monkeypatch.setattr(parity, "has_native_bf16", lambda device: native)
    for folder in parity.TRAININGS:
        module = importlib.import_module(f"{folder}.train")
        for precision in parity.PRECISIONS:
            train, evaluate = parity.commands(folder, "/faces", precision, 1)
            emulated = str(tmp_path / "emulated_bf16.py")
            assert (train[1] == evaluate[1] == emulated) == (precision == "bf16" and not native)
            train, evaluate = ([word for word in command if word != emulated] for command in (train, evaluate))
            args, _ = module.parse_args(train[2:])
            assert (args.seed, args.amp) == (1, parity.PRECISIONS[precision])
            assert evaluate[2] == str(args.out / "last.pt")
    last = parity.run_of("hair_transfer", "bf16", 1) / "last.pt"
    last.parent.mkdir(parents=True)
    last.touch()
    assert parity.commands("hair_transfer", "/faces", "bf16", 1)[0][-2:] == ["--resume", str(last)]


def test_emulated_bf16_is_the_rounded_result_of_rounded_operands(monkeypatch):
    """Output and gradients of a convolution against float64: nearly all the same bits, the others next to them.

    Had the operands not been rounded, a good part of the values would differ.
    """
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(8, 16, 3, stride=2, padding=2, dilation=2)
    images, upstream = torch.randn(2, 8, 12, 12, requires_grad=True), torch.randn(2, 16, 6, 6).bfloat16()

    def differing(ours: torch.Tensor, theirs: torch.Tensor) -> float:
        assert torch.allclose(ours.float(), theirs.float(), rtol=2**-7, atol=1e-6)
        return (ours != theirs).float().mean().item()

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
    assert output.dtype == torch.bfloat16 and differing(output, expected.bfloat16()) < 0.02
    for ours, theirs in zip((images, conv.weight, conv.bias), exact, strict=True):
        assert differing(ours.grad, theirs.grad.bfloat16().float()) < 0.02
    assert (plain.bfloat16() != expected.bfloat16()).float().mean() > 0.1

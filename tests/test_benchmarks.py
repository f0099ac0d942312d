"""tests/benchmarks: its pieces at tiny sizes, without a look at any clock. Peers that are not installed are skipped."""

import importlib.util
import multiprocessing
import threading

import numpy as np
import pytest
import torch
from benchmarks import contest, loading, metrics, networks, parity, readme, run, scale, throughput
from benchmarks.contest import Row

from common.celebamask import list_celebamask

PACKAGES = {"torchmetrics": "torchmetrics", "scikit-learn": "sklearn", "MONAI": "monai", "scikit-image": "skimage",
            "segmentation_models_pytorch": "segmentation_models_pytorch"}  # fmt: skip
ROWS = [
    Row("training", "a network, 8 px", "a peer", "s", 0.5, 1.0, 3, machine="a machine"),
    Row("memory", "a network, 8 px", "a peer", "MB", 100.0, 50.0, 1, machine="a machine"),
    Row("metrics", "counts, 8 px", "a peer", "ms", 2.0, 18.0, 3, 1e-7, "a machine"),
]


# ---- Taking turns --------------------------------------------------------------------------------------------------


def test_contenders_take_turns_and_the_first_round_does_not_count():
    calls = []
    runs = {name: lambda name=name: calls.append(name) or float(len(calls)) for name in "ab"}
    assert contest.in_turns(runs, rounds=2, budget=100) == {"a": [3.0, 5.0], "b": [4.0, 6.0]}
    assert calls == list("ababab")
    assert contest.in_turns(runs, rounds=9, budget=0) == {"a": [9.0], "b": [10.0]}  # all that the budget allows


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


def test_one_part_replaces_its_own_rows_alone(tmp_path, monkeypatch, capsys):
    run.write_rows(tmp_path / "r.csv", ROWS)
    again = ROWS[2]._replace(ours=1.0, machine="")
    monkeypatch.setattr(run, "measure", lambda part, quick, data: iter([again]))
    run.main(["--only", "metrics", "--csv", str(tmp_path / "r.csv")])
    assert run.read_rows(tmp_path / "r.csv") == [*ROWS[:2], again._replace(machine=contest.machine())]
    assert "18.00" in capsys.readouterr().out


def test_the_tables_of_the_readme_are_those_of_the_measurements():
    """`python tests/benchmarks/readme.py` would change nothing."""
    text = (readme.HERE / "README.md").read_text()
    assert readme.render(text) == text


def test_the_readme_is_filled_in(tmp_path):
    run.write_rows(tmp_path / "results.csv", ROWS)
    text = readme.render((readme.HERE / "README.md").read_text(), tmp_path)
    assert "| a network, 8 px | a peer | 0.5 | 1 | 2.00 |" in text and "a machine" in text
    assert "| **geometric mean** | **the peers** |  |  | **0.50** |" in text
    assert readme.mean_ratio([ROWS[0], ROWS[2]]) == pytest.approx(18**0.5)


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
    output = [torch.sigmoid(logits)] if name in ("lrn", "unet") else logits
    assert case.loss(output, case.target(2, 16)).ndim == 0
    if case.peer_loss:
        peers = {"out": logits} if name == "hair" else logits
        assert case.peer_loss(peers, case.target(2, 16)) == pytest.approx(case.loss(output, case.target(2, 16)), abs=1)


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
    rows[20]["build, s"] *= 1.2
    assert scale.project(rows)[1]["build, s"] > 0.05
    assert [line[0] for line in scale.table(rows)][1:4] == ["10", "20", "40"]


def test_parity_is_judged_by_the_spread_of_the_seeds():
    assert parity.verdict([0.50, 0.52, 0.51], [0.50, 0.49, 0.51]) == "within the spread"
    assert parity.verdict([0.50, 0.52, 0.51], [0.45, 0.46, 0.47]) == "BEYOND the spread"
    assert parity.verdict([0.5], [0.5]) == parity.verdict([0.5, 0.6], []) == "too few runs"


def test_the_commands_of_parity_are_ones_that_the_scripts_take(monkeypatch, tmp_path):
    monkeypatch.setattr(parity, "HERE", tmp_path)
    for folder in parity.TRAININGS:
        module = importlib.import_module(f"{folder}.train")
        for precision in parity.PRECISIONS:
            train, evaluate = parity.commands(folder, "/faces", precision, 1)
            args, _ = module.parse_args(train[2:])
            assert (args.seed, args.amp) == (1, parity.PRECISIONS[precision])
            assert evaluate[2] == str(args.out / "last.pt")
    last = parity.run_of("hair_transfer", "bf16", 1) / "last.pt"
    last.parent.mkdir(parents=True)
    last.touch()
    assert parity.commands("hair_transfer", "/faces", "bf16", 1)[0][2:] == ["--resume", str(last)]

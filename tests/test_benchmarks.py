"""tests/benchmarks: its pieces at tiny sizes, without a look at any clock. Peers that are not installed are skipped."""

import importlib
import sys

import pytest
import torch
from benchmarks import contest, loading, metrics, networks, parity, readme, run, throughput

from common.celebamask import list_celebamask


class Listed(torch.nn.Module):
    def forward(self, x):
        return [x]


def test_measurements_come_back_and_the_tables_of_the_readme_are_theirs(tmp_path):
    """`python tests/benchmarks/readme.py` would change nothing; of other measurements there are other tables."""
    text = (readme.HERE / "README.md").read_text(encoding="utf-8")
    assert readme.render(text) == text
    row = contest.Row("training", "a network, 8 px", "a peer", "s", 0.5, 1.0, 3, machine="a machine")
    run.write_rows(tmp_path / "results.csv", [row])
    assert run.read_rows(tmp_path / "results.csv") == [row] and row.ratio == 2
    assert "| a network, 8 px | a peer | 0.5 | 1 | 2.00 | 3 |" in readme.render(text, tmp_path)


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
    _, flops = throughput.steps(name, networks.CPU, 16, 2, compiled=False, n=1)
    # forward and the gradient of the weights: 2 operations for each of 3 x classes weights at each pixel
    assert flops == 2 * (2 * 3 * classes * 2 * 16 * 16)


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


def test_parity_is_judged_by_the_seeds_of_commands_that_the_scripts_take(monkeypatch):
    assert parity.verdict([0.50, 0.52, 0.51], [0.50, 0.49, 0.51]) == "within the spread"
    assert parity.verdict([0.50, 0.52, 0.51], [0.45, 0.46, 0.47]) == "BEYOND the spread"
    for folder in parity.TRAININGS:
        train, evaluate = parity.commands(folder, "/faces", "float32", 1)
        monkeypatch.setattr(sys, "argv", train[1:])
        args, _ = importlib.import_module(f"{folder}.train").parse_args()
        assert (args.seed, args.amp) == (1, "off") and str(args.out / "last.pt") in evaluate

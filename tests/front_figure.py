"""The picture at the top of README.md: of each paper a generated face, its truth, and what the network makes of it.

    python tests/front_figure.py                       after the five trainings below
    python nu_deeplabv3plus/train.py --weights none --epochs 3
    python hair_transfer/train.py --epochs 60 --size 128
    python lrn_headtorso/train.py
    python mut1ny_fairness/train.py --weights none --target labels --size 128 --epochs 60
    python masked_ssl/pretrain.py --init random && python masked_ssl/train.py

It takes the first test face of each run's own split (of the validation split where the paper has no other).
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np
import torch

from common import pictures
from hair_transfer import eval as hair
from lrn_headtorso import eval as lrn
from masked_ssl import eval as ssl
from masked_ssl.classes import palette
from mut1ny_fairness import eval as mut1ny
from mut1ny_fairness.palette import predicted_classes, to_colours
from nu_deeplabv3plus import eval as nu

CPU = torch.device("cpu")
Columns = tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]  # photos, truths, predictions


def nu_deeplabv3plus(run: Path, arguments: argparse.Namespace) -> Columns:
    model, saved = nu.load_model(run, CPU)
    data, *_ = nu.select(None, "val", saved, run, nu.dataset.CACHE)
    photos, true, predicted = nu.predict_faces(model, data, arguments.faces, CPU, False)
    painted = [
        [pictures.overlay(photo, pictures.merge_masks(masks), nu.PALETTE) for photo, masks in zip(photos, parts)]
        for parts in (true, predicted)
    ]
    return list(photos), *painted


def hair_transfer(run: Path, arguments: argparse.Namespace) -> Columns:
    model, saved = hair.load_model(run, CPU)
    data, _ = hair.select(arguments, saved, run)
    photos, masks, outputs = hair.predict_faces(model, data, arguments.faces, CPU, False)
    return list(photos), [hair.grey(mask.astype(float)) for mask in masks], [hair.grey(output) for output in outputs]


def lrn_headtorso(run: Path, arguments: argparse.Namespace) -> Columns:
    model, saved = lrn.load_model(run, CPU)
    data, *_ = lrn.select(None, "test", saved, run, lrn.dataset.CACHE)
    photos, alphas, maps = lrn.predict_maps(model, data, arguments.faces, CPU, False)
    return list(photos), list(alphas), [(255 * p).astype(np.uint8) for p in maps[-1]]


def mut1ny_fairness(run: Path, arguments: argparse.Namespace) -> Columns:
    model, saved = mut1ny.load_model(run, CPU)
    data, _ = mut1ny.select(arguments, saved, run)
    images, labels = data[arguments.faces]
    output = mut1ny.predict(model, images, CPU, False)
    classes = predicted_classes(output, saved["args"]["target"]).numpy()
    return list(images.permute(0, 2, 3, 1).numpy()), list(to_colours(labels.numpy())), list(to_colours(classes))


def masked_ssl(run: Path, arguments: argparse.Namespace) -> Columns:
    model, saved = ssl.load_model(run, CPU)
    data, _ = ssl.select(arguments, saved, run)
    photos, true, predicted, _ = ssl.predict_faces(model, data, arguments.faces, CPU, False)
    colours = palette(tuple(saved["classes"]))
    return list(photos), list(colours[true]), list(colours[predicted])


RUNS = {  # where the commands above leave their best checkpoint
    nu_deeplabv3plus: "none",
    hair_transfer: "random",
    lrn_headtorso: "lrn-64",
    mut1ny_fairness: "deeplabv3-labels",
    masked_ssl: "pretrained",
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "tests" / "figures" / "five_papers.png")
    parser.add_argument("--faces", type=int, nargs="+", default=[0, 1], help="of each test split, by number")
    arguments = parser.parse_args()
    # what the select() functions of eval.py ask of their command line
    arguments.data = arguments.pairs = arguments.manifest = None
    arguments.split = "test"
    rows = [[], [], []]
    titles = []
    for paper, name in RUNS.items():
        folder = paper.__name__
        arguments.cache = ROOT / folder / "data" / "cache"
        for row, column in zip(rows, paper(ROOT / folder / "runs" / name / "best.pt", arguments)):
            row += column
        titles += [folder] + [""] * (len(arguments.faces) - 1)
    arguments.out.parent.mkdir(exist_ok=True)
    pictures.save_grid(arguments.out, rows, column_titles=titles, row_titles=["input", "truth", "network"], cell=1.2)
    print(arguments.out)


if __name__ == "__main__":
    main()

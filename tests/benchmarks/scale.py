"""What many faces cost, measured at 800, 2,000 and 4,000 and projected to CelebAMask-HQ's 30,000.

    python tests/benchmarks/scale.py                     about 5 minutes on two cores; writes scale.csv here
    python tests/benchmarks/scale.py --data CelebAMask-HQ        on real faces, as many as there are

For each number of faces: the cache's size, the seconds to list and decode it, the seconds until it is found again, the
memory of the process that then reads all of it once in random batches, the seconds of that epoch without a network, and
the minutes of an epoch of training, from the median of 25 steps on random batches.
The generated faces are 200 different ones of 512 px under many names: decoding costs the same whoever is on them; that
the disk has to give 200 only is left out of the seconds to build. Last row: a straight line through the measured ones,
with how far the middle one lies off it (what does not grow stays at the most measured).
"""

import argparse
import itertools
import multiprocessing
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1])]

import numpy as np
from benchmarks.contest import machine, peak_mb, timed
from benchmarks.loading import many_faces
from benchmarks.networks import Options, prepare_training

from common.celebamask import list_celebamask
from common.data import shuffled
from common.faces import write_celebamask
from common.pictures import print_table, write_csv
from nu_deeplabv3plus import dataset
from nu_deeplabv3plus.dataset import FaceParts

HERE = Path(__file__).resolve().parent
DIFFERENT, PAINTED, SIZE, BATCH, ALL = 200, 512, 128, 4, 30_000  # generated faces, their px, those of the cache
COLUMNS = {  # name -> decimals
    "cache, MB": 0,
    "build, s": 1,
    "found again, s": 2,
    "anonymous memory, MB": 0,
    "memory with mapped pages, MB": 0,
    "epoch of loading, s": 2,
    "epoch of training, min": 1,
}
STEPS = 25  # of training that are timed, after five that are not


def memory() -> dict[str, float]:
    """This process' memory in MB: its own (anonymous), and with the pages of mapped files that it has touched."""
    status = Path("/proc/self/status")
    if not status.exists():
        return {"anonymous memory, MB": float("nan"), "memory with mapped pages, MB": peak_mb()}
    fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
    own, all_of_it = (int(fields[name].split()[0]) / 1024 for name in ("RssAnon", "VmRSS"))
    return {"anonymous memory, MB": own, "memory with mapped pages, MB": all_of_it}


def measure(folder: Path, n: int) -> dict[str, float]:
    """COLUMNS for n faces, in a process of its own, as memory is never given back whole."""
    with tempfile.TemporaryDirectory() as cache:
        started = time.perf_counter()
        dataset.load(list_celebamask(folder)[:n], SIZE, Path(cache))
        built = time.perf_counter()
        faces = list_celebamask(folder)[:n]
        arrays = dataset.load(faces, SIZE, Path(cache))
        found = time.perf_counter()
        data, batches = FaceParts(arrays, list(range(n)), [face.photo.name for face in faces]), shuffled(n, BATCH, 0, 1)
        for batch in batches:
            images, masks = data.batch(batch)
            images.sum(), masks.sum()
        read = time.perf_counter()
        megabytes = sum(path.stat().st_size for path in Path(cache).rglob("*.npy")) / 1e6
        seconds = {"build, s": built - started, "found again, s": found - built, "epoch of loading, s": read - found}
        in_memory = memory()  # before a network is there
        minutes = step_seconds(data, batches) * len(batches) / 60
    return {"cache, MB": megabytes, **seconds, **in_memory, "epoch of training, min": minutes}


def step_seconds(data: FaceParts, batches: list[np.ndarray]) -> float:
    """Median of the training steps of DeepLabV3+, each after its batch was loaded."""
    train, seconds = prepare_training("nu", Options(), SIZE, BATCH), []
    for batch in itertools.islice(itertools.cycle(batches[:-1]), STEPS + 5):
        seconds.append(timed(lambda batch=batch: data.batch(batch)) + timed(train))
    return float(np.median(seconds[5:]))


def project(rows: dict[int, dict[str, float]], to: int = ALL) -> tuple[dict[str, float], dict[str, float]]:
    """n -> measured columns; -> the least-squares line's value at `to`, and how far the middle n lies off it.

    What does not grow stays at the most that was measured.
    """
    ns, projected, off = sorted(rows), {}, {}
    middle = ns[len(ns) // 2]
    for name in COLUMNS:
        slope, start = np.polyfit(ns, [rows[n][name] for n in ns], 1)
        projected[name] = start + slope * to if slope > 0 else max(rows[n][name] for n in ns)
        off[name] = abs(rows[middle][name] / (start + slope * middle) - 1)
    return projected, off


def table(rows: dict[int, dict[str, float]]) -> list[list[str]]:
    projected, off = project(rows)
    lines = [["faces", *COLUMNS]]
    for n, row in [*sorted(rows.items()), (f"{ALL}, projected", projected)]:
        lines.append([str(n), *(f"{row[name]:.{digits}f}" for name, digits in COLUMNS.items())])
    return [*lines, ["off the line in the middle", *(f"{off[name]:.1%}" for name in COLUMNS)]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, metavar="PATH", help="CelebAMask-HQ's folder (default: generated faces)")
    parser.add_argument("--faces", type=int, nargs="+", default=[800, 2000, 4000], metavar="N")
    args = parser.parse_args()
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        where = args.data
        if where is None:
            painted = write_celebamask(Path(folder) / "painted", DIFFERENT, PAINTED)
            where = many_faces(Path(folder) / "faces", max(args.faces), painted)
        have = len(list_celebamask(where))
        counts = {min(n, have) for n in args.faces}
        if len(counts) < 3:  # a line needs more
            counts = {have // 4, have // 2, have}
        for n in sorted(counts):
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                rows[n] = process.submit(measure, where, n).result()
            print(f"{n} faces:", ", ".join(f"{name} {rows[n][name]:.{d}f}" for name, d in COLUMNS.items()), flush=True)
    print(f"\n{machine()}\n")
    lines = table(rows)
    print_table(lines)
    write_csv(HERE / "scale.csv", [[*lines[0], "machine"], *([*line, machine()] for line in lines[1:])])


if __name__ == "__main__":
    main()

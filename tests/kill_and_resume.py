"""Kill trainings with SIGKILL, resume them, and hold the finished run against one that nobody disturbed.

    python tests/kill_and_resume.py                  30 kills over all folders, which takes a while
    python tests/kill_and_resume.py 100 --seed 7     more of them, at other moments
    python tests/kill_and_resume.py 5 --only lrn_headtorso

Half of the kills come at a random moment. The other half come inside a write: the training is started through this
file, which kills its own process in the middle of the n-th file that it flushes to disk or moves into place, be it a
checkpoint, the log, a picture or the cache. After each kill every checkpoint that is there must load and log.csv must
hold whole rows, each once; then --resume (or, before there was anything to resume, the same command) finishes the run,
and its weights, optimiser and log must equal the undisturbed run's bit for bit. Exits with 1 at the first that do not.
"""

import argparse
import csv
import os
import random
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

# folder -> script and arguments of a small training on the faces of `data`, three epochs of a few steps
TRAININGS = {
    "nu_deeplabv3plus": ("train.py", "--size", "32", "--weights", "none", "--epochs", "3"),
    "hair_transfer": ("train.py", "--size", "64", "--init", "random", "--epochs", "2", "--limit", "8"),
    "lrn_headtorso": ("train.py", "--size", "32", "--weights", "none", "--epochs", "3"),
    "masked_ssl": (*"train.py --size 32 --init random --min-steps 0 --batch-size 4 --epochs 3".split(),),
    "mut1ny_fairness": (*"train.py --size 32 --weights none --model pspnet --truncated --epochs 3".split(),),
}


def command(folder: str, data: Path, out: Path, cache: Path) -> list[str]:
    script, *args = TRAININGS[folder]
    common = ["--data", data, "--out", out, "--cache", cache, "--device", "cpu", "--deterministic"]
    return [str(word) for word in (ROOT / folder / script, *common, *args)]


def start(words: list[str], kill_in_write: int | None = None) -> subprocess.Popen:
    launcher = [str(Path(__file__).resolve()), "--kill-in-write", str(kill_in_write)] if kill_in_write else []
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *launcher, *words],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a kill must reach the loader's processes as well
    )


def finish(words: list[str]) -> None:
    process = start(words)
    _, errors = process.communicate()
    if process.returncode:
        raise SystemExit(f"{' '.join(words)}\nended with {process.returncode}:\n{errors}")


def die_in_write(n: int) -> None:
    """Kill this process inside its n-th os.fsync (a file half way to disk) or os.replace (just before the move)."""
    left = n

    def deadly(function):
        def call(*args, **kwargs):
            nonlocal left
            left -= 1
            if left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    os.fsync, os.replace, os.rename = deadly(os.fsync), deadly(os.replace), deadly(os.rename)


def check_what_is_left(out: Path, folder: str) -> None:
    """Checkpoints load, and log.csv holds whole rows, one for each epoch from the first on."""
    from common.checkpoint import load_checkpoint

    for name in ("last.pt", "best.pt"):
        if (out / name).exists():
            load_checkpoint(out / name, folder)
    if (out / "log.csv").exists():
        with open(out / "log.csv", newline="") as file:
            rows = list(csv.reader(file))
        assert all(len(row) == len(rows[0]) for row in rows), f"{out}/log.csv has a torn row"
        assert [row[0] for row in rows[1:]] == [str(i + 1) for i in range(len(rows) - 1)], f"{out}/log.csv: epochs"


def same(a, b) -> bool:
    """Whether two parts of checkpoints are equal, tensors bit for bit; of the log all but the seconds."""
    import torch

    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a.nan_to_num(), b.nan_to_num())
    if isinstance(a, dict):
        keys = a.keys() - {"seconds"}
        return keys == b.keys() - {"seconds"} and all(same(a[key], b[key]) for key in keys)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b or (a != a and b != b)


def differences(run: Path, undisturbed: Path, folder: str) -> list[str]:
    """The parts in which the last.pt of two runs differ."""
    from common.checkpoint import load_checkpoint

    a, b = (load_checkpoint(path / "last.pt", folder) for path in (run, undisturbed))
    return sorted(key for key in a.keys() | b.keys() if not same(a.get(key), b.get(key)))


def trial(folder: str, work: Path, rng: random.Random, seconds: float, writes: bool) -> str:
    """One killed and resumed run; returns what happened in a few words. `work` holds data/, cache/ and whole/."""
    out, cache = work / "killed", work / "cache-killed"
    for path in (out, cache):
        shutil.rmtree(path, ignore_errors=True)
    words = command(folder, work / "data", out, cache)
    if writes:
        n = rng.randint(1, 25)
        moment = f"in write {n}"
        process = start(words, kill_in_write=n)
        process.wait()
    else:
        moment = f"after {(delay := rng.uniform(0, seconds)):.1f} s"
        process = start(words)
        time.sleep(delay)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    killed = process.returncode == -signal.SIGKILL
    process.stderr.close()
    check_what_is_left(out, folder)
    epoch = "nothing"
    if (out / "last.pt").exists():
        from common.checkpoint import load_checkpoint

        epoch = f"epoch {load_checkpoint(out / 'last.pt', folder)['epoch']}"
        script = str(ROOT / folder / TRAININGS[folder][0])
        finish([script, "--resume", str(out / "last.pt"), "--cache", str(cache)])
    else:
        finish(words)
    check_what_is_left(out, folder)
    differing = differences(out, work / "whole", folder)
    assert not differing, f"{folder}, {moment}: {differing} differ from the undisturbed run"
    drafts = [path.name for path in out.iterdir() if path.name.endswith(".tmp")]
    assert not drafts, f"{folder}, {moment}: left {drafts}"
    return f"{moment}: {'killed' if killed else 'already done'}, {epoch} on disk, resumed, equal"


def main():
    if sys.argv[1:2] == ["--kill-in-write"]:  # as the launcher of a training, see start()
        die_in_write(int(sys.argv[2]))
        sys.argv = sys.argv[3:]
        runpy.run_path(sys.argv[0], run_name="__main__")
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", nargs="?", type=int, default=30, help="kills in all (default 30)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=TRAININGS, help="one folder")
    args = parser.parse_args()
    from common.faces import write_celebamask

    rng = random.Random(args.seed)
    folders = [args.only] if args.only else list(TRAININGS)
    with tempfile.TemporaryDirectory() as temporary:
        seconds = {}
        for i in range(args.count):
            folder = folders[i % len(folders)]
            work = Path(temporary) / folder
            if folder not in seconds:
                write_celebamask(work / "data", n=12, size=64)
                began = time.monotonic()
                finish(command(folder, work / "data", work / "whole", work / "cache"))
                seconds[folder] = time.monotonic() - began
            story = trial(folder, work, rng, seconds[folder], writes=i // len(folders) % 2 == 0)
            print(f"{i + 1:3d}  {folder}  {story}", flush=True)
    print(f"{args.count} kills, nothing lost")


if __name__ == "__main__":
    main()

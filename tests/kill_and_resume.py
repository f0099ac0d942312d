"""Kill trainings with SIGKILL, resume them, and hold the finished run against one that nobody disturbed.

    python tests/kill_and_resume.py                  30 kills over the trainings of all folders
    python tests/kill_and_resume.py 100 --seed 7     more of them, at other moments
    python tests/kill_and_resume.py 5 --only lrn_headtorso

A kill comes

    anywhere      at a random moment of the run
    checkpoint    while last.pt or best.pt (pretrain.pt) is being written: a random part of its draft is on disk
    log           the same of log.csv
    cache         from outside, as soon as the draft of the cache appears, while faces are being decoded into it

After each, every checkpoint that is there must load and log.csv must hold whole rows, each once; then --resume (or,
before there was anything to resume, the same command) finishes the run, and its weights, optimiser, log and best
checkpoint must equal the undisturbed run's bit for bit. Exits with 1 at the first that do not. The networks are made
small (trainings.py), the scripts are as they are. Its last line says what it has done; tests/README.md quotes it.
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
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
from trainings import TRAININGS, make_networks_small

MOMENTS = ("anywhere", "checkpoint", "log", "cache")
EPOCHS = 3


def command(name: str, data: Path, out: Path, cache: Path) -> list[str]:
    folder, script, arguments, _ = TRAININGS[name]
    common = ["--data", data, "--epochs", EPOCHS, "--out", out, "--cache", cache, "--device", "cpu", "--deterministic"]
    return [str(word) for word in (ROOT / folder / f"{script}.py", *arguments, *common)]


def start(words: list[str], die: tuple = ()) -> subprocess.Popen:
    """Start a script through main() below; `die`: the arguments of die_in_write()."""
    launcher = [sys.executable, str(Path(__file__).resolve()), "--launch", ",".join(map(str, die))]
    return subprocess.Popen(
        [*launcher, *words],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a kill must reach the loader's processes as well
    )


def kill(process: subprocess.Popen) -> bool:
    """SIGKILL to all of it; whether it was still running."""
    running = process.poll() is None
    if running:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return process.returncode == -signal.SIGKILL


def finish(words: list[str]) -> None:
    process = start(words)
    _, errors = process.communicate()
    if process.returncode:
        raise SystemExit(f"{' '.join(words)}\nended with {process.returncode}:\n{errors}")


# ---- In the process that dies --------------------------------------------------------------------------------------


def die_in_write(names: str, n: int, share: float) -> None:
    """Kill this process when the n-th file of `names` (last.pt|best.pt) is half written: `share` of it is on disk."""
    from common import checkpoint

    drafts, left = {}, n
    fsync = os.fsync

    def open_draft(path, mode):
        file = open(path, mode)
        drafts[file.fileno()] = path.name
        return file

    def deadly_fsync(descriptor):
        nonlocal left
        if any(drafts.get(descriptor, "").startswith(f".{name}.") for name in names.split("|")):
            left -= 1
            if left == 0:
                os.ftruncate(descriptor, int(share * os.fstat(descriptor).st_size))
                os.kill(os.getpid(), signal.SIGKILL)
        fsync(descriptor)

    checkpoint.open, os.fsync = open_draft, deadly_fsync


# ---- What must hold ------------------------------------------------------------------------------------------------


def check_what_is_left(out: Path, folder: str) -> None:
    """Checkpoints load, and log.csv holds whole rows, one for each epoch from the first on."""
    from common.checkpoint import load_checkpoint

    for path in out.glob("*.pt"):
        load_checkpoint(path, folder)
    if (out / "log.csv").exists():
        text = (out / "log.csv").read_text()
        rows = list(csv.reader(text.splitlines()))
        assert not text or text.endswith("\n"), f"{out}/log.csv ends within a row"
        assert all(len(row) == len(rows[0]) for row in rows), f"{out}/log.csv has a torn row"
        assert [row[0] for row in rows[1:]] == [str(i + 1) for i in range(len(rows) - 1)], f"{out}/log.csv: epochs"


def same(a, b) -> bool:
    """Whether two parts of checkpoints are equal, tensors bit for bit; of the log all but the seconds."""
    import torch

    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        keys = a.keys() - {"seconds"}
        return keys == b.keys() - {"seconds"} and all(same(a[key], b[key]) for key in keys)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b or (a != a and b != b)  # noqa: PLR0124 (both nan)


def differences(run: Path, undisturbed: Path, training) -> list[str]:
    """The files, or the parts of the checkpoints, in which two finished runs differ."""
    from common.checkpoint import load_checkpoint

    found = []
    for name in ("last.pt", training.best):
        a, b = (load_checkpoint(path / name, training.folder) for path in (run, undisturbed))
        found += [f"{name}: {key}" for key in sorted(a.keys() | b.keys()) if not same(a.get(key), b.get(key))]
    logs = [list(csv.DictReader(open(path / "log.csv"))) for path in (run, undisturbed)]
    found += [] if same(*logs) else ["log.csv"]
    files = [{path.name for path in folder.iterdir()} for folder in (run, undisturbed)]
    return found + sorted(files[0] ^ files[1])  # drafts of the killed process, say


# ---- Trials --------------------------------------------------------------------------------------------------------


def disturb(words: list[str], cache: Path, best: str, moment: str, seconds: float, rng: random.Random) -> str:
    """Start a run and kill it; returns when in words, or "" if the run was over before."""
    if moment in ("checkpoint", "log"):
        names = "log.csv" if moment == "log" else f"last.pt|{best}"
        n, share = rng.randint(1, EPOCHS + 1), rng.random()
        process = start(words, die=(names, n, share))
        process.communicate()
        return f"{share:.0%} of write {n} of {names}" if process.returncode == -signal.SIGKILL else ""
    process = start(words)
    if moment == "anywhere":
        delay = rng.uniform(0.2, 1) * seconds
        time.sleep(delay)
        words = f"after {delay:.1f} s"
    else:
        while process.poll() is None and not list(cache.glob(".*-*")):
            time.sleep(0.0005)
        time.sleep(rng.random() * 0.02)
        words = "with the cache's draft there"
        if not list(cache.glob(".*-*")):
            words = ""  # the last one is complete
    killed = kill(process)
    process.stderr.close()
    return words if killed else ""


def trial(name: str, work: Path, rng: random.Random, seconds: float, moment: str) -> str:
    """One killed and resumed run; returns what happened in a few words, "" if there was nothing left to kill."""
    training, out, cache = TRAININGS[name], work / "killed", work / "cache-killed"
    for path in (out, cache):
        shutil.rmtree(path, ignore_errors=True)
    words = command(name, work / "data", out, cache)
    when = disturb(words, cache, training.best, moment, seconds, rng)
    if not when:
        return ""
    check_what_is_left(out, training.folder)
    left = "nothing"
    if (out / "last.pt").exists():
        from common.checkpoint import load_checkpoint

        left = f"epoch {load_checkpoint(out / 'last.pt', training.folder)['epoch']}"
        finish([words[0], "--resume", str(out / "last.pt"), "--cache", str(cache)])
    else:
        finish(words)
    check_what_is_left(out, training.folder)
    differing = differences(out, work / "whole", training)
    assert not differing, f"{name}, {when}: {differing} differ from the undisturbed run"
    return f"{moment}, {when}: {left} on disk, finished, equal"


def main() -> None:
    if sys.argv[1:2] == ["--launch"]:  # a training in a process of its own, see start()
        _, _, die, *sys.argv = sys.argv
        make_networks_small(Path(sys.argv[0]).parent.name)
        if die:
            names, n, share = die.split(",")
            die_in_write(names, int(n), float(share))
        runpy.run_path(sys.argv[0], run_name="__main__")
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", nargs="?", type=int, default=30, help="kills in all (default 30)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=TRAININGS, help="one training")
    args = parser.parse_args()
    from common.faces import write_celebamask

    rng, began, done, seconds = random.Random(args.seed), time.monotonic(), Counter(), {}
    names = [args.only] if args.only else list(TRAININGS)
    with tempfile.TemporaryDirectory() as temporary:
        while done.total() < args.count:
            i = done.total()
            name, moment = names[i % len(names)], MOMENTS[(i // len(names) + i % len(names)) % len(MOMENTS)]
            work = Path(temporary) / name
            if name not in seconds:
                write_celebamask(work / "data", n=12, size=64)
                since = time.monotonic()
                finish(command(name, work / "data", work / "whole", work / "cache"))
                seconds[name] = time.monotonic() - since
            story = trial(name, work, rng, seconds[name], moment)
            done[moment] += bool(story)
            print(f"{i + 1:3d}  {name}  {story or 'over before it was killed, once more'}", flush=True)
    where = ("at a random moment", "in the write of a checkpoint", "of the log", "of the cache")
    moments = ", ".join(f"{done[moment]} {words}" for moment, words in zip(MOMENTS, where, strict=True))
    print(f"{args.count} kills of {len(names)} training(s) ({moments}): nothing lost, each resumed run equal bit for "
          f"bit; seed {args.seed}, {(time.monotonic() - began) / 60:.0f} min")  # fmt: skip


if __name__ == "__main__":
    main()

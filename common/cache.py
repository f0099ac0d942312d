"""A cache of decoded samples: memory-mapped arrays on disk, built once, with all cores and a progress bar.

Decoding a dozen PNGs for each sample of each epoch costs more than training on it. The cache is keyed by everything
that went into it, so that a changed file, size or part list gives another cache; a broken one is built again.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from common.cli import InputError

DRAFTS = "." + 24 * "[0-9a-f]" + "-*"  # of cache_key()'s names alone: --cache may be a folder with other things in it


def cache_key(files: Iterable[Path], *facts: object) -> str:
    """24 hex digits from the paths, sizes and modification times of `files` and from `facts` (size, parts, version)."""
    digest = hashlib.sha256(json.dumps(facts, default=str).encode())
    for path in files:
        status = stat(path)
        digest.update(os.fsencode(f"{os.path.abspath(path)}|{status.st_size}|{status.st_mtime_ns}\n"))
    return digest.hexdigest()[:24]


def stat(path: Path) -> os.stat_result:
    """os.stat; raises InputError for a file that is not there, as a link to nowhere."""
    try:
        return os.stat(path)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; restore or remove it") from None


def fingerprint(files: Iterable[Path]) -> str:
    """16 hex digits from the names and sizes of the files, saved with a run: it is not resumed or tested on others.

    Unlike the key of a cache it stays the same where the folder is copied: neither paths nor dates count.
    """
    sizes = [(path.name, stat(path).st_size) for path in files]
    return hashlib.sha256(json.dumps(sizes).encode()).hexdigest()[:16]


def count_seen(photos: Iterable[Path], trained_on: Iterable[str]) -> int:
    """How many of the photos are among those whose fingerprints a checkpoint keeps of what it was trained on."""
    seen = set(trained_on)
    return sum(fingerprint([photo]) in seen for photo in photos)


class Arrays(dict):
    """name -> memory-mapped array. Pickled as a path: loader processes map the files too, none gets a copy."""

    def __init__(self, folder: Path, names: Iterable[str]):
        super().__init__({name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in names})
        self.folder = folder

    def __reduce__(self):
        return Arrays, (self.folder, tuple(self))


def open_cache(
    folder: Path,
    key: str,
    n: int,
    fields: dict[str, tuple[tuple[int, ...], str]],
    decode: Callable[[int], dict[str, np.ndarray]],
    description: str = "decoding",
) -> Arrays:
    """The arrays `folder`/`key`/NAME.npy, memory-mapped read-only, each n x shape; built by decode(0 ... n - 1).

    fields: NAME -> (shape of one sample, dtype). decode(i) returns one array per field; it runs in threads (Pillow
    decodes without holding the interpreter) and may raise InputError, which is passed on and leaves no cache behind.
    Two processes that build at once are safe: each writes a folder of its own, and the first to finish is kept.
    """
    final = folder / key
    cached = _load(final, n, fields)
    if cached is not None:
        return cached
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for draft in folder.glob(DRAFTS):
            with contextlib.suppress(FileNotFoundError):  # another process has just finished it
                if time.time() - draft.stat().st_mtime > 24 * 3600:  # a build that was killed
                    shutil.rmtree(draft, ignore_errors=True)
        building = Path(tempfile.mkdtemp(prefix=f".{key}-", dir=folder))
        building.chmod(0o755)  # mkdtemp's folders are their owner's alone
        need = sum(n * int(np.prod(shape)) * np.dtype(dtype).itemsize for shape, dtype in fields.values())
        if shutil.disk_usage(folder).free < need:  # for systems where _reserve() does nothing
            building.rmdir()
            raise OSError(errno.ENOSPC, f"{need / 1e6:.0f} MB are needed and not free")
    except OSError as error:
        raise InputError(f"--cache {folder}: {error.strerror}; choose another folder") from None
    try:
        arrays = {
            name: np.lib.format.open_memmap(building / f"{name}.npy", "w+", dtype, (n, *shape))
            for name, (shape, dtype) in fields.items()
        }
        for name in fields:
            _reserve(building / f"{name}.npy")

        def fill(i: int) -> None:
            for name, value in decode(i).items():
                arrays[name][i] = value

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            try:
                for _ in tqdm(pool.map(fill, range(n)), description, n, disable=None):
                    pass
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        while arrays:
            arrays.popitem()[1].flush()  # and closed: Windows renames no open file
        try:
            os.rename(building, final)
        except OSError:  # there is one: a broken one, or that of another process, which was first and holds the same
            if _load(final, n, fields) is None:
                with contextlib.suppress(FileNotFoundError):
                    os.replace(final, building / "broken")
                os.rename(building, final)
                shutil.rmtree(final / "broken", ignore_errors=True)
    except OSError as error:
        raise InputError(f"--cache {folder}: {error.strerror}; free some space or choose another folder") from None
    finally:
        shutil.rmtree(building, ignore_errors=True)
    cached = _load(final, n, fields)
    if cached is None:
        raise InputError(f"{final}: cannot be read back; remove it or choose another --cache")
    return cached


def _reserve(file: Path) -> None:
    """Take a sparse file's space on the disk now: where that fails later, writing to its mapping kills the process."""
    if not hasattr(os, "posix_fallocate"):
        return
    with open(file, "r+b") as opened:
        try:
            os.posix_fallocate(opened.fileno(), 0, os.fstat(opened.fileno()).st_size)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):  # any other: a file system without it
                raise


def _load(final: Path, n: int, fields: dict) -> Arrays | None:
    """The cache at `final`, or None if it is missing, truncated or of another shape."""
    try:
        arrays = Arrays(final, fields)
    except Exception:  # NumPy raises a dozen kinds for broken files
        return None
    fits = all(
        arrays[name].shape == (n, *shape) and arrays[name].dtype == dtype for name, (shape, dtype) in fields.items()
    )
    return arrays if fits else None

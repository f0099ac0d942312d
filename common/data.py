"""Folders that are there whole or not at all, decoded pictures in a memory-mapped cache, which of them make a batch,
and who was trained on."""

import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from common.cli import InputError
from common.device import world
from common.pictures import patiently

# ---- Folders that are there whole or not at all ----------------------------------------------------------------------


@contextmanager
def whole_folder(final: Path) -> Iterator[Path]:
    """A draft to fill, which becomes `final` when the block ends well. Of two processes at once the first wins."""
    final.parent.mkdir(parents=True, exist_ok=True)
    draft = final.with_name(f".{final.name}-{secrets.token_hex(4)}")
    draft.mkdir()
    try:
        yield draft
        try:
            patiently(os.rename, draft, final)
        except OSError:
            if not final.is_dir():
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def write_once(folder: Path, recipe: dict, paint: Callable[[Path], None]) -> Path:
    """`folder` with what paint(draft) puts into an empty folder, and the recipe as generated.json.

    A folder from the same recipe is left as it is, one from another is replaced. Raises InputError if it cannot be
    written or holds something that was not painted.
    """
    if recipe_of(folder) == recipe:
        return folder
    try:
        with whole_folder(folder) as draft:
            paint(draft)
            (draft / "generated.json").write_text(json.dumps(recipe))
            if recipe_of(folder) not in (None, recipe):
                shutil.rmtree(folder)
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror}; painted pictures need a folder that can be written") from None
    return folder


def recipe_of(folder: Path) -> dict | None:
    """What a folder was painted from, None if there is no such folder."""
    try:
        return json.loads((folder / "generated.json").read_text())
    except (OSError, ValueError):
        if not folder.exists():
            return None
        raise InputError(f"{folder}: holds no painted pictures; move it away, or give real data with --data") from None


# ---- The cache -----------------------------------------------------------------------------------------------------


def open_cache(
    folder: Path, files: Iterable[Path], facts: list, n: int, decode: Callable[[int], dict[str, np.ndarray]], what: str
) -> dict[str, np.ndarray]:
    """decode(0) ... decode(n - 1), each name -> array of one shape and dtype, as memory-mapped arrays of n.

    Decoding a dozen PNGs for each sample of each epoch costs more than training on it, so it is done once, with all
    cores. `files` and `facts` (JSON: size, parts, version) are all that went into it: if one changes, there is another
    cache. decode() may raise InputError, which leaves no cache behind. `what`: for the progress bar.
    """
    digest = hashlib.sha256(json.dumps(facts).encode())
    for path in files:
        status = stat(path)
        digest.update(os.fsencode(f"{os.path.abspath(path)}|{status.st_size}|{status.st_mtime_ns}\n"))
    final = folder / digest.hexdigest()[:24]
    try:
        if not final.is_dir():
            for old in folder.glob(f".{'[0-9a-f]' * 24}-*"):  # of a build that was killed
                if time.time() - old.stat().st_mtime > 24 * 3600:
                    shutil.rmtree(old, ignore_errors=True)
            with whole_folder(final) as draft:
                _fill(draft, n, decode, what)
    except OSError as error:
        raise InputError(f"--cache {folder}: {error.strerror}; free some space or choose another folder") from None
    try:
        if arrays := {file.stem: np.load(file, mmap_mode="r") for file in final.glob("*.npy")}:
            return arrays
        raise FileNotFoundError
    except Exception:  # NumPy raises a dozen kinds for broken files
        raise InputError(f"{final}: is a broken cache; delete this folder, it is built again") from None


def _fill(folder: Path, n: int, decode: Callable[[int], dict[str, np.ndarray]], what: str) -> None:
    """Write NAME.npy one sample after the other: where a disk is full, that is an error and not a lost process."""
    files = {}
    with ExitStack() as stack:
        pool = ThreadPoolExecutor(os.cpu_count())  # Pillow decodes without holding the interpreter
        stack.callback(pool.shutdown, cancel_futures=True)
        for sample in tqdm(pool.map(decode, range(n)), what, n, disable=None):
            for name, array in sample.items():
                if name not in files:
                    files[name] = stack.enter_context(open(folder / f"{name}.npy", "wb"))
                    header = {"descr": array.dtype.str, "fortran_order": False, "shape": (n, *array.shape)}
                    np.lib.format.write_array_header_1_0(files[name], header)
                files[name].write(np.ascontiguousarray(array).tobytes())


def try_all(decode: Callable[[int], object], n: int) -> tuple[dict[int, object], list[str]]:
    """decode(0) ... decode(n - 1) with all cores, for dataset.py: what came out, and a line for each that raised
    InputError."""

    def attempt(i: int) -> object:
        try:
            return decode(i)
        except InputError as error:
            return error

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = dict(enumerate(tqdm(pool.map(attempt, range(n)), "verifying", n, disable=None)))
    good = {i: result for i, result in found.items() if not isinstance(result, InputError)}
    return good, [str(result) for result in found.values() if isinstance(result, InputError)]


# ---- Who is it -----------------------------------------------------------------------------------------------------


def stat(path: Path) -> os.stat_result:
    """os.stat; raises InputError for a file that is not there, as a link to nowhere."""
    try:
        return os.stat(path)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; restore or remove it") from None


def identity(photo: Path, masks: Iterable[Path] = ()) -> str:
    """NAME:BYTES of a photo, then :COUNT:BYTES of its masks: how a run recognises its pictures in any folder."""
    sizes = [stat(mask).st_size for mask in masks]
    return f"{photo.name}:{stat(photo).st_size}:{len(sizes)}:{sum(sizes)}"


def among(identities: Iterable[str], known: Iterable[str]) -> list[str]:
    """Those of the identities whose photos are among the known ones, whatever their masks were then."""
    photos = {one.rsplit(":", 2)[0] for one in known}
    return [one for one in identities if one.rsplit(":", 2)[0] in photos]


def find(wanted: list[str], pictures: list, where: str) -> list:
    """Those of a folder's pictures whose .identity is `wanted`; InputError if some are missing or have changed."""
    known = {picture.identity: picture for picture in pictures}
    missing = [one for one in wanted if one not in known]
    if missing:
        raise InputError(
            f"{where}: {len(missing)} of the checkpoint's {len(wanted)} pictures are missing, or their photos or masks "
            f"have changed, such as {missing[0].split(':')[0]}; give --data the folder that it was trained on, or "
            "--split all for other pictures"
        )
    wanted = set(wanted)
    return [picture for one, picture in known.items() if one in wanted]


# ---- Batches -------------------------------------------------------------------------------------------------------


def shuffled(n: int, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """This process' batches of indices for an epoch; they depend on the seed and the epoch alone.

    `batch_size` is the global batch: under torchrun every process gets its share of each. A last batch of a single
    image would break batch norm, so it joins the batch before it; under torchrun an incomplete last batch is filled up
    from the start of the shuffled list, so that all processes make the same steps.
    """
    order = np.random.default_rng([seed, epoch]).permutation(n)
    rank, world_size = world()
    if world_size > 1:
        order = np.resize(order, -(-n // batch_size) * batch_size)
    starts = list(range(0, len(order), batch_size))
    if len(order) - starts[-1] == 1 and len(starts) > 1:
        starts.pop()
    return [batch[rank::world_size] for batch in np.split(order, starts[1:])]


def in_order(n: int, batch_size: int) -> list[np.ndarray]:
    """Batches of indices in order; under torchrun each process takes whole batches in turn, so none counts twice."""
    rank, world_size = world()
    return np.split(np.arange(n), range(batch_size, n, batch_size))[rank::world_size]


def progress(batches: list[np.ndarray], what: str) -> tqdm:
    """The batches with a progress bar, where there is a terminal and only in the first process."""
    return tqdm(batches, what, leave=False, disable=None if world()[0] == 0 else True, unit="batch")


CHECK_EVERY = 50  # steps between two looks at the losses: each look waits for the GPU


def check_finite(losses: list[Tensor], batches: list[np.ndarray], names: list[str], where: str) -> None:
    """After every CHECK_EVERY batches and after the last: raise InputError with the names of the images in the first
    batch whose loss, one number or several, is nan or inf."""
    if not losses or (len(losses) % CHECK_EVERY and len(losses) < len(batches)):
        return
    finite = torch.stack(losses).reshape(len(losses), -1).isfinite().all(1).tolist()
    if not all(finite):
        step = finite.index(False)
        images = ", ".join(names[i % len(names)] for i in batches[step])
        raise InputError(
            f"{where}, batch {step + 1}: the loss is not finite; its images are {images}; look at them, or try --amp "
            "off and, in training, a lower --lr"
        )

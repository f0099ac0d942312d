"""common/cache.py: the cache equals direct decoding, is built once, and again when something is wrong with it."""

import errno
import multiprocessing
import os
import shutil
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from common import cli
from common.cache import cache_key, fingerprint, open_cache
from common.cli import InputError
from common.tables import write_csv

N = 7
FIELDS = {"images": ((4, 5, 3), "uint8"), "ids": ((), "int64")}


def decode(i):
    return {"images": np.full((4, 5, 3), 10 * i, np.uint8) + np.arange(3, dtype=np.uint8), "ids": np.int64(1000 + i)}


class Decoder:
    """decode() that remembers what it was asked for."""

    def __init__(self):
        self.calls, self.lock = [], threading.Lock()

    def __call__(self, i):
        with self.lock:
            self.calls.append(i)
        return decode(i)


def never(i):
    raise AssertionError(f"decoded {i} again")


def check(cached):
    assert set(cached) == set(FIELDS)
    assert cached["images"].shape == (N, 4, 5, 3) and cached["images"].dtype == np.uint8
    assert cached["ids"].shape == (N,) and cached["ids"].dtype == np.int64
    for i in range(N):
        for name, value in decode(i).items():
            assert np.array_equal(cached[name][i], value)


# ---- Built once ----------------------------------------------------------------------------------------------------


def test_the_cache_equals_decoding(tmp_path):
    decoder = Decoder()
    check(open_cache(tmp_path / "deep" / "cache", "key", N, FIELDS, decoder))
    assert sorted(decoder.calls) == list(range(N))
    assert os.listdir(tmp_path / "deep" / "cache") == ["key"]
    assert sorted(os.listdir(tmp_path / "deep" / "cache" / "key")) == ["ids.npy", "images.npy"]


def test_the_second_open_does_not_decode(tmp_path):
    open_cache(tmp_path, "key", N, FIELDS, decode)
    check(open_cache(tmp_path, "key", N, FIELDS, never))


def test_the_arrays_are_memory_mapped_and_read_only(tmp_path):
    for _ in range(2):  # built, then opened
        cached = open_cache(tmp_path, "key", N, FIELDS, decode)
        assert isinstance(cached["images"], np.memmap)
        with pytest.raises(ValueError, match="read-only"):
            cached["images"][0] = 1


def test_another_key_is_another_cache(tmp_path):
    open_cache(tmp_path, "key", N, FIELDS, decode)
    decoder = Decoder()
    check(open_cache(tmp_path, "other", N, FIELDS, decoder))
    assert len(decoder.calls) == N
    assert sorted(os.listdir(tmp_path)) == ["key", "other"]


# ---- Built again ---------------------------------------------------------------------------------------------------


def truncate(path: Path, keep: int):
    path.write_bytes(path.read_bytes()[:keep])


DAMAGE = {
    "half an array": lambda folder: truncate(folder / "images.npy", 128 + N * 30),
    "half a header": lambda folder: truncate(folder / "images.npy", 40),
    "a header without its end": lambda folder: (folder / "ids.npy").write_bytes(
        (folder / "ids.npy").read_bytes().replace(b"}", b"{")),
    "an empty file": lambda folder: truncate(folder / "images.npy", 0),
    "no numpy file": lambda folder: (folder / "ids.npy").write_bytes(b"not an array at all"),
    "an array is gone": lambda folder: (folder / "ids.npy").unlink(),
    "all arrays are gone": lambda folder: [path.unlink() for path in folder.iterdir()],
    "another length": lambda folder: np.save(folder / "ids.npy", np.zeros(N + 1, np.int64)),
    "another dtype": lambda folder: np.save(folder / "ids.npy", np.zeros(N, np.int32)),
    "a folder for an array": lambda folder: ((folder / "ids.npy").unlink(), (folder / "ids.npy").mkdir()),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_broken_cache_is_built_again(tmp_path, damage):
    open_cache(tmp_path, "key", N, FIELDS, decode)
    DAMAGE[damage](tmp_path / "key")
    decoder = Decoder()
    check(open_cache(tmp_path, "key", N, FIELDS, decoder))
    assert len(decoder.calls) == N
    assert os.listdir(tmp_path) == ["key"]
    assert sorted(os.listdir(tmp_path / "key")) == ["ids.npy", "images.npy"]
    check(open_cache(tmp_path, "key", N, FIELDS, never))


def test_a_file_where_the_cache_belongs_is_replaced(tmp_path):
    (tmp_path / "key").write_text("in the way")
    check(open_cache(tmp_path, "key", N, FIELDS, decode))


def test_more_samples_are_a_new_cache_even_under_the_same_key(tmp_path):
    open_cache(tmp_path, "key", N - 2, FIELDS, decode)
    check(open_cache(tmp_path, "key", N, FIELDS, decode))


def test_the_leftovers_of_a_killed_build_do_not_disturb(tmp_path):
    leftover = tmp_path / ".key-abc123"
    leftover.mkdir()
    (leftover / "images.npy").write_bytes(b"half")
    check(open_cache(tmp_path, "key", N, FIELDS, decode))
    check(open_cache(tmp_path, "key", N, FIELDS, never))


def test_only_old_drafts_of_a_cache_are_cleared_away(tmp_path):
    """--cache may be any folder, a home folder with .oh-my-zsh in it too."""
    other, old, young = (tmp_path / name for name in (".oh-my-zsh", f".{'a' * 24}-x", f".{'b' * 24}-x"))
    for folder in (other, old, young):
        folder.mkdir()
    for folder in (other, old):
        os.utime(folder, (0, 0))
    open_cache(tmp_path, "key", N, FIELDS, decode)
    assert other.exists() and young.exists() and not old.exists()


# ---- The key -------------------------------------------------------------------------------------------------------


def test_the_key_is_the_same_for_the_same_files(tmp_path):
    a, b = tmp_path / "a.png", tmp_path / "b.png"
    a.write_bytes(b"1234")
    b.write_bytes(b"5678")
    key = cache_key([a, b], 128, ("nose", "hat"))
    assert len(key) == 24 and set(key) <= set("0123456789abcdef")
    assert cache_key([a, b], 128, ("nose", "hat")) == key
    assert cache_key(iter([a, b]), 128, ("nose", "hat")) == key


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are text elsewhere")
def test_names_that_are_no_text_have_keys_too(tmp_path, capsys):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/f\xfc.jpg"))
    path.touch()
    assert cache_key([path]) == cache_key([path]) and fingerprint([path])
    write_csv(tmp_path / "table.csv", [[path.name]])
    assert (tmp_path / "table.csv").read_bytes() == b"f\xfc.jpg\n"
    cli.run(lambda: print(path.name))
    assert capsys.readouterr().out == "f\\udcfc.jpg\n"


def test_the_key_changes_with_every_ingredient(tmp_path):
    a, b = tmp_path / "a.png", tmp_path / "b.png"
    for path in (a, b):
        path.write_bytes(b"1234")
        os.utime(path, ns=(10**18, 10**18))
    keys = [
        cache_key([a], 128, ["nose"]), cache_key([b], 128, ["nose"]), cache_key([a, b], 128, ["nose"]),
        cache_key([a], 64, ["nose"]), cache_key([a], 128, ["hat"]), cache_key([a], 128, ["nose"], 2),
        cache_key([a]), cache_key([]),
    ]  # fmt: skip
    a.write_bytes(b"12345")
    os.utime(a, ns=(10**18, 10**18))
    keys.append(cache_key([a], 128, ["nose"]))  # another size, the old time
    a.write_bytes(b"4321")
    os.utime(a, ns=(10**18, 10**18 + 1000))
    keys.append(cache_key([a], 128, ["nose"]))  # the old size, written a microsecond later
    assert len(set(keys)) == len(keys)


# ---- Errors --------------------------------------------------------------------------------------------------------


def test_bad_input_is_passed_on_and_leaves_nothing(tmp_path):
    def bad(i):
        if i == 3:
            raise InputError("3.png: cannot be read")
        return decode(i)

    with pytest.raises(InputError, match="^3.png: cannot be read$"):
        open_cache(tmp_path, "key", N, FIELDS, bad)
    assert os.listdir(tmp_path) == []
    check(open_cache(tmp_path, "key", N, FIELDS, decode))


def test_bad_input_leaves_a_broken_cache_for_the_next_time(tmp_path):
    open_cache(tmp_path, "key", N, FIELDS, decode)
    (tmp_path / "key" / "ids.npy").unlink()
    with pytest.raises(InputError):
        open_cache(tmp_path, "key", N, FIELDS, lambda i: (_ for _ in ()).throw(InputError("bad")))
    assert os.listdir(tmp_path) == ["key"]
    check(open_cache(tmp_path, "key", N, FIELDS, decode))


@pytest.mark.parametrize("below", [".", "sub"])
def test_a_folder_that_cannot_be_written_is_refused(tmp_path, below):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(InputError) as error:
        open_cache(file / below, "key", N, FIELDS, never)
    assert str(file) in str(error.value) and "--cache" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_refused(tmp_path):
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(InputError, match="--cache"):
            open_cache(tmp_path, "key", N, FIELDS, never)
    finally:
        tmp_path.chmod(0o755)


def test_a_full_disk_is_refused_in_one_line(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    for module, function in ((np.lib.format, "open_memmap"), (os, "posix_fallocate")):
        with monkeypatch.context() as patch, pytest.raises(InputError, match="No space left"):
            patch.setattr(module, function, full, raising=False)
            open_cache(tmp_path, "key", N, FIELDS, never)
        assert os.listdir(tmp_path) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=100))
    with pytest.raises(InputError, match="0 MB are needed and not free"):
        open_cache(tmp_path, "key", N, FIELDS, never)
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system reserves nothing")
def test_the_space_is_taken_before_anything_is_decoded(tmp_path):
    def look(i):
        (file,) = tmp_path.glob(".key-*/images.npy")
        assert 512 * file.stat().st_blocks >= N * 100_000
        return {"images": np.ones(100_000, np.uint8)}

    assert open_cache(tmp_path, "key", N, {"images": ((100_000,), "uint8")}, look)["images"].all()


def test_a_file_system_that_reserves_nothing_has_a_cache_too(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", unsupported, raising=False)
    check(open_cache(tmp_path, "key", N, FIELDS, decode))


# ---- Two at once ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("broken_before", [False, True])
def test_the_first_to_finish_is_kept(tmp_path, broken_before):
    if broken_before:
        open_cache(tmp_path, "key", N, FIELDS, decode)
        truncate(tmp_path / "key" / "ids.npy", 100)
    first = []

    def overtaken(i):
        if i == 0:  # while this build runs, another one starts and finishes
            open_cache(tmp_path, "key", N, FIELDS, decode)
            first.append((tmp_path / "key").stat().st_ino)
        return decode(i)

    check(open_cache(tmp_path, "key", N, FIELDS, overtaken))
    assert (tmp_path / "key").stat().st_ino == first[0]
    assert os.listdir(tmp_path) == ["key"]


def build_with_another(folder, barrier):
    def meet(i):
        if i == 0:
            barrier.wait(60)  # both are building now
        return decode(i)

    check(open_cache(Path(folder), "key", N, FIELDS, meet))


def test_two_processes_that_build_at_once_both_succeed(tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    processes = [context.Process(target=build_with_another, args=(str(tmp_path), barrier)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(90)
    assert [process.exitcode for process in processes] == [0, 0]
    assert os.listdir(tmp_path) == ["key"]
    check(open_cache(tmp_path, "key", N, FIELDS, never))

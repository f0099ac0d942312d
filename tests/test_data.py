"""common/data.py: the cache equals direct decoding, batches come as they should, pictures are known again."""

import os
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import refused

from common.cli import InputError
from common.data import among, find, identity, in_order, open_cache, shuffled, whole_folder

N = 7


def decode(i):
    return {"images": np.full((4, 5, 3), 10 * i, np.uint8) + np.arange(3, dtype=np.uint8), "ids": np.int64(1000 + i)}


def never(i):
    raise AssertionError(f"decoded {i} again")


def check(cached):
    assert set(cached) == {"images", "ids"} and cached["images"].dtype == np.uint8
    assert cached["ids"].tolist() == [1000 + i for i in range(N)] and cached["ids"].dtype == np.int64
    assert np.array_equal(cached["images"], [decode(i)["images"] for i in range(N)])


def cache(folder, decode=decode, files=(), facts=("size", 64), n=N):
    return open_cache(folder, files, list(facts), n, decode, "decoding")


# ---- The cache -----------------------------------------------------------------------------------------------------


def test_the_cache_equals_decoding_is_built_once_and_named_if_broken(tmp_path):
    check(cache(tmp_path / "deep" / "cache"))
    cached = cache(tmp_path / "deep" / "cache", never)
    check(cached)
    assert isinstance(cached["images"], np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        cached["images"][0] = 1
    del cached  # Windows cuts no file that is mapped
    (folder,) = (tmp_path / "deep" / "cache").iterdir()
    (folder / "images.npy").write_bytes((folder / "images.npy").read_bytes()[:150])
    assert f"{folder}: is a broken cache; delete this folder" in refused(cache, folder.parent, never)
    for file in folder.iterdir():
        file.unlink()
    assert f"{folder}: is a broken cache" in refused(cache, folder.parent, never)


def test_whatever_went_into_it_makes_another_cache(tmp_path):
    a, b = tmp_path / "a.png", tmp_path / "b.png"
    b.write_bytes(b"1234")
    # another file, more files, another fact, another size, a later time
    for files, facts, content, time in (
        ([a], [1], b"1234", 0), ([b], [1], b"1234", 0), ([a, b], [1], b"1234", 0), ([a], [2], b"1234", 0),
        ([a], [1], b"12345", 0), ([a], [1], b"1234", 1000),
    ):  # fmt: skip
        a.write_bytes(content)
        os.utime(a, ns=(10**18 + time, 10**18 + time))
        cache(tmp_path / "c", files=files, facts=facts)
    assert len(os.listdir(tmp_path / "c")) == 6
    cache(tmp_path / "c", never, files=[a], facts=[1])


def test_bad_input_and_a_full_disk_leave_nothing_behind(tmp_path, monkeypatch):
    def bad(i):
        if i == 3:
            raise InputError("3.png: cannot be read")
        return decode(i)

    def full(*_):
        raise OSError(28, "No space left on device")

    assert refused(cache, tmp_path, bad) == "3.png: cannot be read"
    monkeypatch.setattr(np.lib.format, "write_array_header_1_0", full)
    assert "No space left on device; free some space" in refused(cache, tmp_path)
    assert os.listdir(tmp_path) == []


def test_of_two_that_build_a_folder_at_once_the_first_wins(tmp_path):
    with whole_folder(tmp_path / "whole") as draft:
        (draft / "second").touch()
        with whole_folder(tmp_path / "whole") as other:
            (other / "first").touch()
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["whole", "whole/first"]


# ---- Who is it -----------------------------------------------------------------------------------------------------


def test_a_picture_is_known_again_in_another_folder_and_changed_masks_are_noticed(tmp_path):
    who = []
    for folder, mask in (("a", b"123"), ("b", b"123"), ("c", b"1234")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "7.jpg").write_bytes(b"photo")
        (tmp_path / folder / "m.png").write_bytes(mask)
        who.append(identity(tmp_path / folder / "7.jpg", [tmp_path / folder / "m.png"]))
    assert who[0] == who[1] != who[2]
    assert among([who[2], "8.jpg:5:1:3"], [who[0]]) == [who[2]]  # the same photo, whatever its masks
    everybody = ["1.jpg:1:0:0", who[1], "2.jpg:2:0:0"]
    folder = [SimpleNamespace(identity=one) for one in everybody]
    assert find([who[0]], folder, "b") == [folder[1]] and find(everybody[::-1], folder, "b") == folder
    missing = "b: 1 of the checkpoint's 2 pictures are missing, or their photos or masks have changed, such as 7.jpg"
    assert missing in refused(find, [who[2], everybody[0]], folder, "b")


# ---- Batches -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "sizes"), [(8, [4, 4]), (10, [4, 4, 2]), (9, [4, 5]), (5, [5]), (3, [3]), (1, [1])])
def test_batches_cover_everything_once_and_training_never_ends_with_one(n, sizes):
    batches = shuffled(n, 4, 0, 1)
    assert [len(batch) for batch in batches] == sizes
    assert sorted(np.concatenate(batches).tolist()) == list(range(n))
    batches = in_order(n, 4)
    assert np.concatenate(batches).tolist() == list(range(n)) and max(map(len, batches)) <= 4

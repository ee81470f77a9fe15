"""The worker's disk cache, and how it verifies files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pytest

from nestor.errors import BlobDamaged
from nestor_worker.supervisor.blob_cache import ABANDONED_SECONDS, BlobCache
from nestor_worker.supervisor.materialize import _traces_name


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@pytest.fixture
def target(tmp_path) -> Path:
    return tmp_path / "target"


@pytest.fixture
def cache(tmp_path) -> BlobCache:
    return BlobCache(tmp_path / "cache", limit=100)


def kept(tmp_path: Path) -> list[Path]:
    """Least recently used first."""
    files = (tmp_path / "cache").iterdir()
    return sorted(files, key=lambda path: path.stat().st_mtime_ns)


def fetch(data: bytes, times: list[bytes] | None = None) -> Callable[[], Iterator[bytes]]:
    def fetched() -> Iterator[bytes]:
        if times is not None:
            times.append(data)
        yield data[:3]
        yield data[3:]

    return fetched


def never() -> Iterator[bytes]:
    raise AssertionError("it is here already")
    yield


def test_a_fetched_file_is_cached_for_the_next_time(cache, target):
    for source in (fetch(b"dataset"), never):
        cache.place(digest_of(b"dataset"), target, source)
        assert target.read_bytes() == b"dataset"


def test_a_runner_that_changes_its_file_does_not_change_the_cache(cache, target):
    cache.place(digest_of(b"dataset"), target, fetch(b"dataset"))
    cache.place(digest_of(b"dataset"), target, never)
    with target.open("r+b") as file:
        file.write(b"POISON!")
    cache.place(digest_of(b"dataset"), target, never)
    assert target.read_bytes() == b"dataset"


@pytest.mark.parametrize("damage", [b"", b"data", b"datasot", b"dataset and more"])
def test_a_damaged_file_is_fetched_again(cache, target, tmp_path, damage: bytes):
    cache.place(digest_of(b"dataset"), target, fetch(b"dataset"))
    (file,) = kept(tmp_path)
    file.write_bytes(damage)
    for source in (fetch(b"dataset"), never):
        cache.place(digest_of(b"dataset"), target, source)
        assert target.read_bytes() == b"dataset"


def test_bytes_that_arrive_with_another_digest_are_refused_and_not_kept(cache, target, tmp_path):
    with pytest.raises(BlobDamaged, match=digest_of(b"dataset")):
        cache.place(digest_of(b"dataset"), target, fetch(b"other"))
    assert not (tmp_path / "cache").exists()


def test_the_least_recently_used_file_is_evicted_first(cache, target, tmp_path):
    one, two, three = (bytes([i]) * 40 for i in range(3))
    for at, data in enumerate((one, two)):
        cache.place(digest_of(data), target, fetch(data))
        os.utime(kept(tmp_path)[-1], (at, at))
    cache.place(digest_of(one), target, never)
    cache.add(three)
    assert [path.read_bytes() for path in kept(tmp_path)] == [one, three]


def test_a_file_larger_than_the_limit_is_not_cached_and_evicts_nothing(cache, target, tmp_path):
    cache.add(b"small")
    cache.place(digest_of(b"x" * 101), target, fetch(b"x" * 101))
    assert [path.read_bytes() for path in kept(tmp_path)] == [b"small"]


def test_a_cache_of_zero_bytes_keeps_nothing(target, tmp_path):
    none, times = BlobCache(tmp_path / "cache", limit=0), []
    for _ in range(2):
        none.place(digest_of(b"dataset"), target, fetch(b"dataset", times))
    assert len(times) == 2
    assert not (tmp_path / "cache").exists()


def test_trials_run_without_a_writable_cache(target, tmp_path):
    (tmp_path / "cache").write_text("a file where the directory should be")
    cache = BlobCache(tmp_path / "cache", limit=100)
    cache.place(digest_of(b"dataset"), target, fetch(b"dataset"))
    assert target.read_bytes() == b"dataset"


def test_partial_files_of_killed_workers_are_removed(cache, tmp_path):
    cache.add(b"first")
    left, young = tmp_path / "cache" / "left.part", tmp_path / "cache" / "young.part"
    for part in (left, young):
        part.write_bytes(b"half")
    long_ago = left.stat().st_mtime - ABANDONED_SECONDS - 1
    os.utime(left, (long_ago, long_ago))
    cache.add(b"second")
    assert not left.exists()
    assert young.exists()


def test_many_slots_share_one_small_cache_and_each_gets_what_it_asked_for(tmp_path):
    """Eight blobs in a cache for three: several caches write, evict and read files concurrently."""
    blobs = [bytes([i]) * 30 for i in range(8)]

    def slot(i: int) -> None:
        cache, target = BlobCache(tmp_path / "cache", limit=100), tmp_path / f"target-{i}"
        for k in range(60):
            data = blobs[(k * (i + 1)) % len(blobs)]
            cache.place(digest_of(data), target, fetch(data))
            assert target.read_bytes() == data

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(slot, range(6)))
    for path in kept(tmp_path):
        assert digest_of(path.read_bytes()).removeprefix("sha256:") in path.name


def test_a_named_entry_is_found_until_it_is_replaced(cache):
    assert cache.get_named("traces:of a program") is None
    for data in (b"first", b"first", b"second"):
        cache.put_named("traces:of a program", data)
        assert cache.get_named("traces:of a program") == data


def test_a_kept_trace_has_its_owner_in_its_name():
    mine, yours = uuid4(), uuid4()
    config = {"response": {"kind": "implicit"}, "batch_size": 8}
    name = _traces_name(mine, "sha256:a program", config)
    assert name == _traces_name(mine, "sha256:a program", config)
    assert name != _traces_name(yours, "sha256:a program", config)

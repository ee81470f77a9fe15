"""Data by reference in an S3 store: downloaded once by the client and by the worker."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from obstore.store import ObjectStore
from safetensors.torch import save

import nestor
from nestor.errors import MissingExtra, ReferenceNotFound, Unavailable
from nestor.schemas import State
from nestor_server.models import Trial
from nestor_server.scheduling import leases
from nestor_server.storage import object_store
from nestor_worker.supervisor.blob_cache import BlobCache
from nestor_worker.supervisor.references import Roots
from testbed.objects import BUCKET, running_s3
from tests.worker.test_references import columns, problem_of, run, slot, submit

__all__ = ["run", "slot", "submit"]  # fixtures


@pytest.fixture(scope="module")
def bucket() -> Iterator[ObjectStore]:
    """The bucket of a real S3 server."""
    with running_s3():
        yield object_store.open_store(f"s3://{BUCKET}")


@pytest.fixture
def prefix(bucket: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Of the objects of one test; there is one, train.safetensors."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    bucket.put(f"{tmp_path.name}/train.safetensors", save(columns(60)))
    return tmp_path.name


def test_an_object_is_downloaded_once_and_read_from_the_cache(sessions, bucket, prefix, tmp_path, slot, submit, run):
    problem = problem_of(nestor.data.ref(f"s3://{BUCKET}/{prefix}/train.safetensors"), columns(20, 1))
    (kept,) = (tmp_path / "user" / "nestor" / "objects").iterdir()
    assert kept.stat().st_size == len(save(columns(60)))
    trial = submit(problem)
    slot = dataclasses.replace(slot, roots=Roots.of([f"s3://{BUCKET}/{prefix}"]))
    trial = run(trial, slot)
    assert (trial.error, trial.state) == (None, State.complete)

    bucket.delete(f"{prefix}/train.safetensors")
    with sessions.begin() as session:
        leases.extend(session, session.get_one(Trial, trial.id), 1, by="a test")
    assert run(trial, slot).step == 4

    for file in (tmp_path / "cache").glob("sha256*"):
        file.unlink()
    with sessions.begin() as session:
        leases.extend(session, session.get_one(Trial, trial.id), 1, by="a test")
    error = run(trial, slot).error
    assert error is not None
    assert "cannot be read on the worker: there is no such bucket or object" in error["detail"]


def test_an_object_that_changed_or_is_too_large_fails_the_trial(bucket, prefix, tmp_path, slot, submit, run):
    uri = f"s3://{BUCKET}/{prefix}/train.safetensors"
    trials = [submit(problem_of(nestor.data.ref(uri), columns(20, 1))) for _ in range(2)]
    roots = Roots.of([f"s3://{BUCKET}/{prefix}"])
    small = run(trials[0], dataclasses.replace(slot, roots=roots, cache=BlobCache(tmp_path / "small", 100))).error
    assert small is not None
    assert small["code"] == "reference-too-large"
    bucket.put(f"{prefix}/train.safetensors", save(columns(61)))
    changed = run(trials[1], dataclasses.replace(slot, roots=roots)).error
    assert changed is not None
    assert changed["code"] == "reference-changed"


@pytest.mark.parametrize("key", ["no-such-bucket/x.npy", f"{BUCKET}/no-such-key.npy"])
def test_a_bucket_or_an_object_that_does_not_exist_is_named(prefix, key):
    with pytest.raises(ReferenceNotFound, match=f"s3://{key}' cannot be read on this machine: there is no such"):
        problem_of((nestor.data.ref(f"s3://{key}"), [0.0]), columns(20))


def test_a_store_that_does_not_answer_is_named(prefix, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(Unavailable, match=r"The object store of s3://nestor/x\.npy does not answer"):
        problem_of((nestor.data.ref("s3://nestor/x.npy"), [0.0]), columns(20))


def test_without_obstore_the_extra_to_install_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(MissingExtra, match=r"needs obstore, which is not installed.*nestor\[objects\]"):
        problem_of(nestor.data.ref("s3://nestor/x.safetensors"), columns(20))

"""Large blobs in an object store exist exactly if their transaction committed, and are deleted when unused."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import delete, func, select, update

from nestor.errors import BlobNotFound, InvalidInput, Unavailable
from nestor_server import database, revisions
from nestor_server.database import Sessions
from nestor_server.models import Blob, BlobChunk, UnusedObject, User
from nestor_server.services import readiness
from nestor_server.settings import Settings
from nestor_server.storage import blobs, object_store
from testbed.objects import keys, settings_of
from testbed.server import free_port, new_database
from testbed.services import Services

LARGE = os.urandom(20_000)


@pytest.fixture(scope="module")
def url(services: Services) -> Iterator[str]:
    with new_database(services) as url:
        revisions.migrate(url)
        yield url


@pytest.fixture(scope="module", params=["directory", "s3"])
def settings(request, url: str, services: Services, tmp_path_factory) -> Iterator[Settings]:
    with settings_of(request.param, tmp_path_factory.mktemp("objects")) as home:
        home |= {"database_url": url, "redis_url": services.redis_url, "large_blob_bytes": 10_000}
        yield Settings(**home)


@pytest.fixture
def new_sessions() -> Iterator[Callable[[Settings], Sessions]]:
    engines = []

    def new(settings: Settings) -> Sessions:
        engines.append(database.make_engine(settings))
        return database.make_sessions(engines[-1], settings)

    yield new
    for engine in engines:
        engine.dispose()


@pytest.fixture
def sessions(new_sessions, settings: Settings) -> Sessions:
    return new_sessions(settings)


@pytest.fixture
def owner(sessions: Sessions) -> Iterator[UUID]:
    """A user, who is deleted with everything at the end."""
    with sessions.begin() as session:
        user = User(name=os.urandom(4).hex())
        session.add(user)
    yield user.id
    with sessions.begin() as session:
        session.execute(delete(User).where(User.id == user.id))
    with sessions.begin() as session:
        session.execute(update(UnusedObject).values(since=func.now() - timedelta(days=1)))
        object_store.delete_unused(session)
    assert keys(database.settings_of(session).blob_url or "") == set()


def test_large_blobs_are_in_the_store_and_small_ones_in_the_database(sessions, settings, owner):
    with sessions.begin() as session:
        for data in (LARGE, LARGE[:9_999]):
            assert blobs.load(session, blobs.store(session, owner, data)) == data
        where = session.execute(select(BlobChunk.size, BlobChunk.object)).all()
    ((_, key),) = [row for row in where if row.object is not None]
    assert sorted(size for size, _ in where) == [9_999, 20_000]
    assert keys(settings.blob_url) == {key}


def test_a_range_of_a_large_blob_is_read_in_pieces(sessions, owner, monkeypatch):
    monkeypatch.setattr(blobs, "CHUNK_BYTES", 7_000)
    with sessions.begin() as session:
        blob = blobs.store(session, owner, LARGE)
        pieces = list(blobs.read(session, blob, 10, 15_010))
    assert [len(piece) for piece in pieces] == [7_000, 7_000, 1_000]
    assert b"".join(pieces) == LARGE[10:15_010]


@pytest.mark.parametrize("settings", ["directory"], indirect=True)
def test_ranges_that_are_far_apart_are_read_without_what_is_between_them(sessions, owner, monkeypatch):
    """As the kernel counts what this process reads."""
    monkeypatch.setattr(object_store, "GAP_BYTES", 2**20)
    data = os.urandom(32 * 2**20)
    with sessions.begin() as session:
        blob = blobs.store(session, owner, data)
        key = session.scalars(select(BlobChunk.object).where(BlobChunk.blob_id == blob.id)).one()
        assert key is not None
        for apart, most in ((2**18, 128 * 4_096), (8_192, 128 * 8_192)):
            ranges = [(i * apart, i * apart + 4_096) for i in range(128)]
            before = bytes_read()
            found = object_store.read_ranges(session, key, ranges)
            assert found == [data[start:stop] for start, stop in ranges]
            assert 128 * 4_096 <= bytes_read() - before < most + 2**16


def bytes_read() -> int:
    """By this process since it began."""
    return int(Path("/proc/self/io").read_text().split()[1])


def test_an_object_of_a_rolled_back_transaction_is_deleted_but_not_while_it_may_commit(sessions, settings, owner):
    with sessions() as session:
        blobs.store(session, owner, LARGE)
        with sessions.begin() as other:
            assert object_store.delete_unused(other) == 0
        session.rollback()
    (key,) = keys(settings.blob_url)
    with sessions.begin() as session:
        session.execute(update(UnusedObject).where(UnusedObject.key == key).values(since=func.now()))
    with sessions.begin() as session:
        assert object_store.delete_unused(session) == 1
    assert keys(settings.blob_url) == set()


def test_the_object_of_a_deleted_blob_is_deleted_after_the_grace_period(sessions, new_sessions, settings, owner):
    with sessions.begin() as session:
        blob = blobs.store(session, owner, LARGE)
    with sessions.begin() as session:
        session.execute(delete(Blob).where(Blob.id == blob.id))
    patient = new_sessions(settings.model_copy(update={"object_grace_seconds": 60}))
    with patient.begin() as session:
        assert object_store.delete_unused(session) == 0
    with sessions.begin() as session:
        assert object_store.delete_unused(session) == 1
    assert keys(settings.blob_url) == set()
    with sessions.begin() as session:
        assert object_store.delete_unused(session) == 0


def test_a_sweep_that_was_not_committed_is_swept_again(sessions, owner):
    with sessions.begin() as session:
        blob = blobs.store(session, owner, LARGE)
    with sessions.begin() as session:
        session.execute(delete(Blob).where(Blob.id == blob.id))
    with sessions() as session:
        assert object_store.delete_unused(session) == 1
        session.rollback()
    with sessions.begin() as session:
        assert object_store.delete_unused(session) == 1


def test_the_same_bytes_stored_again_after_a_deletion_are_another_object(sessions, settings, owner):
    with sessions.begin() as session:
        blob = blobs.store(session, owner, LARGE)
    with sessions.begin() as session:
        session.execute(delete(Blob).where(Blob.id == blob.id))
    with sessions.begin() as session:
        again = blobs.store(session, owner, LARGE)
    with sessions.begin() as session:
        assert object_store.delete_unused(session) == 1
        assert blobs.load(session, again) == LARGE


def test_a_blob_whose_object_is_gone_is_not_found(sessions, settings, owner):
    with sessions.begin() as session:
        blob = blobs.store(session, owner, LARGE)
        object_store.open_store(settings.blob_url).delete(next(iter(keys(settings.blob_url))))
        with pytest.raises(BlobNotFound):
            blobs.load(session, blob)


def test_a_process_without_the_store_setting_reports_it(sessions, new_sessions, settings, owner):
    with sessions.begin() as session:
        blob = blobs.store(session, owner, LARGE)
    untold = new_sessions(settings.model_copy(update={"blob_url": None}))
    with untold() as session, pytest.raises(Unavailable, match="NESTOR_BLOB_URL"):
        blobs.load(session, blob)


def test_a_store_that_does_not_answer_is_unavailable_and_the_server_not_ready(new_sessions, settings, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    monkeypatch.setitem(object_store.RETRY, "max_retries", 0)
    away = settings.model_copy(update={"blob_url": "s3://away/nestor"})
    sessions = new_sessions(away)
    with sessions() as session, pytest.raises(Unavailable, match="object store does not answer"):
        object_store.put(session, UUID(int=0), LARGE)
    checks = readiness.check(sessions, away).checks
    assert checks == {"database": "ok", "migrations": "ok", "broker": "ok", "object store": "does not answer"}
    assert readiness.check(sessions, settings).checks["object store"] == "ok"
    with sessions.begin() as session:
        session.execute(delete(UnusedObject))


@pytest.mark.parametrize("wrong", ["nonsense", "ftp://somewhere/else", "file://relative/path"])
def test_an_invalid_address_is_refused_with_an_example(wrong):
    with pytest.raises(
        InvalidInput, match=r"NESTOR_BLOB_URL cannot be used: .* Write it like file:///srv/nestor or s3://bucket/prefix"
    ):
        object_store.check(Settings(blob_url=wrong))

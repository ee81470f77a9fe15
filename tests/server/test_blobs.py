"""Blobs: resumed uploads, verified digests and ranges, in each kind of storage.

In some tests this process is a second server on the same database.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID

import httpx
import pytest
from sqlalchemy import Engine, event, func, select

from nestor.errors import DigestMismatch
from nestor.schemas import CHUNK_BYTES
from nestor_server.models import Blob, BlobChunk
from nestor_server.storage import blobs
from nestor_server.storage.blobs import CHUNKS_READ_AGAIN
from testbed.objects import settings_of
from testbed.server import Server, running_server
from testbed.services import Services
from tests.server.conftest import ok, problem


@pytest.fixture(scope="module", params=["database", "directory", "s3"])
def server(request, services: Services, tmp_path_factory) -> Iterator[Server]:
    """One server for each kind of storage."""
    with (
        settings_of(request.param, tmp_path_factory.mktemp("objects")) as home,
        running_server(services, redis_db=3, max_blob_bytes=32 * 2**20, **home) as server,
    ):
        yield server


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def announce(http: httpx.Client, data: bytes, **changes) -> httpx.Response:
    return http.post("/blobs", json={"digest": digest_of(data), "size": len(data)} | changes)


def patch(http: httpx.Client, upload: str, offset: int, data: bytes) -> httpx.Response:
    headers = {"Upload-Offset": str(offset), "Content-Type": "application/octet-stream"}
    return http.patch(f"/blobs/{upload}", content=data, headers=headers)


def put(http: httpx.Client, data: bytes) -> str:
    """Upload it in one piece; return its digest."""
    upload = ok(announce(http, data))
    offset = upload["offset"]
    while upload["id"] is not None and offset < len(data):
        ok(patch(http, upload["id"], offset, data[offset : offset + CHUNK_BYTES]))
        offset += CHUNK_BYTES
    return digest_of(data)


@pytest.fixture
def data() -> bytes:
    return os.urandom(2 * CHUNK_BYTES + 12_345)


@pytest.fixture
def append(server: Server) -> Callable[[str, int, bytes], int]:
    """What PATCH does, in this process; it returns the offset."""

    def append(upload: str, offset: int, data: bytes) -> int:
        with server.sessions.begin() as session:
            owner_id = session.scalars(select(Blob.owner_id).where(Blob.id == upload)).one()
            return blobs.append(session, owner_id, UUID(upload), offset, data).offset

    return append


@contextmanager
def statements(server: Server) -> Iterator[list[str]]:
    """The statements of this process."""
    engine, seen = server.sessions.kw["bind"], list[str]()
    assert isinstance(engine, Engine)

    def note(connection, cursor, statement, *rest) -> None:
        seen.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    yield seen
    event.remove(engine, "before_cursor_execute", note)


def chunks_read(statements: list[str]) -> int:
    return sum(s.startswith("SELECT") and "FROM blob_chunks" in s for s in statements)


def test_an_upload_in_pieces_becomes_the_blob_of_its_digest(http, data):
    response = announce(http, data)
    assert response.status_code == 201
    assert response.json()["offset"] == 0
    digest = put(http, data)

    read = http.get(f"/blobs/{digest}")
    assert read.content == data
    assert read.headers["ETag"] == f'"{digest.removeprefix("sha256:")}"'
    head = http.head(f"/blobs/{digest}")
    assert (head.status_code, head.headers["Content-Length"], head.content) == (200, str(len(data)), b"")
    again = announce(http, data)
    assert (again.status_code, again.json()["id"], again.json()["offset"]) == (200, None, len(data))


def test_an_interrupted_upload_continues_where_it_stopped(http, data):
    upload = ok(announce(http, data))["id"]
    ok(patch(http, upload, 0, data[:1000]))

    again = ok(announce(http, data))
    assert (again["id"], again["offset"]) == (upload, 1000)
    head = http.head(f"/blobs/{upload}")
    assert (head.headers["Upload-Offset"], head.headers["Upload-Length"]) == ("1000", str(len(data)))
    problem(http.get(f"/blobs/{digest_of(data)}"), 404, "blob-not-found")  # not before it is complete
    document = problem(patch(http, upload, 0, data[:1000]), 409, "offset-mismatch")
    assert document["context"] == {"expected": 1000, "actual": 0}
    for start in range(1000, len(data), CHUNK_BYTES):
        ok(patch(http, upload, start, data[start : start + CHUNK_BYTES]))
    assert http.get(f"/blobs/{digest_of(data)}").content == data


@pytest.mark.parametrize(
    ("start", "stop"), [(0, 1), (CHUNK_BYTES - 3, CHUNK_BYTES + 3), (CHUNK_BYTES, 2 * CHUNK_BYTES), (5, 8_400_000)]
)
def test_a_range_is_read_across_chunks(http, data, start, stop):
    part = http.get(f"/blobs/{put(http, data)}", headers={"Range": f"bytes={start}-{stop - 1}"})
    assert (part.status_code, part.content) == (206, data[start:stop])
    assert part.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{len(data)}"


def test_bytes_that_do_not_match_their_digest_are_discarded_and_the_upload_can_restart(server, http):
    data, wrong = os.urandom(5000), os.urandom(5000)
    upload = ok(announce(http, data))["id"]
    ok(patch(http, upload, 0, wrong[:2000]))
    document = problem(patch(http, upload, 2000, wrong[2000:]), 422, "digest-mismatch")
    assert hashlib.sha256(wrong).hexdigest() in document["detail"]
    assert "Nothing was stored" in document["detail"]

    with server.sessions() as session:
        assert session.scalar(select(func.count()).where(Blob.digest == digest_of(data))) == 0
        assert session.scalar(select(func.count()).where(BlobChunk.blob_id == upload)) == 0
    assert http.head(f"/blobs/{upload}").status_code == 404
    assert http.get(f"/blobs/{put(http, data)}").content == data


def test_more_bytes_than_announced_are_refused(http):
    data = os.urandom(100)
    upload = ok(announce(http, data))["id"]
    problem(patch(http, upload, 0, data + b"!"), 422, "upload-too-long")
    assert http.head(f"/blobs/{upload}").headers["Upload-Offset"] == "0"


def test_a_chunk_that_is_too_long_is_refused(http, data):
    upload = ok(announce(http, data))["id"]
    problem(patch(http, upload, 0, data[: CHUNK_BYTES + 1]), 413, "chunk-too-large")


def test_an_upload_larger_than_the_server_takes_is_refused_before_a_byte_is_sent(http):
    document = problem(announce(http, b"", size=10**15), 413, "too-large")
    assert "NESTOR_MAX_BLOB_BYTES" in document["detail"]


def test_an_upload_announced_with_another_size_begins_again(http, data):
    upload = ok(announce(http, data, size=77))["id"]
    ok(patch(http, upload, 0, data[:70]))
    assert ok(announce(http, data))["offset"] == 0
    assert http.get(f"/blobs/{put(http, data)}").content == data
    problem(announce(http, data, size=77), 422, "blob-size-differs")


def test_an_empty_blob_is_a_blob(http):
    assert announce(http, b"").status_code == 200
    assert http.get(f"/blobs/{digest_of(b'')}").content == b""
    problem(announce(http, b"x", size=0), 422, "digest-mismatch")


@pytest.mark.parametrize("data", [b"\xff\x00 no text", b'{"a": NaN}', b"[" * 9_000])
def test_bytes_are_stored_unchanged_for_any_content_type(http, data):
    upload = ok(announce(http, data))["id"]
    by_curl = {"Upload-Offset": "0", "Content-Type": "application/x-www-form-urlencoded"}
    ok(http.patch(f"/blobs/{upload}", content=data, headers=by_curl))
    assert http.get(f"/blobs/{digest_of(data)}").content == data


def test_an_empty_patch_changes_nothing(http, data):
    upload = ok(announce(http, data))["id"]
    assert patch(http, upload, 0, b"").headers["Upload-Offset"] == "0"


def test_the_same_bytes_of_two_users_are_two_blobs(http, stranger):
    data = os.urandom(100)
    digest = put(http, data)
    problem(stranger.get(f"/blobs/{digest}"), 404, "blob-not-found")
    assert announce(stranger, data).status_code == 201  # and nobody learns that someone else has them
    upload = ok(announce(http, os.urandom(5)))["id"]
    problem(patch(stranger, upload, 0, b"12345"), 404, "upload-not-found")


@pytest.mark.parametrize("digest", ["sha256:12", "md5:" + 32 * "0", "sha256:" + 64 * "G", "../../etc/passwd"])
def test_an_invalid_digest_is_refused(http, digest):
    problem(http.post("/blobs", json={"digest": digest, "size": 1}), 422, "validation-failed")
    assert http.get(f"/blobs/{digest}").status_code in (404, 422)


def test_concurrent_uploads_of_the_same_piece_store_it_once(server, http):
    from concurrent.futures import ThreadPoolExecutor

    data = os.urandom(200_000)
    upload = ok(announce(http, data))["id"]
    with ThreadPoolExecutor(4) as pool:
        statuses = sorted(r.status_code for r in pool.map(lambda _: patch(http, upload, 0, data[:100_000]), range(4)))
    assert statuses == [204, 409, 409, 409]
    ok(patch(http, upload, 100_000, data[100_000:]))
    assert http.get(f"/blobs/{digest_of(data)}").content == data


# --- verification ---------------------------------------------------------------------------------

SMALL = 1000  # bytes of a chunk
MANY = 2 * CHUNKS_READ_AGAIN + 4  # chunks


def test_a_chunk_that_follows_those_of_this_process_reads_none(server, http, append):
    data = os.urandom(MANY * SMALL)
    upload = ok(announce(http, data))["id"]
    with statements(server) as seen:
        for start in range(0, len(data), SMALL):
            assert append(upload, start, data[start : start + SMALL]) == start + SMALL
    assert len(seen) >= 2 * MANY
    assert chunks_read(seen) == 0
    assert http.get(f"/blobs/{digest_of(data)}").content == data


def test_a_restarted_server_reads_a_few_chunks_in_each_request_until_it_takes_the_last_byte(server, http):
    data = os.urandom(MANY * SMALL)
    upload = ok(announce(http, data))["id"]
    for start in range(0, len(data) - SMALL, SMALL):
        ok(patch(http, upload, start, data[start : start + SMALL]))
    server.stop()
    server.start()

    last = len(data) - 1
    for start in (last + 1 - SMALL, last):
        answer = patch(http, upload, start, data[start:])
        assert (answer.status_code, int(answer.headers["Upload-Offset"])) == (204, last)
        assert ok(announce(http, data)) == {"id": upload, "digest": digest_of(data), "offset": last, "size": last + 1}
        problem(http.get(f"/blobs/{digest_of(data)}"), 404, "blob-not-found")
    assert patch(http, upload, last, data[last:]).headers["Upload-Offset"] == str(len(data))
    assert http.get(f"/blobs/{digest_of(data)}").content == data


def test_empty_patches_verify_as_well_and_read_each_chunk_once(server, http, append):
    data = os.urandom(MANY * SMALL)
    upload, end = ok(announce(http, data))["id"], len(data) - SMALL
    for start in range(0, end, SMALL):
        ok(patch(http, upload, start, data[start : start + SMALL]))
    for read in (CHUNKS_READ_AGAIN, CHUNKS_READ_AGAIN, MANY - 1 - 2 * CHUNKS_READ_AGAIN, 0):
        with statements(server) as seen:
            assert append(upload, end, b"") == end
        assert chunks_read(seen) == read
    assert append(upload, end, data[end:]) == len(data)
    assert http.get(f"/blobs/{digest_of(data)}").content == data


def test_two_servers_that_take_turns_read_only_the_chunks_of_the_other(server, http, append):
    data = os.urandom(MANY * SMALL)
    upload = ok(announce(http, data))["id"]
    with statements(server) as seen:
        for number in range(MANY):
            start = number * SMALL
            chunk = data[start : start + SMALL]
            if number % 2:
                assert append(upload, start, chunk) == start + SMALL
            else:
                assert patch(http, upload, start, chunk).headers["Upload-Offset"] == str(start + SMALL)
    assert chunks_read(seen) == MANY / 2
    assert http.get(f"/blobs/{digest_of(data)}").content == data


def test_a_chunk_that_is_rolled_back_leaves_no_trace(server, http, append):
    data, wrong = os.urandom(3 * SMALL), os.urandom(SMALL)
    upload = ok(announce(http, data))["id"]
    assert append(upload, 0, data[:SMALL]) == SMALL
    with server.sessions() as session:
        owner_id = session.scalars(select(Blob.owner_id).where(Blob.id == upload)).one()
        assert blobs.append(session, owner_id, UUID(upload), SMALL, wrong).offset == 2 * SMALL
        session.rollback()
    ok(patch(http, upload, SMALL, data[SMALL : 2 * SMALL]))
    assert append(upload, 2 * SMALL, data[2 * SMALL :]) == 3 * SMALL
    assert http.get(f"/blobs/{digest_of(data)}").content == data


def test_what_is_known_of_an_upload_does_not_count_for_one_that_began_again(http, append):
    data, other = os.urandom(2 * SMALL), os.urandom(SMALL)
    before = ok(announce(http, data, size=SMALL + 1))["id"]
    assert append(before, 0, other) == SMALL
    upload = ok(announce(http, data))["id"]
    problem(patch(http, before, SMALL, b"!"), 404, "upload-not-found")
    ok(patch(http, upload, 0, data[:SMALL]))
    assert append(upload, SMALL, data[SMALL:]) == 2 * SMALL
    assert http.get(f"/blobs/{digest_of(data)}").content == data


def test_wrong_bytes_that_another_server_took_are_found(server, http, append):
    data = os.urandom(2 * SMALL)
    upload = ok(announce(http, data))["id"]
    ok(patch(http, upload, 0, os.urandom(SMALL)))
    with pytest.raises(DigestMismatch):
        append(upload, SMALL, data[SMALL:])
    # This transaction was rolled back, other than that of a route, so the right server can still say the same.
    problem(patch(http, upload, SMALL, data[SMALL:]), 422, "digest-mismatch")
    assert http.get(f"/blobs/{put(http, data)}").content == data


def test_announcements_at_the_same_time_are_of_one_upload(http):
    """Also while one of them discards an upload of another size."""
    from concurrent.futures import ThreadPoolExecutor

    data = os.urandom(100)
    for _ in range(5):
        with ThreadPoolExecutor(8) as pool:
            sizes = [100, 77] * 8
            answers = list(pool.map(lambda size: announce(http, data, size=size), sizes))
        assert {answer.status_code for answer in answers} == {201}
    assert http.get(f"/blobs/{put(http, data)}").content == data

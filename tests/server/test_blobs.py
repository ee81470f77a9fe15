"""Blobs: resumed uploads, verified digests and ranges, in each kind of storage."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator

import httpx
import pytest
from sqlalchemy import func, select

from nestor.schemas import CHUNK_BYTES
from nestor_server.models import Blob, BlobChunk
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

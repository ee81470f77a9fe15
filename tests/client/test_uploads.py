"""Uploads to the real server, over connections that are cut."""

from __future__ import annotations

import os
from uuid import UUID

import httpx
import pytest

from nestor.errors import BlobNotFound, ServerUnreachable
from nestor.remote import transport, uploads
from nestor.remote.asynchronous import transport as asynchronous_transport
from nestor.schemas import CHUNK_BYTES
from nestor_server.models import Blob
from nestor_server.storage import blobs
from nestor_server.storage.blobs import CHUNKS_READ_AGAIN
from tests.client.cutting import cutting

MEGABYTE = 1024 * 1024


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES, 2 * CHUNK_BYTES + 5])
def test_an_upload_can_be_downloaded(client, size):
    data = os.urandom(size)
    assert client.download(client.upload(data)) == data


def test_what_the_server_has_is_not_sent_again(Client, server, token):
    data = os.urandom(MEGABYTE)
    with Client(server.url, token) as client:
        digest = client.upload(data)
    with cutting(server.url, sent=(MEGABYTE // 2,)) as proxy, Client(proxy.url, token) as client:
        assert client.upload(data) == digest
    assert proxy.cut == 0


def test_an_upload_that_is_cut_goes_on_where_it_stood(Client, server, token):
    data = os.urandom(3 * CHUNK_BYTES)
    # Three connections are cut, each within a chunk that follows at least one whole one.
    cuts = (CHUNK_BYTES + MEGABYTE, CHUNK_BYTES + MEGABYTE, 2 * MEGABYTE)
    with cutting(server.url, sent=cuts) as proxy, Client(proxy.url, token) as client:
        assert client.download(client.upload(data)) == data
    assert proxy.cut == 3


def test_a_lost_response_costs_no_byte(Client, server, token):
    """The chunk arrived, its answer did not: the client asks where the upload stands."""
    data = os.urandom(2 * CHUNK_BYTES)
    with cutting(server.url, received=(700,)) as proxy, Client(proxy.url, token) as client:
        assert client.download(client.upload(data)) == data
    assert proxy.cut == 1


@pytest.fixture
def one_attempt(monkeypatch) -> None:
    """Requests are not repeated."""
    for module in (transport, asynchronous_transport):
        monkeypatch.setattr(module, "ATTEMPTS", 1)


def test_an_upload_outlasts_a_server_that_is_away_for_longer_than_the_retries_of_a_request(
    Client, server, token, one_attempt
):
    data = os.urandom(2 * CHUNK_BYTES)
    away = (CHUNK_BYTES + MEGABYTE, 10, 10, 10)  # a chunk is cut, and then all that asks where to go on
    with cutting(server.url, sent=away) as proxy, Client(proxy.url, token) as client:
        assert client.download(client.upload(data)) == data
    assert proxy.cut == 4


def test_an_upload_to_a_server_that_never_answered_is_not_tried_again(Client, server, token, one_attempt):
    with cutting(server.url, sent=(10,) * 9) as proxy, Client(proxy.url, token) as client:
        with pytest.raises(ServerUnreachable):
            client.upload(b"some bytes")
        assert proxy.cut == 1


def test_an_upload_that_another_server_began_goes_on_until_this_one_has_verified_it(client, server):
    data = os.urandom(3 * CHUNKS_READ_AGAIN * 1000)
    began = client._transport.request("POST", "/blobs", json={"digest": uploads.digest_of(data), "size": len(data)})
    upload = UUID(began.json()["id"])
    with server.sessions.begin() as session:  # in this process
        owner_id = session.get_one(Blob, upload).owner_id
        for start in range(0, len(data) - 5, 1000):
            blobs.append(session, owner_id, upload, start, data[start : start + 1000][: len(data) - 5 - start])
    sent = counted(client)
    assert client.download(client.upload(data)) == data
    assert sent == [5, 1, 1, 1]  # the last byte again, until it is taken


def counted(client) -> list[int]:
    """The sizes of the chunks that the client sends from now on."""
    sent: list[int] = []

    def count(request: httpx.Request) -> None:
        if request.method == "PATCH":
            sent.append(int(request.headers["Content-Length"]))

    client._transport._http.event_hooks["request"].append(count)
    return sent


def test_an_upload_that_gets_nowhere_gives_up(Client, server, token):
    with cutting(server.url, sent=(MEGABYTE,) * 30) as proxy, Client(proxy.url, token) as client:
        with pytest.raises(ServerUnreachable):
            client.upload(os.urandom(CHUNK_BYTES))
        assert proxy.cut == uploads.MAX_STALLED_ATTEMPTS + 1


def test_a_large_upload_shows_a_bar_and_a_small_one_does_not(client, monkeypatch, capfd):
    client.upload(os.urandom(1000), what="upload small")
    monkeypatch.setattr(uploads, "BAR_FROM_BYTES", 1000)
    client.upload(os.urandom(1000), what="upload large")
    client.upload(os.urandom(1000), what="upload quiet", show_progress_bar=False)
    shown = capfd.readouterr().err
    assert "upload large" in shown
    assert "small" not in shown
    assert "quiet" not in shown


def test_blobs_of_other_users_are_not_found(Client, client, server):
    digest = client.upload(b"mine")
    with Client(server.url, server.new_token()) as other, pytest.raises(BlobNotFound):
        other.download(digest)

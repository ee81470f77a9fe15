"""Responses with ETags, 304, compression and byte ranges (RFC 9110)."""

from __future__ import annotations

import gzip
import re
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Protocol

from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from sqlalchemy.orm import Session

from nestor_server.http.transactions import Transactions
from nestor_server.services import versions
from nestor_server.services.versions import Content, Versioned
from nestor_server.storage.tensor_blobs import Slice

IMMUTABLE = "private, max-age=31536000, immutable"
REVALIDATE = "private, no-cache"
OCTETS = "application/octet-stream"
PIECE_BYTES = 2**20  # read from the database at once
UNSATISFIABLE = (0, 0)
MIN_COMPRESSED = 1024  # bytes; shorter JSON fits into one packet
COMPRESSION = 1  # shrinks 1.6 MB of steps to 0.32 in 13 ms; level 4 shrinks them to 0.31 in 31 ms


def matches(request: Request, version: str) -> str | None:
    """The ETag by which a read says that the client has this version; None if it does not have it."""
    header = request.headers.get("If-None-Match")
    if header is None or request.method not in ("GET", "HEAD"):
        return None
    return versions.named(header, version, weak=True)


def versioned_response(request: Request, content: Versioned) -> Response:
    """`content` as JSON; 304 if the client has it, which is found out before anything but the version is read."""
    if "If-None-Match" in request.headers and (tag := matches(request, content.version())):
        return Response(status_code=304, headers=_json_headers(tag))
    return json_response(request, *content.read())


def json_response(request: Request, content: Content, version: str | None = None) -> Response:
    """`content` as JSON, or 304 if the client has it. The default version is the hash of the JSON.

    It is compressed here, in the thread of the route. Starlette's GZipMiddleware would do that on the event loop, where
    a long answer delays all other requests, and would give both encodings the same ETag.
    """
    body = content.model_dump_json().encode() if isinstance(content, BaseModel) else content
    version = version or versions.of_json(body)
    if tag := matches(request, version):
        return Response(status_code=304, headers=_json_headers(tag))
    if len(body) < MIN_COMPRESSED or not _accepts_gzip(request.headers.get("Accept-Encoding", "")):
        return Response(body, headers=_json_headers(versions.etag(version)), media_type="application/json")
    headers = _json_headers(versions.etag(version + versions.GZIP)) | {"Content-Encoding": "gzip"}
    body = gzip.compress(body, COMPRESSION, mtime=0)  # without the time, so that equal versions are equal bytes
    return Response(body, headers=headers, media_type="application/json")


def _json_headers(etag: str) -> dict[str, str]:
    return {"ETag": etag, "Cache-Control": REVALIDATE, "Vary": "Accept-Encoding, Authorization, Cookie"}


def _accepts_gzip(header: str) -> bool:
    """Whether the header Accept-Encoding allows gzip: by name or by *, and not with a weight of 0."""
    allowed: dict[str, bool] = {}
    for part in header.lower().split(","):
        coding, _, weight = part.partition(";")
        allowed[coding.strip()] = not re.fullmatch(r"\s*q=0(\.0*)?\s*", weight)
    return allowed.get("gzip", allowed.get("*", False))


class Made(Protocol):
    """What a response is made of."""

    @property
    def version(self) -> str:
        """Equal for equal bytes."""
        ...

    @property
    def is_settled(self) -> bool:
        """Whether the bytes at this URL never change."""
        ...


def made_response(request: Request, made: Made, make: Callable[[], bytes], *, media_type: str) -> Response:
    """What `make` returns, or 304 if the client has this version; then nothing is made."""
    headers = {
        "ETag": versions.etag(made.version),
        "Cache-Control": IMMUTABLE if made.is_settled else REVALIDATE,
        "Vary": "Authorization, Cookie",
    }
    if matches(request, made.version):
        return Response(status_code=304, headers=headers)
    return Response(make(), headers=headers, media_type=media_type)


def attachment(name: str) -> dict[str, str]:
    """The header by which browsers save an answer as a file of this name."""
    return {"Content-Disposition": f'attachment; filename="{re.sub(r"[^A-Za-z0-9._-]", "_", name)}"'}


def file_response(request: Request, content: Slice, *, name: str, immutable: bool) -> Response:
    """`content` or the requested range of it. A reader that stops reading holds one piece, and no connection.

    Args:
        name: the file name that browsers save it under.
        immutable: the bytes at this URL never change, so clients may cache them for a year.
    """
    etag = versions.etag(content.version)
    headers = {
        "ETag": etag,
        "Cache-Control": IMMUTABLE if immutable else REVALIDATE,
        "Vary": "Authorization, Cookie",
        "Accept-Ranges": "bytes",
        **attachment(name),
    }
    if matches(request, content.version):
        return Response(status_code=304, headers=headers)
    start, stop, status = 0, content.size, 200
    is_get = request.method == "GET"  # no other method has ranges
    if is_get and (header := request.headers.get("Range")) and request.headers.get("If-Range", etag) == etag:
        requested = _range(header, content.size)
        if requested == UNSATISFIABLE:
            headers["Content-Range"] = f"bytes */{content.size}"
            return Response(status_code=416, headers=headers)
        if requested is not None:
            (start, stop), status = requested, 206
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{content.size}"
    headers["Content-Length"] = str(stop - start)
    if not is_get:
        return Response(status_code=status, headers=headers, media_type=OCTETS)
    return StreamingResponse(_pieces(request, content, start, stop), status, headers, media_type=OCTETS)


async def _pieces(request: Request, content: Slice, start: int, stop: int) -> AsyncIterator[bytes]:
    transactions: Transactions = request.app.state.transactions
    while start < stop:
        end = min(start + PIECE_BYTES, stop)
        read = partial(_piece, content, start, end)
        yield await transactions.run(read, request=request)
        start = end


def _piece(content: Slice, start: int, stop: int, session: Session) -> bytes:
    return b"".join(content.read(session, start, stop))


def _range(header: str, size: int) -> tuple[int, int] | None:
    """Start and stop; `UNSATISFIABLE` if there are no such bytes; None for forms that a server may ignore."""
    match = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", header.replace(" ", ""))
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        start, stop = max(0, size - int(last)), size
    else:
        start, stop = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < start:
            return None
    return (start, stop) if start < stop else UNSATISFIABLE

"""Answers that are bytes or that may be unchanged: ETags, 304, and ranges (RFC 9110)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator

from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from nestor_server.database import Sessions
from nestor_server.storage.tensor_blobs import Slice

IMMUTABLE = "private, max-age=31536000, immutable"
REVALIDATE = "private, no-cache"
OUTSIDE = (0, 0)


def matches(request: Request, etag: str) -> bool:
    """Whether the client has this version already."""
    given = request.headers.get("If-None-Match")
    if given is None:
        return False
    return given.strip() == "*" or f'"{etag}"' in [one.strip().removeprefix("W/") for one in given.split(",")]


def document(request: Request, content: BaseModel, etag: str | None = None) -> Response:
    """`content` as JSON, or 304 when the client has it. Without a version of its own, its bytes are its version."""
    body = content.model_dump_json().encode()
    etag = etag or hashlib.sha256(body).hexdigest()
    headers = {"ETag": f'"{etag}"', "Cache-Control": REVALIDATE, "Vary": "Authorization, Cookie"}
    if matches(request, etag):
        return Response(status_code=304, headers=headers)
    return Response(body, headers=headers, media_type="application/json")


def file(request: Request, sessions: Sessions, content: Slice, etag: str, *, name: str, immutable: bool) -> Response:
    """`content`, or the range of it that was asked for, streamed from a session of its own."""
    headers = {
        "ETag": f'"{etag}"',
        "Cache-Control": IMMUTABLE if immutable else REVALIDATE,
        "Vary": "Authorization, Cookie",
        "Accept-Ranges": "bytes",
        "Content-Disposition": f'attachment; filename="{re.sub(r"[^A-Za-z0-9._-]", "_", name)}"',
    }
    if matches(request, etag):
        return Response(status_code=304, headers=headers)
    start, stop, status = 0, content.size, 200
    if (asked := request.headers.get("Range")) and request.headers.get("If-Range", f'"{etag}"') == f'"{etag}"':
        found = _range(asked, content.size)
        if found == OUTSIDE:
            headers["Content-Range"] = f"bytes */{content.size}"
            return Response(status_code=416, headers=headers)
        if found is not None:
            (start, stop), status = found, 206
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{content.size}"
    headers["Content-Length"] = str(stop - start)
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type="application/octet-stream")

    def body() -> Iterator[bytes]:
        with sessions() as session:  # the request's own is closed before the body leaves
            yield from content.read(session, start, stop)

    return StreamingResponse(body(), status, headers, media_type="application/octet-stream")


def _range(header: str, size: int) -> tuple[int, int] | None:
    """Start and stop; `OUTSIDE` when it holds nothing; None for forms that we may ignore, such as several ranges."""
    found = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", header.replace(" ", ""))
    if found is None or found.groups() == ("", ""):
        return None
    first, last = found.groups()
    if not first:
        start, stop = max(0, size - int(last)), size
    else:
        start, stop = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < start:
            return None
    return (start, stop) if start < stop else OUTSIDE

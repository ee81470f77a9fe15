"""Answers that several routes describe in the same way."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import Response

from nestor.errors import PROBLEM_JSON
from nestor_server.http.files import OCTETS

Described = dict[int | str, dict[str, Any]]

TEXT: dict[str, Any] = {"type": "string"}
BINARY = {"type": "string", "format": "binary"}
HEADERS: dict[str, dict[str, Any]] = {
    "ETag": {"description": "The version of the answer.", "schema": {"type": "string", "examples": ['"17-0-4"']}},
    "Location": {"description": "The path of the resource.", "schema": {"type": "string", "format": "uri-reference"}},
    "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "examples": [3]}},
    "Allow": {"description": "The methods that exist.", "schema": {"type": "string", "examples": ["GET, POST"]}},
    "Content-Range": {
        "description": "Which bytes these are, and how many there are.",
        "schema": {"type": "string", "examples": ["bytes 0-1023/4096"]},
    },
    "Content-Disposition": {
        "description": "The name under which browsers save the file.",
        "schema": {"type": "string", "examples": ['attachment; filename="l2.safetensors"']},
    },
    "Accept-Ranges": {"description": "The header Range is supported.", "schema": {"type": "string", "const": "bytes"}},
    "Upload-Offset": {
        "description": "How many bytes have arrived: where to continue.",
        "schema": {"type": "integer", "minimum": 0, "examples": [4194304]},
    },
    "Upload-Length": {
        "description": "How many bytes were announced.",
        "schema": {"type": "integer", "minimum": 0, "examples": [10485760]},
    },
    "Idempotency-Replayed": {
        "description": "`true`: this is the answer to an earlier request with the same Idempotency-Key.",
        "schema": {"type": "string", "const": "true"},
    },
    "Set-Cookie": {"description": "The cookie of the session.", "schema": {"type": "string"}},
    "WWW-Authenticate": {"description": "How to authenticate.", "schema": {"type": "string", "const": "Bearer"}},
    "X-Request-ID": {
        "description": "Identifies the request in the server's log; the one that was sent, if any.",
        "schema": {"type": "string", "examples": ["019a4c6e5f3a7c5e8f0e2d1c3b4a5968"]},
    },
}


def headers(*names: str) -> dict[str, Any]:
    """References to the descriptions of response headers."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def problem(description: str, *names: str) -> dict[str, Any]:
    """An error, which is a problem document.

    Args:
        names: of further headers.
    """
    content = {PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}}
    return {"description": description, "headers": headers(*names), "content": content}


class OctetResponse(Response):
    """Bytes."""

    media_type = OCTETS


def _bytes(description: str, *names: str, kind: str = OCTETS) -> dict[str, Any]:
    return {"description": description, "headers": headers(*names), "content": {kind: {"schema": BINARY}}}


def unchanged(*names: str) -> dict[str, Any]:
    """304, with these headers."""
    return {"description": "The version in If-None-Match is the present one.", "headers": headers(*names)}


_OF_FILES = ("ETag", "Accept-Ranges", "Content-Disposition")

# Parameters of the decorator of a route that answers with `files.file_response`.
FILE: dict[str, Any] = {
    "response_class": OctetResponse,
    "responses": {
        200: _bytes("All bytes.", *_OF_FILES),
        206: _bytes("The bytes that the header Range names.", *_OF_FILES, "Content-Range"),
        304: unchanged(*_OF_FILES),
        416: {
            "description": "There are no bytes in this range.",
            "headers": headers(*_OF_FILES, "Content-Range"),
        },
    },
}


# Of a route that answers with `files.made_response`.
PICTURE: Described = {200: _bytes("The picture.", "ETag", kind="image/png"), 304: unchanged("ETag")}


def text(description: str, kind: str, *names: str) -> Described:
    """`responses` of a route that answers with text of this media type, and these further headers."""
    return {200: {"description": description, "headers": headers(*names), "content": {kind: {"schema": TEXT}}}}


def conflict(description: str) -> Described:
    """`responses` of a route whose request can contradict the present state."""
    return {HTTPStatus.CONFLICT.value: problem(description)}


NOT_ALLOWED_NOW = conflict("The state of the trial does not allow this. The sentence names what it allows.")

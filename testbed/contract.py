"""Checks that a server's answers are those that its description, /openapi.json, promises."""

from __future__ import annotations

import json
import re
from functools import cache
from http import HTTPStatus
from typing import Any

import httpx
import jsonschema_rs

from nestor_server.app import create_app
from nestor_server.settings import Settings

SHARED = ("Cache-Control", "Vary", "Content-Security-Policy", "X-Content-Type-Options", "Referrer-Policy")  # of all
OF_HTTP = ("Date", "Server", "Content-Length", "Content-Type", "Content-Encoding", "Transfer-Encoding", "Connection")
OF_STREAMS = ("X-Accel-Buffering",)
COMMON = frozenset(name.lower() for name in (*SHARED, *OF_HTTP, *OF_STREAMS))
UNFORESEEN = HTTPStatus.INTERNAL_SERVER_ERROR


@cache
def document() -> dict[str, Any]:
    """/openapi.json of this version."""
    return create_app(Settings()).openapi()


class DescribedClient(httpx.Client):
    """A client that fails on answers that /openapi.json does not describe."""

    def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        """Send a request and check the answer."""
        response = super().send(request, **options)
        expect_described(response)
        return response


def expect_described(response: httpx.Response) -> None:
    """Check status, headers, content type and JSON of an answer. The body of a stream is not read."""
    found = _operation(response.request.method.lower(), response.request.url.path)
    if found is None or response.status_code == UNFORESEEN:
        return
    path, method = found
    operation = document()["paths"][path][method]
    where = f"{method.upper()} {path} ({operation['operationId']})"
    described = operation["responses"].get(str(response.status_code))
    assert described is not None, (
        f"{where} answered {response.status_code}, which its description lacks: add `responses=` to the route, as "
        f"nestor_server/http/openapi/responses.py has them"
    )
    headers = {name.lower() for name in described["headers"]} | COMMON
    unknown = sorted(set(response.headers.keys()) - headers)
    assert not unknown, f"{where}: describe the headers {unknown} of {response.status_code} in `responses=`"
    if method == "head" or response.status_code == HTTPStatus.NO_CONTENT:
        return
    kind = response.headers.get("Content-Type", "").partition(";")[0]
    if not kind:
        return
    assert kind in described.get("content", {}), f"{where}: describe the content {kind} of {response.status_code}"
    if kind.endswith("json") and response.is_closed:
        validator, content = _validator(path, method, str(response.status_code), kind), json.loads(response.content)
        errors = [f"{error.instance_path}: {error.message}" for error in validator.iter_errors(content)]
        assert not errors, f"{where} answered with JSON that its schema does not allow: {errors[:3]}"


@cache
def _validator(path: str, method: str, status: str, kind: str) -> jsonschema_rs.Draft202012Validator:
    schema = document()["paths"][path][method]["responses"][status]["content"][kind]["schema"]
    return jsonschema_rs.Draft202012Validator({**schema, "components": document()["components"]})


def _operation(method: str, path: str) -> tuple[str, str] | None:
    """The path of the description that a request used, and its method; None: there is no such operation."""
    return next(
        (
            (template, method)
            for template, regex in _regexes()
            if regex.fullmatch(path) and method in document()["paths"][template]
        ),
        None,
    )


@cache
def _regexes() -> list[tuple[str, re.Pattern[str]]]:
    paths = document()["paths"]
    return [(path, re.compile(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(path)))) for path in paths]

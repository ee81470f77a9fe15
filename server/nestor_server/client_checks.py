"""Checks of what clients on this machine use: NESTOR_SERVER, NESTOR_TOKEN, and the credentials file.

They need no package of the extra `server`, so that `nestor doctor` also helps where only the client is installed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, cast
from urllib.parse import urlsplit

import httpx

from nestor.errors import NestorError
from nestor.remote import credentials
from nestor.schemas import API, Scope

TIMEOUT_SECONDS = 5.0


@dataclass(frozen=True)
class CheckResult:
    """One line of the report."""

    ok: bool
    message: str
    remedy: str = ""


def examine_client() -> Iterator[CheckResult]:
    """Check the credentials file, the server that clients connect to, and the token that they send."""
    yield _credentials()
    try:
        server = credentials.find_server()
    except NestorError as error:
        yield CheckResult(False, "NESTOR_SERVER is not an address", str(error))
        return
    is_set = bool(os.environ.get("NESTOR_SERVER"))
    reached = _server(server, is_set=is_set)
    if reached is None:  # nothing is set, and nothing runs: that is no mistake
        return
    yield reached
    if reached.ok:
        yield _token(server)


def _credentials() -> CheckResult:
    path = credentials.path()
    if not path.exists():
        return CheckResult(True, f"no credentials in {path} yet")
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        return CheckResult(False, f"other users can read the tokens in {path}", f"chmod 600 {path}")
    return CheckResult(True, f"credentials: {path}")


def _server(server: str, *, is_set: bool) -> CheckResult | None:
    """Whether a Nestor server answers; None if none does and none was asked for."""
    name = "NESTOR_SERVER" if is_set else "the default server"
    try:
        answer = _get(server, "/version")
        found: Any = answer.json() if answer.status_code == 200 else None
    except httpx.HTTPError as error:
        if not is_set and not os.environ.get("NESTOR_TOKEN"):
            return None
        reason = str(error).rstrip(".") or type(error).__name__
        return CheckResult(
            False, f"{name}: no server answers at {server} ({reason})", "start it, or correct NESTOR_SERVER"
        )
    except (ValueError, UnicodeError):  # not JSON, or an address that cannot be sent
        found = None
    if not isinstance(found, dict) or "api" not in found or "nestor" not in found:
        return CheckResult(False, f"{name}: {server} is not a Nestor server", "set NESTOR_SERVER to the address of one")
    about = cast("dict[str, Any]", found)
    if f"/api/{about['api']}" != API:
        remedy = f"pip install nestor=={about['nestor']}"
        return CheckResult(False, f"{name}: {server} has the interface {about['api']}, this client {API}", remedy)
    versions = f"Nestor {about['nestor']}"
    if about["nestor"] != (installed := version("nestor")):
        versions += f", this client {installed}"
    return CheckResult(True, f"{name}: {server} answers ({versions})")


def _token(server: str) -> CheckResult:
    """Whether the server accepts the token, whose it is, and what it permits."""
    name = "NESTOR_TOKEN" if os.environ.get("NESTOR_TOKEN") else "the saved token"
    try:
        token = credentials.find_token()
    except NestorError as error:
        return CheckResult(False, f"no usable token for {server}", str(error))
    try:
        answer = _get(server, "/me", token)
        found: Any = answer.json()
    except (httpx.HTTPError, ValueError) as error:
        return CheckResult(False, f"{name}: {server} does not answer ({error})", "try again")
    if answer.status_code == 401:
        remedy = "`nestor token create` on the server's machine makes another"
        return CheckResult(False, f"{name}: {server} does not accept it: {_reason(found)}", remedy)
    if answer.status_code != 200:
        return CheckResult(False, f"{name}: {server} answers with status {answer.status_code}", _reason(found))
    scope = Scope(found["scope"])
    permits = {Scope.read: "read", Scope.write: "read and write", Scope.admin: "read, write and manage tokens"}[scope]
    sentence = f"{name}: user {found['user']!r} may {permits} (scope {scope.value})"
    expires = found.get("expires_at")  # unknown to earlier servers
    return CheckResult(True, f"{sentence}, until {expires[:10]}" if expires else sentence)


def _get(server: str, path: str, token: str | None = None) -> httpx.Response:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    proxied = urlsplit(server).hostname not in credentials.LOOPBACK  # as clients connect
    return httpx.get(f"{server}{API}{path}", headers=headers, timeout=TIMEOUT_SECONDS, trust_env=proxied)


def _reason(document: Any) -> str:
    detail: Any = cast("dict[str, Any]", document).get("detail") if isinstance(document, dict) else None
    sentence = str(detail or "no reason was given")
    return sentence.partition(". ")[0].rstrip(".").removeprefix("This request needs a valid token: ")

"""The server and token to use: from an argument, the environment, or the credentials file."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import platformdirs
from pydantic import TypeAdapter

from nestor.errors import (
    AddressInvalid,
    CredentialsUnreadable,
    NoToken,
    OptionInvalid,
    OptionTypeWrong,
    TokenNotPickled,
)

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
DEFAULT_SERVER = "http://127.0.0.1:8000"  # where `nestor up` listens

_OWN_PATHS = re.compile(r"/(api/v\d+|docs|index\.html|openapi\.json|readyz|healthz)(/.*)?$")  # below the address
_USED: dict[str, str] = {}  # the tokens of this process, by fingerprint
_TOKENS = TypeAdapter(dict[str, str])  # address → token


def path() -> Path:
    """The file in which `nestor up` saves its address and token: NESTOR_CREDENTIALS, or one in the user's config."""
    setting = os.environ.get("NESTOR_CREDENTIALS")
    return Path(setting) if setting else platformdirs.user_config_path("nestor") / "credentials.json"


def find_server(server: str | None = None) -> str:
    """The address of `server`, else of NESTOR_SERVER, else of the server that was saved last, else `DEFAULT_SERVER`.

    Every form that Nestor prints or a browser shows is one: with a path of the API or the dashboard, and with the token
    behind "#".

    Raises:
        AddressInvalid: that is no http or https address.
        CredentialsUnreadable: the credentials file is broken.
    """
    chosen = _chosen(server)
    if not isinstance(chosen, str):  # pyright: ignore[reportUnnecessaryIsInstance] of a user
        raise AddressInvalid(server=chosen)
    address = chosen.strip().partition("#")[0].partition("?")[0]
    if "://" not in address:
        address = f"http://{address}"
    try:
        parts = urlsplit(address)
        usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
    except ValueError:  # brackets that do not close, or a port that is no number
        usable = False
    if not usable:
        raise AddressInvalid(server=chosen.partition("#")[0])  # without a token
    return _OWN_PATHS.sub("", address).rstrip("/")


def find_token(server: str | None = None, token: str | None = None) -> str:
    """`token`, else the one in the printed address `server`, else NESTOR_TOKEN, else the token saved for `server`.

    Args:
        server: what was given to `find_server`.

    Raises:
        NoToken: no token is known for it.
        ClientError: the credentials file is broken.
    """
    chosen = token or _token_in(_chosen(server)) or os.environ.get("NESTOR_TOKEN")
    address = find_server(server)
    if not chosen:
        origin = _origin(address)
        chosen = next((saved for url, saved in _saved().items() if _origin(url) == origin), None)
    if not chosen:
        raise NoToken(server=address)
    if not isinstance(chosen, str):  # pyright: ignore[reportUnnecessaryIsInstance] of a user
        raise OptionTypeWrong(option="token", rule="it must be a string")
    chosen = chosen.strip()
    if not (chosen.isascii() and chosen.isprintable()):
        rule = "it must be one line of ASCII characters, as `nestor up` or `nestor token create` printed it"
        raise OptionInvalid(option="token", rule=rule)
    return chosen


def _chosen(server: str | None) -> str:
    return server or os.environ.get("NESTOR_SERVER") or next(reversed(_saved()), DEFAULT_SERVER)


def _token_in(server: str) -> str | None:
    """The token in an address as `nestor up` prints it on a terminal: http://127.0.0.1:8000/#token=…"""
    fragment = server.strip().partition("#")[2]
    return next(iter(parse_qs(fragment).get("token", ())), None)


def fingerprint(token: str) -> str:
    """A name for `token` that can be passed on; in this process, `recall` finds the token by it."""
    name = hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()
    _USED[name] = token
    return name


def recall(server: str, name: str) -> str:
    """The token that this process has used under this fingerprint, else NESTOR_TOKEN or the one saved for `server`.

    Raises:
        TokenNotPickled: none of these is there.
        ClientError: the credentials file is broken.
    """
    try:
        return _USED.get(name) or find_token(server)
    except NoToken:
        raise TokenNotPickled(server=server) from None


def save(server: str, token: str) -> None:
    """Save the token of `server` in a file that only this user can read. `server` becomes the default.

    Raises:
        OSError: the file cannot be written.
        ClientError: the existing file is broken.
    """
    file = path()
    saved = {url: kept for url, kept in _saved().items() if url != server} | {server: token}
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_name(f".{file.name}.{os.getpid()}")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="utf-8") as written:
        json.dump(saved, written, indent=2)
    new.replace(file)


def _saved() -> dict[str, str]:
    file = path()
    try:
        return _TOKENS.validate_json(file.read_bytes(), strict=True)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise CredentialsUnreadable(file=str(file), reason=error) from error
    except ValueError:  # pydantic's text quotes the tokens, so it is dropped
        reason = "it must be a JSON object of addresses and tokens"
        raise CredentialsUnreadable(file=str(file), reason=reason) from None


def _origin(url: str) -> tuple[str, str, int | None, str]:
    """A key that is equal for two addresses of one server, such as "localhost" and "127.0.0.1"."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, "127.0.0.1" if host == "localhost" else host, port, parts.path.rstrip("/")

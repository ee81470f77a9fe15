"""Which server, and with which token: from an argument, the environment, or the credentials file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from urllib.parse import urlsplit

import platformdirs

from nestor.errors import AddressInvalid, CredentialsUnreadable, NoToken, OptionTypeWrong

DEFAULT_SERVER = "http://127.0.0.1:8000"  # where `nestor up` listens


def path() -> Path:
    """The file in which `nestor up` maps its address to a token; NESTOR_CREDENTIALS names another one."""
    chosen = os.environ.get("NESTOR_CREDENTIALS")
    return Path(chosen) if chosen else platformdirs.user_config_path("nestor") / "credentials.json"


def find_server(server: str | None = None) -> str:
    """`server`, or NESTOR_SERVER, or the server whose token was written last, or the default address."""
    found = server or os.environ.get("NESTOR_SERVER") or next(reversed(_saved()), DEFAULT_SERVER)
    if not isinstance(found, str):  # pyright: ignore[reportUnnecessaryIsInstance] of a user
        raise AddressInvalid(server=found)
    address = found.strip().rstrip("/")
    if "://" not in address:
        address = f"http://{address}"
    try:
        parts = urlsplit(address)
        usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
    except ValueError:  # brackets that do not close, or a port that is no number
        usable = False
    if not usable:
        raise AddressInvalid(server=found)
    return address


def find_token(server: str, token: str | None = None) -> str:
    """`token`, or NESTOR_TOKEN, or the one saved for `server`.

    Raises:
        NoToken: there is none.
    """
    found = token or os.environ.get("NESTOR_TOKEN")
    if not found:
        wanted = _origin(server)
        found = next((saved for url, saved in _saved().items() if _origin(url) == wanted), None)
    if not found:
        raise NoToken(server=server)
    if not isinstance(found, str):  # pyright: ignore[reportUnnecessaryIsInstance] of a user
        raise OptionTypeWrong(option="token", rule="it must be a string")
    return found.strip()


def save(server: str, token: str) -> None:
    """Keep the token of `server` for its user alone; the server saved last is the default one."""
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
        saved = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise CredentialsUnreadable(file=str(file), reason=error) from error
    if not isinstance(saved, dict) or not all(isinstance(token, str) for token in saved.values()):
        raise CredentialsUnreadable(file=str(file), reason="it must map addresses to tokens")
    return saved


def _origin(url: str) -> tuple[str, str, int | None, str]:
    """What makes two addresses one server: "localhost" and "127.0.0.1" are the same."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, "127.0.0.1" if host == "localhost" else host, port, parts.path.rstrip("/")

"""The server and token to use: from an argument, the environment, or the credentials file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from urllib.parse import urlsplit

import platformdirs
from pydantic import TypeAdapter

from nestor.errors import AddressInvalid, CredentialsUnreadable, NoToken, OptionTypeWrong

DEFAULT_SERVER = "http://127.0.0.1:8000"  # where `nestor up` listens

_TOKENS = TypeAdapter(dict[str, str])  # address → token


def path() -> Path:
    """The file in which `nestor up` saves its address and token: NESTOR_CREDENTIALS, or one in the user's config."""
    setting = os.environ.get("NESTOR_CREDENTIALS")
    return Path(setting) if setting else platformdirs.user_config_path("nestor") / "credentials.json"


def find_server(server: str | None = None) -> str:
    """`server`, else NESTOR_SERVER, else the server that was saved last, else `DEFAULT_SERVER`.

    Raises:
        AddressInvalid: that is no http or https address.
        CredentialsUnreadable: the credentials file is broken.
    """
    chosen = server or os.environ.get("NESTOR_SERVER") or next(reversed(_saved()), DEFAULT_SERVER)
    if not isinstance(chosen, str):  # pyright: ignore[reportUnnecessaryIsInstance] of a user
        raise AddressInvalid(server=chosen)
    address = chosen.strip().rstrip("/")
    if "://" not in address:
        address = f"http://{address}"
    try:
        parts = urlsplit(address)
        usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
    except ValueError:  # brackets that do not close, or a port that is no number
        usable = False
    if not usable:
        raise AddressInvalid(server=chosen)
    return address


def find_token(server: str, token: str | None = None) -> str:
    """`token`, else NESTOR_TOKEN, else the token saved for `server`.

    Raises:
        NoToken: no token is known for it.
        ClientError: the credentials file is broken.
    """
    chosen = token or os.environ.get("NESTOR_TOKEN")
    if not chosen:
        origin = _origin(server)
        chosen = next((saved for url, saved in _saved().items() if _origin(url) == origin), None)
    if not chosen:
        raise NoToken(server=server)
    if not isinstance(chosen, str):  # pyright: ignore[reportUnnecessaryIsInstance] of a user
        raise OptionTypeWrong(option="token", rule="it must be a string")
    return chosen.strip()


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

"""Searches the logs of what tests ran for tokens and passwords, before the directories of the logs are deleted."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

NAMED = re.compile(rb"ns[ts]_[\w-]{43}|whsec_[\w+/-]{32,}")  # tokens, ids of sessions, and the secrets of webhooks
SHORTEST = 12  # of a password; shorter ones are words that a test made up


def expect_no_secrets(logs: Collection[Path], passwords: Collection[str]) -> None:
    """Fail if a line of a log has a token, or one of these passwords.

    Raises:
        AssertionError: one has, or a log or a password is missing, so that nothing would be searched for.
    """
    written = {log: log.read_bytes() for log in logs if log.exists()}
    assert any(written.values()), f"none of these logs has a line: {[str(log) for log in logs]}"
    given = [re.escape(password.encode()) for password in passwords if len(password) >= SHORTEST]
    assert given, "no password to search for"
    secret = re.compile(b"|".join([NAMED.pattern, *given]))
    for log, text in written.items():
        for number, line in enumerate(text.splitlines(), start=1):
            assert not secret.search(line), f"{log}, line {number} has a secret: {line.decode(errors='replace')}"


def passwords_of(environment: Mapping[str, str]) -> list[str]:
    """The passwords that a process got: those in URLs, and those of object stores."""
    in_urls = (urlsplit(value).password for value in environment.values() if "://" in value)
    keys = (value for name, value in environment.items() if name.endswith("SECRET_ACCESS_KEY"))
    return [*(unquote(password) for password in in_urls if password), *keys]


def expect_no_secrets_in_home(home: Path) -> None:
    """The same for the directory of an installation, whose parts have ended.

    Raises:
        AssertionError: a log has a token or password, or there is no log.
    """
    passwords = [path.read_text().strip() for path in home.iterdir() if path.name.endswith(("password", "token"))]
    expect_no_secrets([*(home / "logs").iterdir()], passwords)

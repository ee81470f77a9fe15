"""The versions of what the REST interface shows: ETags, which If-Match, If-None-Match and If-Range name (RFC 9110)."""

from __future__ import annotations

import hashlib

from nestor.errors import VersionMismatch
from nestor_server.models import Trial


def of_json(content: bytes) -> str:
    """The hash of the JSON: it changes with whatever a client can see."""
    return hashlib.sha256(content).hexdigest()


def of_trial(trial: Trial) -> str:
    """It changes with each step, each change of state, and each change of attributes or tags."""
    return f"{trial.seq}-{trial.revision}-{trial.state}-{trial.desired}"


def etag(version: str) -> str:
    """The version as headers have it."""
    return f'"{version}"'


def named(header: str, version: str, *, weak: bool) -> bool:
    """Whether the header If-Match or If-None-Match names `version`.

    Args:
        weak: also by a weak tag, such as W/"1". If-None-Match compares so, and If-Match does not.
    """
    tags = [tag.strip() for tag in header.split(",")]
    if tags == ["*"]:
        return True
    return etag(version) in ([tag.removeprefix("W/") for tag in tags] if weak else tags)


def expect(if_match: str | None, what: str, version: str) -> None:
    """Check the header If-Match against the present version of `what`.

    Raises:
        VersionMismatch: the header names other versions.
    """
    if if_match is not None and not named(if_match, version, weak=False):
        raise VersionMismatch(what=what, etag=etag(version))

"""The versions of what the REST interface shows: ETags, which If-Match, If-None-Match and If-Range name (RFC 9110)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from sqlalchemy import Row

from nestor.errors import VersionMismatch
from nestor_server.models import Trial

Content = BaseModel | bytes  # bytes are JSON already

# It changes with each step and event, each change of attributes or tags, and each batch: some batches have neither
# steps nor events, but change counters that a trial shows.
OF_TRIAL = (Trial.seq, Trial.revision, Trial.batches, Trial.state, Trial.desired)
GZIP = "-gzip"  # ends the ETag of a compressed response: strong ETags differ where bytes differ


@dataclass(frozen=True)
class Versioned:
    """What a GET shows, in two steps, so that a client who has the present version costs little.

    Attributes:
        version: reads the present version alone.
        read: reads the content, and the version that it has at least: the content may be newer if it changes meanwhile.
    """

    version: Callable[[], str]
    read: Callable[[], tuple[Content, str]]


def of_json(content: bytes) -> str:
    """The hash of the JSON: it changes with whatever a client can see."""
    return hashlib.sha256(content).hexdigest()


def of_trial(trial: Trial | Row[*tuple[Any, ...]]) -> str:
    """The version of a trial, from its table row or from the columns `OF_TRIAL` of it."""
    return "-".join(str(getattr(trial, column.key)) for column in OF_TRIAL)


def etag(version: str) -> str:
    """The version as headers have it."""
    return f'"{version}"'


def named(header: str, version: str, *, weak: bool) -> str | None:
    """The ETag by which the header If-Match or If-None-Match names `version`; None if it does not.

    Args:
        weak: also by a weak tag, such as W/"1". If-None-Match compares so, and If-Match does not.
    """
    tags = [tag.strip() for tag in header.split(",")]
    if tags == ["*"]:
        return etag(version)
    if weak:
        tags = [tag.removeprefix("W/") for tag in tags]
    return next((tag for tag in (etag(version), etag(version + GZIP)) if tag in tags), None)


def expect(if_match: str | None, what: str, version: str) -> None:
    """Check the header If-Match against the present version of `what`.

    Raises:
        VersionMismatch: the header names other versions.
    """
    if if_match is not None and named(if_match, version, weak=False) is None:
        raise VersionMismatch(what=what, etag=etag(version))

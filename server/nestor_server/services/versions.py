"""The versions of studies and trials: the ETags of their representations, which If-Match names."""

from __future__ import annotations

import hashlib

from pydantic import BaseModel

from nestor import schemas
from nestor.errors import VersionMismatch


def of(content: BaseModel) -> str:
    """The hash of the JSON: it changes with whatever a client can see."""
    return hashlib.sha256(content.model_dump_json().encode()).hexdigest()


def of_trial(trial: schemas.Trial, revision: int) -> str:
    """It changes with each step, each change of state, and each change of attributes or tags."""
    return f"{trial.seq}-{revision}-{trial.state.value}-{trial.desired.value}"


def expect(if_match: str | None, what: str, version: str) -> None:
    """Check the header If-Match against the present version of `what` (RFC 9110, section 13.1.1).

    Raises:
        VersionMismatch: the header names other versions. A weak tag matches none.
    """
    if if_match is None or if_match.strip() == "*":
        return
    if f'"{version}"' not in [tag.strip() for tag in if_match.split(",")]:
        raise VersionMismatch(what=what, etag=f'"{version}"')

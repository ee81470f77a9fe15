"""The problems that workers build by themselves: presets, and the entry points of installed packages."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from nestor import schemas
from nestor.errors import EntryPointInvalid, EntryPointNotFound, EntryPointNotOffered
from nestor.schemas import EntryPointInfo, EntryPointProblem
from nestor_server.database import settings_of
from nestor_server.models import Worker

METRICS = ("accuracy",)  # of every preset
DIGITS = schemas.PresetInfo(
    name="digits",
    description="A multilayer perceptron that recognizes handwritten digits: 1,797 images of 8×8 pixels.",
    json_schema=schemas.Preset.model_json_schema(),
)


def describe(session: Session) -> schemas.Presets:
    """All presets, and the entry points that running workers list."""
    listed = _listed(session) or {}
    # If workers differ, one that can run trials describes the entry point.
    entry_points = [min(listed[name], key=lambda info: info.error is not None) for name in sorted(listed)]
    return schemas.Presets(presets=(DIGITS,), entry_points=tuple(entry_points))


def validate(session: Session, problem: EntryPointProblem) -> None:
    """Check that a running worker has the entry point and that it takes these params.

    Without a running worker nothing is known, and the trial waits: its worker may come later.

    Raises:
        EntryPointNotFound: the running workers have others only.
        EntryPointNotOffered: the running workers cannot import it.
        EntryPointParamUnknown, EntryPointParamMissing: the running workers have versions with other parameters.
    """
    listed = _listed(session)
    if listed is None:
        return
    name = problem.entry_point
    mistake: EntryPointInvalid = EntryPointNotFound(entry_point=name, where="on a running worker", known=sorted(listed))
    for info in sorted(listed.get(name, ()), key=lambda info: info.error is None):
        if info.error is not None:
            mistake = EntryPointNotOffered(entry_point=name, reason=info.error)
            continue
        try:
            return info.check(problem.params)
        except EntryPointInvalid as error:
            mistake = error
    raise mistake


def _listed(session: Session) -> dict[str, list[EntryPointInfo]] | None:
    """What the running workers list, by name, with one entry for each version; None if no worker runs."""
    running = Worker.heartbeat_at > func.now() - timedelta(seconds=settings_of(session).lease_seconds)
    found = session.scalars(select(Worker.entry_points).where(running).distinct()).all()
    if not found:
        return None
    listed: dict[str, list[EntryPointInfo]] = {}
    for offers in found:
        for name, info in offers.items():
            listed.setdefault(name, []).append(EntryPointInfo.model_validate(info))
    return listed

"""Finds, lists and describes trials."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cache
from typing import Any
from uuid import UUID

from sqlalchemy import Row, select
from sqlalchemy.orm import InstrumentedAttribute, Session, undefer

from nestor import lifecycle, schemas
from nestor.errors import TrialNotFound
from nestor.results.progress.pace import UNKNOWN, Pace, Sparkline
from nestor.schemas import Desired, SortOrder, State, TrialSort
from nestor_server.models import LABELED, Checkpoint, Result, Snapshot, Study, Trial
from nestor_server.scheduling import leases, rankings
from nestor_server.services import studies, versions
from nestor_server.services.lists import paging, searching, sorting
from nestor_server.services.versions import OF_TRIAL, Versioned

STORED = paging.stored_bytes(
    Trial.spec, Trial.user_attrs, Trial.note, Trial.error, Trial.evidence, Trial.hyperparameters, Trial.sparkline
)


def _changing(
    kind: type[int | float], now: InstrumentedAttribute[Any], resting: InstrumentedAttribute[Any]
) -> sorting.Sort:
    """By a column that changes with the steps of running trials, which no index has."""
    parts = (~Trial.is_running, resting), (Trial.is_running, now)
    return sorting.Sort(now, kind, nullable=now is Trial.best_value, parts=parts)


SORTS = {
    TrialSort.number: sorting.Sort(Trial.number, int),
    TrialSort.state: sorting.Sort(Trial.state, str),
    TrialSort.step: _changing(int, Trial.step, Trial.resting_step),
    TrialSort.best_value: _changing(float, Trial.best_value, Trial.resting_value),
    TrialSort.seconds: _changing(float, Trial.seconds, Trial.resting_seconds),
}


def page(
    session: Session,
    owner_id: UUID,
    study_id: UUID,
    *,
    states: Sequence[State] = (),
    number: int | None = None,
    tunes: bool | None = None,
    tags: Sequence[str] = (),
    text: str | None = None,
    sort: TrialSort = TrialSort.number,
    order: SortOrder = SortOrder.desc,
    cursor: str | None = None,
    limit: int = paging.DEFAULT_LIMIT,
) -> Versioned:
    """One page of the trials of a study, newest first.

    Args:
        states: only trials in one of them.
        number: only the trial of this number.
        tunes: only trials that tune, or only those under fixed hyperparameters.
        tags: only trials that have all of them.
        text: only trials whose note or one of whose tags contains it.

    Raises:
        StudyNotFound
        CursorInvalid: the cursor belongs to another list or order.
    """
    studies.find(session, owner_id, study_id)
    where = [Trial.study_id == study_id]
    if states:
        where.append(Trial.state.in_([state.value for state in states]))
    if number is not None:
        where.append(Trial.number == number)
    if tunes is not None:
        where += [Trial.tunes if tunes else ~Trial.tunes]
    if tags:
        where += [LABELED, searching.has_tags(Trial.tags, tags)]
    if text:
        where += [LABELED, searching.contains(session, text, Trial.note, tags=Trial.tags)]
    rows = select(Trial.number, STORED, *OF_TRIAL).where(*where)
    ordered = sorting.Order(f"trials {study_id}", sort, SORTS[sort], Trial.number, descending=order == SortOrder.desc)
    index = cache(lambda: ordered.index(session, rows, limit, cursor))

    def read() -> tuple[schemas.TrialPage, str]:
        query = select(Trial).options(undefer(Trial.sparkline))
        found = session.scalars(query.where(Trial.study_id == study_id, index().holds(Trial.number)))
        items = tuple(summarize(trial) for trial in index().arrange(found, Trial.number))
        return schemas.TrialPage(items=items, next_cursor=index().next_cursor), index().version

    return Versioned(lambda: index().version, read)


def find(session: Session, owner_id: UUID, trial_id: UUID) -> Trial:
    """The table row of a trial.

    Raises:
        TrialNotFound: the user has no such trial, or its study was deleted.
    """
    return read(session, owner_id, trial_id, Trial)[0]


def read(
    session: Session, owner_id: UUID, trial_id: UUID, *columns: InstrumentedAttribute[Any] | type[Trial]
) -> Row[*tuple[Any, ...]]:
    """These columns of a trial alone: some of the others are long.

    Raises:
        TrialNotFound: the user has no such trial, or its study was deleted.
    """
    row = session.execute(
        select(*columns)
        .join(Study, Study.id == Trial.study_id)
        .where(Trial.id == trial_id, Study.owner_id == owner_id, Study.deleted_at.is_(None))
    ).one_or_none()
    if row is None:
        raise TrialNotFound(trial=str(trial_id))
    return row


def newest_steps(
    session: Session, trial_id: UUID, table: type[Snapshot] | type[Checkpoint] | type[Result]
) -> Sequence[int]:
    """The newest steps that are stored in a table, for a message."""
    newest = select(table.step).where(table.trial_id == trial_id).order_by(table.step.desc())
    return session.scalars(newest.limit(lifecycle.SHOWN_STEPS)).all()


def deleted(session: Session, trial_ids: Collection[UUID]) -> set[UUID]:
    """Those of the trials whose study was deleted."""
    present = select(Trial.id).join(Study, Study.id == Trial.study_id).where(Study.deleted_at.is_(None))
    return set(trial_ids).difference(session.scalars(present.where(Trial.id.in_(trial_ids))))


def find_version(session: Session, owner_id: UUID, trial_id: UUID, if_match: str | None) -> Trial:
    """The table row of a trial that is to be changed, locked so that it stays at this version.

    Raises:
        TrialNotFound
        VersionMismatch: `if_match` names another version.
    """
    trial = find(session, owner_id, trial_id)
    leases.lock(session, trial)
    versions.expect(if_match, "trial", versions.of_trial(trial))
    return trial


def get(session: Session, owner_id: UUID, trial_id: UUID) -> Versioned:
    """One trial, as the REST interface shows it. Its functions raise `TrialNotFound`."""
    return Versioned(
        lambda: version(session, owner_id, trial_id), lambda: describe_version(find(session, owner_id, trial_id))
    )


def version(session: Session, owner_id: UUID, trial_id: UUID) -> str:
    """The version of a trial, from a few short columns.

    Raises:
        TrialNotFound
    """
    return versions.of_trial(read(session, owner_id, trial_id, *OF_TRIAL))


def describe_version(trial: Trial) -> tuple[schemas.Trial, str]:
    """The trial as the REST interface shows it, and its version."""
    return describe(trial), versions.of_trial(trial)


def pace(trial: Trial) -> dict[str, float | None]:
    """`steps_per_second` and `eta_seconds`; None unless the trial is running."""
    if trial.state != State.running.value or trial.pace is None:
        return UNKNOWN
    last = trial.n_steps if trial.ends_after is None else trial.ends_after
    timeout = trial.spec.get("timeout")
    return Pace.from_json(trial.pace).progress(
        trial.attempt, step=trial.step, last=last, seconds=trial.seconds, timeout=timeout
    )


def describe(trial: Trial) -> schemas.Trial:
    """The trial as the REST interface shows it, with the actions that its state allows."""
    # Not by its constructor, which converts what users pass, such as NumPy's numbers: that is half of the time.
    return schemas.Trial.model_validate(_fields(trial))


def summarize(trial: Trial) -> schemas.TrialSummary:
    """The trial as lists show it."""
    evidence = trial.evidence or {}
    course = {
        "sparkline": curve(trial),
        "test_value": evidence.get("test_value"),
        "test_value_at_best": evidence.get("test_value_at_best"),
    }
    return schemas.TrialSummary.model_validate(_fields(trial) | course)


def curve(trial: Trial) -> schemas.Curve:
    """Some values of the trial, for a small plot."""
    if trial.sparkline is None:
        return schemas.Curve()
    return Sparkline.from_json(trial.sparkline).curve(trial.best_step, trial.best_value)


def _fields(trial: Trial) -> dict[str, Any]:
    state, desired = State(trial.state), Desired(trial.desired)
    return {
        "id": trial.id,
        "study_id": trial.study_id,
        "number": trial.number,
        "state": state,
        "desired": desired,
        "allowed_actions": lifecycle.allowed_actions(state, desired),
        "spec": schemas.TrialSpec.model_validate({"user_attrs": trial.user_attrs, **trial.spec}),
        "tunes": trial.tunes,
        "starts_from": trial.starts_from,
        "priority": trial.priority,
        "step": trial.step,
        "n_steps": trial.n_steps,
        "value": trial.value,
        "first_value": (trial.evidence or {}).get("first_value"),
        "best_value": trial.best_value,
        "best_step": trial.best_step,
        "verdict": rankings.verdict(trial.evidence, trial.hyperparameters, trial.spec, trial.error),
        "attempt": trial.attempt,
        "restarts": trial.restarts,
        "preemptions": trial.preemptions,
        "seconds": trial.seconds,
        "error": trial.error,
        "user_attrs": trial.user_attrs,
        **pace(trial),
        "tags": tuple(trial.tags),
        "note": trial.note,
        "worker": trial.lease_owner,
        "seq": trial.seq,
        "created_at": trial.created_at,
        "started_at": trial.started_at,
        "finished_at": trial.finished_at,
        "last_activity_at": trial.active_at,
    }

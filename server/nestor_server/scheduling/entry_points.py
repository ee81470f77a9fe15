"""Which workers can run which trials of entry points, as conditions in SQL.

A worker lists in its rows what its packages offer. A trial goes only to a worker that has the entry point and whose
version of it takes the trial's params, so that another worker cannot fail the trial.
"""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from sqlalchemy import ColumnElement, Text, and_, cast, func, literal, or_, select
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Session

from nestor.schemas import EntryPointInfo
from nestor_server.models import Trial, Worker

Offers = Mapping[str, EntryPointInfo]


def name_of(session: Session, trial_id: UUID) -> str | None:
    """The entry point of a trial; None for presets and programs."""
    return session.scalars(select(Trial.entry_point).where(Trial.id == trial_id)).one_or_none()


def runs_on(offers: Offers) -> ColumnElement[bool]:
    """Whether a worker that offers `offers` can build the trial's problem: always that of a preset or a program."""
    return or_(Trial.entry_point.is_(None), *(_fits(info) for info in offers.values() if info.error is None))


def is_offered(alive: ColumnElement[bool]) -> ColumnElement[bool]:
    """Whether a worker for which `alive` holds has the trial's entry point, if it has one."""
    offered = select(func.jsonb_object_keys(Worker.entry_points)).where(alive)
    return or_(Trial.entry_point.is_(None), Trial.entry_point.in_(offered))


def _fits(info: EntryPointInfo) -> ColumnElement[bool]:
    """`EntryPointInfo.check`, in SQL."""
    params = Trial.spec["problem"]["params"]
    names = [parameter.name for parameter in info.parameters]
    required = [parameter.name for parameter in info.parameters if parameter.required]
    others = params.op("-")(cast(names, ARRAY(Text)))
    fits = [Trial.entry_point == info.entry_point, params.has_all(cast(required, ARRAY(Text)))]
    return and_(*fits, *([] if info.takes_others else [others == cast(literal({}, JSONB), JSONB)]))

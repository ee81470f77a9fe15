"""Every hyperparameter of a trial in one line each: where it stands, and its course. PostgreSQL writes the courses.

An answer is bounded in what it has, and in what is read for it: the record of the newest step, and those of few others.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from uuid import UUID

from pydantic import ConfigDict, TypeAdapter
from sqlalchemy import TextClause, select, text
from sqlalchemy.orm import Session

from nestor.errors import CursorInvalid
from nestor.schemas import DEFAULT_COURSE_POINTS, DEFAULT_COURSES
from nestor.schemas.steps import QUANTILES
from nestor.schemas.thinning import doubling_interval
from nestor_server.models import Snapshot, Trial
from nestor_server.services import versions
from nestor_server.services.lists import cursors
from nestor_server.services.records.summaries import MAX_SUMMARIES
from nestor_server.services.trials import queries
from nestor_server.services.versions import OF_TRIAL, Versioned

MAX_POINTS = 20_000  # of all courses of a page: about three megabytes
EMPTY = '{"number":[],"quantiles":[]}'
PLACE: TypeAdapter[tuple[str, int, int]] = TypeAdapter(tuple[str, int, int], config=ConfigDict(strict=True))


def page(
    session: Session,
    owner_id: UUID,
    trial_id: UUID,
    *,
    max_points: int = DEFAULT_COURSE_POINTS,
    limit: int = DEFAULT_COURSES,
    cursor: str | None = None,
) -> Versioned:
    """A `schemas.HyperparameterCourses`: those with the largest share of the hypergradient come first.

    All pages have the order of the step that was the newest when the first one was read.

    Args:
        max_points: the most steps of a course. Of many hyperparameters there are fewer, so that a page has at most
            `MAX_POINTS`, and at most `MAX_SUMMARIES` are read for it.

    Its functions raise:
        TrialNotFound
        CursorInvalid: the cursor belongs to another trial, or to a step that the trial does not have any more.
    """

    def read() -> tuple[bytes, str]:
        trial = queries.read(session, owner_id, trial_id, Trial.step, Trial.hyperparameters, *OF_TRIAL)
        declared: list[dict[str, Any]] = trial.hyperparameters or []
        list_of = f"courses {trial_id}"
        name, step, first = (list_of, trial.step, 0) if cursor is None else cursors.decode(PLACE, cursor)
        if name != list_of or not (0 <= step <= trial.step and first >= 0):
            raise CursorInvalid()
        latest = _latest(session, trial_id, step)
        shares = _shares({info["name"]: latest[info["name"]].norm for info in declared if info["name"] in latest})
        ordered = sorted(declared, key=lambda info: (-shares.get(info["name"], 0.0), info["name"]))
        shown = ordered[first : first + limit]
        points = min(max_points, MAX_POINTS // limit, max(2, MAX_SUMMARIES // max(1, len(declared))))
        courses = _courses(session, trial_id, shown, step, points)
        moved_step, moved = _moved(session, trial_id)
        items = (_item(info, shares.get(info["name"]), moved.get(info["name"]), latest, courses) for info in shown)
        end = first + limit
        fields = {
            "step": step,
            "moved_step": moved_step,
            "n": len(declared),
            "entries": sum(math.prod(info["shape"]) for info in declared),
            "next_cursor": cursors.encode(PLACE, (list_of, step, end)) if end < len(declared) else None,
            "seq": trial.seq,
        }
        body = f'{{"items":[{",".join(items)}],{json.dumps(fields)[1:]}'
        return body.encode(), versions.of_trial(trial)

    return Versioned(lambda: queries.version(session, owner_id, trial_id), read)


@dataclass(frozen=True)
class _Latest:
    """What the newest step records of one hyperparameter: a `schemas.TensorSummary` as JSON, and its norm."""

    summary: str
    norm: float


def _latest(session: Session, trial_id: UUID, step: int) -> dict[str, _Latest]:
    """By name. Empty before the first step, and of steps of versions that recorded nothing."""
    rows = session.execute(_LATEST, {"trial": trial_id, "step": step})
    return {row.name: _Latest(row.summary, row.norm or 0.0) for row in rows}


def _shares(norms: Mapping[str, float]) -> dict[str, float]:
    """The part that each has of the sum of the squares; empty if that is 0."""
    total = math.hypot(*norms.values())  # without an overflow
    return {name: (norm / total) ** 2 for name, norm in norms.items()} if total else {}


def _moved(session: Session, trial_id: UUID) -> tuple[int | None, Mapping[str, float]]:
    """The step of the latest snapshot, and what it records; None and nothing if that does not say what has moved."""
    newest = select(Snapshot.step, Snapshot.entries["moved"].label("moved")).where(Snapshot.trial_id == trial_id)
    row = session.execute(newest.order_by(Snapshot.step.desc()).limit(1)).one_or_none()
    return (None, {}) if row is None or row.moved is None else (row.step, row.moved)


def _item(
    info: Mapping[str, Any],
    share: float | None,
    moved: float | None,
    latest: Mapping[str, _Latest],
    courses: Mapping[str, str],
) -> str:
    name = info["name"]
    fields = {
        "name": name,
        "shape": info["shape"],
        "entries": math.prod(info["shape"]),
        "transform": info["transform"],
        "share": share,
        "moved": moved,
    }
    summary = latest[name].summary if name in latest else "null"
    return f'{json.dumps(fields)[:-1]},"latest":{summary},"course":{courses.get(name, EMPTY)}}}'


def _courses(
    session: Session, trial_id: UUID, infos: Iterable[Mapping[str, Any]], until: int, points: int
) -> dict[str, str]:
    """A `schemas.Course` as JSON, by name, of those that have one."""
    single: dict[bool, list[str]] = {True: [], False: []}
    for info in infos:
        single[math.prod(info["shape"]) == 1].append(info["name"])
    # Besides both ends.
    multiples = [*range(0, until + 1, doubling_interval(until, points - 2))]
    given = {"trial": trial_id, "until": until, "multiples": multiples}
    found: dict[str, str] = {}
    for is_single, names in single.items():
        if names:
            rows = session.execute(_statement(is_single=is_single), given | {"names": names})
            found |= {row.name: row.course for row in rows}
    return found


_LATEST = text("""
    SELECT key AS name, value::text AS summary, (value->>'gradient_norm')::float8 AS norm
    FROM steps, jsonb_each(coalesce(nullif(data->'hyperparameters', 'null'), '{}'))
    WHERE trial_id = :trial AND number = :step
""")


@lru_cache(maxsize=2)
def _statement(*, is_single: bool) -> TextClause:
    """Reads a course as JSON for each name: at the first and the last step that is recorded, and at `multiples`."""
    if is_single:
        table, summaries = "steps", "jsonb_each(coalesce(nullif(data->'hyperparameters', 'null'), '{}'))"
        quantiles = f"""'[' || {" || ',' || ".join(["(value->>'min')"] * len(QUANTILES))} || ']'"""
    else:
        table, summaries, quantiles = "distributions", "json_each(data)", "value->>'quantiles'"
    recorded = f"FROM {table} WHERE trial_id = :trial AND number <= :until"
    ends = (f"ARRAY(SELECT {end}(number) {recorded})" for end in ("min", "max"))
    return text(f"""
        SELECT name, '{{"number":[' || string_agg(number::text, ',' ORDER BY number) || '],"quantiles":[' ||
            string_agg(quantiles, ',' ORDER BY number) || ']}}' AS course
        FROM (
            SELECT number, key AS name, {quantiles} AS quantiles FROM {table}, {summaries}
            WHERE trial_id = :trial AND number = ANY (CAST(:multiples AS int[]) || {" || ".join(ends)})
                AND key = ANY (CAST(:names AS text[]))
        ) AS chosen
        WHERE quantiles IS NOT NULL GROUP BY name
    """)

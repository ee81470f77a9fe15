"""Counters in the database, for events that leave no row, or too many rows to count.

Workers and servers add what they have counted since they last did. So a counter survives each of them, a scrape reads
one row for each value, and no transaction of a trial waits for another one's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from nestor_server.models import FINISHED, Count

Key = tuple[str, str]  # the counter and its label's value


@dataclass(frozen=True)
class Counter:
    """What is counted, and the only values that its label may have."""

    text: str
    label: str = ""
    values: tuple[str, ...] = ("",)


COUNTERS = {
    "steps_recorded": Counter("Outer steps that workers recorded, also those that were rolled back later."),
    "step_seconds": Counter(
        "Wall time of recorded steps by phase. Products and data are parts of the other phases.",
        "phase",
        ("inner", "hypergradient", "evaluation", "products", "data"),
    ),
    "recorded_bytes": Counter(
        "Bytes of tensor files that workers recorded.", "kind", ("checkpoint", "snapshot", "result")
    ),
    "attempts_ended": Counter(
        "Attempts by their end: the state of the trial; for queued trials, interrupted (by a crash), shutdown (of the "
        "worker), drained (as the worker drains) or yielded (to another trial, or to a request); expired if the worker "
        "was silent.",
        "end",
        (*FINISHED, "paused", "interrupted", "shutdown", "drained", "yielded", "expired"),
    ),
}


def add(session: Session, counted: Mapping[Key, float]) -> None:
    """Add to the counters. The caller commits soon: others who add to the same ones wait."""
    # In one order, so that two who add do not wait for each other.
    rows = [{"name": name, "label": label, "value": n} for (name, label), n in sorted(counted.items()) if n]
    if rows:
        new = insert(Count).values(rows)
        session.execute(
            new.on_conflict_do_update(
                index_elements=["name", "label"], set_={"value": Count.value + new.excluded.value}
            )
        )


def read(session: Session) -> dict[Key, float]:
    """The values of all counters."""
    stored = {(row.name, row.label): row.value for row in session.scalars(select(Count))}
    keys = ((name, label) for name, counter in COUNTERS.items() for label in counter.values)
    return {key: stored.get(key, 0.0) for key in keys}

"""Metrics of trials, workers and storage, which are the same at every server: read from the database at each scrape.

Few statements, none of which reads a row for each step, blob or ended trial: these are counted when they are written,
or by an index.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from sqlalchemy import func, select, text
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session

from nestor.schemas import State
from nestor_server.database import Sessions, settings_of
from nestor_server.models import Base, Trial, Worker
from nestor_server.observability import counts

log = logging.getLogger(__name__)

TIMEOUT = "2s"  # of a statement; scrapers wait for 10 s
TABLES = tuple(table.name for table in Base.metadata.sorted_tables)
_SIZES = text(
    "SELECT relname, pg_total_relation_size(oid) FROM pg_class "
    "WHERE relkind = 'r' AND relname = ANY(:names) AND relnamespace = current_schema()::regnamespace"
)


def collect(sessions: Sessions) -> Iterable[Metric]:
    """The metrics; only `nestor_database_up` if the database does not answer."""
    try:
        with sessions() as session:
            session.execute(text(f"SET LOCAL statement_timeout = '{TIMEOUT}'"))
            found = list(read(session))
            is_up = True
    except SQLAlchemyError as error:
        log.warning("the metrics of the database cannot be read: %s", error)
        found, is_up = [], False
    return [GaugeMetricFamily("nestor_database_up", "Whether the database answers.", value=float(is_up)), *found]


def read(session: Session) -> Iterator[Metric]:
    """All but those that take too long, for example because a table is locked."""
    for part in (_trials, _workers, _counters, _sizes):
        try:
            with session.begin_nested():
                found = list(part(session))
        except OperationalError as error:
            if error.connection_invalidated:
                raise
            log.warning("the metrics of %s are left out: %s", part.__name__.lstrip("_"), error)
        else:
            yield from found


def _trials(session: Session) -> Iterator[Metric]:
    trials = GaugeMetricFamily("nestor_trials", "Trials by state.", labels=["state"])
    counted = session.execute(select(Trial.state, func.count()).group_by(Trial.state))
    by_state: dict[str, int] = {row[0]: row[1] for row in counted}
    for state in State:
        trials.add_metric([state.value], by_state.get(state.value, 0))
    yield trials

    waits = func.extract("epoch", func.now() - func.min(Trial.queued_at))
    oldest = session.scalar(select(waits).where(Trial.is_queued))
    help = "Time since the trial was queued that has waited longest; 0: none waits."
    yield GaugeMetricFamily("nestor_queue_oldest_wait_seconds", help, value=float(oldest or 0))

    leases = GaugeMetricFamily(
        "nestor_leases", "Leases of running trials; the server soon takes back those that expired.", labels=["state"]
    )
    expired = func.count().filter(Trial.lease_expires_at < func.now())
    n, n_expired = session.execute(select(func.count(), expired).where(Trial.is_running)).one()
    leases.add_metric(["valid"], n - n_expired)
    leases.add_metric(["expired"], n_expired)
    yield leases


def _workers(session: Session) -> Iterator[Metric]:
    slots = GaugeMetricFamily(
        "nestor_worker_slots",
        "Slots of workers: busy, idle, or silent for longer than a lease. After a silent day they are forgotten.",
        labels=["state"],
    )
    ages = GaugeMetricFamily(
        "nestor_worker_heartbeat_age_seconds", "Time since the heartbeat of a slot that is not silent.", labels=["slot"]
    )
    memory = GaugeMetricFamily(
        "nestor_worker_runner_memory_bytes", "Resident memory of the trial's processes in a slot.", labels=["slot"]
    )
    lease_seconds = settings_of(session).lease_seconds
    age = func.extract("epoch", func.now() - Worker.heartbeat_at)
    rows = session.execute(select(Worker.id, Worker.trial_id, Worker.runner_bytes, age)).all()
    states = dict.fromkeys(("busy", "idle", "silent"), 0)
    for slot, trial_id, runner_bytes, seconds in rows:
        if seconds > lease_seconds:
            states["silent"] += 1
            continue
        states["idle" if trial_id is None else "busy"] += 1
        ages.add_metric([slot], float(seconds))
        if runner_bytes is not None:
            memory.add_metric([slot], runner_bytes)
    for state, n in states.items():
        slots.add_metric([state], n)
    yield from (slots, ages, memory)


def _counters(session: Session) -> Iterator[Metric]:
    found = counts.read(session)
    for name, counter in counts.COUNTERS.items():
        family = CounterMetricFamily(f"nestor_{name}", counter.text, labels=[counter.label] if counter.label else [])
        for value in counter.values:
            family.add_metric([value] if counter.label else [], found[name, value])
        yield family


def _sizes(session: Session) -> Iterator[Metric]:
    size = session.scalars(select(func.pg_database_size(func.current_database()))).one()
    yield GaugeMetricFamily("nestor_database_bytes", "Size of the database on disk.", value=size)
    tables = GaugeMetricFamily("nestor_table_bytes", "Size of a table with its indexes.", labels=["table"])
    for name, size in session.execute(_SIZES, {"names": list(TABLES)}):
        tables.add_metric([name], size)
    yield tables

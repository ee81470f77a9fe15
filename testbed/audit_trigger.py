"""A database trigger that copies every journal entry and its writer, including entries that are rolled back later.

It writes with the role of the tables' owner, because those of services have no table `audit`.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any
from uuid import UUID

from sqlalchemy import text

from testbed.server import Server

TRIGGER_SQL = """
CREATE TABLE audit (trial_id uuid, seq bigint, type text, step int, token bigint, writer text);
CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE entry jsonb := to_jsonb(NEW);
BEGIN
    INSERT INTO audit SELECT
        NEW.trial_id, NEW.seq, coalesce(entry->>'type', 'step'), coalesce(entry->>'number', entry#>>'{data,step}')::int,
        lease_token, current_setting('application_name')
    FROM trials WHERE id = NEW.trial_id;
    RETURN NULL;
END $$;
CREATE TRIGGER audit AFTER INSERT ON steps FOR EACH ROW EXECUTE FUNCTION audit();
CREATE TRIGGER audit AFTER INSERT ON events FOR EACH ROW EXECUTE FUNCTION audit();
"""


def install(server: Server) -> None:
    with server.sessions.begin() as session:
        session.connection().exec_driver_sql(TRIGGER_SQL)


def expect_consistent_journal(server: Server, trial_id: str, n_steps: int) -> None:
    """Sequence numbers have no gap or duplicate, steps follow each other, and each lease has one writer."""
    with server.sessions() as session:
        query = text("SELECT seq, type, step, token, writer FROM audit WHERE trial_id = :id ORDER BY seq")
        entries = session.execute(query, {"id": UUID(trial_id)}).all()
        last = session.execute(text("SELECT seq FROM trials WHERE id = :id"), {"id": UUID(trial_id)}).scalar_one()
    assert [entry.seq for entry in entries] == list(range(1, last + 1))
    assert replayed((entry.type, entry.step) for entry in entries) == list(range(1, n_steps + 1))
    writers = defaultdict(set)
    for entry in entries:
        if entry.type == "step":
            writers[entry.token].add(entry.writer)
    assert all(len(names) == 1 and min(names).startswith("nestor-worker") for names in writers.values()), writers


def replayed(entries: Any) -> list[int]:
    """The steps that remain after all rollbacks, as a reader of the (type, step) entries sees them."""
    steps: list[int] = []
    for type, step in entries:
        if type == "rewind":
            del steps[step:]
        elif type == "step":
            assert step == len(steps) + 1, f"step {step} follows {len(steps)}"
            steps.append(step)
    return steps

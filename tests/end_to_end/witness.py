"""A witness in the database: it notes every entry of every journal, also what is withdrawn later, and who wrote."""

from __future__ import annotations

from collections import defaultdict
from typing import Any
from uuid import UUID

from sqlalchemy import text

from tests.support.server import Server

CALL = """
CREATE TABLE witness (trial_id uuid, seq bigint, type text, step int, token bigint, writer text);
CREATE FUNCTION witness() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE entry jsonb := to_jsonb(NEW);
BEGIN
    INSERT INTO witness SELECT
        NEW.trial_id, NEW.seq, coalesce(entry->>'type', 'step'), coalesce(entry->>'number', entry#>>'{data,step}')::int,
        lease_token, current_setting('application_name')
    FROM trials WHERE id = NEW.trial_id;
    RETURN NULL;
END $$;
CREATE TRIGGER witness AFTER INSERT ON steps FOR EACH ROW EXECUTE FUNCTION witness();
CREATE TRIGGER witness AFTER INSERT ON events FOR EACH ROW EXECUTE FUNCTION witness();
"""


def call(server: Server) -> None:
    with server.sessions.begin() as session:
        session.connection().exec_driver_sql(CALL)


def expect_a_sound_journal(server: Server, trial_id: str, n_steps: int) -> None:
    """No number missing or twice, each step once until it was withdrawn, and one writer for each lease."""
    with server.sessions() as session:
        query = text("SELECT seq, type, step, token, writer FROM witness WHERE trial_id = :id ORDER BY seq")
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
    """The steps that are true at the end, as one learns who reads (type, step) from the beginning."""
    steps: list[int] = []
    for type, step in entries:
        if type == "rewind":
            del steps[step:]
        elif type == "step":
            assert step == len(steps) + 1, f"step {step} follows {len(steps)}"
            steps.append(step)
    return steps

"""What frequent statements cost: the rows that they touch follow their answer, whatever the statistics say.

The database has many finished trials. The statistics are fresh, or those of before a burst of submissions.
"""

from __future__ import annotations

import json
import math
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from fastapi.testclient import TestClient
from safetensors.numpy import save
from sqlalchemy import Engine, event, text
from sqlalchemy.orm import Session

from nestor.schemas import API, SortOrder, State, StudySort, TrialSort
from nestor_server import database, revisions
from nestor_server.app import create_app
from nestor_server.limits import quotas
from nestor_server.scheduling import fair_share, leases, recording
from nestor_server.scheduling.reaper import Reaper
from nestor_server.services.access import tokens
from nestor_server.settings import Settings
from nestor_server.storage.blobs import digest_of
from nestor_server.webhooks import outbox
from nestor_server.webhooks.addresses import AllowList
from testbed.server import new_database
from testbed.services import Services
from tests.server.conftest import step

FINISHED, WAITING, STEPS, OTHERS = 20_000, 2_000, 2_000, 3_000
PAGE = 1_500  # rows that an answer may touch, however many there are
LINES = 4 * 20 * fair_share.HEAD  # that a claim may touch: the head of each line, its studies and its users
QUEUE = WAITING + LINES  # that the reaper may touch

TRIAL = UUID(int=1)  # complete, with steps, a snapshot, a checkpoint and a data set
QUEUED, RUNNING, PAUSED, FAILED = (str(UUID(int=n)) for n in (2, 3, 4, 5))  # what its numbers are, too
WEBHOOK = UUID(int=2)  # of the user
SPARE = UUID(int=1)  # a token to revoke, an upload to complete, a study to delete
DIGEST = "sha256:" + 64 * "0"
SPEC = '{"problem": {"preset": {}}, "n_steps": 10}'
STEP = step(1).model_dump_json()
SNAPSHOTS = 200
INFOS = '[{"name": "l2", "shape": [1], "dtype": "float32", "transform": "exp"}]'
SNAPSHOT = save({"l2": np.zeros(1, dtype=np.float32)})

FILL = f"""
INSERT INTO users (id, name) SELECT uuidv7(), 'user ' || n FROM generate_series(1, 20) n;
INSERT INTO users (id, name) SELECT uuidv7(), 'idle ' || n FROM generate_series(1, {OTHERS}) n;
INSERT INTO studies (id, owner_id, name, user_attrs, tags, note, next_number, direction)
    SELECT CASE n WHEN 1 THEN '{SPARE}'::uuid ELSE uuidv7() END, id, 'empty ' || n, '{{}}', '{{}}', '', 0, 'minimize'
    FROM users, generate_series(1, {OTHERS}) n WHERE users.name = 'tester';
INSERT INTO studies (id, owner_id, name, user_attrs, tags, note, next_number, direction)
    SELECT uuidv7(), id, 'study', '{{}}', '{{}}', '', 100000, 'minimize' FROM users WHERE name !~ 'idle';
INSERT INTO trials (id, study_id, number, spec, user_attrs, tags, note, revision, n_steps, priority, devices, state,
                    desired, seq, step, seconds, lease_token, attempt, batches, restarts, preemptions, best_value,
                    best_step, claimed_at)
    SELECT CASE WHEN n <= 5 THEN lpad(n::text, 32, '0')::uuid ELSE uuidv7() END, studies.id, n, '{SPEC}',
           '{{}}', '{{}}', '', 0, 10, 0, 1,
           CASE n WHEN 2 THEN 'queued' WHEN 3 THEN 'running' WHEN 4 THEN 'paused' WHEN 5 THEN 'failed'
                  ELSE 'complete' END,
           'run', {STEPS}, {STEPS}, 0, 0, 1, 0, 0, 0, n, 1, now()
    FROM studies JOIN users ON users.id = owner_id AND users.name = 'tester' AND studies.name = 'study',
         generate_series(1, {FINISHED}) n;
INSERT INTO steps (trial_id, number, seq, data)
    SELECT '{TRIAL}', n, n, '{STEP}'::jsonb || jsonb_build_object('number', n, 'val_loss', 1.0 / n)
    FROM generate_series(1, {STEPS}) n;
INSERT INTO step_numbers (trial_id, number, train_loss, val_loss)
    SELECT trial_id, number, (data->>'train_loss')::float8, (data->>'val_loss')::float8 FROM steps;
INSERT INTO distributions (trial_id, number, data)
    SELECT '{TRIAL}', n, '{{"l2": {{"quantiles": [], "first": 0, "width": 1.0, "counts": []}}}}'
    FROM generate_series(0, {STEPS}) n;
UPDATE trials SET hyperparameters = '[{{"name": "l2", "shape": [9], "dtype": "float32", "transform": "exp"}}]'
    WHERE id = '{TRIAL}';
INSERT INTO steps (trial_id, number, seq, data)
    SELECT id, 1, 1, '{{"number": 1}}' FROM trials WHERE id <> '{TRIAL}';
INSERT INTO events (trial_id, seq, type, data) SELECT id, 2, 'log', '{{}}' FROM trials WHERE id <> '{TRIAL}';
INSERT INTO blobs (id, owner_id, digest, size, "offset", complete)
    SELECT uuidv7(), id, 'sha256:' || lpad(n::text, 64, '0'), {len(SNAPSHOT)}, {len(SNAPSHOT)}, true
    FROM users, generate_series(0, {FINISHED}) n WHERE name = 'tester';
INSERT INTO blob_chunks (blob_id, start, size, data) SELECT id, 0, size, '\\x{SNAPSHOT.hex()}' FROM blobs;
INSERT INTO snapshots (trial_id, step, blob_id)
    SELECT trials.id, 1, blobs.id FROM trials JOIN blobs ON digest = 'sha256:' || lpad((number - 1)::text, 64, '0');
INSERT INTO checkpoints (trial_id, step, blob_id) SELECT trial_id, step, blob_id FROM snapshots;
INSERT INTO snapshots (trial_id, step, blob_id)
    SELECT trial_id, n, blob_id FROM snapshots, generate_series(0, {SNAPSHOTS}) n
    WHERE trial_id = '{TRIAL}' AND n <> step;
UPDATE trials SET hyperparameters = '{INFOS}' WHERE id = '{TRIAL}';
INSERT INTO datasets (id, owner_id, splits, sizes)
    SELECT '{TRIAL}', id, '{{"train": "{DIGEST}", "val": "{DIGEST}"}}', '{{"train": 1, "val": 1}}'
    FROM users WHERE name = 'tester';
INSERT INTO datasets (id, owner_id, splits, sizes)
    SELECT uuidv7(), id, '{{"train": "sha256:another", "val": {{"uploaded": "sha256:another"}}}}', '{{}}'
    FROM users, generate_series(1, {FINISHED}) n WHERE name = 'tester';
INSERT INTO programs (id, owner_id, graphs, tensors, torch)
    SELECT uuidv7(), id, 'sha256:graphs ' || n, 'sha256:tensors ' || n, '2'
    FROM users, generate_series(1, {OTHERS}) n WHERE name = 'tester';
INSERT INTO tokens (id, user_id, name, sha256, scope)
    SELECT CASE n WHEN 1 THEN '{SPARE}'::uuid ELSE uuidv7() END, id, 'token', lpad(n::text, 64, '0'), 'read'
    FROM users, generate_series(1, {OTHERS}) n WHERE name = CASE n WHEN 1 THEN 'tester' ELSE 'user 1' END;
INSERT INTO browser_sessions (id, token_id, sha256, expires_at)
SELECT uuidv7(), tokens.id, md5(tokens.id::text || n), now() + interval '1 day' FROM tokens, generate_series(1, 10) n;
INSERT INTO webhooks (id, owner_id, url, events, secret, enabled)
    SELECT CASE n WHEN 1 THEN '{SPARE}'::uuid WHEN 2 THEN '{WEBHOOK}'::uuid ELSE uuidv7() END, id, 'https://127.0.0.1/',
           '{{trial.queued}}', 'whsec_', false
    FROM generate_series(1, {OTHERS}) n JOIN users ON name = CASE WHEN n <= 3 THEN 'tester' ELSE 'idle ' || n END;
INSERT INTO webhook_deliveries (id, webhook_id, type, data, status, attempts, next_attempt_at)
    SELECT uuidv7(), webhooks.id, 'trial.queued', '{{}}', CASE WHEN n <= 3 THEN 'pending' ELSE 'delivered' END, 1,
           now() + interval '1 day'
    FROM webhooks, generate_series(1, 10) n;
INSERT INTO blobs (id, owner_id, digest, size, "offset", complete)
    SELECT '{SPARE}', id, '{digest_of(SNAPSHOT)}', {len(SNAPSHOT)}, 0, false FROM users WHERE name = 'tester';
"""
BURST = f"""
INSERT INTO trials (id, study_id, number, spec, user_attrs, tags, note, revision, n_steps, priority, devices, state,
                    desired, seq, step, seconds, lease_token, attempt, batches, restarts, preemptions, sent_at)
    SELECT uuidv7(), studies.id, {FINISHED} + n, '{SPEC}', '{{}}', '{{}}', '', 0, 10, 0, 1, 'queued', 'run', 0, 0, 0, 0,
           0, 0, 0, 0, now() - interval '1 hour'
    FROM studies, generate_series(1, {WAITING // 20}) n WHERE studies.name = 'study';
INSERT INTO workers (id, device, versions, entry_points, heartbeat_at)  -- alive until the last test
    SELECT 'w' || n, 'cpu', '{{}}', '{{}}', now() + interval '1 day' FROM generate_series(1, 5) n;
"""


class Plans:
    """The plans of the statements that are executed while it watches."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, Any]]] = []
        self._lock = threading.Lock()

    @contextmanager
    def watching(self) -> Iterator[Plans]:
        event.listen(Engine, "before_cursor_execute", self._explain)
        try:
            yield self
        finally:
            event.remove(Engine, "before_cursor_execute", self._explain)

    def _explain(self, connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        if many or not re.match(r"\s*(SELECT|WITH|UPDATE|DELETE|INSERT)\b", statement):
            return
        cursor.execute("SAVEPOINT explained")  # EXPLAIN ANALYZE executes the statement
        cursor.execute(f"EXPLAIN (ANALYZE, VERBOSE, FORMAT JSON) {statement}", parameters)
        plan = cursor.fetchone()[0][0]["Plan"]
        cursor.execute("ROLLBACK TO SAVEPOINT explained")
        with self._lock:
            self.seen.append((statement, plan))

    def expect(self, most: int) -> None:
        """No statement touches more than `most` rows of tables. Those that an index alone answers do not count."""
        assert self.seen
        for statement, plan in self.seen:
            assert touched(plan) <= most, f"{touched(plan)} rows by {statement}\n{scans(plan)}"


def touched(plan: dict[str, Any]) -> int:
    """The rows that a plan reads from tables, or discards in joins."""
    removed = plan.get("Rows Removed by Join Filter", 0)
    if "Relation Name" in plan and plan["Node Type"] not in ("Index Only Scan", "ModifyTable"):
        removed += plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)
        removed += plan.get("Rows Removed by Index Recheck", 0)
    return int(removed * plan["Actual Loops"]) + sum(touched(child) for child in plan.get("Plans", ()))


def measured(plan: dict[str, Any]) -> int:
    """The most rows for which a node of the plan computes how large columns are. It decompresses those of some."""
    here = plan["Actual Rows"] * plan["Actual Loops"] if "pg_column_size" in str(plan.get("Output")) else 0
    return max([int(here), *(measured(child) for child in plan.get("Plans", ()))])


def scans(plan: dict[str, Any]) -> list[tuple[Any, ...]]:
    """The nodes of a plan that read a table, and the rows that they return."""
    own = (plan["Node Type"], plan.get("Relation Name"), plan["Actual Rows"], plan["Actual Loops"])
    return [own, *(node for child in plan.get("Plans", ()) for node in scans(child))]


@pytest.fixture(scope="module", params=["stale", "fresh"])
def filled(services: Services, request: pytest.FixtureRequest) -> Iterator[tuple[Settings, str]]:
    """The settings for a database with many rows, and a token of the user who has most of them."""
    with new_database(services) as url:
        revisions.migrate(url)
        settings = Settings(
            database_url=url,
            redis_url=services.redis_url.rpartition("/")[0] + "/3",
            reap_seconds=1e6,
            webhook_allow=AllowList.parse("https://127.0.0.1"),
        )
        engine = database.make_engine(settings)
        with database.make_sessions(engine, settings).begin() as session:
            token = tokens.create(session, "tester", tokens.Scope.admin)
            for table in ("trials", "steps", "events", "blobs", "snapshots", "checkpoints"):
                session.execute(text(f"ALTER TABLE {table} SET (autovacuum_enabled = false)"))
            execute(session, FILL)
        vacuum(engine)
        with Session(engine) as session, session.begin():
            execute(session, BURST)
        if request.param == "fresh":
            vacuum(engine)
        engine.dispose()
        yield settings, token


def vacuum(engine: Engine) -> None:
    """As PostgreSQL does by itself after a while: the burst fills up pages, which an index alone cannot answer for."""
    with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(text("VACUUM ANALYZE"))


def execute(session: Session, script: str) -> None:
    for statement in script.split(";\n")[:-1]:
        session.connection().exec_driver_sql(statement)


PARAMETERS = {
    "trial_id": str(TRIAL),
    "study_id": "of the user",
    "dataset_id": str(TRIAL),
    "blob": DIGEST,
    "name": "l2",
    "webhook_id": str(WEBHOOK),
}
QUERIES: dict[str, dict[str, Any]] = {  # by the end of a path
    "steps": {"max_points": 500},
    "summary": {"max_points": 500},
    "values": {"index": "0"},
    "examples": {"index": "0"},
}
THINNED = ("/steps", "/summary")  # of which all steps are considered, but few returned
OF_ALL_STUDIES = "/activity"  # a row of each study of the user is read, and of trials only of those that failed
DOCUMENT = create_app(Settings()).openapi()
READS = {
    path: "ETag" in methods["get"]["responses"]["200"]["headers"]
    for path, methods in DOCUMENT["paths"].items()
    if "get" in methods and path.startswith("/api")
}


@pytest.fixture(scope="module")
def http(filled: tuple[Settings, str]) -> Iterator[TestClient]:
    settings, token = filled
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quotas, "READ_EVERY", math.inf)  # what a user has is read at most every ten seconds: not here
        engine = database.make_engine(settings)
        with database.make_sessions(engine, settings).begin() as session:
            quotas.take(session, tokens.authenticate(session, token).user_id, quotas.Amounts())
        engine.dispose()
        with TestClient(create_app(settings), headers={"Authorization": f"Bearer {token}"}) as client:
            yield client


@pytest.mark.parametrize(
    ("path", "again"),
    [(path, again) for path, has_etag in READS.items() for again in ((False, True) if has_etag else (False,))],
)
def test_a_read_touches_the_rows_of_its_answer(http, filled, path, again):
    """`again` with the ETag of the first answer."""
    study = http.get("/api/v1/studies").json()["items"][0]["id"]
    url = path.format(**PARAMETERS | {"study_id": study})
    headers = {"Accept": "application/json"}
    params = QUERIES.get(path.rpartition("/")[2], {})
    if again and (first := http.get(url, headers=headers, params=params)).is_success:
        headers["If-None-Match"] = first.headers["ETag"]
    with Plans().watching() as plans:
        response = http.get(url, headers=headers, params=params)
    assert response.status_code in (200, 304, 404, 422), response.text
    if path != "/api/v1/version":
        of_studies = OTHERS if path.endswith(OF_ALL_STUDIES) else 0
        plans.expect(3 * STEPS if path.endswith(THINNED) else PAGE + of_studies)
    if path.endswith("/summary"):
        assert response.status_code == (304 if again else 200)


LISTS = [
    *(("/studies", {"sort": sort.value, "order": order.value}) for sort in StudySort for order in SortOrder),
    *(("/studies", {"sort": "created_at", "state": state}) for state in ("failed", "pruned")),
    *(("trials", {"sort": sort.value, "order": order.value}) for sort in TrialSort for order in SortOrder),
    *(("trials", {"sort": "number", **filters}) for filters in ({"q": "nothing"}, {"tag": "nothing"})),
    *(("trials", {"sort": sort.value, "tunes": False}) for sort in TrialSort),
    *(("trials", {"sort": sort.value, "state": "failed"}) for sort in (TrialSort.number, TrialSort.state)),
]


@pytest.mark.parametrize("page", ["first", "middle"])
@pytest.mark.parametrize(("path", "params"), LISTS, ids=str)
def test_a_page_of_a_list_touches_its_rows_in_each_order(http, path, params, page):
    study = http.get("/api/v1/studies", params={"name": "study"}).json()["items"][0]["id"]
    url = f"{API}/studies" if path == "/studies" else f"{API}/studies/{study}/trials"
    if page == "middle":  # a page in the middle of the list: deep enough that what is before it would show
        for _ in range(3):
            cursor = http.get(url, params=params | {"limit": 1000}).json()["next_cursor"]
            params = params | ({} if cursor is None else {"cursor": cursor})
    with Plans().watching() as plans:
        answer = http.get(url, params=params | {"limit": 50})
    assert answer.is_success
    assert len(answer.json()["items"]) <= max(measured(plan) for _, plan in plans.seen) <= 51
    # Other orders of studies, and those with a state, read each of the user's, and of each at most the ends of three
    # indexes.
    of_each = path == "/studies" and (params["sort"] != "created_at" or "state" in params)
    plans.expect(4 * OTHERS if of_each else PAGE)


# What each request that changes something sends: parts of its path, its body, its headers. Some need those above them.
CHANGES: dict[str, tuple[dict[str, str], Any, dict[str, str]]] = {
    "post /studies": ({}, {"name": "another"}, {"Idempotency-Key": "a study"}),
    "patch /studies/{study_id}": ({}, {"tags": ["a"]}, {}),
    "post /studies/{study_id}/copy": ({"study_id": str(SPARE)}, {"name": "a copy"}, {"Idempotency-Key": "a copy"}),
    "delete /studies/{study_id}": ({"study_id": str(SPARE)}, None, {}),
    "post /studies/{study_id}/restore": ({"study_id": str(SPARE)}, {"name": "again"}, {}),
    "post /studies/{study_id}/trials": ({}, json.loads(SPEC), {"Idempotency-Key": "a trial"}),
    "patch /trials/{trial_id}": ({}, {"tags": ["a"]}, {}),
    "post /trials/{trial_id}/priority": ({"trial_id": QUEUED}, {"priority": 1}, {}),
    "post /trials/{trial_id}/pause": ({"trial_id": QUEUED}, None, {}),
    "post /trials/{trial_id}/cancel": ({"trial_id": QUEUED}, None, {}),
    "post /trials/{trial_id}/stop": ({"trial_id": RUNNING}, None, {}),
    "post /trials/{trial_id}/prune": ({"trial_id": RUNNING}, {"after_step": 3}, {}),
    "post /trials/{trial_id}/resume": ({"trial_id": PAUSED}, None, {}),
    "post /trials/{trial_id}/retry": ({"trial_id": FAILED}, None, {}),
    "post /trials/{trial_id}/confirm": ({}, {}, {}),
    "post /trials/{trial_id}/truth": ({}, {}, {}),
    "post /trials/{trial_id}/extend": ({}, {"steps": 1}, {}),
    "post /programs": ({}, {"graphs": DIGEST, "tensors": DIGEST}, {}),
    "post /datasets": ({}, {"train": DIGEST, "val": DIGEST}, {}),
    "post /tokens": ({}, {}, {}),
    "delete /tokens/{token_id}": ({"token_id": str(SPARE)}, None, {}),
    "post /session": ({}, {"token": "unknown"}, {"X-Nestor-Request": "1"}),
    "delete /session": ({}, None, {"X-Nestor-Request": "1", "Cookie": "nestor_session_80=nss_unknown"}),
    "post /blobs": ({}, {"digest": DIGEST.replace("0", "f"), "size": 5}, {}),
    "head /blobs/{blob}": ({"blob": str(SPARE)}, None, {}),
    "patch /blobs/{blob}": ({"blob": str(SPARE)}, SNAPSHOT, {"Upload-Offset": "0"}),
    "post /workers/{worker_id}/drain": ({"worker_id": "w1"}, None, {}),
    "delete /workers/{worker_id}/drain": ({"worker_id": "w1"}, None, {}),
    "post /webhooks": ({}, {"url": "https://127.0.0.1/"}, {"Idempotency-Key": "a webhook"}),
    "patch /webhooks/{webhook_id}": ({}, {"enabled": False}, {}),
    "post /webhooks/{webhook_id}/test": ({}, None, {}),
    "delete /webhooks/{webhook_id}": ({"webhook_id": str(SPARE)}, None, {}),
}
REFUSED = {"post /programs": 422, "post /session": 401}  # all others succeed


def test_every_request_that_changes_something_is_in_the_list():
    paths = DOCUMENT["paths"].items()
    changing = {
        f"{method} {path.removeprefix(API)}"
        for path, methods in paths
        for method in methods
        if method not in ("get", "head")
    }
    assert changing == {change for change in CHANGES if not change.startswith("head ")}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_touches_the_rows_that_it_names(http, change):
    method, path = change.split()
    parts, body, headers = CHANGES[change]
    study = http.get("/api/v1/studies", params={"name": "study"}).json()["items"][0]["id"]
    url = API + path.format(**PARAMETERS | {"study_id": study} | parts)
    content: dict[str, Any] = {"content": body} if isinstance(body, bytes) else {"json": body}
    with Plans().watching() as plans:
        response = http.request(method, url, headers=headers, **content if body is not None else {})
    if change in REFUSED:
        assert response.status_code == REFUSED[change], response.text
    else:
        assert response.is_success, response.text
    plans.expect(LINES)


def test_what_is_deleted_is_found_by_an_index_in_each_table_that_refers_to_it(filled):
    """PostgreSQL looks for rows that refer to a deleted one. No plan shows this."""
    settings, _ = filled
    engine = database.make_engine(settings)
    missing = text(
        """
        SELECT conrelid::regclass::text || ' ' || conname FROM pg_constraint WHERE contype = 'f' AND NOT EXISTS (
            SELECT FROM pg_index WHERE indrelid = conrelid AND (conkey)[1] = indkey[0]
        )
        """
    )
    with engine.connect() as connection:
        found = set(connection.scalars(missing))
    engine.dispose()
    assert found == {"workers fk_workers_trial_id_trials"}  # a worker has one row for each of its slots


def of_claims(session: Session) -> leases.Lease:
    lease = leases.claim_next(session, UUID(int=0), "worker")
    assert lease is not None
    return lease


def test_a_claim_touches_the_heads_of_the_lines_and_the_reaper_the_queue(filled):
    settings, _ = filled
    engine = database.make_engine(settings)
    sessions = database.make_sessions(engine, settings)
    with sessions() as session, Plans().watching() as plans:
        of_claims(session)
        plans.expect(LINES)
        session.rollback()
    with Plans().watching() as plans:
        Reaper(sessions, settings).run_once()
        plans.expect(QUEUE)
    engine.dispose()


def test_a_process_that_sends_notices_touches_those_that_it_takes(filled):
    settings, _ = filled
    engine = database.make_engine(settings)
    with database.make_sessions(engine, settings)() as session:
        session.execute(text("UPDATE webhook_deliveries SET next_attempt_at = now() WHERE status = 'pending'"))
        with Plans().watching() as plans:
            taken = outbox.take(session, 64)
            assert len({notice.webhook_id for notice in taken}) == 64
            following = outbox.take(session, 64, after=max(notice.webhook_id for notice in taken))
            assert not {notice.webhook_id for notice in following} & {notice.webhook_id for notice in taken}
            plans.expect(4 * 64)  # of the outbox and of the webhooks
        session.rollback()
    engine.dispose()


def test_a_worker_touches_the_rows_of_its_trial(filled):
    settings, _ = filled
    engine = database.make_engine(settings)
    with database.make_sessions(engine, settings)() as session:
        lease = of_claims(session)
        with Plans().watching() as plans:
            leases.renew(session, lease)
            files = tuple(recording.TensorFile(number, bytes([number])) for number in (1, 2, 3))
            batch = recording.RecordedBatch(steps=(step(1), step(2), step(3)), checkpoints=files, snapshots=files)
            recording.record(session, lease, batch)
            recording.record(session, lease, recording.RecordedBatch(steps=(step(4),), results=files[:1]))
            leases.finish(session, lease, State.complete)
            plans.expect(100)
        session.rollback()
    engine.dispose()

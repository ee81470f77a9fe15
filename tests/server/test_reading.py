"""What reading costs: versions come before contents, answers are bounded in bytes, long trials are thinned."""

from __future__ import annotations

import gzip
import math
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from safetensors.numpy import load
from sqlalchemy import delete, event, insert, select, text

import nestor
from nestor.schemas import CHUNK_BYTES, HyperparameterInfo, TensorSummary
from nestor.schemas.thinning import fewest_points, intervals
from nestor_server.models import BlobChunk, Step, StepNumbers, Study, Trial
from nestor_server.scheduling import recording
from nestor_server.services import study_lists
from nestor_server.services.records import hyperparameters, logs, steps, thinning
from nestor_server.services.trials import queries
from tests.server.conftest import Run, enlarge, ok, problem, step

PLAIN = {"Accept-Encoding": "identity"}


def put(run: Run, *data: dict[str, Any]) -> None:
    """Store the next steps as they are, such as an earlier version or many steps would have left them."""
    first = run.number + 1
    run.number += len(data)
    rows = [
        {"trial_id": run.id, "number": n, "seq": 10 + n, "data": one | {"number": n}}
        for n, one in enumerate(data, first)
    ]
    with run.server.sessions.begin() as session:
        session.execute(insert(Step), rows)
        session.execute(
            text("UPDATE trials SET step = :n, seq = :n + 10 WHERE id = :id"), {"n": run.number, "id": run.id}
        )


def stored(run: Run) -> list[Step]:
    with run.server.sessions() as session:
        return list(session.scalars(select(Step).where(Step.trial_id == run.id).order_by(Step.number)))


# --- steps ----------------------------------------------------------------------------------------


def test_steps_have_the_values_that_were_recorded(http, run):
    odd = {
        "train_loss": 1e300, "val_loss": 5e-324, "value": 0.1 + 0.2, "residual": -0.0, "products": 7, "traced": True,
        "held_out_loss": None, "outcome": 'a "quote", \\ and ü', "warnings": ["one, two", "три"],
        "metrics": {"auc": "NaN", "f1": "-Infinity", "naïve": 1 / 3}, "hyperparameters": None, "seconds": {},
    }  # fmt: skip
    put(run, odd, {"val_loss": 2}, step(3).model_dump(mode="json"))
    columns = ok(http.get(f"{run.path}/steps"))["columns"]
    assert list(columns) == list(steps.COLUMNS)
    recorded = stored(run)
    for name in nestor.schemas.Step.model_fields:
        missing = {} if name == "hyperparameters" else None
        values = [one.data.get(name) for one in recorded]
        assert columns[name] == [missing if value is None else value for value in values]
    assert [datetime.fromisoformat(at) for at in columns["recorded_at"]] == [
        one.recorded_at.astimezone(UTC) for one in recorded
    ]


def test_hyperparameters_that_were_not_declared_come_last(http, run):
    names = ["weights", "b", "l2"]
    infos = tuple(HyperparameterInfo(name=name, shape=(), dtype="float32", transform="exp") for name in names)
    run.record(0, hyperparameters=infos)
    one = TensorSummary(min=0, max=0, mean=0, std=0, gradient_norm=0, update_norm=0).model_dump(mode="json")
    put(run, {"hyperparameters": {"other": one, "l2": one, "weights": one}}, {"hyperparameters": None}, {})
    columns = ok(http.get(f"{run.path}/steps", params={"columns": "hyperparameters"}))["columns"]
    assert [list(one) for one in columns["hyperparameters"]] == [["weights", "l2", "other"], [], []]


def test_an_answer_ends_where_the_limit_or_the_bytes_are_reached_and_says_where_to_go_on(server, http, run):
    put(run, *({"val_loss": n, "outcome": "x" * 50_000} for n in range(200)))
    found, after, pages = [], 0, 0
    while after is not None:
        response = http.get(f"{run.path}/steps", params={"after": after, "columns": "number,outcome"}, headers=PLAIN)
        assert len(response.content) < steps.MAX_BYTES + 51_000
        found += ok(response)["columns"]["number"]
        after, pages = ok(response)["next_after"], pages + 1
    assert found == list(range(1, 201))
    assert pages == math.ceil(200 * 50_000 / steps.MAX_BYTES)

    # Columns that are short come at once, and the limit counts steps.
    assert ok(http.get(f"{run.path}/steps", params={"columns": "val_loss"}))["next_after"] is None
    limited = ok(http.get(f"{run.path}/steps", params={"columns": "number", "after": 5, "limit": 3}))
    assert (limited["columns"]["number"], limited["next_after"]) == ([6, 7, 8], 8)
    assert ok(http.get(f"{run.path}/steps", params={"after": 200}))["next_after"] is None
    assert ok(http.get(f"{run.path}/steps", params={"after": 2**63 - 1}))["columns"]["number"] == []


def test_steps_that_grow_are_bounded_all_the_same(http, run):
    """Those that are long come after those from which their number is estimated."""
    put(run, *({"outcome": "x"} for _ in range(steps.SAMPLED)), *({"outcome": "x" * 100_000} for _ in range(100)))
    response = http.get(f"{run.path}/steps", params={"columns": "outcome"}, headers=PLAIN)
    assert steps.MAX_BYTES <= len(response.content) < steps.MAX_BYTES + 101_000


def test_a_client_reads_all_steps_of_a_long_trial(server, http, run):
    put(run, *(step(n).model_copy(update={"warnings": ("w" * 20_000,)}).model_dump(mode="json") for n in range(1, 301)))
    with nestor.Client(server.url, http.headers["Authorization"].removeprefix("Bearer ")) as client:
        read = client.steps(run.id)
    assert [one.number for one in read] == list(range(1, 301))
    assert read[-1] == step(300).model_copy(update={"warnings": ("w" * 20_000,)})


# --- thinning -------------------------------------------------------------------------------------

COURSE = "number,train_loss,val_loss,value,test_loss,metrics"


@pytest.fixture(params=[0, 1_000, 3_000])
def long(run: Run, request: pytest.FixtureRequest) -> Run:
    """3,000 steps: noise with spikes, a value at every seventh, and no test loss. An earlier version left the first."""
    rng = np.random.default_rng(0)
    put(run, *(
        {
            "train_loss": 1.0 if n % 500 < 100 else rng.normal(),
            "val_loss": rng.normal() + 50 * (n == 1234) - 50 * (n == 2345),
            "value": rng.normal() if n % 7 == 0 and n < 2_900 else None,
            "metrics": {"auc": "NaN"},
        }
        for n in range(1, 3_001)
    ))  # fmt: skip
    with run.server.sessions.begin() as session:
        numbers = [{"trial_id": run.id, **numbers_of(one.data)} for one in stored(run)[request.param :]]
        if numbers:
            session.execute(insert(StepNumbers), numbers)
    return run


def numbers_of(data: dict[str, Any]) -> dict[str, Any]:
    return {name: data.get(name) for name in ("number", *thinning.NUMERIC)}


def test_what_a_worker_records_has_its_numbers_apart(run):
    run.record(2)
    with run.server.sessions() as session:
        rows = session.scalars(select(StepNumbers).where(StepNumbers.trial_id == run.id).order_by(StepNumbers.number))
        found = [{name: getattr(row, name) for name in ("number", *thinning.NUMERIC)} for row in rows]
    assert found == [numbers_of(one.data) for one in stored(run)]
    fields = nestor.schemas.Step.model_fields.items()
    numeric = {name for name, field in fields if field.annotation in (int, float, int | None, float | None)}
    assert numeric - {"number"} == thinning.NUMERIC


def expected(rows: list[dict[str, Any]], names: list[str], max_points: int) -> list[int]:
    """The numbers of the steps that stay, by the definition."""
    n_columns = len(set(names) & thinning.NUMERIC) or 1
    n_intervals, first = intervals(n_columns, max_points), rows[0]["number"]
    kept = {first, rows[-1]["number"]}
    for name in set(names) & thinning.NUMERIC or {"number"}:
        known = [row for row in rows if row.get(name) is not None]
        kept |= {row["number"] for row in known[-1:]}
        for i in range(n_intervals):
            part = [row for row in known if (row["number"] - first) * n_intervals // len(rows) == i]
            if part:
                kept |= {choose(part, key=lambda row: row[name])["number"] for choose in (min, max)}
    return sorted(kept)


@pytest.mark.parametrize(("names", "max_points"), [(COURSE, 100), (COURSE, 1000), ("number", 100), ("metrics", 50)])
def test_a_thinned_course_has_the_extremes_of_equal_intervals(http, long, names, max_points):
    columns = ok(http.get(f"{long.path}/steps", params={"columns": names, "max_points": max_points}))["columns"]
    rows = [one.data for one in stored(long)]
    kept = expected(rows, names.split(","), max_points)
    assert len(kept) <= max_points
    for name in names.split(","):
        assert columns[name] == [rows[n - 1].get(name) for n in kept]
    if names == COURSE:
        assert {1, 1234, 2345, 2898, 3000} <= set(kept)  # the ends, the spikes, and the last value


def test_a_short_course_is_not_thinned_and_polls_go_on_after_a_thinned_one(http, long):
    params = {"columns": "number", "max_points": 100}
    first = ok(http.get(f"{long.path}/steps", params=params))
    assert (first["columns"]["number"][-1], first["next_after"]) == (3_000, None)
    put(long, *({"val_loss": 0.0} for _ in range(100)))
    assert ok(http.get(f"{long.path}/steps", params=params | {"after": 3_000}))["columns"]["number"] == [
        *range(3_001, 3_101)
    ]
    part = ok(http.get(f"{long.path}/steps", params=params | {"after": 500, "limit": 1_000}))
    assert (part["columns"]["number"][0], part["columns"]["number"][-1], part["next_after"]) == (501, 1_500, 1_500)


def test_too_few_points_for_the_extremes_of_all_columns_are_refused(http, long):
    path, fewest = f"{long.path}/steps", fewest_points(len(thinning.NUMERIC))
    assert len(ok(http.get(path, params={"max_points": fewest}))["columns"]["number"]) <= fewest
    problem(http.get(path, params={"max_points": fewest - 1}), 422, "validation-failed")


# --- lists ----------------------------------------------------------------------------------------


def pages(http, path: str, cursor: str = "next_cursor", **params: Any) -> list[list[dict[str, Any]]]:
    """The items of all pages of a list."""
    found, given = [], {}
    while given is not None:
        page = ok(http.get(path, params=params | given))
        found.append(page["items"])
        given = {"cursor" if cursor == "next_cursor" else "after": page[cursor]} if page[cursor] is not None else None
    return found


@pytest.mark.parametrize("attribute", ["x" * 400_000, list(range(60_000))], ids=["compressible", "numbers"])
def test_a_page_of_trials_ends_at_its_bytes(server, http, study, submit, attribute):
    for _ in range(5):
        enlarge(server, Trial, submit()["id"], {"a": attribute})
    found = pages(http, f"/studies/{study}/trials", limit=1000)
    assert [trial["number"] for page in found for trial in page] == [4, 3, 2, 1, 0]
    # A page ends after the row that exceeds its bytes, and each trial has its attributes twice, in its spec as well.
    assert [len(page) for page in found] == [2, 2, 1]


def test_a_page_of_studies_ends_at_its_bytes(server, http):
    ids = [ok(http.post("/studies", json={"name": f"s{n}"}))["id"] for n in range(5)]
    for id in ids:
        enlarge(server, Study, id, {"a": "x" * 700_000})
    found = pages(http, "/studies")
    assert [study["id"] for page in found for study in page] == ids[::-1]
    assert [len(page) for page in found] == [2, 2, 1]


def test_a_page_of_a_log_ends_at_its_bytes(http, run):
    run.record(1, logs=tuple(recording.LogRecord(1, "x" * 200_000) for _ in range(10)))
    found = pages(http, f"{run.path}/logs", "next_after")
    assert [len(page) for page in found] == [6, 4]


# --- versions -------------------------------------------------------------------------------------


@contextmanager
def statements(run: Run) -> Iterator[list[str]]:
    """The statements that are executed inside the block, in this process."""
    engine, seen = run.server.sessions.kw["bind"], []
    listener = lambda connection, cursor, statement, *_: seen.append(statement)
    event.listen(engine, "before_cursor_execute", listener)
    try:
        yield seen
    finally:
        event.remove(engine, "before_cursor_execute", listener)


def test_a_version_is_read_without_what_it_is_of(run, study):
    run.record(3, logs=(recording.LogRecord(1, "hello"),))
    with run.server.sessions() as session:
        owner = session.scalars(select(Study.owner_id).where(Study.id == UUID(study))).one()
        trial = {"session": session, "owner_id": owner, "trial_id": run.id}
        for n_statements, content, absent in (
            (1, queries.get(**trial), ("spec", "evidence", "user_attrs")),
            (1, steps.columns(**trial), ("FROM steps", "hyperparameters")),
            (1, hyperparameters.describe(**trial), ("hyperparameters", "snapshots")),
            (1, logs.page(**trial, level=nestor.schemas.LogLevel.info, after=0, limit=10), (" events.data,",)),
            (1, queries.page(session, owner, UUID(study)), (" trials.spec,", " trials.evidence,")),
            (3, study_lists.page(session, owner), (" studies.user_attrs,",)),  # and the counts and the best of trials
        ):
            with statements(run) as seen:
                version = content.version()
            assert len(seen) == n_statements
            assert not [word for word in absent if word in " ".join(seen)], seen
            assert content.read()[1] == version


@pytest.mark.parametrize("path", ["", "/steps", "/hyperparameters", "/logs"])
def test_what_did_not_change_is_a_304_and_what_did_is_sent(http, run, path):
    run.record(1)
    first = http.get(run.path + path)
    seen = {"If-None-Match": first.headers["ETag"]}
    again = http.get(run.path + path, headers=seen)
    assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", first.headers["ETag"])
    run.snapshot(1, {"l2": np.zeros(1, np.float32)}, logs=(recording.LogRecord(1, "hello"),))
    run.record(1)
    assert http.get(run.path + path, headers=seen).status_code == 200
    problem(http.get(f"/trials/{UUID(int=0)}{path}", headers={"If-None-Match": "*"}), 404, "trial-not-found")


def test_a_list_of_trials_changes_with_each_of_its_trials(http, study, submit, run):
    path = f"/studies/{study}/trials"
    for change in (
        lambda: run.record(1),
        lambda: ok(http.patch(run.path, json={"tags": ["a"]})),
        lambda: ok(http.post(f"{run.path}/pause")),
        submit,
    ):
        seen = {"If-None-Match": http.get(path).headers["ETag"]}
        assert http.get(path, headers=seen).status_code == 304
        change()
        assert http.get(path, headers=seen).status_code == 200
    seen = {"If-None-Match": http.get(path, params={"limit": 2}).headers["ETag"]}
    submit()  # the page is the same, but another follows
    assert http.get(path, params={"limit": 2}, headers=seen).status_code == 200


def test_a_checkpoint_changes_the_version_by_the_counters_that_it_resets(http, run):
    run.record(23)
    with run.server.sessions.begin() as session:
        session.get_one(Trial, run.id).restarts = 2
    first = http.get(run.path)
    run.checkpoint()
    changed = http.get(run.path, headers={"If-None-Match": first.headers["ETag"]})
    assert (ok(first)["restarts"], ok(changed)["restarts"]) == (2, 0)


def test_neither_a_304_nor_a_range_reads_the_rest_of_a_tensor(http, run):
    """The bytes of one tensor are deleted, and only a read of them fails."""
    run.snapshot(0, {"a": np.arange(CHUNK_BYTES // 4, dtype=np.float32), "b": np.arange(10, dtype=np.float32)})
    path = f"{run.path}/hyperparameters"
    first, other = http.get(f"{path}/a"), http.get(f"{path}/b")
    assert load(other.content)["b"].tolist() == [*range(10)]
    with run.server.sessions.begin() as session:
        session.execute(delete(BlobChunk).where(BlobChunk.start > 0))
    for name, response in (("a", first), ("b", other)):
        seen = {"If-None-Match": response.headers["ETag"]}
        assert http.get(f"{path}/{name}", headers=seen).status_code == 304
        head = http.head(f"{path}/{name}")
        assert (head.headers["ETag"], head.headers["Content-Length"]) == (
            response.headers["ETag"],
            str(len(response.content)),
        )
    assert http.get(f"{path}/a", headers={"Range": "bytes=0-999"}).content == first.content[:1000]
    assert len({first.headers["ETag"], other.headers["ETag"], http.head(f"{path}/a?format=npy").headers["ETag"]}) == 3


# --- compression ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accepted", "compressed"),
    [
        ("gzip", True), ("br, GZIP;q=0.5", True), ("*", True), ("gzip;q=1.0, identity; q=0.5", True),
        ("identity", False), ("gzip;q=0", False), ("gzip; q=0.000, *", False), ("br", False), ("", False),
    ],
)  # fmt: skip
def test_long_json_is_compressed_for_those_who_accept_it(http, run, accepted, compressed):
    run.record(20)
    plain = http.get(f"{run.path}/steps", headers=PLAIN)
    with http.stream("GET", f"{run.path}/steps", headers={"Accept-Encoding": accepted}) as response:
        raw = b"".join(response.iter_raw())
    assert response.headers.get("Content-Encoding") == ("gzip" if compressed else None)
    assert (gzip.decompress(raw) if compressed else raw) == plain.content
    assert int(response.headers["Content-Length"]) == len(raw)
    assert (response.headers["ETag"] != plain.headers["ETag"]) == compressed
    assert "Accept-Encoding" in response.headers["Vary"]


def test_short_json_errors_and_files_are_not_compressed(http, run):
    run.snapshot(0, {"l2": np.zeros(10_000, np.float32)})
    for path in ("/logs", "/steps?columns=" + "x" * 1_500, "/hyperparameters/l2", "/hyperparameters.safetensors"):
        assert "Content-Encoding" not in http.get(run.path + path, headers={"Accept-Encoding": "gzip"}).headers


def test_both_encodings_name_one_version(http, run):
    plain, compressed = (http.get(run.path, headers=h).headers["ETag"] for h in (PLAIN, {"Accept-Encoding": "gzip"}))
    assert plain != compressed
    for tag in (plain, compressed):
        known = http.get(run.path, headers={"If-None-Match": f'"other", W/{tag}'})
        assert (known.status_code, known.headers["ETag"]) == (304, tag)
    for tag, status in ((f"W/{compressed}", 412), (compressed, 200), (plain, 412)):  # a change makes another version
        assert http.patch(run.path, json={"tags": ["a"]}, headers={"If-Match": tag}).status_code == status
    assert http.patch(
        run.path, json={}, headers={"If-Match": http.get(run.path, headers=PLAIN).headers["ETag"]}
    ).is_success

"""Trials: submitted, polled, asked to stop, and read."""

from __future__ import annotations

import hashlib
import io
import math
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
import redis
from safetensors.numpy import load, save
from sqlalchemy import func, select

from nestor.schemas import Scope, State, TensorSummary
from nestor_server.models import Blob
from nestor_server.scheduling import leases, recording, rollback
from nestor_server.scheduling.task_queue import QUEUE
from tests.server.conftest import SPEC, Run, ok, problem, step
from tests.server.test_problems_by_upload import GRAPHS, TENSORS, columns, upload_dataset, upload_program


def waiting(server) -> int:
    """Messages in the broker."""
    with redis.Redis.from_url(server.settings.redis_url) as broker:
        return broker.llen(QUEUE)


def test_a_submitted_trial_is_queued_with_every_default_written_out(http, study):
    response = http.post(f"/studies/{study}/trials", json=SPEC | {"user_attrs": {"note": "first"}})

    trial = ok(response)
    assert (response.status_code, response.headers["Location"]) == (201, f"/api/v1/trials/{trial['id']}")
    assert (trial["number"], trial["state"], trial["step"], trial["n_steps"]) == (0, "queued", 0, 1000)
    assert trial["spec"]["inner"]["lr"] == 1e-3
    assert trial["spec"]["response"]["curvature"] == {"kind": "gauss_newton", "damping": 0.03}
    assert (trial["user_attrs"], trial["error"], trial["worker"]) == ({"note": "first"}, None, None)
    assert ok(http.get(f"/trials/{trial['id']}")) == trial


def test_a_priority_is_given_at_submission_or_later(http, submit):
    trial = submit(priority=-5)
    assert (trial["priority"], trial["spec"]["priority"]) == (-5, -5)
    etag = http.get(f"/trials/{trial['id']}").headers["ETag"]
    changed = ok(http.post(f"/trials/{trial['id']}/priority", json={"priority": -7}))
    assert (changed["priority"], changed["spec"]["priority"]) == (-7, -5)
    assert http.get(f"/trials/{trial['id']}", headers={"If-None-Match": etag}).status_code == 200
    problem(http.post(f"/trials/{trial['id']}/priority", json={"priority": 1001}), 422, "validation-failed")


def test_only_an_admin_raises_a_priority_above_zero(server, http, study, submit):
    for refused in (
        http.post(f"/studies/{study}/trials", json=SPEC | {"priority": 1}),
        http.post(f"/trials/{submit()['id']}/priority", json={"priority": 1}),
    ):
        assert "one below 0 lets others go first" in problem(refused, 403, "forbidden")["detail"]
    with server.http(server.new_token(scope=Scope.admin)) as admin:
        at = ok(admin.post("/studies", json={"name": "urgent"}))["id"]
        assert ok(admin.post(f"/studies/{at}/trials", json=SPEC | {"priority": 1000}))["priority"] == 1000


def test_the_short_forms_of_the_manual_are_understood(http, study):
    spec = SPEC | {"response": {"implicit": {"curvature": "hessian", "solver": {"neumann": {"terms": 3}}}}}
    response = ok(http.post(f"/studies/{study}/trials", json=spec))["spec"]["response"]
    assert response["curvature"]["kind"] == "hessian"
    assert response["solver"] == {"kind": "neumann", "terms": 3, "alpha": "auto"}


def test_what_curl_sends_without_a_content_type_is_read_as_json(http):
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert http.post("/studies", content='{"name": "by curl"}', headers=form).status_code == 201


def test_trials_are_numbered_within_their_study_and_listed_newest_first(http, study, submit):
    for number in range(3):
        assert submit()["number"] == number
    page = ok(http.get(f"/studies/{study}/trials", params={"limit": 2}))
    rest = ok(http.get(f"/studies/{study}/trials", params={"limit": 2, "cursor": page["next_cursor"]}))
    assert [trial["number"] for trial in page["items"] + rest["items"]] == [2, 1, 0]
    assert rest["next_cursor"] is None


def test_a_message_is_sent_after_the_commit_and_none_after_an_error(server, http, study, submit):
    before = waiting(server)
    problem(http.post(f"/studies/{study}/trials", json={"problem": {"preset": {}}}), 422, "validation-failed")
    problem(http.post(f"/studies/{uuid4()}/trials", json=SPEC), 404, "study-not-found")
    program = {"problem": {"program": str(uuid4()), "dataset": str(uuid4())}}
    problem(http.post(f"/studies/{study}/trials", json=SPEC | program), 404, "program-not-found")
    assert waiting(server) == before
    assert ok(http.get(f"/studies/{study}/trials"))["items"] == []

    submit()
    assert waiting(server) == before + 1
    assert submit()["number"] == 1  # a refusal uses no number


def test_a_transaction_that_is_rolled_back_sends_nothing(server):
    from nestor_server.scheduling import task_queue

    before = waiting(server)
    with server.sessions() as session:
        session.connection()
        task_queue.send_on_commit(session, uuid4())
        session.rollback()
        session.connection()
        session.commit()
    assert waiting(server) == before

    with server.sessions() as session:
        with session.begin_nested():
            task_queue.send_on_commit(session, uuid4())
        assert waiting(server) == before  # the savepoint is released, the transaction still open
        session.commit()
    assert waiting(server) == before + 1


def test_an_unchanged_trial_costs_a_304_and_a_step_changes_it(http, run):
    first = http.get(run.path)
    seen = {"If-None-Match": first.headers["ETag"]}
    assert http.get(run.path, headers=seen).status_code == 304
    run.record()
    changed = http.get(run.path, headers=seen)
    assert changed.status_code == 200
    assert (changed.json()["step"], changed.json()["value"], changed.json()["worker"]) == (1, 1.0, "worker")


@pytest.mark.parametrize("action", ["stop", "pause", "prune", "cancel"])
def test_a_request_for_a_running_trial_is_recorded_and_may_be_repeated(http, run, action):
    first = ok(http.post(f"{run.path}/{action}"))
    assert (first["state"], first["desired"]) == ("running", action)
    assert ok(http.post(f"{run.path}/{action}"))["seq"] == first["seq"]


def test_a_queued_trial_is_cancelled_at_once_and_then_stays_so(http, submit):
    trial = submit()
    assert ok(http.post(f"/trials/{trial['id']}/cancel"))["state"] == "cancelled"
    assert ok(http.post(f"/trials/{trial['id']}/cancel"))["state"] == "cancelled"
    document = problem(http.post(f"/trials/{trial['id']}/resume"), 409, "illegal-transition")
    assert "cancelled cannot resume" in document["detail"]


def test_a_paused_trial_is_resumed_with_a_message(server, http, submit):
    path = f"/trials/{submit()['id']}"
    assert ok(http.post(f"{path}/pause"))["state"] == "paused"
    before = waiting(server)
    assert ok(http.post(f"{path}/resume"))["state"] == "queued"
    assert waiting(server) == before + 1


def test_a_failure_is_shown_as_the_worker_recorded_it(http, run):
    error = {"code": "diverged", "detail": "The training loss is not finite at step 3.", "status": 422}
    run.finish(State.failed, error)
    trial = ok(http.get(run.path))
    assert (trial["state"], trial["error"]) == ("failed", error)


def test_a_trial_is_extended_once_for_one_idempotency_key(server, http, run):
    run.record(3)
    run.finish()
    before = waiting(server)
    for _ in range(2):
        answer = http.post(f"{run.path}/extend", json={"steps": 100}, headers={"Idempotency-Key": "more"})
        assert (answer.status_code, answer.json()["state"], answer.json()["n_steps"]) == (200, "queued", 103)
    assert waiting(server) == before + 1
    document = problem(http.post(f"{run.path}/extend", json={"steps": 100}), 409, "illegal-transition")
    assert "queued cannot extend" in document["detail"]
    problem(http.post(f"{run.path}/extend", json={"steps": 0}), 422, "validation-failed")


def test_a_failed_trial_is_retried_and_asking_twice_changes_nothing(http, run):
    run.finish(State.failed, {"code": "diverged", "detail": "NaN."})
    first = ok(http.post(f"{run.path}/retry"))
    assert (first["state"], first["error"]) == ("queued", None)
    assert ok(http.post(f"{run.path}/retry"))["seq"] == first["seq"]


def test_attempts_are_listed_with_worker_times_and_reason(server, http, run):
    with server.sessions.begin() as session:
        leases.requeue(session, run.lease, "its runner was killed", paid_from="restarts")
    assert ok(http.get(run.path))["restarts"] == 1
    run.claim()
    first, second = ok(http.get(f"{run.path}/attempts"))["items"]
    assert (first["number"], first["worker"], first["state"], first["why"]) == (
        1, "worker", "queued", "its runner was killed"
    )  # fmt: skip
    assert first["started_at"] < first["ended_at"] <= second["started_at"]
    assert (second["number"], second["state"], second["ended_at"]) == (2, "running", None)
    ok(http.post(f"{run.path}/pause"))
    run.finish(State.paused)
    ok(http.post(f"{run.path}/cancel"))  # of a trial that nobody has: the end of no attempt
    assert [attempt["state"] for attempt in ok(http.get(f"{run.path}/attempts"))["items"]] == ["queued", "paused"]


def test_events_record_time_and_user(http, run):
    page = ok(http.get(f"{run.path}/events", headers={"Accept": "application/json"}))
    submitted, claimed = page["items"]
    assert submitted["data"]["by"] == f"user {ok(http.get('/me'))['user']}"
    assert claimed["data"]["by"] == "worker"
    assert submitted["data"]["at"] < claimed["data"]["at"]


# --- warm starts ----------------------------------------------------------------------------------


def blobs_of(server, digest: bytes) -> int:
    with server.sessions() as session:
        named = "sha256:" + hashlib.sha256(digest).hexdigest()
        return session.scalars(select(func.count()).where(Blob.digest == named)).one()


def test_a_warm_start_names_its_step_and_keeps_its_blob(server, http, run, submit, tensors):
    """The checkpoint that it starts from is thinned out of the other trial meanwhile."""
    run.record(1)
    run.checkpoint()
    kept = save({"step": np.array([1])})
    other = ok(http.post("/studies", json={"name": "another study"}))["id"]
    spec = SPEC | {"warm_start": {"trial": str(run.id)}}
    warm = ok(http.post(f"/studies/{other}/trials", json=spec))
    assert warm["spec"]["warm_start"] == {"trial": str(run.id), "step": 1, "weights": True, "nudge": None}
    before = blobs_of(server, kept)  # other tests have written the same bytes
    for _ in range(2):
        run.record(1)
        run.checkpoint()
    assert blobs_of(server, kept) == before
    document = problem(
        http.post(f"/studies/{other}/trials", json=SPEC | {"warm_start": {"trial": str(run.id), "step": 1}}),
        404, "checkpoint-not-found",
    )  # fmt: skip
    assert "weights=False" in document["detail"]


def test_the_weights_of_the_best_step_are_read_and_started_from(http, run, submit):
    def read(**params) -> Any:
        response = http.get(f"{run.path}/checkpoint.safetensors", params=params)
        if response.is_success:
            # The same step's file shrinks from a checkpoint to a result, so that no cache may keep it.
            assert "no-cache" in response.headers["Cache-Control"]
            return int(load(response.content)["step"][0])
        return problem(response, 404, "checkpoint-not-found")["detail"]

    run.record(3)
    assert "of step 3, the best so far (stored: none)" in read(step="best")
    results = (recording.TensorFile(3, save({"step": np.array([3])})),)
    with run.server.sessions.begin() as session:
        recording.record(session, run.lease, recording.RecordedBatch(results=results))
    run.checkpoint()
    run.record(2, held_out=9.0)  # worse
    run.checkpoint()
    run.record(1, held_out=8.0)
    run.checkpoint()
    assert [read(step=step) for step in ("best", 3, 5, 6, "latest")] == [3, 3, 5, 6, 6]
    assert read() == 6
    assert "of step 1 (stored: 3, 5, 6)" in read(step=1)
    for wrong in ("worst", "-1", "2.5"):
        problem(http.get(f"{run.path}/checkpoint.safetensors", params={"step": wrong}), 422, "validation-failed")
    start = {"trial": str(run.id), "step": "best"}
    assert submit(warm_start=start)["spec"]["warm_start"] == {**start, "step": 3, "weights": True, "nudge": None}
    assert submit(warm_start={"trial": str(run.id)})["spec"]["warm_start"]["step"] == 6
    other = submit()["id"]
    document = problem(
        http.get(f"/trials/{other}/checkpoint.safetensors", params={"step": "best"}), 404, "checkpoint-not-found"
    )
    assert "none was evaluated yet (stored: none)" in document["detail"]


def checkpoint_of(run, hidden: int, **others: np.ndarray) -> None:
    shapes = {"0.weight": (hidden, 64), "0.bias": (hidden,), "2.weight": (10, hidden), "2.bias": (10,)}
    parameters = {f"params.{name}": np.zeros(shape, np.float32) for name, shape in shapes.items()}
    run.record(0, checkpoints=(recording.TensorFile(run.number, save(parameters | others)),))


def test_a_warm_start_from_another_architecture_is_refused_at_submission(http, run, study):
    def started(hidden: int):
        of = {"preset": {"model": {"kind": "mlp", "hidden": [hidden]}}}
        return http.post(f"/studies/{study}/trials", json=SPEC | {"problem": of, "warm_start": {"trial": str(run.id)}})

    checkpoint_of(run, 8)
    assert ok(started(8))["state"] == "queued"
    detail = problem(started(16), 422, "architecture-mismatch")["detail"]
    assert "the parameter '0.weight' has the shape (8, 64) in the trial and (16, 64) in the problem" in detail
    assert "Start from a trial of the same problem" in detail
    run.record(1)
    checkpoint_of(run, 8, **{"buffers.1.running_mean": np.zeros(8, np.float32)})
    assert "the problem has no buffer '1.running_mean'" in problem(started(8), 422, "architecture-mismatch")["detail"]
    assert len(ok(http.get(f"/studies/{study}/trials"))["items"]) == 2


def test_a_warm_start_of_a_program_compares_all_that_has_a_name(http, run, study):
    dataset = ok(upload_dataset(http, save(columns()), save(columns())))["id"]
    program = ok(upload_program(http, GRAPHS, save(TENSORS)))["id"]
    spec = SPEC | {"problem": {"program": program, "dataset": dataset}}
    w, l2 = TENSORS["params.w"], TENSORS["hparams.l2"]

    def started(weights: bool = True):
        start = {"trial": str(run.id), "weights": weights}
        return http.post(f"/studies/{study}/trials", json=spec | {"warm_start": start})

    def checkpoint(**tensors: np.ndarray) -> None:
        run.record(1, checkpoints=(recording.TensorFile(run.number + 1, save(tensors)),))

    checkpoint(**{"params.w": w, "hparams.l2": l2, "inner.mean": w.ravel()})
    ok(started())
    checkpoint(**{"params.other": w, "hparams.l2": l2})
    assert "the trial has no parameter 'w'" in problem(started(), 422, "architecture-mismatch")["detail"]
    checkpoint(**{"params.w": w, "hparams.l2": np.zeros(2, np.float32)})
    assert "the hyperparameter 'l2' has the shape (2,)" in problem(started(), 422, "architecture-mismatch")["detail"]
    checkpoint(**{"weights": w.ravel(), "hparams/l2": l2})  # format 2, which the runner compares
    ok(started())
    run.snapshot(run.number, {"l1": np.zeros(1, np.float32)})
    assert "the trial has no hyperparameter 'l2'" in problem(started(False), 422, "architecture-mismatch")["detail"]


def test_a_warm_start_from_nothing_or_from_another_users_trial_is_refused(server, http, stranger, run, study, submit):
    def refused(by, at, code, **start):
        problem(by.post(f"/studies/{at}/trials", json=SPEC | {"warm_start": {"trial": str(run.id)} | start}), 404, code)

    refused(http, study, "checkpoint-not-found")
    refused(http, study, "hyperparameters-not-found", weights=False)
    theirs = ok(stranger.post("/studies", json={"name": "theirs"}))["id"]
    run.checkpoint()
    refused(stranger, theirs, "trial-not-found")


# --- steps ----------------------------------------------------------------------------------------


def test_steps_come_as_columns_of_equal_length(http, run):
    run.record(5)
    read = ok(http.get(f"{run.path}/steps"))
    assert {len(values) for values in read["columns"].values()} == {5}
    assert read["columns"]["number"] == [1, 2, 3, 4, 5]
    assert read["columns"]["val_loss"] == [1 / k for k in range(1, 6)]
    assert read["columns"]["val_metrics"] == [{"accuracy": 0.5}] * 5
    assert read["columns"]["test_loss"] == [None] * 5
    assert read["seq"] == ok(http.get(run.path))["seq"]


def test_steps_are_read_from_a_given_step_on(http, run):
    run.record(10)
    params = {"after": 3, "limit": 4, "columns": "number,val_loss"}
    read = http.get(f"{run.path}/steps", params=params)
    assert read.json()["columns"] == {"number": [4, 5, 6, 7], "val_loss": [1 / 4, 1 / 5, 1 / 6, 1 / 7]}
    again = http.get(f"{run.path}/steps", params=params, headers={"If-None-Match": read.headers["ETag"]})
    assert again.status_code == 304


def test_an_unknown_column_is_refused_with_those_that_exist(http, run):
    document = problem(http.get(f"{run.path}/steps", params={"columns": "number,loss"}), 422, "step-column-unknown")
    assert "'loss'" in document["detail"]
    assert "val_loss" in document["detail"]


# --- hyperparameters ------------------------------------------------------------------------------


@pytest.fixture
def tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {"l2": rng.normal(size=(3, 4)).astype(np.float32), "weights.examples": rng.normal(size=5).astype(np.float32)}


def test_a_trial_without_a_snapshot_says_so(http, run):
    assert ok(http.get(f"{run.path}/hyperparameters"))["items"] == []
    problem(http.get(f"{run.path}/hyperparameters/l2"), 404, "hyperparameters-not-found")
    problem(http.get(f"{run.path}/hyperparameters.safetensors"), 404, "hyperparameters-not-found")


def test_hyperparameters_are_described_with_the_steps_that_have_them(http, run, tensors):
    run.snapshot(0, tensors)
    run.record(2)
    run.snapshot(2, tensors)
    described = ok(http.get(f"{run.path}/hyperparameters"))
    assert described["steps"] == [0, 2]
    assert {item["name"]: item["shape"] for item in described["items"]} == {"l2": [3, 4], "weights.examples": [5]}


def test_hyperparameters_come_in_the_order_of_their_declaration(http, run):
    """Neither JSONB nor safetensors keeps it."""
    names = ["weights", "l2.10.weight", "l2.2.weight", "b"]
    run.snapshot(0, {name: np.zeros(1, np.float32) for name in names})
    one = TensorSummary(min=0, max=0, mean=0, std=0, gradient_norm=0, update_norm=0)
    run.number += 1
    taken = step(run.number).model_copy(update={"hyperparameters": dict.fromkeys(names, one)})
    with run.server.sessions.begin() as session:
        recording.record(session, run.lease, recording.RecordedBatch(steps=(taken,)))

    assert [item["name"] for item in ok(http.get(f"{run.path}/hyperparameters"))["items"]] == names
    (recorded,) = ok(http.get(f"{run.path}/steps"))["columns"]["hyperparameters"]
    assert list(recorded) == names
    page = ok(http.get(f"{run.path}/events", params={"wait": 0}, headers={"Accept": "application/json"}))
    (streamed,) = [event["data"]["hyperparameters"] for event in page["items"] if event["type"] == "step"]
    assert list(streamed) == names


@pytest.mark.parametrize("name", ["l2", "weights.examples"])
def test_one_tensor_comes_as_it_was_recorded_in_both_formats(http, run, tensors, name):
    run.snapshot(0, tensors)
    path = f"{run.path}/hyperparameters/{name}"
    for response, value in (
        (found := http.get(path), lambda data: load(data)[name]),
        (http.get(path, params={"format": "npy"}), lambda data: np.load(io.BytesIO(data), allow_pickle=False)),
    ):
        assert np.array_equal(value(response.content), tensors[name])
    assert list(load(found.content)) == [name]


def test_the_latest_snapshot_is_the_default_and_a_past_one_never_changes(http, run, tensors):
    run.snapshot(0, tensors)
    run.record(1)
    data = run.snapshot(1, {name: 2 * values for name, values in tensors.items()})
    latest = http.get(f"{run.path}/hyperparameters.safetensors")
    assert latest.content == data
    assert "no-cache" in latest.headers["Cache-Control"]
    run.checkpoint()
    first = http.get(f"{run.path}/hyperparameters/l2", params={"step": 0})
    assert np.array_equal(load(first.content)["l2"], tensors["l2"])
    assert "immutable" in first.headers["Cache-Control"]
    problem(http.get(f"{run.path}/hyperparameters/l2", params={"step": 7}), 404, "hyperparameters-not-found")
    problem(http.get(f"{run.path}/hyperparameters/other"), 404, "hyperparameter-unknown")


def test_a_range_of_a_tensor_is_that_part_of_the_file(http, run, tensors):
    run.snapshot(0, tensors)
    path = f"{run.path}/hyperparameters/l2"
    whole = http.get(path).content
    for given, expected in {
        "bytes=0-9": whole[:10], "bytes=5-": whole[5:], "bytes=-7": whole[-7:], f"bytes=90-{10**9}": whole[90:]
    }.items():  # fmt: skip
        part = http.get(path, headers={"Range": given})
        assert (part.status_code, part.content) == (206, expected), given
    assert http.get(path, headers={"Range": f"bytes={len(whole)}-"}).status_code == 416
    assert http.get(path, headers={"Range": "lines=1-2"}).content == whole
    assert http.get(path, headers={"If-None-Match": http.get(path).headers["ETag"]}).status_code == 304


def test_metrics_that_are_not_finite_are_kept_as_text_and_never_the_best(server, http):
    study = ok(http.post("/studies", json={"name": "auc", "metric": "accuracy", "direction": "maximize"}))["id"]
    run = Run(server, ok(http.post(f"/studies/{study}/trials", json=SPEC))["id"])
    given = [0.5, math.nan, math.inf, 0.7, -math.inf, math.nan]
    steps = tuple(step(n).model_copy(update={"metrics": {"accuracy": value}}) for n, value in enumerate(given, start=1))
    with server.sessions.begin() as session:
        recording.record(session, run.lease, recording.RecordedBatch(steps=steps))
    written = [0.5, "NaN", "Infinity", 0.7, "-Infinity", "NaN"]
    columns = ok(http.get(f"{run.path}/steps"))["columns"]
    assert [metrics["accuracy"] for metrics in columns["metrics"]] == written
    events = ok(http.get(f"{run.path}/events", headers={"Accept": "application/json"}))["items"]
    assert [event["data"]["metrics"]["accuracy"] for event in events if event["type"] == "step"] == written
    trial = ok(http.get(run.path))
    assert (trial["best_value"], trial["best_step"], trial["value"]) == (0.7, 4, None)
    run.number = 5
    run.checkpoint()
    with server.sessions.begin() as session:  # step 6 is withdrawn, and the rest is ranked in SQL
        rollback.roll_back(session, run.id)
    trial = ok(http.get(run.path))
    assert (trial["step"], trial["best_value"], trial["best_step"], trial["value"]) == (5, 0.7, 4, None)

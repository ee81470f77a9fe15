"""Studies that come again: deleted ones are restored until they are purged, and all are copied."""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from uuid import UUID, uuid4

import numpy as np
import pytest
from safetensors.numpy import load, save
from sqlalchemy import JSON, func, select, update

from nestor.schemas import State
from nestor_server.models import Base, Blob, Distribution, Study, Trial, WebhookDelivery, Worker
from nestor_server.scheduling import leases, recording
from nestor_server.services import study_copies
from nestor_server.storage import garbage_collection
from tests.server.conftest import SPEC, Run, ok, problem

# --- restore --------------------------------------------------------------------------------------


def deleted(http) -> list[dict]:
    return ok(http.get("/studies", params={"deleted": True}))["items"]


def test_a_deleted_study_is_listed_and_restored_with_its_trials(http, study, submit, run):
    run.record(3)
    run.finish()
    queued = submit()
    before = ok(http.get(f"/studies/{study}"))
    ok(http.delete(f"/studies/{study}"))
    (listed,) = deleted(http)
    assert (listed["id"], ok(http.get("/studies"))["items"]) == (study, [])
    at, until = (datetime.fromisoformat(listed[name]) for name in ("deleted_at", "purged_after"))
    assert until - at == timedelta(days=run.server.settings.keep_unused_days)

    restored = ok(http.post(f"/studies/{study}/restore"))
    changed = {"updated_at": restored["updated_at"], "trial_counts": {"complete": 1, "cancelled": 1}}
    assert restored == before | changed
    assert deleted(http) == []
    assert ok(http.get(run.path))["state"] == "complete"
    assert ok(http.get(f"/trials/{queued['id']}"))["state"] == "cancelled"
    assert submit()["number"] == 2


def test_a_trial_that_runs_when_its_study_is_deleted_is_cancelled_though_the_study_is_restored(http, study, run):
    run.record(2)
    ok(http.delete(f"/studies/{study}"))
    ok(http.post(f"/studies/{study}/restore"))
    assert ok(http.get(run.path))["desired"] == "cancel"
    run.finish(State.cancelled)
    assert ok(http.get(f"/studies/{study}"))["trial_counts"] == {"cancelled": 1}


def test_a_name_that_is_taken_meanwhile_is_refused_and_another_can_be_given(http, study):
    ok(http.delete(f"/studies/{study}"))
    ok(http.post("/studies", json={"name": "study"}))
    path = f"/studies/{study}/restore"
    document = problem(http.post(path), 409, "study-name-taken")
    assert '"name"' in document["detail"]
    problem(http.post(path, json={"name": "study"}), 409, "study-name-taken")
    assert len(deleted(http)) == 1
    assert ok(http.post(path, json={"name": "again"}))["name"] == "again"
    assert {item["name"] for item in ok(http.get("/studies"))["items"]} == {"study", "again"}


def test_restoring_twice_has_one_effect(http, study):
    ok(http.delete(f"/studies/{study}"))
    first = ok(http.post(f"/studies/{study}/restore", json={"name": "again"}))
    assert ok(http.post(f"/studies/{study}/restore", json={"name": "again"})) == first
    assert ok(http.post(f"/studies/{study}/restore")) == first
    problem(http.post(f"/studies/{study}/restore", json={"name": "other"}), 409, "study-not-deleted")


def test_two_deleted_studies_of_one_name_are_told_apart_by_their_ids(http, study):
    ok(http.delete(f"/studies/{study}"))
    second = ok(http.post("/studies", json={"name": "study"}))["id"]
    ok(http.delete(f"/studies/{second}"))
    assert [item["id"] for item in deleted(http)] == [second, study]
    ok(http.post(f"/studies/{study}/restore"))
    problem(http.post(f"/studies/{second}/restore"), 409, "study-name-taken")


def test_what_was_purged_or_is_anothers_is_not_found(server, http, stranger, study):
    ok(http.delete(f"/studies/{study}"))
    problem(stranger.post(f"/studies/{study}/restore"), 404, "study-not-found")
    problem(stranger.post(f"/studies/{study}/copy", json={"name": "mine"}), 404, "study-not-found")
    assert deleted(stranger) == []
    with server.sessions.begin() as session:
        long_ago = func.now() - timedelta(days=server.settings.keep_unused_days + 1)
        session.execute(update(Study).where(Study.id == UUID(study)).values(deleted_at=long_ago))
        garbage_collection.purge_expired(session)
    problem(http.post(f"/studies/{study}/restore"), 404, "study-not-found")
    problem(http.post(f"/studies/{uuid4()}/restore"), 404, "study-not-found")


# --- copy -----------------------------------------------------------------------------------------

RECORDS = ("/steps", "/hyperparameters", "/logs", "/attempts", "/confirmation")


@pytest.fixture
def trained(run: Run) -> Run:
    """A complete trial with steps, log, snapshots, a checkpoint and a result."""
    run.record(5, seconds=10.0, logs=(recording.LogRecord(2, "hello"),))
    run.snapshot(5, {"l2": np.arange(3, dtype=np.float32)})
    run.record(0, results=(recording.TensorFile(5, save({"w.a": np.zeros(2, np.float32)})),))
    run.checkpoint()
    run.finish()
    return run


def events(http, trial: str) -> list[dict]:
    return ok(http.get(f"/trials/{trial}/events", params={"wait": 0}, headers={"Accept": "application/json"}))["items"]


def test_every_table_with_records_of_trials_is_copied():
    tables = {mapper.class_ for mapper in Base.registry.mappers if "trial_id" in mapper.columns}
    assert tables - {*study_copies.RECORDS} == {Worker, WebhookDelivery}


def test_a_copy_has_the_finished_trials_with_all_that_they_recorded(http, study, submit, trained):
    patch = {"tags": ["a"], "note": "n", "user_attrs": {"k": [1]}}
    ok(http.patch(f"/studies/{study}", json=patch))
    ok(http.patch(trained.path, json=patch))
    submit()  # queued
    failed = Run(trained.server, UUID(submit()["id"]))
    failed.record(1)
    failed.finish(State.failed, {"detail": "broken"})
    running = Run(trained.server, UUID(submit()["id"]))
    running.record(1)

    answer = http.post(f"/studies/{study}/copy", json={"name": "copy"})
    made = ok(answer)
    assert (answer.status_code, answer.headers["Location"]) == (201, f"/api/v1/studies/{made['id']}")
    source = ok(http.get(f"/studies/{study}"))
    new = ("id", "name", "created_at", "updated_at", "trial_counts", "best_trial_id")
    assert made == source | {name: made[name] for name in new}
    assert (made["name"], made["trial_counts"]) == ("copy", {"complete": 1, "failed": 1})

    copies = ok(http.get(f"/studies/{made['id']}/trials", params={"order": "asc"}))["items"]
    for number, (copied, original) in enumerate(zip(copies, (trained, failed), strict=True)):
        there = ok(http.get(original.path))
        alone = {name: copied[name] for name in there}
        assert alone == there | {"id": copied["id"], "study_id": made["id"], "number": number}
        path = f"/trials/{copied['id']}"
        for records in RECORDS[:-1]:
            assert ok(http.get(path + records)) == ok(http.get(original.path + records)), records
        assert events(http, copied["id"]) == events(http, str(original.id))
    path = f"/trials/{copies[0]['id']}"
    for file in ("/hyperparameters.safetensors", "/hyperparameters/l2", "/checkpoint.safetensors"):
        assert load(http.get(path + file).content).keys() == load(http.get(trained.path + file).content).keys()
    assert ok(http.get(path + "/confirmation"))["step"] == 5
    assert ok(http.post(f"/studies/{made['id']}/trials", json=SPEC))["number"] == 2


def test_a_copy_and_its_source_live_on_without_each_other(server, http, study, trained):
    made = ok(http.post(f"/studies/{study}/copy", json={"name": "copy"}))["id"]
    (copied,) = ok(http.get(f"/studies/{made}/trials"))["items"]
    ok(http.patch(trained.path, json={"tags": ["changed"]}))
    ok(http.post(f"/trials/{copied['id']}/extend", json={"steps": 3}))
    with server.sessions.begin() as session:
        lease = leases.claim(session, UUID(copied["id"]), "worker")
        blobs = select(func.count()).select_from(Blob).join(Study, Study.owner_id == Blob.owner_id)
        n_blobs = session.scalar(blobs.where(Study.id == UUID(made)))
    assert (lease is not None, n_blobs) == (True, 3)
    ok(http.delete(f"/studies/{study}"))
    with server.sessions.begin() as session:
        long_ago = func.now() - timedelta(days=server.settings.keep_unused_days + 1)
        session.execute(update(Study).where(Study.id == UUID(study)).values(deleted_at=long_ago))
        session.execute(update(Blob).values(created_at=long_ago, wanted_at=None))
        garbage_collection.purge_expired(session)
    assert ok(http.get(f"/trials/{copied['id']}"))["tags"] == []
    assert http.get(f"/trials/{copied['id']}/hyperparameters.safetensors").is_success


def test_a_confirmation_is_copied_as_that_of_the_copied_trial(http, study, trained):
    asked = ok(http.post(f"{trained.path}/confirm", json={"seeds": 2}))
    for run in asked["runs"]:
        done = Run(trained.server, UUID(run["trial"]))
        done.record(5)
        done.finish()
    other = ok(http.post("/studies", json={"name": "elsewhere"}))["id"]
    warm = ok(http.post(f"/studies/{other}/trials", json=SPEC | {"warm_start": {"trial": str(trained.id)}}))
    ok(http.post(f"/trials/{warm['id']}/cancel"))
    made = ok(http.post(f"/studies/{study}/copy", json={"name": "copy"}))["id"]
    copies = {trial["number"]: trial["id"] for trial in ok(http.get(f"/studies/{made}/trials"))["items"]}
    found = ok(http.get(f"/trials/{copies[0]}/confirmation"))
    assert [run["trial"] for run in found["runs"]] == [copies[run["number"]] for run in found["runs"]]
    assert len(found["runs"]) == len(asked["runs"]) == 4
    assert {run["state"] for run in found["runs"]} == {"complete"}
    again = ok(http.post(f"/studies/{other}/copy", json={"name": "copy elsewhere"}))["id"]
    (copied,) = ok(http.get(f"/studies/{again}/trials"))["items"]
    assert copied["spec"]["warm_start"] == warm["spec"]["warm_start"]  # it started from what is not copied


def test_a_copy_is_made_once_per_idempotency_key(http, study, trained):
    body, key = {"name": "copy"}, {"Idempotency-Key": str(uuid4())}
    first, second = (http.post(f"/studies/{study}/copy", json=body, headers=key) for _ in range(2))
    assert (first.json(), second.headers["Idempotency-Replayed"]) == (second.json(), "true")
    problem(http.post(f"/studies/{study}/copy", json=body), 409, "study-name-taken")
    problem(http.post(f"/studies/{study}/copy", json={"name": "study"}), 409, "study-name-taken")
    assert len(ok(http.get("/studies"))["items"]) == 2


def test_a_study_without_trials_is_copied_and_a_deleted_one_is_not(http, study):
    ranked = ok(http.post("/studies", json={"name": "ranked", "metric": "accuracy", "direction": "maximize"}))["id"]
    made = ok(http.post(f"/studies/{ranked}/copy", json={"name": "copy"}))
    assert (made["metric"], made["direction"], made["trial_counts"]) == ("accuracy", "maximize", {})
    ok(http.delete(f"/studies/{study}"))
    problem(http.post(f"/studies/{study}/copy", json={"name": "other"}), 404, "study-not-found")


@pytest.mark.parametrize("limit", ["MAX_TRIALS", "MAX_ENTRIES", "MAX_BYTES"])
def test_what_is_too_large_to_copy_is_refused_and_leaves_nothing(server, http, study, trained, limit):
    """The limits themselves, with this study's own size: a study of the real size takes minutes to make."""
    del trained
    with server.sessions() as session:
        owner = session.scalars(select(Study).where(Study.id == UUID(study))).one()
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(study_copies, limit, 0)
            with pytest.raises(study_copies.StudyTooLarge) as caught:
                study_copies._finished(session, owner)
        assert study_copies._finished(session, owner)
    assert "may have at most 0" in str(caught.value)


def test_large_values_count_in_whichever_column_they_are(server, study, trained):
    def n_bytes() -> int:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(study_copies, "MAX_BYTES", 0)
            with pytest.raises(study_copies.StudyTooLarge) as caught:
                study_copies._finished(session, source)
        return int(str(caught.value.context["amount"]).split()[0].replace(",", ""))

    large = {"large": os.urandom(10_000).hex()}
    tables = (Trial, *study_copies.RECORDS)
    columns = [(table, one) for table in tables for one in table.__table__.columns if one.computed is None]
    of_any_size = [(table, one) for table, one in columns if isinstance(one.type, JSON) or one.name == "note"]
    assert len(of_any_size) >= 10
    with server.sessions() as session:
        session.add(Distribution(trial_id=trained.id, number=1, data={}))
        source = session.get_one(Study, UUID(study))
        for table, column in of_any_size:
            before = n_bytes()
            value = large["large"] if column.name == "note" else large
            of_trial = table.__table__.c["id" if table is Trial else "trial_id"] == trained.id
            session.execute(update(table).where(of_trial).values({column.name: value}))
            assert n_bytes() > before + 10_000, column
        session.rollback()


def test_a_running_source_is_not_disturbed(server, http, study, run):
    """A copy waits for no running trial, and no running trial waits for it."""
    run.record(2)
    with server.sessions.begin() as session:
        session.scalars(select(Trial).where(Trial.id == run.id).with_for_update()).one()
        assert ok(http.post(f"/studies/{study}/copy", json={"name": "copy"}))["trial_counts"] == {}

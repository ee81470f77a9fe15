"""A database that an earlier version left is opened, read, and gone on with as it would have been there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import pytest

import nestor
from nestor import Client
from nestor_engine.program.load import torch_version
from nestor_server import database, revisions
from nestor_server.settings import Settings
from testbed.server import Server, new_database, serving, wait_for
from testbed.services import Services
from testbed.worker import running_worker
from tests.engine.pins import BITWISE
from tests.landed import LEFT, recorded, restore, weights_of
from tests.landed.problems import PROBLEMS
from tests.server.conftest import ok

LANDED: dict[str, Any] = json.loads(LEFT.read_text())
TRIALS: dict[str, str] = LANDED["trials"]
TORCH = "2.13"  # a program is bound to its version
IMPATIENT = {"reap_seconds": 0.3, "requeue_after_seconds": 1.5}
ENDED = ("complete", "failed", "cancelled")
BROKER = 9  # a database of Valkey that no other test uses


@contextmanager
def opened(services: Services, redis_db: int) -> Iterator[Server]:
    redis_url = services.redis_url.rpartition("/")[0] + f"/{redis_db}"
    with new_database(services) as url:
        restore(url)
        revisions.migrate(url)
        with serving({"database_url": url, "redis_url": redis_url} | IMPATIENT) as server:
            yield server


@pytest.fixture(scope="module")
def at_rest(services: Services) -> Iterator[Client]:
    """A client of the trials' owner, with the old token; no worker runs."""
    with opened(services, BROKER) as server, Client(server.url, LANDED["token"]) as client:
        yield client


def begin_warm(client: Client) -> str:
    """The submission of `program warm`, repeated."""
    study = nestor.load_study("by program", server=client)
    start = next(trial for trial in study.trials if str(trial.id) == TRIALS["program"])
    how: dict[str, Any] = {
        "inner": nestor.Adam(0.02),
        "inner_steps": 3,
        "batch_size": 7,
        "outer": nestor.RMSprop(0.05),
        "val_batch_size": 6,
        "evaluate_every": 3,
    }
    return str(study.optimize(PROBLEMS["adam in float32"](), 2, **how, warm_start=start, wait=False).id)


def test_it_is_migrated_to_this_version(services: Services):
    with new_database(services) as url:
        restore(url)
        assert revision(url) == "0004"
        revisions.migrate(url)
        assert revision(url) == revisions.head()


def revision(url: str) -> str | None:
    settings = Settings(database_url=url)
    engine = database.make_engine(settings)
    try:
        with database.make_sessions(engine, settings)() as session:
            return revisions.revision(session)
    finally:
        engine.dispose()


def test_its_studies_are_listed_to_their_owner(at_rest: Client):
    assert at_rest.me().user == "ada"
    studies = {study.name: study for study in at_rest.studies()}
    assert set(studies) == {"digits", "by program"}  # neither the deleted one nor somebody else's
    assert studies["digits"].tags == ("landed", "small")
    assert studies["digits"].user_attrs == {"note": ["kept", 1.5]}
    counts = {state: n for study in studies.values() for state, n in study.trial_counts.items()}
    assert {"complete", "failed", "cancelled", "paused", "queued"} <= set(counts)


@pytest.mark.parametrize("label", TRIALS)
def test_a_trial_is_read_as_it_was_left(at_rest: Client, label: str):
    found, left = recorded(at_rest, TRIALS[label]), LANDED["before"][label]
    if label == "running":  # its worker is gone, which the server sees at once
        assert found["state"] in ("running", "queued")
        found["state"] = "running"
    assert found == left


def test_what_is_kept_beside_the_numbers_is_read(at_rest: Client):
    read = lambda label: at_rest.trial(UUID(TRIALS[label]))
    complete = nestor.Trial(at_rest, read("complete"))
    assert complete.user_attrs == {"k": [1]}
    assert set(complete.hparams_at(0).transformed) == {"example_weights", "l2"}
    assert [event.type.value for event in complete.events()][-1] == "end"
    assert [attempt.number for attempt in at_rest.attempts(UUID(TRIALS["extended"]))] == [1, 2]
    assert read("warm").spec.warm_start == nestor.WarmStart(trial=UUID(TRIALS["complete"]), step=6)
    assert read("queued").priority == -1
    failure = read("failed").error
    assert failure is not None
    assert "Step 1:" in failure["detail"]


def test_trained_weights_can_be_loaded(at_rest: Client):
    assert weights_of(at_rest, TRIALS["program"]) == pytest.approx(LANDED["weights"], rel=1e-6)


def test_trials_continue_as_in_that_version_and_others_start_where_they_ended(services: Services):
    """One test, because each trial costs the start of a runner."""
    with (
        opened(services, BROKER + 1) as server,
        running_worker(server, NESTOR_CONCURRENCY=2),
        Client(server.url, LANDED["token"]) as client,
        server.http(LANDED["token"]) as http,
    ):
        trial = lambda trial_id: ok(http.get(f"/trials/{trial_id}"))

        def until_all_ended(trials: list[str]) -> None:
            ended = lambda: all(trial(trial_id)["state"] in ENDED for trial_id in trials)
            wait_for(ended, "all trials to end", seconds=300)

        spec = (warm := trial(TRIALS["warm"]))["spec"]
        anew = {"warm": ok(http.post(f"/studies/{warm['study_id']}/trials", json=spec))["id"]}
        same_torch = torch_version() == TORCH
        if same_torch:
            anew["program warm"] = begin_warm(client)
        until_all_ended(list(anew.values()))  # for where they start may be thinned out when that trial goes on
        for label in ("paused", "program paused") if same_torch else ("paused",):
            ok(http.post(f"/trials/{TRIALS[label]}/resume"))
        ok(http.post(f"/trials/{TRIALS['complete']}/extend", json={"steps": 3}))
        went_on = [label for label in TRIALS if same_torch or label != "program paused"]
        until_all_ended([TRIALS[label] for label in went_on])
        for label in went_on:
            expect(recorded(client, TRIALS[label]), LANDED["after"][label], label)
        for label, trial_id in anew.items():
            expect(recorded(client, trial_id), LANDED["before"][label], f"{label} anew")


def expect(found: dict[str, Any], landed: dict[str, Any], label: str) -> None:
    """The same trial; recomputed numbers agree up to the rounding of another processor."""
    if BITWISE:
        assert found == landed, label
    exact = ("state", "step", "n_steps", "error")
    assert {name: found[name] for name in exact} == {name: landed[name] for name in exact}, label
    for what in ("steps", "hparams"):
        assert found[what].keys() == landed[what].keys(), label
        for name, values in landed[what].items():
            assert [x is None for x in found[what][name]] == [x is None for x in values], (label, name)
            numbers, expected = ([x for x in row if x is not None] for row in (found[what][name], values))
            assert numbers == pytest.approx(expected, rel=0.02, abs=0.02), (label, name)

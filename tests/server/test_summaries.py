"""The course of one hyperparameter: which steps an answer has, what is kept, and what it costs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from sqlalchemy import Text, cast, func, insert, select, text, update

import nestor
from nestor import lifecycle
from nestor.local import summaries as local
from nestor.schemas import (
    FEWEST_POINTS,
    MOST_POINTS,
    Distribution,
    Distributions,
    HyperparameterInfo,
    HyperparameterSummary,
    TensorSummary,
)
from nestor_server.models import Distribution as Row
from nestor_server.models import Step, StepNumbers, Trial
from nestor_server.scheduling import recording, rollback
from nestor_server.scheduling.recording import RecordedBatch
from nestor_server.services.records import summaries
from tests.server.conftest import Run, ok, problem, step

FIELDS = tuple(TensorSummary.model_fields)
DECAY = HyperparameterInfo(name="decay", shape=(100,), dtype="float32", transform="exp", least=-9.0)
L2 = HyperparameterInfo(name="l2", shape=(), dtype="float32", transform="identity")
PLAIN = {"Accept-Encoding": "identity"}


def distribution(number: int) -> Distribution:
    return Distribution(quantiles=(0, 1, 2, 3, 4, 5, 6.5 + number), first=-number, width=0.25, counts=(1, 0, number))


def distributions(*numbers: int) -> tuple[Distributions, ...]:
    return tuple(Distributions(number=n, tensors={"decay": distribution(n)}) for n in numbers)


def summary(number: int, **changes: float | None) -> TensorSummary:
    given = {"min": -number, "max": number, "mean": 0.5, "std": 1 / number, "gradient_norm": 0.1, "update_norm": 0.2}
    return TensorSummary.model_validate(given | changes)


def put(run: Run, of_decay: Sequence[TensorSummary | None]) -> None:
    """Steps with these summaries of one hyperparameter, written by SQL."""
    rows: list[dict[str, Any]] = []
    for n, one in enumerate(of_decay, 1):
        named = {} if one is None else {"decay": one.model_dump(mode="json")}
        data = step(n).model_dump(mode="json") | {"hyperparameters": named}
        rows.append({"trial_id": run.id, "number": n, "seq": 10 + n, "data": data})
    with run.server.sessions.begin() as session:
        session.execute(insert(Step), rows)
        declared = [DECAY.model_dump(mode="json"), L2.model_dump(mode="json")]
        changes = {"step": len(rows), "seq": len(rows) + 10, "hyperparameters": declared}
        session.execute(update(Trial).where(Trial.id == run.id).values(**changes))
    run.number = len(rows)


def kept(run: Run) -> list[int]:
    with run.server.sessions() as session:
        return list(session.scalars(select(Row.number).where(Row.trial_id == run.id).order_by(Row.number)))


def read(http, run: Run, name: str = "decay", **params: Any) -> dict[str, Any]:
    return ok(http.get(f"{run.path}/hyperparameters/{name}/summary", params=params))


# --- the answer -----------------------------------------------------------------------------------


def test_an_answer_has_what_was_recorded_of_one_hyperparameter(http, run):
    run.record(0, hyperparameters=(DECAY, L2), distributions=distributions(0))
    steps = [
        step(n).model_copy(update={"hyperparameters": {"decay": summary(n, gradient_cosine=0.5), "l2": summary(9)}})
        for n in (1, 2)
    ]
    with run.server.sessions.begin() as session:
        batch = RecordedBatch(steps=tuple(steps), distributions=distributions(1, 2))
        recording.record(session, run.lease, batch)
    found = read(http, run)
    assert {name: found[name] for name in HyperparameterInfo.model_fields} == DECAY.model_dump(mode="json")
    assert found["columns"] == {
        "number": [1, 2],
        **{name: [getattr(one.hyperparameters["decay"], name) for one in steps] for name in FIELDS},
    }
    expected = {name: [getattr(distribution(n), name) for n in (0, 1, 2)] for name in Distribution.model_fields}
    assert found["distributions"] == {
        "number": [0, 1, 2],
        **{name: [list(v) if isinstance(v, tuple) else v for v in values] for name, values in expected.items()},
    }
    assert found["next_after"] is None
    assert read(http, run, after=1)["columns"]["number"] == [2]
    assert read(http, run, after=1)["distributions"]["number"] == [2]
    alone = read(http, run, "l2")
    assert (alone["columns"]["max"], alone["distributions"]["number"]) == ([9, 9], [])


def test_a_client_that_has_the_version_gets_304_and_others_get_gzip(http, run):
    put(run, [summary(n) for n in range(1, 101)])
    path = f"{run.path}/hyperparameters/decay/summary"
    first = http.get(path, headers={"Accept-Encoding": "gzip"})
    assert first.headers["Content-Encoding"] == "gzip"
    assert http.get(path, headers={"If-None-Match": first.headers["ETag"]}).status_code == 304
    run.record(0, distributions=distributions(100))  # it has no event of its own
    assert http.get(path, headers={"If-None-Match": first.headers["ETag"]}).status_code == 200


def test_an_unknown_name_is_not_found_and_the_known_ones_are_listed(http, run, stranger):
    nothing = problem(http.get(f"{run.path}/hyperparameters/decay/summary"), 404, "hyperparameter-unknown")
    assert "it has none." in nothing["detail"]
    put(run, [summary(1)])
    unknown = problem(http.get(f"{run.path}/hyperparameters/dekay/summary"), 404, "hyperparameter-unknown")
    assert "no hyperparameter 'dekay'; it has 'decay', 'l2'." in unknown["detail"]
    problem(stranger.get(f"{run.path}/hyperparameters/decay/summary"), 404, "trial-not-found")
    for wrong in (FEWEST_POINTS - 1, MOST_POINTS + 1):
        path = f"{run.path}/hyperparameters/decay/summary"
        problem(http.get(path, params={"max_points": wrong}), 422, "validation-failed")


def test_steps_of_an_earlier_version_have_no_distributions_and_maybe_no_summaries(http, run):
    put(run, [None, summary(2)])
    found = read(http, run)
    assert found["columns"]["number"] == [1, 2]
    assert found["columns"]["min"] == [None, -2]
    assert found["columns"]["touched"] == [None, None]
    assert found["distributions"] == {name: [] for name in ("number", *Distribution.model_fields)}


# --- thinning -------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_points", [FEWEST_POINTS, 200])
def test_a_long_course_has_its_ends_and_its_extremes(http, run, max_points):
    changes = {700: {"gradient_norm": 50.0}, 1_800: {"min": -9e9}, 1_999: {"gradient_cosine": -1.0}}
    put(run, [summary(n, **changes.get(n, {})) for n in range(1, 2_001)])
    found = read(http, run, max_points=max_points)["columns"]
    assert {1, 700, 1_800, 1_999, 2_000} <= set(found["number"])
    assert len(found["number"]) <= max_points
    assert found["min"][found["number"].index(1_800)] == -9e9
    assert {len(column) for column in found.values()} == {len(found["number"])}


@pytest.mark.parametrize(("after", "max_points"), [(0, 100), (500, 100), (0, 1_000), (0, 2_000)])
def test_a_trial_in_this_process_says_the_same(http, run, after, max_points):
    rng = np.random.default_rng(0)
    noisy = [
        summary(
            n, gradient_norm=rng.normal(), at_bounds=float(n // 400), gradient_cosine=None if n % 3 else rng.normal()
        )
        for n in range(1, 1_501)
    ]
    put(run, noisy)
    interval = lifecycle.distribution_interval(1_500, 1)
    due = [*range(0, 1_501, interval)]
    run.record(0, distributions=distributions(*due))
    steps = [step(n).model_copy(update={"hyperparameters": {"decay": one}}) for n, one in enumerate(noisy, 1)]
    held = {n: {"decay": distribution(n)} for n in due}
    found = read(http, run, after=after, max_points=max_points)
    held = {n: one for n, one in held.items() if after == 0 or n > after}
    ours = local.summary(DECAY, steps[after:], held, max_points=max_points, seq=found["seq"])
    assert HyperparameterSummary.model_validate(found) == ours


@pytest.mark.parametrize("max_points", [500, MOST_POINTS])
def test_of_many_hyperparameters_only_some_steps_are_considered(http, run, max_points):
    """A record has the summaries of all, so that the longest trial would be read for minutes."""
    put(run, [summary(n) for n in range(1, 1_001)])
    many = [HyperparameterInfo(name=f"l2.{i}", shape=(), dtype="float32", transform="exp") for i in range(1_999)]
    with run.server.sessions.begin() as session:
        declared = [one.model_dump(mode="json") for one in (DECAY, *many)]
        session.execute(update(Trial).where(Trial.id == run.id).values(hyperparameters=declared))
    stride = 1_000 * len(declared) // summaries.MAX_SUMMARIES
    numbers = read(http, run, max_points=max_points)["columns"]["number"]
    assert stride == 4
    assert max_points < 1_000 or len(numbers) == 1_000 // stride + 1
    assert (numbers[0], numbers[-1]) == (1, 1_000)
    assert all(number % stride == 0 for number in numbers[1:])
    unknown = problem(http.get(f"{run.path}/hyperparameters/l3/summary"), 404, "hyperparameter-unknown")
    assert unknown["detail"].count("l2.") < 50


def test_a_hundred_thousand_steps_are_one_bounded_answer(server, http, run):
    n = 100_000
    with server.sessions.begin() as session:
        record = {"number": 1, "hyperparameters": {"decay": summary(3).model_dump(mode="json")}}
        made = """
            INSERT INTO steps (trial_id, number, seq, data)
            SELECT :trial, n, 10 + n, CAST(:data AS jsonb) || jsonb_build_object('number', n)
            FROM generate_series(1, :n) n
        """
        session.execute(text(made), {"trial": run.id, "data": json.dumps(record), "n": n + 500})
        changes = {"step": n + 500, "seq": n + 510, "hyperparameters": [DECAY.model_dump(mode="json")]}
        session.execute(update(Trial).where(Trial.id == run.id).values(**changes))
    counts = tuple(range(10**6, 10**6 + 64))
    large = Distribution(quantiles=(-1.1234567890123456e-300,) * 7, first=-(2**40), width=2.0**-100, counts=counts)
    interval = lifecycle.distribution_interval(n, 1)
    for number in range(0, n, interval * 100):
        part = range(number, min(number + interval * 100, n + 1), interval)
        run.record(0, distributions=tuple(Distributions(number=one, tensors={"decay": large}) for one in part))
    response = http.get(f"{run.path}/hyperparameters/decay/summary", headers=PLAIN)
    found = ok(response)
    assert found["next_after"] == n
    assert len(found["columns"]["number"]) <= 1_000
    assert len(found["distributions"]["number"]) == n // interval + 1
    assert len(response.content) < 1_000 * (len(FIELDS) + 1) * 25 + 1_026 * lifecycle.DISTRIBUTION_BYTES
    few = read(http, run, max_points=100)["distributions"]["number"]
    assert 50 < len(few) <= 100
    assert few[:2] == [0, few[1]]
    with nestor.Client(server.url, http.headers["Authorization"].removeprefix("Bearer ")) as client:
        whole = client.hyperparameter_summary(run.id, "decay", max_points=100)
    numbers = whole.columns["number"]
    assert (numbers[0], numbers[-1]) == (1, n + 500)
    assert numbers == sorted(number for number in numbers if number is not None)
    assert whole.distributions.number == few


# --- what is kept ---------------------------------------------------------------------------------


def test_the_distributions_of_a_trial_stay_within_their_bound(run):
    """One of the largest tensors, with the longest numbers, takes less than a kilobyte."""
    n, most = 3_000, lifecycle.MAX_DISTRIBUTIONS
    run.record(0, hyperparameters=(DECAY,))
    for first in range(0, n, 250):
        run.record(0, distributions=distributions(*range(first, first + 250)))
    assert lifecycle.distribution_interval(n - 1, 1) == 4
    assert kept(run) == sorted({*range(0, n, 4), n - 1})
    assert len(kept(run)) <= most + 2
    longest = Distribution(
        quantiles=(-2.2250738585072014e-308,) * 7, first=-(2**53), width=2.0**-100, counts=(15_625_000,) * 64
    )
    with run.server.sessions.begin() as session:
        session.execute(insert(Row), {"trial_id": run.id, "number": n + 1, "data": {"a" * 60: longest.model_dump()}})
        size = select(func.octet_length(cast(Row.data, Text))).where(Row.trial_id == run.id, Row.number == n + 1)
        assert session.scalars(size).one() <= lifecycle.DISTRIBUTION_BYTES


def test_many_hyperparameters_share_the_bound(run):
    infos = tuple(
        HyperparameterInfo(name=f"l2.{i}", shape=(10,), dtype="float32", transform="exp") for i in range(2_000)
    )
    run.record(0, hyperparameters=(*infos, L2))
    run.record(0, distributions=distributions(*range(65)))
    assert kept(run) == [0, 8, 16, 24, 32, 40, 48, 56, 64]
    assert 9 * 2_000 * lifecycle.DISTRIBUTION_BYTES <= lifecycle.DISTRIBUTIONS_BYTES


def test_what_is_kept_is_the_same_after_a_lost_lease(run, submit):
    def record(one: Run, first: int, last: int) -> None:
        every = range(first, last + 1)
        due = [n for n in every if n % lifecycle.distribution_interval(n, 1) == 0]
        one.record(last - one.number, distributions=distributions(*due))

    run.record(0, hyperparameters=(DECAY,))
    record(run, 0, 900)
    record(run, 901, 2_500)
    other = Run(run.server, UUID(submit()["id"]))
    other.record(0, hyperparameters=(DECAY,))
    record(other, 0, 700)
    other.checkpoint()
    record(other, 701, 1_300)
    # The attempt ends at a step that is not due: its last distributions are kept, until later ones are recorded.
    other.record(7, distributions=distributions(1_307))
    assert kept(other)[-2:] == [1_300, 1_307]
    with other.server.sessions.begin() as session:
        rollback.roll_back(session, other.id)
    assert kept(other) == list(range(0, 701, 2))
    assert numbered(other) == list(range(1, 701))
    other.number = 700
    record(other, 701, 2_500)
    assert kept(other) == kept(run)
    assert numbered(other) == numbered(run) == list(range(1, 2_501))


def numbered(run: Run) -> list[int]:
    with run.server.sessions() as session:
        query = select(StepNumbers.number).where(StepNumbers.trial_id == run.id).order_by(StepNumbers.number)
        return list(session.scalars(query))


def test_events_and_steps_are_as_large_as_without_distributions(http, run):
    run.record(3, hyperparameters=(DECAY,))
    before = http.get(f"{run.path}/steps", headers=PLAIN).content
    events = ok(http.get(f"{run.path}/events", headers={"Accept": "application/json"}))["items"]
    run.record(0, distributions=distributions(0, 1, 2, 3))
    assert http.get(f"{run.path}/steps", headers=PLAIN).content == before
    assert ok(http.get(f"{run.path}/events", headers={"Accept": "application/json"}))["items"] == events

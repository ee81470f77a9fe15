"""Every hyperparameter of a trial in one line: what a table of a trial reads, in one bounded answer."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from safetensors.numpy import save
from sqlalchemy import text, update

from nestor import lifecycle
from nestor.schemas import (
    DEFAULT_COURSE_POINTS,
    MOST_COURSE_POINTS,
    MOST_COURSES,
    Distribution,
    Distributions,
    HyperparameterCourses,
    HyperparameterInfo,
    TensorSummary,
)
from nestor_server.models import Trial
from nestor_server.scheduling import recording, rollback
from nestor_server.scheduling.recording import RecordedBatch
from nestor_server.services.records import courses
from tests.server.conftest import Run, ok, problem, step

SHAPES = {"wide": (3, 4), "bias": (5,), "rate": (), "one": (1, 1)}
INFOS = tuple(
    HyperparameterInfo(name=name, shape=shape, dtype="float32", transform="exp") for name, shape in SHAPES.items()
)
PLAIN = {"Accept-Encoding": "identity"}


def summary(number: int, norm: float = 0.1, value: float | None = None) -> TensorSummary:
    least, largest = (-number, number) if value is None else (value, value)
    return TensorSummary(min=least, max=largest, mean=0.5, std=0.25, gradient_norm=norm, update_norm=0.2, touched=0.5)


def quantiles(name: str, number: int) -> tuple[float, ...]:
    at = len(name) + number
    return (at, at + 0.25, at + 0.5, at + 1, at + 2, at + 4, at + 8.5)


def distributions(*numbers: int) -> tuple[Distributions, ...]:
    def of(name: str, n: int) -> Distribution:
        return Distribution(quantiles=quantiles(name, n), first=0, width=0.5, counts=(1,))

    several = [info.name for info in INFOS if math.prod(info.shape) > 1]
    return tuple(Distributions(number=n, tensors={name: of(name, n) for name in several}) for n in numbers)


def record(run: Run, n: int, norms: dict[str, float] | None = None) -> None:
    """The next `n` steps. At step k the hyperparameter `rate` is k / 8, and `one` is −k."""
    numbers = range(run.number + 1, run.number + n + 1)
    due = [k for k in numbers if k % lifecycle.distribution_interval(k, 2) == 0]
    steps = [
        step(k).model_copy(
            update={
                "hyperparameters": {
                    name: summary(k, (norms or {}).get(name, 0.1), {"rate": k / 8, "one": -k}.get(name))
                    for name in SHAPES
                }
            }
        )
        for k in numbers
    ]
    run.number += n
    with run.server.sessions.begin() as session:
        batch = RecordedBatch(steps=tuple(steps), distributions=distributions(*due))
        recording.record(session, run.lease, batch)


@pytest.fixture
def begun(run: Run) -> Run:
    run.record(0, hyperparameters=INFOS, distributions=distributions(0))
    return run


def read(http, run: Run, **params: Any) -> dict[str, Any]:
    return ok(http.get(f"{run.path}/courses", params=params))


def by_name(page: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {item["name"]: item for item in page["items"]}


# --- the answer -----------------------------------------------------------------------------------


def test_each_hyperparameter_is_one_line_and_those_with_the_largest_share_come_first(http, begun):
    record(begun, 2)
    record(begun, 1, {"wide": 3.0, "bias": 0.0, "rate": 4.0, "one": 0.0})
    page = read(http, begun)
    assert HyperparameterCourses.model_validate(page).n == 4
    assert (page["step"], page["entries"], page["next_cursor"]) == (3, 12 + 5 + 1 + 1, None)
    assert [item["name"] for item in page["items"]] == ["rate", "wide", "bias", "one"]
    assert [item["share"] for item in page["items"]] == pytest.approx([16 / 25, 9 / 25, 0, 0])
    for item in page["items"]:
        name = item["name"]
        assert (item["shape"], item["entries"]) == (list(SHAPES[name]), math.prod(SHAPES[name]))
        assert item["transform"] == "exp"
        assert item["latest"]["gradient_norm"] == {"rate": 4.0, "wide": 3.0}.get(name, 0)
        TensorSummary.model_validate(item["latest"])
    found = {name: item["course"] for name, item in by_name(page).items()}
    for name in ("wide", "bias"):
        assert found[name] == {"number": [0, 1, 2, 3], "quantiles": [list(quantiles(name, n)) for n in range(4)]}
    assert found["rate"] == {"number": [1, 2, 3], "quantiles": [[n / 8] * 7 for n in (1, 2, 3)]}
    assert found["one"] == {"number": [1, 2, 3], "quantiles": [[-n] * 7 for n in (1, 2, 3)]}


def test_before_the_first_step_there_are_names_and_initial_values(http, run):
    assert read(http, run) | {"seq": 0} == {
        **{"items": [], "step": 0, "moved_step": None, "n": 0, "entries": 0, "next_cursor": None, "seq": 0}
    }
    run.record(0, hyperparameters=INFOS, distributions=distributions(0))
    page = read(http, run)
    assert [item["name"] for item in page["items"]] == sorted(SHAPES)
    for item in page["items"]:
        assert [item[key] for key in ("share", "moved", "latest")] == [None] * 3
        has_one = math.prod(SHAPES[item["name"]]) > 1
        assert item["course"]["number"] == ([0] if has_one else [])


@pytest.mark.parametrize(
    ("norms", "shares"),
    [((0.0, 0.0), (None, None)), ((3e200, 4e200), (0.36, 0.64)), ((3e-200, 4e-200), (0.36, 0.64)), ((1, 0), (1, 0))],
)
def test_shares_are_of_the_squared_norm_whatever_its_size(http, begun, norms, shares):
    record(begun, 1, {"wide": norms[0], "bias": norms[1], "rate": 0.0, "one": 0.0})
    found = by_name(read(http, begun))
    assert [found[name]["share"] for name in ("wide", "bias")] == pytest.approx(shares)


def test_steps_of_an_earlier_version_have_neither_statistics_nor_courses(http, begun):
    begun.record(2)
    for item in read(http, begun)["items"]:
        assert (item["latest"], item["share"]) == (None, None)
        assert item["course"]["number"] in ([0], [])


def test_a_client_that_has_the_version_gets_304_and_a_stranger_nothing(http, begun, stranger):
    record(begun, 1)
    path = f"{begun.path}/courses"
    tag = http.get(path).headers["ETag"]
    assert http.get(path, headers={"If-None-Match": tag}).status_code == 304
    record(begun, 1)
    assert http.get(path, headers={"If-None-Match": tag}).status_code == 200
    problem(stranger.get(path), 404, "trial-not-found")


def test_the_part_that_has_moved_is_that_of_the_latest_snapshot(http, begun):
    def snapshot(number: int, moved: dict[str, float] | None) -> recording.TensorFile:
        recorded = {"k": 1, "tensors": {}, **({} if moved is None else {"moved": moved})}
        return recording.TensorFile(number, save({"rate": np.ones(1, np.float32) * number}), entries=recorded)

    record(begun, 3)
    for number, moved in ((0, dict.fromkeys(SHAPES, 0.0)), (2, {"wide": 0.25, "bias": 1.0}), (3, None)):
        begun.record(0, snapshots=(snapshot(number, moved),))
        page = read(http, begun)
        assert page["moved_step"] == (None if moved is None else number)
        for name, item in by_name(page).items():
            assert item["moved"] == (moved or {}).get(name)
    begun.record(0, snapshots=(recording.TensorFile(4, save({"rate": np.ones(1, np.float32)})),))
    assert read(http, begun)["moved_step"] is None  # the snapshot of an earlier version


# --- pages ----------------------------------------------------------------------------------------


def test_pages_keep_the_order_of_the_first_one_while_the_trial_goes_on(http, begun):
    record(begun, 1, {"wide": 4.0, "bias": 3.0, "rate": 2.0, "one": 1.0})
    names, cursor = [], None
    while True:
        page = read(http, begun, limit=1, **({} if cursor is None else {"cursor": cursor}))
        record(begun, 1, {"wide": 1.0, "bias": 2.0, "rate": 3.0, "one": 4.0})
        assert (page["step"], page["n"], page["entries"]) == (1, 4, 19)
        names += [item["name"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert names == ["wide", "bias", "rate", "one"]
    assert [item["name"] for item in read(http, begun)["items"]] == names[::-1]


def test_a_cursor_of_another_list_is_refused(http, begun, submit):
    record(begun, 2)
    cursor = read(http, begun, limit=1)["next_cursor"]
    other = Run(begun.server, UUID(submit()["id"]))
    trials = ok(http.get(f"/studies/{ok(http.get(begun.path))['study_id']}/trials", params={"limit": 1}))
    for path, wrong in (
        (other.path, cursor),
        (begun.path, trials["next_cursor"]),
        (begun.path, "x"),
        (begun.path, cursor[:-2]),
    ):
        problem(http.get(f"{path}/courses", params={"cursor": wrong}), 422, "cursor-invalid")
    with begun.server.sessions.begin() as session:
        rollback.roll_back(session, begun.id)  # no checkpoint was written: its steps are gone
    problem(http.get(f"{begun.path}/courses", params={"cursor": cursor}), 422, "cursor-invalid")


@pytest.mark.parametrize(
    "params", [{"limit": 0}, {"limit": MOST_COURSES + 1}, {"max_points": 1}, {"max_points": MOST_COURSE_POINTS + 1}]
)
def test_a_page_has_a_size(http, begun, params):
    problem(http.get(f"{begun.path}/courses", params=params), 422, "validation-failed")


# --- what it costs --------------------------------------------------------------------------------


@pytest.mark.parametrize("max_points", [2, 3, 10, DEFAULT_COURSE_POINTS, MOST_COURSE_POINTS])
@pytest.mark.parametrize("n", [1, 23, 24, 300])
def test_a_course_has_its_ends_and_steps_at_equal_distances(http, begun, n, max_points):
    record(begun, n)
    for name, item in by_name(read(http, begun, max_points=max_points)).items():
        numbers = item["course"]["number"]
        first = 0 if math.prod(SHAPES[name]) > 1 else 1
        assert (numbers[0], numbers[-1]) == (first, n)
        assert len(item["course"]["quantiles"]) == len(numbers) <= max_points
        assert len(numbers) >= min(n, max_points // 2)
        assert len({after - before for before, after in pairwise(numbers[1:-1])}) <= 1


def test_of_a_thousand_tensors_and_a_hundred_thousand_steps_few_are_read(server, http, run):
    """The longest trial has gigabytes of records. What is read of them follows the answer."""
    n, tensors = 100_000, 1_000
    names = [f"decay.{i:03}" for i in range(tensors)]
    infos = [
        HyperparameterInfo(name=name, shape=(2, i % 2), dtype="float32", transform="exp").model_dump(mode="json")
        | {"shape": [] if i % 2 else [9]}
        for i, name in enumerate(names)
    ]
    of_step = {"number": 1, "hyperparameters": {name: summary(3).model_dump(mode="json") for name in names}}
    one = Distribution(quantiles=(-1.1234567890123456e-300,) * 7, first=0, width=1.0, counts=(1,)).model_dump()
    held = dict.fromkeys(names[::2], one)
    interval = lifecycle.distribution_interval(n, len(held))
    with server.sessions.begin() as session:
        # Only steps that a course of this length can have are readable: reading another one is an error.
        session.execute(
            text("""
                INSERT INTO steps (trial_id, number, seq, data)
                SELECT :trial, n, 10 + n,
                       CAST(CASE WHEN n % 1024 = 0 OR n IN (1, :n) THEN :data ELSE :none END AS jsonb)
                FROM generate_series(1, :n) n
            """),
            {"trial": run.id, "data": json.dumps(of_step), "n": n, "none": '{"hyperparameters": []}'},
        )
        session.execute(
            text("INSERT INTO distributions SELECT :trial, n, :data FROM generate_series(0, :n, :every) n"),
            {"trial": run.id, "data": json.dumps(held), "n": n, "every": interval},
        )
        session.execute(update(Trial).where(Trial.id == run.id).values(step=n, seq=n + 10, hyperparameters=infos))
    response = http.get(f"{run.path}/courses", headers=PLAIN)
    page = ok(response)
    assert (page["n"], len(page["items"])) == (tensors, 100)
    assert all(len(item["course"]["number"]) in range(12, DEFAULT_COURSE_POINTS + 1) for item in page["items"])
    most = ok(http.get(f"{run.path}/courses", params={"limit": MOST_COURSES, "max_points": MOST_COURSE_POINTS}))
    assert courses.MAX_POINTS // 4 < sum(len(item["course"]["number"]) for item in most["items"]) <= courses.MAX_POINTS
    assert len(response.content) < 100 * (DEFAULT_COURSE_POINTS * 7 * 26 + 1_000)

"""Lists of studies and trials: each order reaches every row once, and each filter finds what it says."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
from sqlalchemy import delete, event, select

from nestor.results.progress.pace import MAX_POINTS
from nestor.schemas import SortOrder, State, Step, StudyPage, StudySort, TrialPage, TrialSort
from nestor_server.models import Study, Trial
from nestor_server.scheduling import recording
from nestor_server.services import study_lists
from nestor_server.services.trials import queries
from testbed.server import Server
from tests.server.conftest import SPEC, Run, ok, problem, step

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
# Of 7 and 5 numbers each is tied with others, and the second has nulls.
VALUES = (0.5, None, 0.25, None, -1.0, 0.5, 1e300)
STATES = (State.complete, State.running, State.queued, State.paused, State.failed)


def insert(server: Server, study: str, *rows: dict[str, Any]) -> None:
    """Trials with these columns, numbered on."""
    with server.sessions.begin() as session:
        owner = session.get_one(Study, UUID(study), with_for_update=True)
        for row in rows:
            spec = row.pop("spec", SPEC)
            trial = Trial(study_id=owner.id, number=owner.next_number, spec=spec, n_steps=spec["n_steps"], **row)
            session.add(trial)
            owner.next_number += 1


def various(n: int) -> list[dict[str, Any]]:
    return [
        {
            "state": STATES[i % len(STATES)].value,
            "best_value": VALUES[i % len(VALUES)],
            "step": i * 5 % 11,
            "seconds": i * 3 % 7 / 2,
        }
        for i in range(n)
    ]


def walk(http: httpx.Client, path: str, **params: Any) -> Iterator[list[dict[str, Any]]]:
    """The items of each page."""
    given: dict[str, Any] = {}
    for _ in range(300):
        page = ok(http.get(path, params=params | given))
        yield page["items"]
        if page["next_cursor"] is None:
            return
        given = {"cursor": page["next_cursor"]}
    raise AssertionError("the list has no end")


def whole(http: httpx.Client, path: str, **params: Any) -> list[dict[str, Any]]:
    return [item for page in walk(http, path, **params) for item in page]


def in_order(items: list[dict[str, Any]], value: Callable[[Any], Any], key: Callable[[Any], Any], order: str) -> list:
    """What a list should be: those without a value last, and of equal values by their key."""
    down = order == "desc"
    with_value = sorted((i for i in items if value(i) is not None), key=lambda i: (value(i), key(i)), reverse=down)
    return with_value + sorted((i for i in items if value(i) is None), key=key, reverse=down)


@pytest.mark.parametrize("order", SortOrder)
@pytest.mark.parametrize("sort", TrialSort)
def test_each_order_of_trials_is_that_of_python_whatever_the_page(server, http, study, sort, order):
    insert(server, study, *various(40))
    path = f"/studies/{study}/trials"
    everything = ok(http.get(path, params={"limit": 1000}))["items"]
    assert [trial["number"] for trial in everything] == [*range(40)][::-1]
    expected = in_order(everything, lambda trial: trial[sort], lambda trial: trial["number"], order)
    for limit in (1, 7, 39, 40, 41):
        pages = list(walk(http, path, sort=sort, order=order, limit=limit))
        assert [trial for page in pages for trial in page] == expected
        assert [len(page) for page in pages] == [limit] * (40 // limit) + [40 % limit] * (40 % limit > 0)


STUDY_VALUES: dict[StudySort, Callable[[dict[str, Any]], Any]] = {
    StudySort.created_at: lambda study: study["id"],
    StudySort.last_activity_at: lambda study: datetime.fromisoformat(study["last_activity_at"]),
    StudySort.by_name: lambda study: study["name"].translate({n: n + 32 for n in range(65, 91)}),  # A to Z
    StudySort.best_value: lambda study: study["best_value"],
    StudySort.trials: lambda study: sum(study["trial_counts"].values()),
}


@pytest.fixture
def studies(server: Server, http: httpx.Client) -> list[str]:
    """Names whose order is not that of their creation, with 0 to 4 trials."""
    names = ["b", "B2", "a", "Ä", "_", "10%", "c\\", "Z", "z z", "é", "E", "ab"]
    ids = [ok(http.post("/studies", json={"name": name}))["id"] for name in names]
    for n, study in enumerate(ids):
        insert(server, study, *various(n % 5 + n)[n:])
    with server.sessions.begin() as session:
        for n, study in enumerate(ids):
            session.get_one(Study, UUID(study)).updated_at = BEGAN + timedelta(days=n * 5 % 7)
            for trial in session.scalars(select(Trial).where(Trial.study_id == UUID(study))):
                trial.active_at = BEGAN + timedelta(days=trial.number * n % 9, microseconds=1)
    return ids


@pytest.mark.parametrize("order", SortOrder)
@pytest.mark.parametrize("sort", StudySort)
def test_each_order_of_studies_is_that_of_python_whatever_the_page(http, studies, sort, order):
    everything = ok(http.get("/studies"))["items"]
    assert [study["id"] for study in everything] == studies[::-1]
    assert len({STUDY_VALUES[sort](study) for study in everything}) > 3
    expected = in_order(everything, STUDY_VALUES[sort], lambda study: study["id"], order)
    for limit in (1, 5, 12):
        assert whole(http, "/studies", sort=sort, order=order, limit=limit) == expected


def test_the_tests_above_walk_every_order():
    assert set(STUDY_VALUES) == set(StudySort) == set(study_lists.SORTS)
    assert set(TrialSort) == set(queries.SORTS)


@pytest.mark.parametrize("order", SortOrder)
@pytest.mark.parametrize("sort", TrialSort)
def test_rows_that_are_added_while_pages_are_read_do_not_move_the_others(server, http, study, sort, order):
    insert(server, study, *various(20))
    path, old = f"/studies/{study}/trials", range(20)
    expected = [trial["number"] for trial in whole(http, path, sort=sort, order=order)]
    seen = []
    for page in walk(http, path, sort=sort, order=order, limit=3):
        seen += [trial["number"] for trial in page]
        insert(server, study, *various(5))
        if len(seen) > 200:
            break
    assert [number for number in seen if number in old] == expected
    assert len(seen) == len(set(seen))


def test_a_cursor_is_refused_by_every_other_list_and_order(server, http, study):
    insert(server, study, *various(5))
    other = ok(http.post("/studies", json={"name": "other"}))["id"]
    insert(server, other, *various(5))
    lists = [
        (path, {"sort": sort.value, "order": order.value} | more)
        for path, sorts, more in (
            ("/studies", StudySort, {}),
            (f"/studies/{study}/trials", TrialSort, {}),
            (f"/studies/{other}/trials", TrialSort, {}),
        )
        for sort, order in [*((sort, SortOrder.desc) for sort in sorts), (next(iter(sorts)), SortOrder.asc)]
    ]
    cursors = [ok(http.get(path, params=params | {"limit": 1}))["next_cursor"] for path, params in lists]
    for (path, params), (n, cursor) in itertools.product(lists, enumerate(cursors)):
        answer = http.get(path, params=params | {"cursor": cursor})
        if lists[n] == (path, params):
            ok(answer)
        else:
            problem(answer, 422, "cursor-invalid")
    problem(http.get("/studies", params={"cursor": cursors[0], "deleted": True}), 422, "cursor-invalid")


def test_1200_trials_and_250_studies_are_all_reached_newest_first(server, http, study):
    insert(server, study, *({"state": "complete"} for _ in range(1200)))
    numbers = [trial["number"] for trial in whole(http, f"/studies/{study}/trials", limit=500)]
    assert numbers == [*range(1200)][::-1]
    with server.sessions.begin() as session:
        owner = session.get_one(Study, UUID(study)).owner_id
        for n in range(250):
            session.add(Study(owner_id=owner, name=f"study {n}"))
            session.flush()
    names = [item["name"] for item in whole(http, "/studies")]
    assert names == [*(f"study {n}" for n in reversed(range(250))), "study"]


# --- filters --------------------------------------------------------------------------------------

TEXTS = ("100%", "100 percent", "a_b", "axb", "c\\d", "C\\D E", "plain", "Ärger", "%", "_", "'; --", "two\nlines")
QUERIES = (*TEXTS, "0%", "A_B", "c\\", "\\", "ärg", "PLAIN", "", "nothing", "lines", "o\nl", "$", "*", "(")


@pytest.mark.parametrize(
    ("what", "where"),
    [("studies", "name"), ("studies", "tag"), ("studies", "note"), ("trials", "tag"), ("trials", "note")],
)
def test_a_search_finds_what_contains_the_text_as_it_is_in_any_case(http, study, what, where):
    texts = {}
    for n, text in enumerate(TEXTS):
        written = {"name": {"name": text}, "tag": {"tags": ["x", text]}, "note": {"note": text}}[where]
        fields = {"name": f"s{n}"} | written
        if what == "studies":
            texts[ok(http.post("/studies", json=fields))["id"]] = text
        else:
            del fields["name"]
            texts[ok(http.post(f"/studies/{study}/trials", json=SPEC | fields))["id"]] = text
    path = "/studies" if what == "studies" else f"/studies/{study}/trials"
    for query in QUERIES:
        found = {item["id"] for item in whole(http, path, q=query, limit=5)} & texts.keys()
        expected = {id for id, text in texts.items() if query.lower() in text.lower()}
        assert found == expected, query


@pytest.mark.parametrize("what", ["studies", "trials"])
def test_tags_and_states_narrow_a_list_down(http, study, submit, what):
    tagged = {}
    for n, tags in enumerate([["a"], ["a", "b"], ["b"], [], ["A"]]):
        if what == "studies":
            tagged[ok(http.post("/studies", json={"name": f"s{n}", "tags": tags}))["id"]] = set(tags)
        else:
            tagged[submit(tags=tags)["id"]] = set(tags)
    path = "/studies" if what == "studies" else f"/studies/{study}/trials"
    for wanted in (["a"], ["a", "b"], ["b"], ["c"], ["a", "a"], ["ab"]):
        for sort in StudySort if what == "studies" else TrialSort:
            found = {item["id"] for item in whole(http, path, tag=wanted, sort=sort, limit=1)}
            assert found == {id for id, tags in tagged.items() if set(wanted) <= tags}


@pytest.mark.parametrize("sort", TrialSort)
def test_trials_under_fixed_hyperparameters_are_listed_apart(server, http, study, sort):
    frozen = SPEC | {"response": {"kind": "frozen"}}
    insert(server, study, *(row | {"spec": frozen if i % 3 else SPEC} for i, row in enumerate(various(20))))
    path = f"/studies/{study}/trials"
    both = [[item["number"] for item in whole(http, path, tunes=tunes, sort=sort, limit=3)] for tunes in (True, False)]
    everything = [item["number"] for item in whole(http, path, sort=sort)]
    assert both == [[n for n in everything if n % 3 == 0], [n for n in everything if n % 3]]


def test_a_study_is_found_by_the_states_of_its_trials(server, http):
    ids = {}
    for n, states in enumerate([(), ("running",), ("complete", "running"), ("failed",)]):
        ids[n] = ok(http.post("/studies", json={"name": f"s{n}"}))["id"]
        insert(server, ids[n], *({"state": state} for state in states))
    found = lambda *states: {item["id"] for item in whole(http, "/studies", state=states)}
    assert found("running") == {ids[1], ids[2]}
    assert found("failed", "complete") == {ids[2], ids[3]}
    assert found("queued") == set()
    assert found() == set(ids.values())


@pytest.mark.parametrize(
    "query",
    [
        "sort=size", "order=up", "state=done", "q=" + "x" * 201, "tag=" + "x" * 201, "deleted=maybe",
        "&".join(f"tag={n}" for n in range(21)), "q=%00", "tag=%00",
    ],
)  # fmt: skip
def test_a_filter_that_cannot_be_used_is_refused(http, study, query):
    for path in ("/studies", f"/studies/{study}/trials"):
        if not (query.startswith("deleted") and path != "/studies"):
            problem(http.get(f"{path}?{query}"), 422, "validation-failed")


def test_crafted_cursors_are_refused(server, http, study):
    import base64

    insert(server, study, *various(3))
    for text in (
        '["studies name desc", "a\\u0000", "00000000-0000-0000-0000-000000000001"]',
        '["studies name desc", 5, "00000000-0000-0000-0000-000000000001"]',
        '["studies name desc", null, "00000000-0000-0000-0000-000000000001"]',
        '["studies name desc"]', "[]", "{}", "5", "null", '["studies name desc", "a", "b", "c"]',
    ):  # fmt: skip
        cursor = base64.urlsafe_b64encode(text.encode()).decode()
        answer = http.get("/studies", params={"cursor": cursor, "sort": "name"})
        assert answer.status_code == 422, (text, answer.text)
    for value in ("NaN", "Infinity", "1e999", str(10**30)):
        text = f'["trials {study} best_value desc", {value}, 1]'
        cursor = base64.urlsafe_b64encode(text.encode()).decode()
        answer = http.get(f"/studies/{study}/trials", params={"cursor": cursor, "sort": "best_value"})
        assert answer.status_code in (200, 422), (value, answer.text)


# --- what a study in a list shows -----------------------------------------------------------------


def summary(http: httpx.Client, study: str) -> dict[str, Any]:
    return next(item for item in whole(http, "/studies") if item["id"] == study)


@pytest.mark.parametrize("n", range(6))
def test_a_study_that_is_purged_while_a_page_is_read_is_left_out(server, http, study, run, n):
    """Before the statement `n` that the page executes."""
    run.record(1)
    other = ok(http.post("/studies", json={"name": "other"}))["id"]
    engine, seen = server.sessions.kw["bind"], []

    def purge(*_: object) -> None:
        seen.append(n)
        if len(seen) == n + 1:
            with server.sessions.begin() as session:
                session.execute(delete(Study).where(Study.id == UUID(study)))

    with server.sessions() as session:
        owner = session.get_one(Study, UUID(other)).owner_id
        page = study_lists.page(session, owner)
        event.listen(engine, "before_cursor_execute", purge)
        try:
            content, _ = page.read()
            assert isinstance(content, StudyPage)
        finally:
            event.remove(engine, "before_cursor_execute", purge)
    items = [str(item.id) for item in content.items]
    assert items in ([other], [other, study])
    assert n or items == [other]


def test_an_empty_study_has_no_trial_to_show(http, study):
    shown = summary(http, study)
    for name in ("best_trial", "best_trial_id", "verdict", "running", "deleted_at"):
        assert shown[name] is None
    assert shown["sparkline"] == {"steps": [], "values": []}
    assert shown["last_activity_at"] == shown["updated_at"]


def test_a_study_shows_its_best_trial_and_its_newest_that_runs(server, http, study, submit):
    first, second = (Run(server, UUID(submit()["id"])) for _ in range(2))
    first.record(40, seconds=10.0)  # step k has the value 1/k
    first.finish()
    second.record(10, seconds=5.0)
    second.record(10, seconds=10.0)
    shown = summary(http, study)
    assert (shown["best_trial"], shown["best_trial_id"], shown["best_value"]) == (0, str(first.id), 1 / 40)
    alone = ok(http.get(f"/studies/{study}"))
    assert alone == {key: shown[key] for key in alone}
    assert shown["verdict"] == ok(http.get(first.path))["verdict"] is not None
    steps = shown["sparkline"]["steps"]
    assert (steps[0], steps[-1]) == (1, 40)
    assert shown["sparkline"]["values"] == [1 / step for step in steps]
    trial = ok(http.get(second.path))
    assert shown["running"] == {key: trial[key] for key in shown["running"]}
    assert shown["running"]["worker"] == "worker"
    assert (trial["steps_per_second"], trial["eta_seconds"]) == (2.0, 490.0)
    second.record(30, seconds=30.0)
    assert (summary(http, study)["best_trial"], summary(http, study)["best_value"]) == (1, 1 / 50)
    second.finish()
    assert summary(http, study)["running"] is None


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_the_best_trial_is_the_first_of_equals_that_tunes(server, http, direction):
    ranked = {"name": direction, "metric": "accuracy", "direction": direction}
    study = ok(http.post("/studies", json=ranked))["id"]
    frozen = SPEC | {"response": {"kind": "frozen"}}
    better = 9.0 if direction == "maximize" else -9.0
    rows = [
        {"best_value": better, "spec": frozen, "state": "complete"},
        {"best_value": 0.0, "state": "complete"},
        {"best_value": better / 2, "state": "running"},
        {"best_value": better / 2, "state": "paused"},
        {"best_value": better / 2, "state": "complete"},
    ]
    insert(server, study, *rows)
    assert (summary(http, study)["best_trial"], summary(http, study)["best_value"]) == (2, better / 2)
    with server.sessions.begin() as session:
        session.scalars(select(Trial).where(Trial.study_id == UUID(study), Trial.number == 2)).one().best_value = 0.0
    assert summary(http, study)["best_trial"] == 3
    insert(server, study, *({"best_value": better, "state": "complete"} for _ in range(2)))
    assert summary(http, study)["best_trial"] == 5


def test_a_list_of_studies_changes_with_what_it_shows(http, study, submit, run):
    for change in (
        lambda: run.record(1),  # also its sparkline
        lambda: run.record(1, seconds=3.0),
        submit,
        lambda: ok(http.patch(f"/studies/{study}", json={"note": "new"})),
        lambda: ok(http.post(f"{run.path}/pause")),
        run.finish,
    ):
        seen = {"If-None-Match": http.get("/studies").headers["ETag"]}
        assert http.get("/studies", headers=seen).status_code == 304
        change()
        assert http.get("/studies", headers=seen).status_code == 200


def test_activity_is_what_a_trial_records_and_what_is_asked_of_it(http, study, submit, run):
    activity = lambda: datetime.fromisoformat(summary(http, study)["last_activity_at"])
    for act in (
        lambda: run.record(1),
        run.checkpoint,
        lambda: ok(http.post(f"{run.path}/priority", json={"priority": -1})),
        lambda: run.finish(State.failed),
        lambda: ok(http.patch(f"/studies/{study}", json={"tags": ["a"]})),
        submit,
    ):
        before = activity()
        act()
        assert activity() > before


# --- what a trial in a list shows -----------------------------------------------------------------


def evaluated(number: int, test: float | None) -> Step:
    """A step whose value is 1, 0.5, 0.4, 0.6, …, so that the third is the best."""
    value = {1: 1.0, 2: 0.5, 3: 0.4}.get(number, 0.6)
    return step(number).model_copy(update={"value": value, "test_loss": test})


def test_a_trial_in_a_list_shows_its_course_and_its_test_value(server, http, study, run):
    steps = (evaluated(1, 2.0), evaluated(2, 1.5), evaluated(3, None), evaluated(4, 1.75))
    with server.sessions.begin() as session:
        recording.record(session, run.lease, recording.RecordedBatch(steps=steps))
    (shown,) = ok(http.get(f"/studies/{study}/trials"))["items"]
    trial = ok(http.get(run.path))
    assert trial == {key: shown[key] for key in trial}
    assert shown["sparkline"] == {"steps": [1, 2, 3, 4], "values": [1.0, 0.5, 0.4, 0.6]}
    assert (shown["best_step"], shown["test_value"], shown["test_value_at_best"]) == (3, 1.75, 1.5)


def test_a_trial_that_recorded_nothing_has_an_empty_course(http, study, submit):
    submit()
    (shown,) = ok(http.get(f"/studies/{study}/trials"))["items"]
    assert shown["sparkline"] == {"steps": [], "values": []}
    assert (shown["test_value"], shown["test_value_at_best"]) == (None, None)


def test_a_trial_says_whether_it_tunes_and_where_it_starts(http, study, submit, run):
    run.record(3)
    run.checkpoint()
    first = ok(http.get(run.path))
    assert (first["tunes"], first["starts_from"]) == (True, None)
    begins = submit(warm_start={"trial": str(run.id)}, response={"kind": "frozen"})
    assert (begins["tunes"], begins["starts_from"]) == (False, str(run.id))
    listed = ok(http.get(f"/studies/{study}/trials"))["items"]
    assert [(one["tunes"], one["starts_from"]) for one in listed] == [(False, str(run.id)), (True, None)]


def test_a_trial_was_active_when_it_recorded_or_changed_its_state(http, submit):
    trial = submit()
    path = f"/trials/{trial['id']}"
    activity = lambda: datetime.fromisoformat(ok(http.get(path))["last_activity_at"])
    before = activity()
    ok(http.post(f"{path}/priority", json={"priority": -1}))
    assert activity() > before


def test_the_course_of_a_trial_counts_among_the_bytes_of_a_page(server, study):
    """Deferred as it is, it is read with the page, and not trial by trial."""
    course = {"every": 1, "n": 28, "points": [[n, n / 3] for n in range(28)], "last": [27, 9.0]}
    insert(server, study, {}, *({"sparkline": course} for _ in range(20)))
    statements = []
    with server.sessions() as session:
        owner = session.get_one(Study, UUID(study)).owner_id
        sizes = session.scalars(select(queries.STORED).where(Trial.study_id == UUID(study)).order_by(Trial.number))
        without, *others = sizes.all()
        assert all(size - without > 28 * 8 for size in others)
        listen = lambda *given: statements.append(given[2])
        event.listen(server.sessions.kw["bind"], "before_cursor_execute", listen)
        try:
            content, _ = queries.page(session, owner, UUID(study)).read()
        finally:
            event.remove(server.sessions.kw["bind"], "before_cursor_execute", listen)
    assert isinstance(content, TrialPage)
    assert [len(item.sparkline.steps) for item in content.items] == [28] * 20 + [0]
    assert len(statements) == 3  # the study, the index and the rows


# --- sparkline and pace ---------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 27, 28, 29, 30, 31, 57, 100, 1000])
def test_a_sparkline_is_even_and_has_the_first_the_best_and_the_last(http, study, run, n):
    done = 0
    while done < n:  # in batches of uneven sizes
        size = min(n - done, 1 + done % 37)
        run.record(size)
        done += size
    sparkline = summary(http, study)["sparkline"]
    steps, values = sparkline["steps"], sparkline["values"]
    assert len(steps) == len(values) <= MAX_POINTS
    assert (steps[0], steps[-1]) == (1, n)
    assert steps == sorted(set(steps))
    gaps = {b - a for a, b in itertools.pairwise(steps[:-1])}
    assert len(gaps) <= 1
    assert not gaps or math.log2(gaps.pop()).is_integer()
    if n > MAX_POINTS:
        assert len(steps) > MAX_POINTS / 2 - 1


def test_a_trial_that_is_rolled_back_has_the_sparkline_of_one_that_was_not(server, http, study, submit):
    plain, broken = (Run(server, UUID(submit()["id"])) for _ in range(2))
    plain.record(100)
    broken.record(40)
    broken.checkpoint()
    broken.record(50)
    with server.sessions.begin() as session:
        session.get_one(Trial, broken.id).lease_expires_at = BEGAN
    from testbed.server import wait_for

    wait_for(lambda: ok(http.get(broken.path))["state"] == "queued", "the lease to expire")
    broken.claim()
    broken.number = 40
    broken.record(60)
    with server.sessions() as session:
        query = select(Trial.sparkline)
        one, other = (session.scalars(query.where(Trial.id == run.id)).one() for run in (plain, broken))
    assert one == other
    assert one["n"] == 100


def test_the_pace_is_that_of_the_present_attempt_without_queues_and_pauses(server, http, submit):
    run = Run(server, UUID(submit(timeout=1000.0)["id"]))
    pace = lambda: tuple(ok(http.get(run.path))[name] for name in ("steps_per_second", "eta_seconds"))
    assert pace() == (None, None)
    run.record(5, seconds=100.0)  # the first steps may compile
    assert pace() == (None, None)
    run.record(10, seconds=105.0)
    assert pace() == (2.0, (1000 - 15) / 2.0)
    run.record(10, seconds=125.0)  # slower: 20 steps in 25 seconds
    assert pace() == (0.8, 1000.0 - 125.0)  # the timeout comes first
    run.checkpoint()
    ok(http.post(f"{run.path}/pause"))
    run.finish(State.complete)
    assert pace() == (None, None)


def test_the_pace_forgets_what_is_long_ago(http, run):
    run.record(1, seconds=1.0)
    for n in range(10):
        run.record(1, seconds=11.0 + 10 * n)  # one in ten seconds
    for n in range(30):
        run.record(12, seconds=104.0 + 3 * n)
    trial = ok(http.get(run.path))
    assert trial["steps_per_second"] == pytest.approx(4.0)
    assert trial["eta_seconds"] == pytest.approx((1000 - 371) / 4)


# --- notes ----------------------------------------------------------------------------------------


@pytest.fixture(params=["study", "trial"])
def path(request, study, submit) -> str:
    return f"/studies/{study}" if request.param == "study" else f"/trials/{submit()['id']}"


def test_a_note_is_written_changed_and_removed(http, path):
    assert ok(http.get(path))["note"] == ""
    first = http.get(path).headers["ETag"]
    changed = ok(http.patch(path, json={"note": "# Why\n\n*this*"}))
    assert changed["note"] == ok(http.get(path))["note"] == "# Why\n\n*this*"
    assert ok(http.patch(path, json={"tags": ["a"]}))["note"] == "# Why\n\n*this*"
    problem(http.patch(path, json={"note": "late"}, headers={"If-Match": first}), 412, "version-mismatch")
    assert ok(http.patch(path, json={"note": None}))["note"] == ""
    assert len(ok(http.patch(path, json={"note": "é" * 65_536}))["note"]) == 65_536
    for refused in ("x" * 65_537, "a\0b", 5, ["x"]):
        problem(http.patch(path, json={"note": refused}), 422, "validation-failed")


def test_a_note_can_be_submitted_and_is_not_part_of_the_specification(http, study, submit):
    trial = submit(note="first")
    assert (trial["note"], "note" in trial["spec"]) == ("first", False)
    assert ok(http.post("/studies", json={"name": "noted", "note": "n"}))["note"] == "n"


def test_notes_count_among_the_bytes_of_a_page(http, study, submit):
    for _ in range(40):
        submit(note="".join(chr(0x4E00 + n % 2000) for n in range(60_000)))
    assert [len(page) for page in walk(http, f"/studies/{study}/trials")] == [6] * 6 + [4]

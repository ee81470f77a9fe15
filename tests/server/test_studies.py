"""Studies: created, listed, described and deleted."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID, uuid4

import pytest

from tests.server.conftest import SPEC, Run, ok, problem


def test_a_new_study_is_found_where_its_location_says(http):
    response = http.post("/studies", json={"name": "ridge", "user_attrs": {"by": "me"}, "tags": ["a", "b"]})

    assert response.status_code == 201
    found = ok(http.get(f"{http.base_url.copy_with(path=response.headers['Location'])}"))
    assert found == response.json()
    assert (found["name"], found["user_attrs"], found["tags"]) == ("ridge", {"by": "me"}, ["a", "b"])
    assert (found["trial_counts"], found["best_value"]) == ({}, None)


def test_a_name_that_exists_is_refused_unless_the_study_is_to_be_loaded(http, study):
    document = problem(http.post("/studies", json={"name": "study"}), 409, "study-exists")
    assert "load_if_exists" in document["detail"]

    loaded = http.post("/studies", json={"name": "study", "load_if_exists": True})
    assert (loaded.status_code, loaded.json()["id"]) == (200, study)
    assert len(ok(http.get("/studies"))["items"]) == 1


def test_of_many_concurrent_creations_of_one_name_one_succeeds(server, http):
    token = http.headers["Authorization"].removeprefix("Bearer ")
    with server.http(token) as other, ThreadPoolExecutor(8) as pool:
        responses = list(pool.map(lambda _: other.post("/studies", json={"name": "race"}), range(8)))
    assert sorted(response.status_code for response in responses) == [201] + [409] * 7


def test_pages_follow_each_other_without_gap_or_repetition(http):
    names = [f"study-{n}" for n in range(7)]
    for name in names:
        ok(http.post("/studies", json={"name": name}))

    seen, cursor = [], None
    while True:
        page = ok(http.get("/studies", params={"limit": 3} | ({"cursor": cursor} if cursor else {})))
        seen += [study["name"] for study in page["items"]]
        if (cursor := page["next_cursor"]) is None:
            break
    assert seen == names[::-1]


def test_a_list_is_filtered_by_exact_name(http):
    for name in ("one", "one more"):
        ok(http.post("/studies", json={"name": name}))
    assert [study["name"] for study in ok(http.get("/studies", params={"name": "one"}))["items"]] == ["one"]


def test_a_made_up_cursor_is_refused(http):
    for cursor in ("!!", "bm9wZQ", "W10", "e"):
        problem(http.get("/studies", params={"cursor": cursor}), 422, "cursor-invalid")


def test_a_study_reports_the_states_of_its_trials(http, study, submit, server):
    submit()
    run = Run(server, UUID(submit()["id"]))
    run.record(4)
    assert ok(http.get(f"/studies/{study}"))["trial_counts"] == {"queued": 1, "running": 1}
    assert ok(http.get(f"/studies/{study}"))["best_value"] == 1 / 4


def test_trials_are_ranked_by_the_metric_and_the_direction_of_their_study(http, server):
    ranked = {"metric": "accuracy", "direction": "maximize"}
    created = ok(http.post("/studies", json={"name": "ranked", **ranked}))
    assert {name: created[name] for name in ranked} == ranked
    run = Run(server, UUID(ok(http.post(f"/studies/{created['id']}/trials", json=SPEC))["id"]))
    run.record(4)  # step k has the accuracy 1 - 1/k
    trial = ok(http.get(run.path))
    assert (trial["value"], trial["best_value"], trial["best_step"]) == (0.75, 0.75, 4)
    assert ok(http.get(f"/studies/{created['id']}"))["best_value"] == 0.75


def test_what_ranks_trials_changes_only_before_the_first_one(http, study, submit):
    path = f"/studies/{study}"
    plain = ok(http.get(path))
    assert (plain["metric"], plain["direction"]) == (None, "minimize")
    problem(http.patch(path, json={"direction": "maximize"}), 422, "loss-maximized")
    changed = ok(http.patch(path, json={"metric": "accuracy", "direction": "maximize"}))
    assert (changed["metric"], changed["direction"]) == ("accuracy", "maximize")
    submit()
    refused = problem(http.patch(path, json={"direction": "minimize"}), 409, "ranking-differs")
    assert "ranks its trials by accuracy (maximize), and this asks for accuracy (minimize)" in refused["detail"]
    ok(http.patch(path, json={"metric": "accuracy", "tags": ["same"]}))
    again = {"name": "study", "load_if_exists": True}
    assert ok(http.post("/studies", json=again))["metric"] == "accuracy"
    problem(http.post("/studies", json={**again, "metric": "f1"}), 409, "ranking-differs")


def test_a_loss_is_not_maximized_and_a_preset_is_not_ranked_by_a_metric_that_it_lacks(http):
    refused = problem(http.post("/studies", json={"name": "up", "direction": "maximize"}), 422, "validation-failed")
    assert [(one["field"], one["code"]) for one in refused["errors"]] == [("direction", "loss-maximized")]
    ranked = ok(http.post("/studies", json={"name": "f1", "metric": "f1", "direction": "maximize"}))["id"]
    refused = problem(http.post(f"/studies/{ranked}/trials", json=SPEC), 422, "metric-unknown")
    assert "the metrics of the problem are: 'accuracy'" in refused["detail"]
    assert ok(http.get(f"/studies/{ranked}/trials"))["items"] == []


@pytest.fixture(params=["study", "trial"])
def path(request, study, submit) -> str:
    """Of something with attributes and tags."""
    return f"/studies/{study}" if request.param == "study" else f"/trials/{submit()['id']}"


# The examples of RFC 7396, appendix A, as attributes: before, patch, after.
MERGED = [
    ({"a": "b"}, {"a": "c"}, {"a": "c"}),
    ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
    ({"a": "b"}, {"a": None}, {}),
    ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
    ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
    ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
    ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
    ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
    ({"e": 1}, {"a": 1}, {"e": 1, "a": 1}),
    ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ({"a": 1}, None, {}),
]


@pytest.mark.parametrize(("before", "patch", "after"), MERGED)
def test_attributes_are_merged_as_in_the_rfc(http, study, before, patch, after):
    path = f"/studies/{study}"
    assert ok(http.patch(path, json={"user_attrs": before}))["user_attrs"] == before
    assert ok(http.patch(path, json={"user_attrs": patch}))["user_attrs"] == after


def test_attributes_are_merged_or_set_as_they_are_and_tags_replaced(http, path):
    changed = ok(http.patch(path, json={"user_attrs": {"k": [1, None], "l": {"x": 1}}}))
    assert (changed["user_attrs"], changed["tags"]) == ({"k": [1, None], "l": {"x": 1}}, [])
    changed = ok(http.patch(path, json={"tags": ["t"], "set_user_attrs": {"l": {"y": None}, "m": None}}))
    assert changed["user_attrs"] == {"k": [1, None], "l": {"y": None}, "m": None}
    assert changed["tags"] == ["t"]
    assert ok(http.patch(path, json={"tags": None}))["tags"] == []
    assert ok(http.patch(path, json={}))["user_attrs"] == changed["user_attrs"] == ok(http.get(path))["user_attrs"]
    for refused in ({"tags": [""]}, {"set_user_attrs": None}, {"name": "x"}, {"user_attrs": [1]}):
        problem(http.patch(path, json=refused), 422, "validation-failed")


def test_of_twelve_clients_that_set_twelve_keys_none_loses_one(server, http, path):
    token = http.headers["Authorization"].removeprefix("Bearer ")
    barrier = threading.Barrier(12)

    def change(n: int) -> None:
        with server.http(token) as one:
            barrier.wait()
            for key in (f"k{n}", "all"):
                ok(one.patch(path, json={"user_attrs": {key: {str(n): n}}}))

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(change, range(12)))
    numbers = {str(n): n for n in range(12)}
    assert ok(http.get(path))["user_attrs"] == {f"k{n}": {str(n): n} for n in range(12)} | {"all": numbers}


def test_a_change_of_another_version_is_refused_and_changes_nothing(http, path):
    first = http.get(path).headers["ETag"]
    stale = http.patch(path, json={"user_attrs": {"a": 1}}, headers={"If-Match": first}).headers["ETag"]
    assert stale != first
    second = http.patch(path, json={"tags": ["x"]}).headers["ETag"]
    assert http.get(path, headers={"If-None-Match": second}).status_code == 304
    before = ok(http.get(path))
    for tag in (first, stale, "0", '"0"', f"W/{second}", f"{first}, {stale}"):
        document = problem(http.patch(path, json={"tags": []}, headers={"If-Match": tag}), 412, "version-mismatch")
        assert second.replace("-gzip", "") in document["detail"]
    assert ok(http.get(path)) == before
    for tag in (f"{first}, {second}", "*"):
        assert http.patch(path, json={"tags": ["y"]}, headers={"If-Match": tag}).status_code == 200
        second = http.get(path).headers["ETag"]


ACTIONS = {
    "stop": None, "prune": {"after_step": 1}, "cancel": None, "pause": None, "resume": None, "retry": None,
    "extend": {"steps": 1}, "priority": {"priority": -1},
}  # fmt: skip


@pytest.mark.parametrize("action", ACTIONS)
def test_an_action_on_another_version_is_refused(http, submit, action):
    path = f"/trials/{submit()['id']}"
    stale = {"If-Match": http.get(path).headers["ETag"]}
    ok(http.patch(path, json={"tags": ["x"]}))
    before = ok(http.get(path))
    problem(http.post(f"{path}/{action}", json=ACTIONS[action], headers=stale), 412, "version-mismatch")
    assert ok(http.get(path)) == before
    paused = http.post(f"{path}/pause", headers={"If-Match": http.get(path).headers["ETag"]})
    assert ok(paused)["state"] == "paused"
    assert paused.headers["ETag"] == http.get(path).headers["ETag"]


def test_a_study_of_another_version_is_not_deleted(http, study):
    stale = {"If-Match": http.get(f"/studies/{study}").headers["ETag"]}
    ok(http.patch(f"/studies/{study}", json={"tags": ["x"]}))
    problem(http.delete(f"/studies/{study}", headers=stale), 412, "version-mismatch")
    present = {"If-Match": http.get(f"/studies/{study}").headers["ETag"]}
    assert http.delete(f"/studies/{study}", headers=present).status_code == 204


def test_trials_are_listed_by_state_and_by_number(http, study, submit):
    trials = [submit(tags=["a"])["id"] for _ in range(4)]
    for trial, action in zip(trials, ("prune", "pause", "cancel"), strict=False):
        ok(http.post(f"/trials/{trial}/{action}"))

    def listed(**params) -> list[int]:
        numbers, cursor = [], None
        while True:
            page = ok(http.get(f"/studies/{study}/trials", params=params | ({"cursor": cursor} if cursor else {})))
            numbers += [trial["number"] for trial in page["items"]]
            if (cursor := page["next_cursor"]) is None:
                return numbers

    assert listed(state="pruned") == [0]
    assert listed(state=["paused", "cancelled", "queued"], limit=1) == [3, 2, 1]
    assert listed(number=2) == [2]
    assert listed(number=2, state="queued") == listed(number=9) == []
    assert ok(http.get(f"/studies/{study}"))["trial_counts"] == {"cancelled": 1, "paused": 1, "pruned": 1, "queued": 1}
    problem(http.get(f"/studies/{study}/trials", params={"state": "done"}), 422, "validation-failed")


def test_a_trial_keeps_what_was_submitted_beside_what_was_changed(http, submit):
    trial = submit(user_attrs={"a": 1}, tags=["x"])
    changed = ok(http.patch(f"/trials/{trial['id']}", json={"user_attrs": {"a": 2}, "tags": ["y"]}))
    assert (changed["user_attrs"], changed["tags"]) == ({"a": 2}, ["y"])
    assert (changed["spec"]["user_attrs"], changed["spec"]["tags"]) == ({"a": 1}, ["x"])
    assert changed["seq"] == trial["seq"]  # the event log is that of its training


def test_a_deleted_study_is_gone_its_trials_end_and_its_name_is_free(http, study, submit):
    trial = submit()
    assert http.delete(f"/studies/{study}").status_code == 204

    problem(http.get(f"/studies/{study}"), 404, "study-not-found")
    problem(http.get(f"/trials/{trial['id']}"), 404, "trial-not-found")
    problem(http.delete(f"/studies/{study}"), 404, "study-not-found")
    assert ok(http.get("/studies"))["items"] == []
    assert http.post("/studies", json={"name": "study"}).status_code == 201


def test_a_user_does_not_see_the_studies_of_others(http, stranger, study, submit):
    trial = submit()["id"]
    assert ok(stranger.get("/studies"))["items"] == []
    for path in (f"/studies/{study}", f"/studies/{study}/trials"):
        problem(stranger.get(path), 404, "study-not-found")
    problem(stranger.patch(f"/studies/{study}", json={"tags": []}), 404, "study-not-found")
    problem(stranger.patch(f"/trials/{trial}", json={"tags": []}), 404, "trial-not-found")
    problem(stranger.delete(f"/studies/{study}"), 404, "study-not-found")
    problem(stranger.post(f"/studies/{study}/trials", json=SPEC), 404, "study-not-found")
    tensors = ("/hyperparameters/l2", "/hyperparameters.safetensors", "/checkpoint.safetensors")
    for path in ("", "/steps", "/events", "/hyperparameters", *tensors):
        problem(stranger.get(f"/trials/{trial}{path}"), 404, "trial-not-found")
    problem(stranger.post(f"/trials/{trial}/cancel"), 404, "trial-not-found")
    assert ok(stranger.post("/studies", json={"name": "study"}))["id"] != study  # names are each user's own


def test_polling_an_unchanged_list_costs_a_304(http, study, submit):
    first = http.get("/studies")
    again = http.get("/studies", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    submit()
    assert http.get("/studies", headers={"If-None-Match": first.headers["ETag"]}).status_code == 200


def test_an_unknown_study_is_not_found(http):
    problem(http.get(f"/studies/{uuid4()}"), 404, "study-not-found")
    problem(http.get("/studies/not-a-uuid"), 422, "validation-failed")

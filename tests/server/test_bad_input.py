"""Invalid HTTP input is refused with its place and a remedy, and writes nothing."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from nestor import schemas
from nestor.errors import NestorError
from testbed.server import wait_for
from tests.server.conftest import SPEC, ok, problem

JSON = {"Content-Type": "application/json"}
PRESET = SPEC["problem"]


BAD_SPECS = {
    "a misspelt field": ({"iner": {"optimizer": "adam"}}, "iner", "'inner'"),
    "a misspelt option": ({"inner": {"optimizer": "adam", "lrr": 1}}, "inner.lrr", "'lr'"),
    "a misspelt option deep inside": (
        {"response": {"implicit": {"solver": {"neumann": {"term": 3}}}}}, "response.solver.term", "'terms'"
    ),
    "a misspelt preset": ({"problem": {"preset": {"modl": {}}}}, "problem.preset.modl", "'model'"),
    "an unknown optimizer": ({"inner": {"optimizer": "lion"}}, "inner", "adam"),
    "an unknown curvature": ({"response": {"implicit": {"curvature": "fisher"}}}, "response.curvature", "hessian"),
    "no problem": ({"problem": {}}, "problem", "preset"),
    "half a program": ({"problem": {"program": "018f0000-0000-7000-8000-000000000000"}}, "problem.dataset", "Add"),
    "a negative rate": ({"inner": {"optimizer": "sgd", "lr": -1}}, "inner.lr", "-1"),
    "no steps at all": ({"n_steps": 0}, "n_steps", "0"),
    "absurdly many steps": ({"n_steps": 10**15}, "n_steps", "1000000000000000"),
    "a text for a number": ({"outer": {"optimizer": "rmsprop", "lr": "fast"}}, "outer.lr", "'fast'"),
    "inner steps where they were": ({"inner": {"optimizer": "adam", "steps": 3}}, "inner.steps", "inner_steps"),
    "outer steps where they were": ({"outer": {"optimizer": "rmsprop", "steps": 3}}, "outer.steps", "n_steps"),
    "a batch size where it was": ({"inner": {"optimizer": "adam", "batch_size": 3}}, "inner.batch_size", "batch_size"),
    "early stopping by its former name": ({"stop_early": {"patience": 3}}, "stop_early", "early_stopping"),
    "a former option of early stopping": ({"early_stopping": {"share": 0.2}}, "early_stopping.share", "fraction"),
    "more steps back than there are": ({"response": {"unrolled": {"steps": 9}}}, "response", "raise inner_steps"),
    "squares that are not kept": (
        {
            "inner": {"optimizer": "sgd"},
            "response": {"implicit": {"solver": {"preconditioned_cg": {"preconditioner": "adam_diagonal"}}}},
        },
        "response", "the inner optimizer does not keep",
    ),
    "Nesterov without momentum": ({"inner": {"optimizer": "sgd", "nesterov": True}}, "inner", "needs momentum"),
    "KFAC on two devices": (
        {"devices_per_trial": 2, "response": {"implicit": {"curvature": "kfac"}}}, "devices_per_trial", "whole batches"
    ),
    "too many digits": ({"problem": {"preset": {"train_size": 1500, "val_size": 700}}}, "problem.preset", "1,700"),
    "a kind named twice": ({"problem": {"preset": {"hyperparameters": ["l2", "l2"]}}}, "problem.preset", "once"),
    "a part of another model": (
        {"problem": {"preset": {"hyperparameters": [{"l2": {"only": ["head"]}}]}}}, "problem.preset", "0.weight"
    ),
    "a decay of a part twice": (
        {"problem": {"preset": {"hyperparameters": [{"l2": {"only": ["0"]}}, {"l2": {"only": ["0"]}}]}}},
        "problem.preset", "once for each part",
    ),
    "a smoothing of nothing": (
        {"problem": {"preset": {"hyperparameters": [{"label_smoothing": {"init": 0}}]}}},
        "problem.preset.hyperparameters.0.init", "above 0",
    ),
    "a layer of no units": ({"problem": {"preset": {"model": {"hidden": [0]}}}}, "problem.preset.model.hidden.0", "0"),
    "a word for a list": ({"user_attrs": "x"}, "user_attrs", "'x'"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "field", "remedy"), BAD_SPECS.values(), ids=BAD_SPECS)
def test_a_bad_trial_is_refused_with_the_field_and_what_it_may_be(http, study, changes, field, remedy):
    document = problem(http.post(f"/studies/{study}/trials", json=SPEC | changes), 422, "validation-failed")
    (error,) = document["errors"]
    assert error["field"] == field
    assert remedy in error["message"] + error["remedy"]
    with pytest.raises(NestorError) as in_python:
        schemas.build(schemas.TrialCreate, SPEC | changes)
    assert error["code"] == in_python.value.code()
    assert error["message"][1:] in str(in_python.value) or "field" in error["message"]  # the same sentence
    assert field in document["detail"]
    assert ok(http.get(f"/studies/{study}/trials"))["items"] == []


def test_a_missing_number_of_steps_is_named(http, study):
    document = problem(http.post(f"/studies/{study}/trials", json={"problem": PRESET}), 422, "validation-failed")
    assert document["errors"][0]["field"] == "n_steps"


def test_every_mistake_is_named_at_once(http, study):
    spec = SPEC | {"seeds": 1, "warmup_steps": -1, "inner": {"optimizer": "adam", "lr": 0}}
    document = problem(http.post(f"/studies/{study}/trials", json=spec), 422, "validation-failed")
    codes = {error["field"]: error["code"] for error in document["errors"]}
    assert codes == dict.fromkeys(("warmup_steps", "inner.lr"), "option-out-of-range") | {"seeds": "option-unknown"}


WORDS_OR_NUMBERS: dict[str, dict[str, Any]] = {
    "inner.lr": {"inner": {"optimizer": "adam", "lr": 0}},
    "outer.lr": {"outer": {"optimizer": "adam", "lr": -1}},
    "response.curvature.damping": {"response": {"implicit": {"curvature": {"gauss_newton": {"damping": -1}}}}},
    "response.solver.alpha": {"response": {"implicit": {"solver": {"neumann": {"alpha": 0}}}}},
    "warm_start.step": {"warm_start": {"trial": "018f0000-0000-7000-8000-000000000000", "step": -1}},
    "outer.schedule.warmup": {"outer": {"optimizer": "adam", "schedule": {"linear_decay": {"warmup": -1}}}},
    "response.measured.lr": {"response": {"frozen": {"measured": {"hypernetwork": {"lr": 0}}}}},
}


@pytest.mark.parametrize("spec", WORDS_OR_NUMBERS.values(), ids=WORDS_OR_NUMBERS)
def test_a_field_with_several_alternatives_is_one_mistake(http, study, spec: dict[str, Any]):
    """Each alternative was a mistake of its own, of which the last said that the word was another one."""
    document = problem(http.post(f"/studies/{study}/trials", json=SPEC | spec), 422, "validation-failed")
    (mistake,) = document["errors"]
    assert mistake["code"] == "option-out-of-range"
    assert "more.)" not in document["detail"]


def test_folds_with_hyperparameters_of_single_examples_are_refused(http, study):
    preset = {"preset": {"hyperparameters": [{"kind": "example_weights"}]}}
    answer = http.post(f"/studies/{study}/trials", json=SPEC | {"problem": preset, "folds": {"count": 3}})
    document = problem(answer, 422, "validation-failed")
    (error,) = document["errors"]
    assert error["field"] == "folds"
    assert "example_weights has an entry for each training example" in error["message"]


BAD_BODIES = {
    "no json": b'{"name": ',
    "not a number": b'{"name": "s", "user_attrs": {"x": NaN}}',
    "infinity": b'{"name": "s", "user_attrs": {"x": [1, -Infinity]}}',
    "a number beyond floats": b'{"name": "s", "user_attrs": {"x": 1e999}}',
    "a number beyond integers": b'{"name": "s", "user_attrs": {"x": ' + b"9" * 30 + b"}}",
    "a number beyond reading": b'{"name": "s", "user_attrs": {"x": ' + b"9" * 10_000 + b"}}",
    "NUL in a value": b'{"name": "a\\u0000b"}',
    "NUL in a key": b'{"name": "s", "user_attrs": {"a\\u0000b": 1}}',
    "half a character": b'{"name": "s", "user_attrs": {"x": "\\ud800"}}',
    "no utf-8": b'{"name": "\xff\xfe"}',
    "deep nesting": b'{"name": "s", "user_attrs": {"x": ' + b"[" * 300 + b"]" * 300 + b"}}",
    "endless nesting": b"[" * 200_000,
    "a list": b"[1, 2]",
    "nothing": b"",
    "null": b"null",
    "an empty name": b'{"name": "  "}',
    "an endless name": b'{"name": "' + b"x" * 201 + b'"}',
}


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES)
def test_a_body_that_cannot_be_stored_is_refused_and_leaves_nothing(http, body):
    response = http.post("/studies", content=body, headers=JSON)
    assert response.status_code == 422, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    assert "Input should" not in response.text
    document = response.json()
    assert {error["code"] for error in document["errors"]} | {document["code"]} <= NestorError.known.keys()
    assert ok(http.get("/studies"))["items"] == []


@pytest.mark.parametrize("query", ["name=%00", "limit=0", "limit=100000", "limit=x", "cursor=%00", "name=%ff"])
def test_a_bad_parameter_is_refused(http, query):
    response = http.get(f"/studies?{query}")
    assert response.status_code == (200 if query == "name=%ff" else 422), response.text
    assert "Input should" not in response.text


def test_a_body_that_is_too_large_is_refused_with_and_without_a_length(http):
    big = b'{"name": "' + b"x" * (17 * 2**20) + b'"}'
    problem(http.post("/studies", content=big, headers=JSON), 413, "too-large")

    def pieces():
        for start in range(0, len(big), 2**20):
            yield big[start : start + 2**20]

    problem(http.post("/studies", content=pieces(), headers=JSON), 413, "too-large")


HUGE = "x" * 1_000_000
LONG = "y" * 8_000
MAX_URL = 50_000  # httpx sends no query that is longer than 64 KB


def test_no_answer_repeats_what_it_was_sent(server, http, study):
    """Every route of the API, with every field, parameter and header as long as it can arrive."""
    described = httpx.get(f"{server.url}/openapi.json", trust_env=False).json()
    asked = 0
    for path, methods in described["paths"].items():
        for method, route in methods.items():
            given = {where: {} for where in ("path", "query", "header", "cookie")}
            parameters = route.get("parameters", [])
            long = LONG[: MAX_URL // (1 + sum(one["in"] == "query" for one in parameters))]
            for parameter in parameters:
                given[parameter["in"]][parameter["name"]] = long if parameter["in"] == "query" else LONG
            content = route.get("requestBody", {}).get("content", {}).get("application/json", {})
            body = _huge(described, content.get("schema")) if content else None
            for paths in ({}, dict.fromkeys(given["path"], study)):  # the second gets beyond the path
                url = server.url + path.format(**given["path"] | paths)
                options = {"params": given["query"], "headers": given["header"], "timeout": 60.0}
                response = http.request(method.upper(), url, json=body, **options)
                if response.is_error:
                    asked += 1
                    assert len(response.content) < 20_000, (method, path)
                    assert "Input should" not in response.text, (method, path)  # pydantic's words, not ours
                    assert max(map(len, response.headers.values())) < 2_000, (method, path)
                    assert method == "head" or response.json()["code"], (method, path)
    assert asked > 40


def _huge(described, schema):
    """A body with each of its fields too long, and with one that does not exist."""
    name = schema.get("$ref", "").rpartition("/")[2]
    fields = described["components"]["schemas"].get(name, {}).get("properties", {})
    return dict.fromkeys(fields, HUGE[: 900_000 // (len(fields) + 2)]) | {HUGE[:100_000]: 1}


@pytest.mark.parametrize(
    "body", [{"name": HUGE}, {HUGE: 1}, {"name": "s", "tags": [HUGE]}, {"name": "s", "user_attrs": {HUGE: {"a": "\0"}}}]
)
def test_a_megabyte_is_echoed_in_a_line(http, body):
    document = problem(http.post("/studies", json=body, timeout=60.0), 422, "validation-failed")
    assert len(document["detail"]) < 1_500
    assert max(len(text) for error in document["errors"] for text in error.values()) < 1_500
    assert "…" in str(document["errors"])


def test_an_unknown_path_and_a_wrong_method_are_problems_too(server, http):
    assert "/api/v1/nope" in problem(http.get("/nope"), 404, "not-found")["detail"]
    problem(httpx.get(f"{server.url}/nope", trust_env=False), 404, "not-found")
    problem(httpx.get(f"{server.url}/..%2f..%2fetc/passwd", trust_env=False), 404, "not-found")
    response = http.delete("/me")
    assert "GET" in problem(response, 405, "method-not-allowed")["detail"]
    assert "GET" in response.headers["Allow"]


def test_a_request_keeps_its_id_unless_the_id_is_unsafe_to_log(server, http):
    answer = http.post("/studies", json={"name": "s"}, headers={"X-Request-ID": "my-id.1"})
    assert answer.headers["X-Request-ID"] == "my-id.1"
    wait_for(
        lambda: "request=my-id.1" in server.log.read_text(), "the line in the log, which is written after the answer"
    )
    assert http.get("/me", headers={"X-Request-ID": "two words"}).headers["X-Request-ID"] != "two words"

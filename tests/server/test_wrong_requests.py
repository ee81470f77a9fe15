"""Requests that no route answers, or that name parameters that it does not have, are refused on every path."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from nestor.schemas import API
from testbed.contract import document
from testbed.server import Server
from tests.server.conftest import ok, problem

PATHS: dict[str, dict[str, Any]] = document()["paths"]
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
OPERATIONS = [(method, path) for path, operations in PATHS.items() for method in operations]
ID = "018f0000-0000-7000-8000-000000000000"


@pytest.fixture
def root(server: Server):
    """A client of everything that the server answers, with the scope admin."""
    headers = {"Authorization": f"Bearer {server.token}"}
    with httpx.Client(base_url=server.url, headers=headers, trust_env=False, timeout=60) as client:
        yield client


def url(path: str) -> str:
    """A path of the description with a value for each parameter, which names nothing."""
    for name in ("study_id", "trial_id", "dataset_id", "token_id", "blob"):
        path = path.replace(f"{{{name}}}", ID)
    while "{" in path:
        path = f"{path.partition('{')[0]}l2{path.partition('}')[2]}"
    return path


# --- query parameters -----------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_an_unknown_query_parameter_is_named_with_those_that_exist(root, method: str, path: str):
    known = [one["name"] for one in PATHS[path][method]["parameters"] if one["in"] == "query"]
    misspelt = f"{known[0]}x" if known else "limit"
    response = root.request(method, url(path), params={misspelt: "1"}, headers={"X-Nestor-Request": "1"})
    assert response.status_code == 422, response.text
    if method == "head":
        return
    document = problem(response, 422, "validation-failed")
    (error,) = document["errors"]
    assert (error["field"], error["code"]) == (misspelt, "option-unknown")
    assert f"Did you mean {known[0]!r}?" in error["remedy"] if known else "no query parameters" in error["remedy"]
    assert all(name in error["remedy"] for name in known)
    assert error["remedy"] in document["detail"]


LAX = {  # texts that pydantic reads and JSON does not
    "integer": ("+1", "1.0", "+0.0", "1_000", "007", " 1 "),
    "number": ("+1.5", ".5", "1.", "1_0.5", " 1 ", "007"),
    "boolean": ("1", "yes", "True", "on", "f"),
}
SCALARS = [
    (method, path, one["name"], one["in"], kind)
    for method, path in OPERATIONS
    for one in PATHS[path][method]["parameters"]
    for kind in LAX
    if one["in"] in ("query", "header")
    and kind in {one["schema"].get("type"), *(any_of.get("type") for any_of in one["schema"].get("anyOf", ()))}
]


@pytest.mark.parametrize(("method", "path", "name", "place", "kind"), SCALARS)
def test_a_text_that_is_no_number_or_flag_in_json_is_refused(root, method, path, name, place, kind):
    for text in LAX[kind]:
        given = {"params": {name: text}} if place == "query" else {"headers": {name: text}}
        if place == "header" and text != text.strip():
            continue  # HTTP drops spaces around the value of a header
        response = root.request(method, url(path), **given)
        assert response.status_code == 422, (text, response.text)
        if method != "head":
            errors = problem(response, 422, "validation-failed")["errors"]
            found = [(error["field"].lower(), error["code"]) for error in errors]
            assert (name.lower(), "option-type-wrong") in found, (text, errors)


def test_numbers_and_flags_are_read_as_json_has_them(http, run):
    for params in ({"after": "0"}, {"after": "-0"}, {"wait": "1e-3"}, {"wait": "0.5"}):
        ok(http.get(f"{run.path}/events", params=params, headers={"Accept": "application/json"}))
    for deleted in ("true", "false"):
        ok(http.get("/studies", params={"deleted": deleted}))


def test_a_stranger_is_not_told_which_parameters_exist(server):
    with server.http(None) as http:
        problem(http.get("/studies", params={"nme": "x"}), 401, "token-missing")


def test_every_unknown_parameter_is_named_in_a_line(http):
    long = "y" * 8_000
    document = problem(http.get("/studies", params={long: long, "b": "1"}), 422, "validation-failed")
    assert [len(error["field"]) for error in document["errors"]] == [200, 1]
    assert len(document["detail"]) < 1_000
    many = {f"p{i}": "" for i in range(5_000)}
    assert len(http.get("/studies", params=many).content) < 20_000


# --- methods and paths ----------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
def test_a_method_that_does_not_exist_is_refused_with_those_that_do(root, path: str):
    exist = sorted(method.upper() for method in PATHS[path])
    for method in set(METHODS) - set(exist):
        response = root.request(method, url(path))
        assert response.status_code == 405, (method, response.text)
        assert response.headers["Allow"] == ", ".join(exist)
        if method != "HEAD":
            document = problem(response, 405, "method-not-allowed")
            assert document["detail"] == f"{method} is not possible on {url(path)}. Possible: {', '.join(exist)}."


@pytest.mark.parametrize("path", PATHS)
def test_a_slash_too_much_is_not_found_and_the_path_is_named(root, path: str):
    for method in METHODS:
        response = root.request(method, f"{url(path)}/")
        assert response.status_code == 404, response.text
        if method != "HEAD":
            document = problem(response, 404, "trailing-slash")
            assert document["detail"].endswith(f"Leave out the slash at its end: {url(path)}.")


@pytest.mark.parametrize(
    "path", ["/api", "/api/", f"{API}/", f"{API}/nope", "/api/v2/studies", f"{API}/trials", "/nope"]
)
@pytest.mark.parametrize("method", METHODS)
def test_an_unknown_path_is_not_found_by_any_method(root, method: str, path: str):
    response = root.request(method, path)
    assert response.status_code == 404, response.text
    if method != "HEAD":
        problem(response, 404, "not-found")


@pytest.mark.parametrize("path", ["/", "/docs/", "/app.js", "/openapi.json"])
def test_pages_can_only_be_read(root, path: str):
    for method in METHODS:
        response = root.request(method, path)
        assert response.status_code == (200 if method in ("GET", "HEAD") else 405), method
        if response.is_error:
            problem(response, 405, "method-not-allowed")
            assert response.headers["Allow"] == "GET, HEAD"


# --- what an answer repeats -----------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
def test_a_long_path_is_cut_short_in_the_answer(root, path: str):
    long = "y" * 8_000
    for wrong in (f"{url(path)}{long}", f"{url(path)}/", f"{path.partition('{')[0]}{long}"):
        for method in METHODS:
            assert len(root.request(method, wrong).content) < 20_000, (method, wrong[:80])

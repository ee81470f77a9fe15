"""What belongs to one user is not there for another: the same answer as for what does not exist, on every operation.

The operations are those of /openapi.json, so a new one is among them. Both users have the widest scope, so that nothing
but ownership refuses.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import httpx
import numpy as np
import pytest
from safetensors.numpy import save

from nestor.schemas import Scope
from nestor_server.storage.blobs import digest_of
from nestor_server.webhooks.addresses import AllowList
from testbed.contract import document
from testbed.server import Server, running_server
from testbed.services import Services
from tests.server.conftest import BROKER, SPEC, Run, ok
from tests.server.test_blobs import announce, put

DOCUMENT = document()
OPERATIONS = {
    (method.upper(), path): operation
    for path, operations in DOCUMENT["paths"].items()
    for method, operation in operations.items()
    if path.startswith("/api/")
}
OF_THE_OPERATOR = "/workers"  # they run the trials of all users, and an admin of any may drain one
OWNED = [one for one in OPERATIONS if "{" in one[1] and OF_THE_OPERATOR not in one[1]]
SHARED = [one for one in OPERATIONS if "{" not in one[1] and one[0] == "GET"]
PLACES = ("query", "header")
DATA = save({"x": np.ones((4, 2), dtype=np.float32), "y": np.ones(4, dtype=np.float32)})


@pytest.fixture(scope="module")
def server(services: Services) -> Iterator[Server]:
    allowed = AllowList.parse("https://127.0.0.1")
    with running_server(services, redis_db=BROKER, webhook_allow=allowed) as server:
        yield server


@pytest.fixture(scope="module")
def owned(server: Server) -> dict[str, str]:
    """What a user owns, by the parameters of paths that name it."""
    with server.http(server.new_token("alice", Scope.admin)) as http:
        study = ok(http.post("/studies", json={"name": "secret study"}))["id"]
        run = Run(server, UUID(ok(http.post(f"/studies/{study}/trials", json=SPEC | {"tags": ["secret tag"]}))["id"]))
        run.record(3)
        run.snapshot(3, {"l2": np.ones(4, dtype=np.float32)})
        run.checkpoint()
        dataset = ok(http.post("/datasets", json={"train": put(http, DATA), "val": put(http, DATA)}))
        upload = ok(announce(http, os.urandom(100)))["id"]
        webhook = ok(http.post("/webhooks", json={"url": "https://127.0.0.1/secret"}))["id"]
        token = ok(http.post("/tokens", json={"name": "secret token"}))["id"]
    return {
        "study_id": study, "trial_id": str(run.id), "name": "l2", "dataset_id": dataset["id"], "webhook_id": webhook,
        "token_id": token, "blob": digest_of(DATA), "upload": upload,
    }  # fmt: skip


@pytest.fixture(scope="module")
def other(server: Server) -> Iterator[httpx.Client]:
    with server.http(server.new_token("bob", Scope.admin)) as http:
        yield http


def absent(owned: dict[str, str]) -> dict[str, str]:
    """Names of the same forms that nobody has given."""
    digest = digest_of(uuid4().bytes)
    return {
        name: digest if name == "blob" else value if name == "name" else str(uuid4()) for name, value in owned.items()
    }


def body(operation: dict[str, Any]) -> dict[str, Any]:
    """The example of a valid body."""
    content = operation["requestBody"]["content"].get("application/json")
    if content is None:
        return {"content": b"1", "headers": {"Content-Type": "application/offset+octet-stream"}}
    model = DOCUMENT["components"]["schemas"][content["schema"]["$ref"].rpartition("/")[2]]
    if model.get("examples"):
        return {"json": model["examples"][0]}
    return {"json": {name: model["properties"][name]["examples"][0] for name in model.get("required", [])}}


def answer(http: httpx.Client, method: str, path: str, ids: dict[str, str]) -> tuple[int, str]:
    """The status of an operation on these, and what it says without their names."""
    operation = OPERATIONS[method, path]
    if method == "PATCH" and path.endswith("/blobs/{blob}"):
        ids = ids | {"blob": ids["upload"]}
    values = {"index": "0", "Upload-Offset": "0"}
    required = [one for one in operation.get("parameters", []) if one.get("required")]
    given = {where: {one["name"]: values[one["name"]] for one in required if one["in"] == where} for where in PLACES}
    sent: dict[str, Any] = body(operation) if "requestBody" in operation else {}
    sent["headers"] = {"Accept": "application/json"} | given["header"] | sent.get("headers", {})
    response = http.request(method, path.removeprefix("/api/v1").format(**ids), params=given["query"], **sent)
    said = response.text
    if said and response.headers["Content-Type"].endswith("json") and isinstance(response.json(), dict):
        said = str({name: value for name, value in response.json().items() if name != "request_id"})
    for name, value in ids.items():
        said = said.replace(value, f"<{name}>")
    return response.status_code, said


@pytest.mark.parametrize(("method", "path"), OWNED)
def test_what_is_anothers_is_answered_as_what_does_not_exist(other, owned, method, path):
    foreign = answer(other, method, path, owned)
    assert foreign == answer(other, method, path, absent(owned))
    assert foreign[0] == 404, foreign


@pytest.mark.parametrize(("method", "path"), SHARED)
def test_a_list_has_nothing_of_another(other, owned, method, path):
    said = ok(other.get(path.removeprefix("/api/v1")))
    assert not [value for name, value in owned.items() if name != "name" and value in str(said)]
    assert "secret" not in str(said)


def test_what_a_user_refers_to_must_be_the_users_own(other, owned):
    """Trials may name data sets, programs and other trials; data sets name blobs."""
    study = ok(other.post("/studies", json={"name": "own"}))["id"]

    def refused(path: str, sent: dict[str, Any]) -> None:
        response = other.post(path, json=sent)
        assert response.status_code == 404, response.text

    for weights in (True, False):
        warm = {"trial": owned["trial_id"], "weights": weights}
        refused(f"/studies/{study}/trials", SPEC | {"warm_start": warm})
    problem = {"program": str(uuid4()), "dataset": owned["dataset_id"]}
    refused(f"/studies/{study}/trials", SPEC | {"problem": problem})
    refused("/datasets", {"train": owned["blob"], "val": owned["blob"]})
    refused("/programs", {"graphs": owned["blob"], "tensors": owned["blob"]})
    announced = ok(announce(other, DATA))  # that somebody has the bytes is no secret that an announcement tells
    assert (announced["offset"], announced["id"] is None) == (0, False)


def test_the_owner_is_answered_on_the_same_operations(server, owned):
    """Otherwise the test above would pass with names that nobody has."""
    with server.http(server.new_token("alice", Scope.admin)) as http:
        statuses = {one: answer(http, *one, owned)[0] for one in OWNED if one[0] in ("GET", "HEAD")}
    found = {one for one, status in statuses.items() if status == 200}
    assert len(found) > 0.7 * len(statuses), {one: status for one, status in statuses.items() if one not in found}

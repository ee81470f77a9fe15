"""A server whose queue has no worker, a new user for each test, and trials that tests run by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import httpx
import numpy as np
import pytest
from safetensors.numpy import save

from nestor.schemas import HyperparameterInfo, State, Step
from nestor_server.models import Study, Trial
from nestor_server.scheduling import leases, recording
from testbed.server import Server, running_server
from testbed.services import Services

BROKER = 3  # a database of Valkey without a worker, so that messages can be counted
SPEC = {"problem": {"preset": {}}, "n_steps": 1000}


@pytest.fixture(scope="session")
def server(services: Services) -> Iterator[Server]:
    with running_server(services, redis_db=BROKER, max_blob_bytes=32 * 2**20, stream_ping_seconds=0.5) as server:
        yield server


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    """A new user's client, who may write."""
    with server.http(server.new_token()) as client:
        yield client


@pytest.fixture
def stranger(server: Server) -> Iterator[httpx.Client]:
    with server.http(server.new_token()) as client:
        yield client


@pytest.fixture
def study(http: httpx.Client) -> str:
    return ok(http.post("/studies", json={"name": "study"}))["id"]


@pytest.fixture
def submit(http: httpx.Client, study: str) -> Callable[..., dict[str, Any]]:
    def submit(**changes: Any) -> dict[str, Any]:
        return ok(http.post(f"/studies/{study}/trials", json=SPEC | changes))

    return submit


@pytest.fixture
def run(server: Server, submit: Callable[..., dict[str, Any]]) -> Run:
    """A trial that was claimed."""
    return Run(server, UUID(submit()["id"]))


class Run:
    """What a worker does to a trial, step by step."""

    def __init__(self, server: Server, trial_id: UUID) -> None:
        self.server, self.id, self.path = server, trial_id, f"/trials/{trial_id}"
        self.number = 0
        self.claim()

    def claim(self) -> None:
        with self.server.sessions.begin() as session:
            lease = leases.claim(session, self.id, "worker")
        assert lease is not None
        self.lease = lease

    def record(self, n: int = 1, *, held_out: float | None = None, **batch: Any) -> None:
        """The next `n` steps; step k has the validation loss 1/k."""
        steps = tuple(step(self.number + 1 + i, held_out) for i in range(n))
        self.number += n
        with self.server.sessions.begin() as session:
            recording.record(session, self.lease, recording.RecordedBatch(steps=steps, **batch))

    def snapshot(self, number: int, tensors: dict[str, np.ndarray], **batch: Any) -> bytes:
        data = save(tensors)
        infos = tuple(
            HyperparameterInfo(name=name, shape=values.shape, dtype="float32", transform="exp")
            for name, values in tensors.items()
        )
        self.record(0, snapshots=(recording.TensorFile(number, data),), hyperparameters=infos, **batch)
        return data

    def checkpoint(self) -> None:
        self.record(0, checkpoints=(recording.TensorFile(self.number, save({"step": np.array([self.number])})),))

    def finish(self, state: State = State.complete, error: dict[str, Any] | None = None) -> None:
        with self.server.sessions.begin() as session:
            leases.finish(session, self.lease, state, error)


def step(number: int, held_out: float | None = None) -> Step:
    return Step(
        number=number,
        train_loss=2 / number,
        val_loss=1 / number,
        val_examples=10,
        held_out_loss=held_out,
        value=1 / number if held_out is None else held_out,
        metrics={"accuracy": 1 - 1 / number},
        val_metrics={"accuracy": 0.5},
        hypergradient_norm=0.1,
        inner_gradient_norm=0.2,
        outcome="truncated",
        residual=0.3,
    )


def enlarge(server: Server, table: type[Study] | type[Trial], id: str, attrs: dict[str, Any]) -> None:
    """Give a study or a trial attributes as large as earlier versions kept."""
    with server.sessions.begin() as session:
        row = session.get_one(table, UUID(id))
        row.user_attrs = attrs
        if isinstance(row, Trial):
            row.spec = row.spec | {"user_attrs": attrs}


def ok(response: httpx.Response) -> Any:
    """The content of a successful response."""
    assert response.is_success, response.text
    return response.json() if response.content else None


def problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The problem document of an error response."""
    assert response.headers["Content-Type"] == "application/problem+json", response.text
    document = response.json()
    assert (response.status_code, document["status"], document["code"]) == (status, status, code), document
    assert document["request_id"] == response.headers["X-Request-ID"]
    return document

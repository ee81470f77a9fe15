"""Traces: what OpenTelemetry's collector receives of a trial, from the client's span to the last recording."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import format_span_id, format_trace_id, use_span

from nestor.remote.client import Client
from nestor.schemas import StudyCreate, TrialCreate
from testbed.server import Server, running_server, wait_for
from testbed.services import Services
from testbed.worker import running_worker
from tests.server.conftest import ok

SPEC = {"problem": {"preset": {}}, "n_steps": 5}


@dataclass(frozen=True)
class Received:
    """A span."""

    service: str
    name: str
    trace: str
    id: str
    parent: str
    begin: int
    end: int
    failed: bool
    attributes: dict[str, Any]


@dataclass
class Collector:
    """Receives spans by OTLP over HTTP, as a collector does."""

    endpoint: str
    spans: list[Received] = field(default_factory=list)

    def named(self, name: str, trace: str | None = None) -> list[Received]:
        return [span for span in self.spans if span.name == name and trace in (None, span.trace)]


@contextmanager
def collecting() -> Iterator[Collector]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert (self.path, self.headers["Content-Type"]) == ("/v1/traces", "application/x-protobuf")
            body = self.rfile.read(int(self.headers["Content-Length"]))
            collector.spans += spans_of(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collector = Collector(f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join()


def spans_of(request: ExportTraceServiceRequest) -> list[Received]:
    found = []
    for resource in request.resource_spans:
        service = next(a.value.string_value for a in resource.resource.attributes if a.key == "service.name")
        for span in (span for scope in resource.scope_spans for span in scope.spans):
            values = {a.key: getattr(a.value, str(a.value.WhichOneof("value"))) for a in span.attributes}
            ids = span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex()
            times = span.start_time_unix_nano, span.end_time_unix_nano
            found.append(Received(service, span.name, *ids, *times, span.status.code == 2, values))
    return found


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        yield collector


@pytest.fixture
def server(services: Services, collector: Collector) -> Iterator[Server]:
    with running_server(services, redis_db=5, traces=True) as server:
        yield server


def submit(server: Server, **changes: Any) -> str:
    with server.http() as http:
        study = ok(http.post("/studies", json={"name": "s", "load_if_exists": True}))["id"]
        return ok(http.post(f"/studies/{study}/trials", json=SPEC | changes))["id"]


def ends(server: Server, trial: str) -> None:
    with server.http() as http:
        wait_for(lambda: ok(http.get(f"/trials/{trial}"))["state"] == "complete", "its end")


def test_one_trace_leads_from_the_span_of_the_client_to_the_last_recording(server: Server, collector: Collector):
    own = TracerProvider().get_tracer("a user's program").start_span("tune")
    with running_worker(server) as worker:
        with Client(server.url, token=server.token) as client:
            study = client.create_study(StudyCreate(name="s"))
            with use_span(own):
                trial = client.create_trial(study.id, TrialCreate.model_validate(SPEC))
        ends(server, str(trial.id))
        worker.stop()
    wait_for(lambda: collector.named("record"), "the spans")
    context = own.get_span_context()
    trace = format_trace_id(context.trace_id)

    (posted,) = collector.named("POST /api/v1/studies/{study_id}/trials")
    assert (posted.service, posted.trace, posted.parent) == ("nestor-server", trace, format_span_id(context.span_id))
    statements = [
        span for span in collector.spans if span.parent == posted.id and "nestor.statement" in span.attributes
    ]
    assert any("INSERT INTO trials" in span.attributes["nestor.statement"] for span in statements)
    assert all(span.parent for span in collector.spans if "nestor.statement" in span.attributes)  # none of the reaper

    (attempt,) = collector.named("attempt")
    assert (attempt.service, attempt.trace, attempt.parent) == ("nestor-worker", trace, posted.id)
    about = {name.removeprefix("nestor."): value for name, value in attempt.attributes.items()}
    assert {name: about[name] for name in ("trial_id", "attempt", "end")} == {
        "trial_id": str(trial.id), "attempt": 1, "end": "complete"
    }  # fmt: skip
    assert not attempt.failed

    (prepared,) = collector.named("prepare")
    assert (prepared.trace, prepared.parent) == (trace, attempt.id)
    stretches = collector.named("steps")
    assert {(span.trace, span.parent) for span in stretches} == {(trace, attempt.id)}
    assert sum(span.attributes["nestor.steps"] for span in stretches) == SPEC["n_steps"]
    assert max(span.attributes.get("nestor.last_step", 0) for span in stretches) == SPEC["n_steps"]
    recordings = collector.named("record")
    assert {span.parent for span in recordings} == {span.id for span in stretches}
    for inner in (prepared, *stretches, *recordings):
        assert attempt.begin <= inner.begin <= inner.end <= attempt.end


def test_a_later_attempt_is_a_span_of_the_same_trace(server: Server, collector: Collector):
    """The request that resumes the trial has another trace."""
    trial = submit(server, n_steps=200)
    (posted,) = wait_until_named(collector, "POST /api/v1/studies/{study_id}/trials")
    with running_worker(server) as worker, server.http() as http:
        wait_for(lambda: ok(http.get(f"/trials/{trial}"))["step"] > 0, "steps")
        ok(http.post(f"/trials/{trial}/pause"))
        wait_for(lambda: ok(http.get(f"/trials/{trial}"))["state"] == "paused", "a pause")
        ok(http.post(f"/trials/{trial}/resume"))
        ends(server, trial)
        worker.stop()
    attempts = collector.named("attempt")
    assert {(span.trace, span.parent) for span in attempts} == {(posted.trace, posted.id)}
    assert [span.attributes["nestor.attempt"] for span in attempts] == [1, 2]
    assert [span.attributes["nestor.end"] for span in attempts] == ["paused", "complete"]


def wait_until_named(collector: Collector, name: str) -> list[Received]:
    wait_for(lambda: collector.named(name), f"the span {name}")
    return collector.named(name)


def test_probes_and_scrapes_make_no_spans(server: Server, collector: Collector):
    for path in ("/healthz", "/readyz", "/metrics"):
        httpx.get(server.url + path, headers={"Authorization": f"Bearer {server.token}"}, trust_env=False)
    with server.http() as http:
        ok(http.get("/me"))
    wait_until_named(collector, "GET /api/v1/me")
    assert not [span.name for span in collector.spans if span.name.endswith(("z", "/metrics"))]


def test_a_server_whose_collector_is_gone_answers_and_stops_in_time(services: Services, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    with running_server(services, redis_db=5, traces=True) as server:
        submit(server)
        assert server.stop() == -signal.SIGTERM


def test_a_server_whose_collector_hangs_stops_in_time(services: Services, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "600")
        with running_server(services, redis_db=5, traces=True) as server:
            submit(server)
            assert server.stop() == -signal.SIGTERM


def test_without_the_setting_nothing_is_sent(services: Services, collector: Collector):
    with running_server(services, redis_db=5) as server:
        trial = submit(server)
        with running_worker(server):
            ends(server, trial)
    assert collector.spans == []


PROBE = """
import sys
import nestor_server.app, nestor_worker.app, nestor.remote.client
from nestor.remote.transport import trace_headers
assert trace_headers() == {}
loaded = [name for name in sys.modules if name.startswith(("opentelemetry.sdk.trace", "opentelemetry.exporter"))]
assert not loaded, loaded
"""


def test_an_import_loads_nothing_that_sends():
    subprocess.run([sys.executable, "-c", PROBE], check=True)


MISSING = """
import sys
sys.modules["opentelemetry.sdk"] = None
from nestor.errors import MissingExtra
from nestor_server.app import validate
from nestor_server.observability import traces
from nestor_server.settings import Settings
for check in (validate, lambda settings: traces.start(settings, "nestor-worker")):
    try:
        check(Settings(traces=True))
    except MissingExtra as error:
        print(error)
"""


def test_a_missing_extra_is_said():
    said = subprocess.run([sys.executable, "-c", MISSING], check=True, capture_output=True, text=True).stdout
    assert said.count("NESTOR_TRACES") == said.count("pip install 'nestor[telemetry]'") == 2

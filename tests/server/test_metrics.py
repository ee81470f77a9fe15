"""/metrics: every number is right, for several processes and in every state of the database, and costs little."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import NullPool, create_engine, make_url, text

from nestor.schemas import Scope
from nestor_server.observability import counts, database_metrics
from testbed.server import Server, running_server, wait_for
from testbed.services import Services
from tests.server.conftest import SPEC, ok, problem
from tests.server.test_events import events
from tests.server.test_processes import new_run, processes

DOCS = Path(__file__).parents[2] / "docs"
DASHBOARD = json.loads((DOCS / "grafana" / "nestor.json").read_text())
Sample = tuple[str, frozenset[tuple[str, str]]]


def scrape(server: Server, **options: Any) -> dict[Sample, float]:
    """All samples, by name and labels."""
    return {sample: value for sample, value, _ in scraped(server, **options)}


def scraped(server: Server, **options: Any) -> Iterator[tuple[Sample, float, str]]:
    """All samples, and the type of each."""
    response = httpx.get(server.url + "/metrics", headers=bearer(server.token), trust_env=False, **options)
    assert response.status_code == 200, response.text
    for family in text_string_to_metric_families(response.text):
        assert family.name.startswith("nestor_")
        assert family.documentation
        for sample in family.samples:
            yield (sample.name, frozenset(sample.labels.items())), sample.value, family.type


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def of(name: str, **labels: str) -> Sample:
    return f"nestor_{name}", frozenset(labels.items())


def fresh(server: Server) -> dict[Sample, float]:
    """A scrape of what was read after this call began. Each one counts itself, so two readings are never equal."""
    old = scrape(server)
    found: dict[Sample, float] = {}

    def is_new() -> bool:
        found.clear()
        found.update(scrape(server))
        return found != old

    wait_for(is_new, "a fresh scrape")
    return found


def reaches(server: Server, sample: Sample, value: float) -> None:
    wait_for(lambda: scrape(server).get(sample) == value, f"{sample} to be {value}")


@pytest.fixture(scope="module")
def server(services: Services) -> Iterator[Server]:
    """Its own, because others would change what is counted."""
    with running_server(services, redis_db=3, reap_seconds=0.1) as server:
        yield server


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    with server.http(server.new_token()) as http:
        yield http


def test_an_admin_token_opens_the_metrics_and_no_other(server):
    url = server.url + "/metrics"
    problem(httpx.get(url, trust_env=False), 401, "token-missing")
    for scope in (Scope.read, Scope.write):
        problem(httpx.get(url, headers=bearer(server.new_token(scope=scope)), trust_env=False), 403, "forbidden")
    answer = httpx.get(url, headers=bearer(server.token), trust_env=False)
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"


def test_metrics_of_a_locked_table_are_missing_and_the_others_are_there(services: Services):
    """A database that answers slowly is not one that is gone."""
    with running_server(services, redis_db=3) as server, server.sessions.begin() as session:
        session.execute(text("LOCK TABLE workers"))
        found = scrape(server, timeout=30)
    assert found[of("database_up")] == 1
    assert of("trials", state="queued") in found
    assert of("steps_recorded_total") in found
    assert of("worker_slots", state="idle") not in found


def test_a_setting_opens_the_metrics_to_everybody(services: Services):
    with running_server(services, redis_db=3, metrics="open") as server:
        assert "nestor_database_up 1.0" in httpx.get(server.url + "/metrics", trust_env=False).text


def test_requests_are_counted_by_template_so_that_no_client_can_make_up_labels(server, http):
    run = new_run(server, http)
    before = fresh(server)
    for _ in range(3):
        ok(http.get(run.path))
    http.get("/trials/00000000-0000-0000-0000-000000000000")
    for path in ("/made/up", "/trials/x/made-up", "/../../etc"):
        http.get(path)
    http.request("PROPFIND", "/me")
    httpx.get(server.url + "/style.css", trust_env=False)
    new = {sample: value - before.get(sample, 0) for sample, value in fresh(server).items()}
    requests = {labels: n for (name, labels), n in new.items() if name == "nestor_http_requests_total" and n}
    assert new[of("http_requests_total", method="GET", route="/trials/{trial_id}", status="200")] == 3
    assert {label for labels in requests for name, label in labels if name == "route"} == {
        "/metrics",
        "/trials/{trial_id}",
        "other",
    }
    assert {label for labels in requests for name, label in labels if name == "method"} == {"GET", "other"}
    assert new[of("http_requests_total", method="GET", route="/trials/{trial_id}", status="404")] == 1
    assert new[of("http_request_seconds_count", method="GET", route="/trials/{trial_id}")] == 4
    assert new[of("http_request_seconds_bucket", method="GET", route="/trials/{trial_id}", le="+Inf")] == 4


def test_every_counter_ends_in_total_and_no_gauge_does(server):
    for (name, _), _, kind in scraped(server):
        assert name.endswith("_total") == (kind == "counter"), name
        assert kind in ("counter", "gauge", "histogram"), name


def test_streams_and_requests_in_flight_are_those_that_are_open(server, http):
    run = new_run(server, http)
    streams = [events(http, run.path) for _ in range(3)]
    for stream in streams:
        next(stream)
    reaches(server, of("event_streams"), 3)
    assert scrape(server)[of("http_requests_in_flight")] == 4  # one is the scrape
    run.finish()
    for stream in streams:
        list(stream)
    reaches(server, of("event_streams"), 0)
    reaches(server, of("http_requests_in_flight"), 1)


def test_trials_leases_and_the_queue_are_those_in_the_database(server, http):
    before = scrape(server)
    running = new_run(server, http)
    study = ok(http.post("/studies", json={"name": "s", "load_if_exists": True}))["id"]
    waiting = ok(http.post(f"/studies/{study}/trials", json=SPEC))["id"]
    with server.sessions.begin() as session:
        session.execute(text("UPDATE trials SET queued_at = now() - interval '1 hour' WHERE id = :id"), {"id": waiting})
    now = fresh(server)
    for state in ("queued", "running"):
        assert now[of("trials", state=state)] - before[of("trials", state=state)] == 1
    assert 3600 <= now[of("queue_oldest_wait_seconds")] < 3700
    assert now[of("leases", state="valid")] - before[of("leases", state="valid")] == 1

    expired = of("attempts_ended_total", end="expired")
    with server.sessions.begin() as session:
        session.execute(
            text("UPDATE trials SET lease_expires_at = now() - interval '1 s' WHERE id = :id"), {"id": running.id}
        )
    reaches(server, expired, before[expired] + 1)
    reaches(server, of("trials", state="queued"), before[of("trials", state="queued")] + 2)


def test_counters_add_what_several_workers_counted(server):
    before = scrape(server)
    steps, inner = of("steps_recorded_total"), of("step_seconds_total", phase="inner")
    for _ in range(3):
        with server.sessions.begin() as session:
            counts.add(
                session, {("steps_recorded", ""): 5, ("step_seconds", "inner"): 0.25, ("step_seconds", "data"): 0}
            )
    reaches(server, steps, before[steps] + 15)
    assert scrape(server)[inner] == before[inner] + 0.75


def test_a_scrape_reads_no_row_of_steps_or_blobs(server, http):
    """PostgreSQL counts the rows that a transaction has read so far, of which table and by whichever plan."""
    run = new_run(server, http)
    run.record(50)
    reads = text("SELECT relname, seq_tup_read + coalesce(idx_tup_fetch, 0) FROM pg_stat_xact_user_tables")
    with server.sessions() as session:
        assert list(database_metrics.read(session))
        n_read = {table: n for table, n in session.execute(reads) if n}
    assert "trials" in n_read
    assert n_read.keys().isdisjoint({"steps", "events", "blobs", "blob_chunks", "snapshots", "checkpoints"})


@contextmanager
def held(server: Server, n: int) -> Iterator[None]:
    """`n` requests of one user wait for a lock, or for one another."""
    with server.http() as http, server.sessions.begin() as session, ExitStack() as connections:
        run = new_run(server, http)
        session.execute(text("SELECT FROM trials WHERE id = :id FOR UPDATE"), {"id": run.id})
        head = f"POST /api/v1{run.path}/pause HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {server.token}\r\n"
        for _ in range(n):
            connection = connections.enter_context(socket.create_connection(("127.0.0.1", server.settings.port)))
            connection.sendall(f"{head}Content-Length: 0\r\n\r\n".encode())
        yield


def test_a_scrape_needs_no_connection_of_the_requests(server):
    """One user may have three quarters of the connections, and further requests wait."""
    with held(server, 40):
        reaches(server, of("gate_working", gate="requests"), 12)
        reaches(server, of("gate_waiting", gate="requests"), 28)
        assert scrape(server)[of("database_connections_in_use", pool="server")] == 12
        assert scrape(server)[of("http_requests_in_flight")] == 41
    reaches(server, of("gate_waiting", gate="requests"), 0)
    reaches(server, of("gate_working", gate="requests"), 0)


def test_refusals_are_counted(services: Services):
    with (
        running_server(services, redis_db=3, max_waiting_requests=0, request_connections=4) as server,
        held(server, 10),
    ):
        reaches(server, of("gate_refused_total", gate="requests"), 7)


def test_metrics_of_the_processes_are_there_without_a_database(services: Services):
    with running_server(services, redis_db=3) as server:
        assert scrape(server)[of("database_up")] == 1
        engine = create_engine(services.database_url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
        name = make_url(server.settings.database_url).database
        with engine.connect() as connection:  # a database that admits nobody answers nobody
            connection.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false"))
            connection.execute(text(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"))
        reaches(server, of("database_up"), 0)
        found = scrape(server)
        assert of("server_processes") in found
        assert not [name for name, _ in found if name == "nestor_trials"]
        other = httpx.get(server.url + "/metrics", headers=bearer("nst_unknown"), trust_env=False)
        problem(other, 503, "unavailable")


# --- several processes ----------------------------------------------------------------------------


@pytest.fixture
def several(services: Services) -> Iterator[Server]:
    with running_server(services, redis_db=3, server_workers=2) as server:
        yield server


def files(server: Server) -> dict[str, int]:
    """The files in which the processes share their metrics."""
    assert server.process is not None
    environment = psutil.Process(processes(server)[0].pid).environ()
    return {path.name: path.stat().st_ino for path in Path(environment["PROMETHEUS_MULTIPROC_DIR"]).iterdir()}


def test_each_process_answers_for_all_and_one_that_is_replaced_leaves_nothing(several):
    server = several
    asked = of("http_requests_total", method="GET", route="/me", status="200")
    for _ in range(12):
        with server.http() as http:  # its own connection, which either process may take
            ok(http.get("/me"))
    for _ in range(8):
        found = scrape(server)
        assert found[asked] == 12
        assert found[of("database_connections_max", pool="server")] == 2 * server.settings.request_connections
        assert found[of("server_processes")] == 2

    before, killed = files(server), min(child.pid for child in processes(server))
    os.kill(killed, signal.SIGKILL)
    wait_for(lambda: killed not in [one.pid for one in processes(server)], "its end")
    reaches(server, of("server_processes"), 2)
    wait_for(lambda: server.log.read_text().count("Application startup complete") == 3, "another process")
    assert files(server).keys() == before.keys()
    for _ in range(4):
        assert scrape(server)[asked] == 12  # what the killed process counted is kept


def test_the_shared_files_end_with_the_server(several, tmp_path):
    server = several
    directory = Path(psutil.Process(processes(server)[0].pid).environ()["PROMETHEUS_MULTIPROC_DIR"])
    assert directory.exists()
    server.stop()
    assert not directory.exists()


def test_the_shared_files_end_with_a_killed_parent(several):
    server = several
    children = processes(server)
    directory = Path(psutil.Process(children[0].pid).environ()["PROMETHEUS_MULTIPROC_DIR"])
    server.stop(signal.SIGKILL)
    psutil.wait_procs(children, timeout=60)
    assert not directory.exists()


# --- documents ------------------------------------------------------------------------------------


def families(server: Server) -> dict[str, set[str]]:
    """The names of all metrics, as the documents and expressions name them, and their labels."""
    labels: dict[str, set[str]] = {}
    for (name, given), _, kind in scraped(server):
        family = re.sub("_(bucket|sum|count)$", "", name) if kind == "histogram" else name
        labels.setdefault(family, set()).update(name for name, _ in given if name != "le")
    return labels


def test_the_documents_list_every_metric_with_its_labels_and_no_other(server, http):
    ok(http.get("/me"))
    with server.sessions.begin() as session:
        session.execute(
            text(
                "INSERT INTO workers (id, device, versions, entry_points, heartbeat_at, runner_bytes) "
                "VALUES ('host:1', 'cpu', '{}', '{}', now(), 1)"
            )
        )
    reaches(server, of("worker_runner_memory_bytes", slot="host:1"), 1)
    assert scrape(server)[of("worker_slots", state="idle")] == 1
    (section,) = re.findall(r"^## Metrics$(.*?)^## ", (DOCS / "operations.md").read_text(), re.MULTILINE | re.DOTALL)
    rows = re.findall(r"^\| `(nestor_\w+)` \| ([\w, ]*)\|", section, re.MULTILINE)
    documented = {name: set(filter(None, labels.replace(" ", "").split(","))) for name, labels in rows}
    assert documented == families(server)


def expressions() -> list[str]:
    found = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]
    found += [variable["definition"] for variable in DASHBOARD["templating"]["list"] if "definition" in variable]
    return found + re.findall(r"^ +expr: (.*)$", (DOCS / "operations.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize("expression", expressions())
def test_every_metric_of_the_dashboard_and_of_the_alerts_exists(server, http, expression):
    ok(http.get("/me"))
    named = set(re.findall(r"nestor_\w+", expression))
    assert named
    assert named <= {name for name, _ in scrape(server)} | {"nestor_worker_heartbeat_age_seconds"} | {
        "nestor_worker_runner_memory_bytes"
    }


def test_the_dashboard_imports_without_edits():
    """Its panels use the data source that is chosen, have ids of their own, and do not overlap."""
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    panels = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
    for panel in panels:
        sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
        assert {source["uid"] for source in sources} == {"${datasource}"}
        used = {name for target in panel["targets"] for name in re.findall(r"\$(\w+)", target["expr"])}
        assert used <= variables | {"__rate_interval"}
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    places = [panel["gridPos"] for panel in panels]
    cells = [
        (x, y) for at in places for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24

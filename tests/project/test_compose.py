"""docker-compose.yml gives every service what it needs, and nothing else. There is no Docker in the tests."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
import yaml
from sqlalchemy import make_url

from nestor_server.embedded.databases.binaries import find_valkey
from testbed.server import free_port, new_database, wait_for
from testbed.services import Services
from tests.client.shell import Shell

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {"migrate", "server", "worker", "worker-gpu"}
EVERY_SERVICE = pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
PINNED = re.compile(r"[\w./-]+:[\w.-]+@sha256:[0-9a-f]{64}")


# --- what every service gives up ------------------------------------------------------------------


@EVERY_SERVICE
def test_it_has_no_capabilities_and_cannot_gain_any(service: dict[str, Any]):
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert not service.keys() & {"cap_add", "privileged", "devices", "pid", "ipc", "network_mode", "userns_mode"}


@EVERY_SERVICE
def test_it_writes_only_where_it_must(service: dict[str, Any]):
    assert service["read_only"] is True
    mounted = [entry.partition(":")[0] for entry in service.get("volumes", [])]
    assert all(source in COMPOSE["volumes"] or source == "/tmp" for source in mounted), "no directory of the machine"


@EVERY_SERVICE
def test_its_memory_and_its_processes_are_limited(service: dict[str, Any]):
    assert re.fullmatch(r"\d+[mg]|\$\{[A-Z]+_MEMORY:-\d+[mg]\}", service["mem_limit"])
    assert 0 < service["pids_limit"] <= 4096


@pytest.mark.parametrize("name", sorted(SERVICES.keys() - OURS))
def test_images_of_others_are_pinned_by_digest_and_do_not_start_as_root(name: str):
    assert PINNED.fullmatch(SERVICES[name]["image"])
    assert SERVICES[name]["user"] not in ("root", "0")


def test_our_images_are_built_on_a_pinned_one_and_do_not_start_as_root():
    assert {name for name in SERVICES if "build" in SERVICES[name]} == OURS
    dockerfile = (ROOT / "Dockerfile").read_text()
    stages = {name: image for image, name in re.findall(r"^FROM (\S+) AS (\w+)$", dockerfile, re.MULTILINE)}
    assert len(stages) == len(re.findall(r"^FROM ", dockerfile, re.MULTILINE))
    assert all(image in stages or PINNED.fullmatch(image) for image in stages.values())
    for target in {SERVICES[name]["build"]["target"] for name in OURS}:
        stage = dockerfile.partition(f" AS {target}\n")[2].partition("\nFROM ")[0]
        assert re.search(r"^USER 10001$", stage, re.MULTILINE), target


# --- who reaches whom -----------------------------------------------------------------------------


def test_only_the_server_has_a_port_and_only_on_this_machine():
    assert [name for name in SERVICES if "ports" in SERVICES[name]] == ["server"]
    assert all(port.startswith("127.0.0.1:") for port in SERVICES["server"]["ports"])


def test_only_the_server_reaches_anything_outside():
    networks = COMPOSE["networks"]
    internal = {name for name, options in networks.items() if options and options.get("internal")}
    assert internal == {"back"}
    assert [name for name in SERVICES if set(SERVICES[name]["networks"]) - internal] == ["server"]


def test_no_password_has_a_default_and_none_is_in_an_argument():
    text = (ROOT / "docker-compose.yml").read_text()
    used = re.findall(r"\$\{(\w*PASSWORD\w*)(.*?)\}", text)
    assert {name for name, _ in used} == {"POSTGRES_PASSWORD", "SERVER_PASSWORD", "WORKER_PASSWORD", "VALKEY_PASSWORD"}
    assert all(rest.startswith(":?") for _, rest in used)
    for service in SERVICES.values():  # $$ leaves it to the shell in the container
        arguments = [*service.get("command", []), *service.get("healthcheck", {}).get("test", [])]
        assert not any("${" in argument for argument in arguments)


# --- the roles of the database --------------------------------------------------------------------


def test_only_the_service_that_migrates_has_the_password_of_the_owner():
    having = {name for name in OURS if "POSTGRES_PASSWORD" in str(SERVICES[name]["environment"])}
    assert having == {"migrate"}


def test_after_the_migration_each_service_has_a_role_of_its_own(services: Services):
    with new_database(services) as url:
        owner = make_url(url)
        given = {"POSTGRES_PASSWORD": owner.password, "SERVER_PASSWORD": "s3rver", "WORKER_PASSWORD": "w0rker"}
        here = {
            "@postgres:5432/nestor": f"@{owner.host}:{owner.port}/{owner.database}",
            "//nestor_": f"//{owner.database}_",  # other tests have roles of these names on this server
        }

        def addresses(service: str) -> dict[str, str]:
            text = json.dumps({**SERVICES[service]["environment"], "NESTOR_REDIS_URL": "redis://not-used"})
            text = re.sub(r"\$\{(\w+_PASSWORD):.*?\}", lambda found: str(given[found[1]]), text)
            for written, replaced in here.items():
                text = text.replace(written, replaced)
            return json.loads(text)

        Shell(**addresses("migrate"))("migrate")
        for service, role in ("server", "server"), ("worker", "worker"), ("worker-gpu", "worker"):
            with psycopg.connect(addresses(service)["NESTOR_DATABASE_URL"]) as connection:
                found = connection.execute("SELECT current_user, count(*) FROM trials").fetchone()
            assert found == (f"{owner.database}_{role}", 0)


# --- the broker's password ------------------------------------------------------------------------


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """The broker as the compose file starts it: its port and process."""
    port = free_port()
    shell, option, script = (part.replace("$$", "$") for part in SERVICES["redis"]["command"])
    assert script.count("valkey-server -") == 1
    script = script.replace("valkey-server -", f"valkey-server - --bind 127.0.0.1 --port {port}")
    environment = {"PATH": f"{find_valkey().parent}:{os.environ['PATH']}", "VALKEY_PASSWORD": "secret"}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([shell, option, script], env=environment, cwd=tmp_path, stdout=log, stderr=log)
    try:
        wait_for(lambda: process.poll() is not None or b"Ready to accept" in (tmp_path / "log").read_bytes(), "Valkey")
        assert process.poll() is None, (tmp_path / "log").read_text()
        yield port, process
    finally:
        process.terminate()
        process.wait(20)


def test_the_broker_asks_for_the_password_and_shows_it_to_nobody(broker: tuple[int, subprocess.Popen[bytes]]):
    port, process = broker
    refused = pytest.raises(redis.RedisError, match="authenticated")
    with redis.Redis.from_url(f"redis://127.0.0.1:{port}") as stranger, refused:
        stranger.ping()
    with redis.Redis.from_url(f"redis://:secret@127.0.0.1:{port}") as ours:
        assert ours.ping()
    command = Path(f"/proc/{process.pid}/cmdline").read_bytes()
    assert b"valkey-server" in command, "the shell became the server, which gets the signals"
    assert b"secret" not in command

"""`nestor up`, as a user sees it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import httpx
import psutil
import psycopg
import pytest
from sqlalchemy import make_url

from nestor_server.database import plain_url
from nestor_server.embedded import accounts, logs
from nestor_server.embedded.databases.postgres import local_url
from nestor_server.embedded.home import Home, reachable
from nestor_server.settings import SERVICES
from testbed.api import without_clock
from testbed.server import as_service, new_database
from testbed.services import Services, fresh_home
from testbed.worker import command
from tests.embedded.test_environment import BROKEN, FOREIGN
from tests.support.up import START_SECONDS, Up, credentials, ended, run, running_up, saved_token, wait_for

NOBODY = 65534
ENDLESS = {"problem": {"preset": {}}, "n_steps": 100_000}
SMALL = {"problem": {"preset": {"model": {"kind": "mlp", "hidden": [4]}}}, "n_steps": 100_000, "inner_steps": 1}


@pytest.fixture
def home() -> Iterator[Path]:
    with fresh_home() as path:
        yield path / "home"


@pytest.fixture(scope="module")
def up() -> Iterator[Up]:
    """One that several tests read; none may stop it. It has two workers, and a shell set up for other programs."""
    with fresh_home() as path:
        (path / "celery.py").write_text("raise SystemExit('not the library')")
        shell: dict[str, Any] = FOREIGN | BROKEN | {"PYTHONPATH": str(path)}
        shell["NESTOR_REQUEUE_AFTER_SECONDS"] = "1"
        with running_up(path / "home", "--workers", "2", **shell) as up:
            yield up


def test_it_prints_an_address_and_names_the_file_with_a_token_that_logs_in(up: Up):
    assert up.ask("GET", "/readyz").status_code == 200
    assert up.ask("GET", "/api/v1/studies").json()["items"] == []
    assert saved_token(up.home, up.url) == up.token
    assert f"token {up.home / 'token'}; `nestor token create` makes others" in up.output


def test_its_token_is_printed_to_terminals_only(up: Up, home: Path, services: Services):
    """Regression: a journal kept the admin token."""
    assert up.token not in up.output
    on_terminal = [sys.executable, "-c", "import pty, sys; pty.spawn(sys.argv[1:])", sys.executable]
    with (
        new_database(services) as database_url,
        running_up(
            home, python=on_terminal, NESTOR_DATABASE_URL=database_url, NESTOR_REDIS_URL=services.redis_url
        ) as up,
    ):
        assert f"Nestor is up: {up.url}/#token={up.token}\n" in up.output
        assert str(home / "token") not in up.output
        (inner,) = psutil.Process(up.pid).children()
        inner.terminate()
        assert up.wait(40) == 0


def test_it_says_where_every_log_is(up: Up):
    for part in ("postgres", "valkey", "server", "worker-1", "worker-2"):
        assert part in up.output
        assert (up.home / "logs" / f"{part}.log").stat().st_size > 0


def test_its_logs_are_rotated_while_its_parts_write_to_them(up: Up):
    parts = ("postgres", "valkey", "server", "worker-1")
    for part in parts:
        with Home(up.home).log(part).open("ab") as log:
            log.write(b"a line\n" * (logs.MAX_BYTES // 7 + 1))
    for part in parts:
        log = Home(up.home).log(part)
        wait_for(lambda log=log: logs.earlier(log, 1).exists() and log.stat().st_size < logs.MAX_BYTES, 30)
        assert logs.earlier(log, 1).read_bytes().endswith(b"a line\n")
        assert stat.S_IMODE(logs.earlier(log, 1).stat().st_mode) == 0o600
    # What a part writes now begins where the file was cut, and not where the part had stopped.
    up.ask("POST", "/api/v1/studies", json={"name": "logged"})
    wait_for(lambda: b"POST /api/v1/studies 201" in Home(up.home).log("server").read_bytes(), 10)
    assert b"\0" not in Home(up.home).log("server").read_bytes()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(_with_a_wrong_password(up.home))
    wait_for(lambda: b"password authentication failed" in Home(up.home).log("postgres").read_bytes(), 10)
    assert b"\0" not in Home(up.home).log("postgres").read_bytes()


def test_its_secrets_are_readable_by_their_owner_alone_and_on_no_command_line(up: Up):
    secrets = [up.home / "token", *up.home.glob("*-password")]
    assert len(secrets) == 5
    for file in [*secrets, credentials(up.home)]:
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    commands = b" ".join(command(process.pid) for process in up.family())
    assert b"nestor_worker" in commands
    assert not any(file.read_bytes() in commands for file in secrets)


def test_server_and_workers_know_the_password_of_their_own_role_alone(up: Up):
    passwords = {file.name: file.read_text() for file in up.home.glob("postgres*-password")}
    known = {
        child.environ()["NESTOR_DATABASE_URL"].partition("@")[0]: {
            file for file, password in passwords.items() if any(password in value for value in child.environ().values())
        }
        for child in map(up.child, ("nestor_server", "nestor_worker"))
    }
    assert known == {
        f"postgresql+psycopg://nestor_{service}:{passwords[own]}": {own}
        for service in ("server", "worker")
        for own in [f"postgres-{service}-password"]
    }


def test_a_second_one_in_the_same_directory_reports_where_the_first_is(up: Up):
    second = run(up.home, "up", "--port", "0")
    assert second.returncode == 1
    assert f"already runs on {up.home}, at {up.url}" in _plain(second.stderr)
    assert up.ask("GET", "/readyz").status_code == 200


def test_it_runs_trials_whatever_the_shell_has_set_for_other_programs(up: Up):
    study = up.ask("POST", "/api/v1/studies", json={"name": "in spite"}).json()["id"]
    short = SMALL | {"n_steps": 1}
    trial = up.ask("POST", f"/api/v1/studies/{study}/trials", json=short).raise_for_status().json()["id"]
    wait_for(lambda: up.ask("GET", f"/api/v1/trials/{trial}").json()["state"] == "complete", 60)


def test_a_worker_that_dies_is_started_again_and_the_doctor_shows_both(up: Up):
    before = Home(up.home).running()
    assert before is not None
    os.kill(before["workers"]["worker-2"], signal.SIGKILL)
    wait_for(lambda: "worker-2 ended with signal SIGKILL" in up.output, 10)

    def replaced() -> bool:
        now = Home(up.home).running()
        return now is not None and now["workers"]["worker-2"] != before["workers"]["worker-2"]

    wait_for(replaced, 10)
    wait_for(lambda: run(up.home, "doctor").stdout.count("takes trials") == 2, 60)
    report = run(up.home, "doctor", **cast("dict[str, Any]", FOREIGN))
    assert report.returncode == 0, report.stdout
    assert "worker-1" in report.stdout
    assert "worker-2" in report.stdout


@pytest.mark.parametrize("printed", ["{url}/#token={token}", "{url}/#token={token}&study=x", " {url}/api/v1/ "])
def test_what_it_prints_is_an_address_for_clients(up: Up, printed: str):
    address = printed.format(url=up.url, token=up.token)
    listed = run(up.home, "studies", "--server", address, home_option=False)
    assert listed.returncode == 0, listed.stderr
    listed = run(up.home, "studies", home_option=False, NESTOR_SERVER=address)
    assert listed.returncode == 0, listed.stderr


def test_a_port_in_use_is_reported_before_anything_starts(home: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused = run(home, "up", "--port", str(port))
    assert refused.returncode == 1
    assert f"Port {port} on 127.0.0.1 is used" in _plain(refused.stderr)
    assert not (home / "postgres").exists()


def test_a_token_created_next_to_it_works(up: Up):
    made = run(up.home, "token", "create", "--user", "ada", "--scope", "read")
    assert made.returncode == 0, made.stderr
    ada = {"Authorization": f"Bearer {made.stdout.strip()}"}
    assert httpx.get(f"{up.url}/api/v1/studies", headers=ada, trust_env=False).status_code == 200
    assert httpx.post(f"{up.url}/api/v1/studies", headers=ada, json={"name": "x"}, trust_env=False).status_code == 403


def test_the_doctor_finds_nothing_wrong_with_it(up: Up):
    report = run(up.home, "doctor")
    assert report.returncode == 0, report.stdout
    assert f"the server at {up.url} is ready" in report.stdout


def test_the_doctor_reports_a_wrong_server_and_token_of_the_client(up: Up):
    report = run(up.home, "doctor", NESTOR_SERVER="http://127.0.0.1:1", NESTOR_TOKEN="nst_wrong")
    assert report.returncode == 1
    assert "http://127.0.0.1:1" in report.stdout
    report = run(up.home, "doctor", NESTOR_SERVER=up.url, NESTOR_TOKEN="nst_wrong")
    assert report.returncode == 1
    assert "NESTOR_TOKEN" in report.stdout


def test_a_server_that_dies_is_started_again(up: Up):
    up.child("nestor_server").kill()
    wait_for(lambda: "server ended with signal SIGKILL" in up.output, 5)

    def answers() -> bool:
        try:
            return up.ask("GET", "/readyz").status_code == 200
        except Exception:
            return False

    wait_for(answers, 30)


def test_a_kill_leaves_no_orphans_and_the_next_start_finds_data_and_token(home: Path):
    with running_up(home, NESTOR_STANDBY="true", NESTOR_SERVER_WORKERS="2") as killed:
        server = killed.child("nestor_server")
        assert sum(b"spawn_main" in command(process.pid) for process in server.children()) == 2
        study = killed.ask("POST", "/api/v1/studies", json={"name": "kept"}).json()["id"]
        killed.ask("POST", f"/api/v1/studies/{study}/trials", json=ENDLESS).raise_for_status()
        wait_for(lambda: any(process.name() == "nestor-runner" for process in killed.family()), 60)
        everything = killed.family()
        killed.signal(signal.SIGKILL)
        assert ended(everything, 8), [process for process in everything if process.is_running()]
    # Regression: the demo and `nestor doctor` mistook the file of a killed Nestor for a running one.
    assert (home / "server.json").exists()
    assert Home(home).running() is None

    with running_up(home) as up:
        assert up.token == killed.token
        assert [study["name"] for study in up.ask("GET", "/api/v1/studies").json()["items"]] == ["kept"]
        everything = up.family()
        assert up.signal(signal.SIGINT) == 0
        assert ended(everything, 8)
        assert not (home / "server.json").exists()


def test_databases_that_are_killed_are_started_again_and_a_running_trial_goes_on_bit_for_bit(up: Up):
    """Regression: a killed PostgreSQL or Valkey ended everything."""
    study = up.ask("POST", "/api/v1/studies", json={"name": "outages"}).json()["id"]
    submit = lambda: up.ask("POST", f"/api/v1/studies/{study}/trials", json=SMALL).raise_for_status().json()["id"]
    undisturbed, disturbed = submit(), submit()
    wait_for(lambda: _step(up, undisturbed) > 100, 60)
    up.ask("POST", f"/api/v1/trials/{undisturbed}/cancel").raise_for_status()
    wait_for(lambda: _step(up, disturbed) > 5, 60)

    postgres = up.child("postgres")
    backend = next(child for child in postgres.children() if b"nestor_server postgres" in command(child.pid))
    backend.suspend()  # it outlives its server and holds the memory, so no other server may start on the data
    postgres.kill()
    ends = "postgres ended with signal SIGKILL; restarting it in"
    wait_for(lambda: ends in up.output, 10)
    assert backend.is_running()
    backend.resume()
    wait_for(lambda: _step(up, disturbed) > 10, 60)

    for database in ("postgres", "valkey"):
        up.child(database).kill()
    wait_for(lambda: up.output.count(ends) == 2 and "valkey ended with signal SIGKILL" in up.output, 10)
    wait_for(lambda: _step(up, disturbed) > 50, 60)
    after = submit()
    wait_for(lambda: up.ask("GET", f"/api/v1/trials/{after}").json()["state"] == "running", 60)
    wait_for(lambda: _step(up, disturbed) > 100, 60)
    assert up.ask("GET", f"/api/v1/trials/{disturbed}").json()["attempt"] == 1
    for trial in (disturbed, after):
        up.ask("POST", f"/api/v1/trials/{trial}/cancel").raise_for_status()
    assert _trajectory(up, disturbed) == _trajectory(up, undisturbed)


def test_it_comes_up_although_postgres_is_killed_meanwhile_and_stops_although_it_is_killed(home: Path):
    with ThreadPoolExecutor(1) as other:
        killed = other.submit(_kill_once_the_server_starts, home)
        with running_up(home, NESTOR_HEARTBEAT_SECONDS="1") as up:
            killed.result()
            assert up.output.count("postgres ended with signal SIGKILL; restarting it") == 1
            up.ask("POST", "/api/v1/studies", json={"name": "works"}).raise_for_status()
            everything = up.family()
            up.child("postgres").kill()
            wait_for(lambda: up.output.count("postgres ended with signal SIGKILL; restarting it") == 2, 10)
            assert up.signal(signal.SIGTERM) == 0
            assert ended(everything, 8)


def test_given_addresses_replace_the_embedded_parts(home: Path, services: Services):
    with new_database(services) as url:
        given = {"NESTOR_DATABASE_URL": url, "NESTOR_REDIS_URL": services.redis_url}
        given |= {f"NESTOR_{service.upper()}_DATABASE_URL": as_service(service, url) for service in SERVICES}
        with running_up(home, python=None, **given) as up:
            assert not (home / "postgres").exists()
            assert not (home / "valkey").exists()
            assert len(psutil.Process(up.pid).children()) == 2
            assert up.ask("GET", "/api/v1/studies").status_code == 200
            with psycopg.connect(plain_url(url)) as connection:
                users = "SELECT DISTINCT usename FROM pg_stat_activity WHERE datname = current_database() AND pid <> %s"
                found = connection.execute(users, [connection.info.backend_pid]).fetchall()
            assert {user for (user,) in found} == {"nestor_server", "nestor_worker"}


def test_a_database_that_does_not_answer_is_reported_with_its_setting(home: Path, services: Services):
    url = "postgresql://nestor:wrong@127.0.0.1:1/nowhere"
    refused = run(home, "up", "--port", "0", NESTOR_DATABASE_URL=url, NESTOR_REDIS_URL=services.redis_url)
    assert refused.returncode == 1
    assert "Check NESTOR_DATABASE_URL" in _plain(refused.stderr)
    assert "wrong" not in refused.stderr


def test_a_broker_that_does_not_answer_is_reported_with_its_setting(home: Path):
    refused = run(home, "up", "--port", "0", NESTOR_REDIS_URL="redis://:wrong@127.0.0.1:1/0")
    assert refused.returncode == 1
    assert "Check NESTOR_REDIS_URL" in _plain(refused.stderr)
    assert "wrong" not in refused.stderr
    assert "is up" not in refused.stdout


@pytest.mark.parametrize("command", ["up", "migrate", "doctor"])
def test_a_setting_with_a_wrong_value_is_named(home: Path, command: str):
    refused = run(home, command, NESTOR_LEASE_SECONDS="soon", NESTOR_DATABASE_URL="postgresql://h/d")
    assert refused.returncode == 1
    assert "NESTOR_LEASE_SECONDS='soon': it must be a number" in _plain(refused.stderr + refused.stdout)


@pytest.mark.skipif(os.geteuid() != 0, reason="as a normal user PostgreSQL runs as oneself")
def test_a_directory_that_postgres_cannot_reach_is_refused_and_keeps_its_permissions(tmp_path: Path):
    tmp_path.chmod(0o700)
    refused = run(tmp_path / "home", "up", "--port", "0")
    assert refused.returncode == 1
    assert "may not enter one of its parents" in _plain(refused.stderr)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700
    assert run(tmp_path / "home", "doctor").returncode == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="the tests already run as a normal user")
def test_a_normal_user_can_run_it_too():
    with fresh_home() as path:
        python, environment = _python_for_everyone(path)
        os.chown(path, NOBODY, NOBODY)
        as_nobody = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", python]
        with running_up(path / "home", python=as_nobody, HOME=str(path), **environment) as up:
            everything = up.family()
            assert {process.uids().real for process in everything} == {NOBODY}
            assert up.ask("GET", "/api/v1/studies").status_code == 200
            assert up.signal(signal.SIGTERM) == 0
            assert ended(everything, 8)


@pytest.mark.skipif(os.geteuid() != 0, reason="a normal user runs everything as oneself")
def test_as_root_server_and_workers_have_accounts_that_read_no_secrets_and_take_over_an_earlier_home():
    """Regression: both ran as root, and their files belonged to root."""
    with fresh_home() as path:
        python, environment = _python_for_everyone(path)
        home, store, old = path / "home", path / "objects", str(uuid4())
        for directory in (home / "cache", store):  # as an earlier version left them
            (directory / old).mkdir(parents=True, mode=0o700)
            (directory / old / "file").write_bytes(b"of root")
        objects = {"NESTOR_BLOB_URL": f"file://{store}", "NESTOR_LARGE_BLOB_BYTES": "1"}
        with running_up(home, python=[python], **environment, **objects) as up:
            study = up.ask("POST", "/api/v1/studies", json={"name": "without root"}).json()["id"]
            trial = up.ask("POST", f"/api/v1/studies/{study}/trials", json=SMALL).raise_for_status().json()["id"]
            wait_for(lambda: _step(up, trial) > 0, 60)
            server, worker = up.child("nestor_server"), up.child("nestor_worker")
            users = {process.uids().real for process in (server, *server.children(recursive=True))}
            assert users == {server.uids().effective}
            users = {process.uids().real for process in (worker, *worker.children(recursive=True))}
            assert users == {worker.uids().effective}
            assert len({0, *_ids_of_databases(), server.uids().real, worker.uids().real}) == 4
            assert (home / "cache" / old / "file").stat().st_uid == worker.uids().real
            wait_for(lambda: any(path.stat().st_uid == worker.uids().real for path in store.rglob("*/*")), 60)
            assert _readable(store / old / "file", worker)

            secrets = (
                "token",
                "postgres-password",
                "valkey-password",
                "valkey/valkey.conf",
                "postgres/data/PG_VERSION",
            )
            for secret in (*(home / name for name in secrets), credentials(home), Path(f"/proc/{server.pid}/environ")):
                assert secret.read_bytes()
                assert not _readable(secret, worker), secret
            assert not _readable(home / "token", server)
            everything = up.family()
            assert up.signal(signal.SIGTERM) == 0
            assert ended(everything, 8)


@pytest.mark.skipif(os.geteuid() != 0, reason="a normal user runs everything as oneself")
def test_a_directory_of_root_with_other_files_is_refused_as_an_object_store(home: Path, services: Services):
    shared = home.parent / "shared"
    shared.mkdir()
    (shared / "passwords").touch()
    with new_database(services) as database_url:
        given: dict[str, Any] = {"NESTOR_DATABASE_URL": database_url, "NESTOR_REDIS_URL": services.redis_url}
        refused = run(home, "up", "--port", "0", NESTOR_BLOB_URL=f"file://{shared}", **given)
    assert refused.returncode == 1
    assert "has files that are not Nestor's, such as passwords" in _plain(refused.stderr)
    assert (shared / "passwords").stat().st_uid == 0


def _ids_of_databases() -> set[int]:
    account = accounts.of_databases()
    return {account.uid} if account else set()


def _readable(file: Path, process: psutil.Process) -> bool:
    """Whether the account of `process` can read `file`."""
    user, group = f"--reuid={process.uids().real}", f"--regid={process.gids().real}"
    reading = ["setpriv", user, group, "--clear-groups", "cat", file]
    return subprocess.run(reading, capture_output=True, check=False).returncode == 0


def _step(up: Up, trial: str) -> int:
    """The number of its last step; -1 if the database does not answer."""
    answer = up.ask("GET", f"/api/v1/trials/{trial}")
    return answer.json()["step"] if answer.status_code == 200 else -1


def _trajectory(up: Up, trial: str) -> dict[str, list[Any]]:
    columns = up.ask("GET", f"/api/v1/trials/{trial}/steps", params={"limit": 100}).json()["columns"]
    assert columns["number"] == list(range(1, 101))
    del columns["recorded_at"]
    return without_clock(columns)


def _kill_once_the_server_starts(home: Path) -> None:
    wait_for(lambda: Home(home).log("server").exists(), START_SECONDS)
    (main, *_) = (home / "postgres" / "data" / "postmaster.pid").read_text().splitlines()
    os.kill(int(main), signal.SIGKILL)


def _with_a_wrong_password(home: Path) -> str:
    url = local_url(Home(home))
    assert url is not None
    return plain_url(make_url(url).set(password="wrong").render_as_string(hide_password=False))


def _python_for_everyone(scratch: Path) -> tuple[str, dict[str, str]]:
    """This environment with a copied interpreter, for a user without access to its owner's home directory."""
    if reachable(Path(sys.executable)):
        return sys.executable, {}
    packages = [path for path in sys.path if path and Path(path).is_dir() and reachable(Path(path))]
    if not any(Path(path, "nestor_server").is_dir() for path in packages):
        pytest.skip("other users cannot enter this checkout")
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    python = scratch / "bin" / version
    python.parent.mkdir()
    shutil.copy2(Path(sys.executable).resolve(), python)
    shutil.copytree(
        sysconfig.get_path("stdlib"),
        scratch / "lib" / version,
        symlinks=True,
        ignore=shutil.ignore_patterns("site-packages", "__pycache__", "test", "config-*"),
    )
    libraries = scratch / "lib"  # where the interpreter looks for its own, if it was built with shared ones
    for library in Path(sysconfig.get_config_var("LIBDIR")).glob("libpython*.so*"):
        shutil.copy2(library, libraries)
    return str(python), {"PYTHONPATH": os.pathsep.join(packages), "LD_LIBRARY_PATH": str(libraries)}


def _plain(text: str) -> str:
    """Without the line breaks of a narrow terminal."""
    return " ".join(text.split())

"""A test fails whose server, worker or database logs a token or a password."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest
from sqlalchemy import NullPool, create_engine, text
from sqlalchemy.exc import DBAPIError

from testbed.leaks import expect_no_secrets, passwords_of
from testbed.server import running_server
from testbed.services import Services, running_services
from testbed.worker import running_worker

PASSWORD = secrets.token_urlsafe(24)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "server.log"


@pytest.mark.parametrize(
    "secret",
    [f"nst_{secrets.token_urlsafe(32)}", f"whsec_{'aB3+' * 11}", PASSWORD],
    ids=["token", "webhook", "password"],
)
def test_a_secret_in_a_log_is_found_with_its_line(log: Path, secret: str):
    log.write_text(f"it starts\nconnects as x:{secret}@host\nit ends\n")
    with pytest.raises(AssertionError, match=r"server\.log, line 2 has a secret"):
        expect_no_secrets([log], [PASSWORD])


def test_a_log_without_secrets_passes(log: Path):
    log.write_text("GET /api/v1/tokens 200, token nst_… of alice\n")
    expect_no_secrets([log], [PASSWORD])


def test_a_search_without_logs_lines_or_passwords_fails(log: Path):
    with pytest.raises(AssertionError, match="none of these logs"):
        expect_no_secrets([log], [PASSWORD])
    log.write_text("")
    with pytest.raises(AssertionError, match="none of these logs"):
        expect_no_secrets([log], [PASSWORD])
    log.write_text("it starts\n")
    with pytest.raises(AssertionError, match="no password"):
        expect_no_secrets([log], ["short"])


def test_passwords_are_those_in_urls_and_of_object_stores():
    environment = {
        "NESTOR_DATABASE_URL": "postgresql://nestor:a%2Fb@host/nestor",
        "NESTOR_REDIS_URL": "redis://:c@host/0",
        "AWS_SECRET_ACCESS_KEY": "d",
        "NESTOR_HOST": "127.0.0.1",
    }
    assert passwords_of(environment) == ["a/b", "c", "d"]


# --- each part is searched when it ends -----------------------------------------------------------


def test_a_server_that_logs_its_token_fails_its_test(services: Services):
    found = pytest.raises(AssertionError, match=r"server\.log, line \d+ has a secret")
    with found, running_server(services) as server, server.http() as http:
        http.get(f"/studies/{server.token}")  # the log has the paths of refused requests


def test_a_worker_whose_log_has_the_password_fails_its_test(services: Services):
    with (
        running_server(services) as server,
        pytest.raises(AssertionError, match=r"worker\.log, line \d+ has a secret"),
        running_worker(server, NESTOR_STANDBY=False) as worker,
        worker.log.open("a") as log,
    ):
        print(server.settings.database_url, file=log)


def test_a_database_that_logs_a_token_fails_the_session():
    found = pytest.raises(AssertionError, match=r"postgres\.log, line \d+ has a secret")
    with found, running_services() as services:
        engine = create_engine(services.database_url, poolclass=NullPool)
        with engine.connect() as connection, pytest.raises(DBAPIError):
            connection.execute(text(f"SELECT nst_{'0' * 43}"))  # PostgreSQL logs statements that fail

"""Server and workers have roles of the database that can do what their work needs, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product

import pytest
from sqlalchemy import Connection, NullPool, create_engine, make_url, text
from sqlalchemy.exc import OperationalError, ProgrammingError

from nestor_server import roles
from nestor_server.models import Base
from nestor_server.settings import SERVICES
from testbed.server import Server, as_service, new_database
from testbed.services import Services
from tests.client.shell import Shell

PRIVILEGES = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER")
# What a superuser, or an owner of tables, can do and a service must not.
BEYOND = {
    "run a program": "COPY users FROM PROGRAM 'id'",
    "write a file": "COPY users TO '/tmp/nestor-role'",
    "read a file": "SELECT pg_read_file('/etc/passwd')",
    "read password hashes": "SELECT rolpassword FROM pg_authid",
    "make itself a superuser": "ALTER ROLE CURRENT_USER SUPERUSER",
    "create a role": "CREATE ROLE another",
    "create a database": "CREATE DATABASE another",
    "create a table": "CREATE TABLE another (id int)",
    "create a function": "CREATE FUNCTION another() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "change a table": "ALTER TABLE users ADD another int",
    "delete a table": "DROP TABLE users CASCADE",
    "empty a table": "TRUNCATE users CASCADE",
    "disable a trigger": "ALTER TABLE blob_chunks DISABLE TRIGGER ALL",
    "set the revision": "UPDATE alembic_version SET version_num = '0001'",
    "become the owner": "SET ROLE nestor",
    "change a setting": "ALTER SYSTEM SET log_statement = 'all'",
}


@contextmanager
def connected(url: str) -> Iterator[Connection]:
    engine = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        yield connection
    engine.dispose()


@pytest.fixture(params=SERVICES)
def service(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def connection(service: str, server: Server) -> Iterator[Connection]:
    """With the role of `service`."""
    with connected(as_service(service, server.settings.database_url)) as connection:
        yield connection


@pytest.fixture
def as_worker(server: Server) -> Iterator[Connection]:
    with connected(as_service("worker", server.settings.database_url)) as connection:
        yield connection


def test_each_privilege_on_each_table_is_as_listed(service: str, connection: Connection):
    of_tables = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"
    tables = connection.scalars(text(of_tables)).all()
    assert set(tables) == {*Base.metadata.tables, roles.VERSION_TABLE} == roles.PRIVILEGES[service].keys()
    has = text("SELECT has_table_privilege(:table, :privilege)")
    for table, privilege in product(tables, PRIVILEGES):
        whole = re.sub(r"\w+ \([^)]*\)", "", roles.PRIVILEGES[service][table])  # without those on some columns
        found = connection.execute(has, {"table": table, "privilege": privilege}).scalar_one()
        assert found == (privilege in re.findall(r"\w+", whole)), (table, privilege)


@pytest.mark.parametrize("statement", BEYOND.values(), ids=BEYOND)
def test_it_cannot(statement: str, connection: Connection):
    with pytest.raises(ProgrammingError, match=r"permission denied|must be owner"):
        connection.execute(text(statement))


@pytest.mark.parametrize("table", ["tokens", "browser_sessions", "idempotency_keys"])
@pytest.mark.parametrize("statement", ["SELECT FROM {}", "INSERT INTO {} DEFAULT VALUES", "DELETE FROM {}"])
def test_a_worker_neither_reads_nor_writes_credentials(statement: str, table: str, as_worker: Connection):
    with pytest.raises(ProgrammingError, match="permission denied"):
        as_worker.execute(text(statement.format(table)))


@pytest.mark.parametrize("column", ["secret", "url"])
def test_a_worker_reads_neither_secrets_nor_addresses_of_webhooks(column: str, as_worker: Connection):
    with pytest.raises(ProgrammingError, match="permission denied"):
        as_worker.execute(text(f"SELECT {column} FROM webhooks"))


# --- how they come into being ---------------------------------------------------------------------


@pytest.fixture
def url(services: Services) -> Iterator[str]:
    """The address of an empty database, with its owner."""
    with new_database(services) as url:
        yield url


def with_role(url: str, name: str, password: str | None = "a:p@ss'word/") -> str:
    return make_url(url).set(username=name, password=password).render_as_string(hide_password=False)


def migrate(url: str, *, code: int = 0, **addresses: str) -> str:
    given = {f"NESTOR_{service.upper()}_DATABASE_URL": address for service, address in addresses.items()}
    return Shell(NESTOR_DATABASE_URL=url, **given)("migrate", code=code)


def test_nestor_migrate_creates_the_roles_that_addresses_name(url):
    name = f'the "role" of {make_url(url).database}'
    address = with_role(url, name)
    with pytest.raises(OperationalError), connected(address):
        pass
    for _ in range(2):  # the second time, it exists
        migrate(url, worker=address)
        with connected(address) as connection:
            assert connection.scalars(text("SELECT current_user")).one() == name
            connection.execute(text("SELECT FROM trials"))
            with pytest.raises(ProgrammingError, match="permission denied"):
                connection.execute(text("SELECT FROM tokens"))


def test_each_migration_takes_what_is_not_listed_and_sets_the_password(url):
    name = f"{make_url(url).database}_worker"
    migrate(url, worker=with_role(url, name))
    with connected(url) as owner:
        owner.execute(text(f"GRANT ALL ON tokens TO {name}"))
        owner.execute(text(f"GRANT SELECT (secret) ON webhooks TO {name}"))
    migrate(url, worker=with_role(url, name, "another"))
    with connected(with_role(url, name, "another")) as worker:
        for statement in ("SELECT FROM tokens", "SELECT secret FROM webhooks"):
            with pytest.raises(ProgrammingError, match="permission denied"):
                worker.execute(text(statement))


@pytest.mark.parametrize("made", ["SUPERUSER", "IN ROLE nestor", None])
def test_a_role_that_can_do_what_the_owner_can_is_refused(url, made):
    name = f"{make_url(url).database}_other" if made else "nestor"
    if made:
        with connected(url) as owner:
            owner.execute(text(f"CREATE ROLE {name} {made}"))
    said = migrate(url, worker=with_role(url, name), code=1)
    assert f"NESTOR_WORKER_DATABASE_URL names {name}, which can do all that the owner of the tables can" in said


def test_an_address_without_a_role_is_refused(url):
    assert "NESTOR_SERVER_DATABASE_URL names no role" in migrate(url, server=with_role(url, "", None), code=1)


def test_an_owner_who_may_not_create_roles_says_how_and_goes_on_with_those_that_exist(url):
    database = make_url(url).database
    owner, name = f"{database}_owner", f"{database}_worker"
    with connected(url) as superuser:
        superuser.execute(text(f"CREATE ROLE {owner} LOGIN PASSWORD 'owner'"))
        superuser.execute(text(f"ALTER DATABASE {database} OWNER TO {owner}"))
    as_owner = with_role(url, owner, "owner")
    said = migrate(as_owner, worker=with_role(url, name, "worker"), code=1)
    assert f"The role {name} of NESTOR_WORKER_DATABASE_URL does not exist" in said
    assert f"CREATE ROLE {name} LOGIN PASSWORD" in said
    with connected(url) as superuser:
        superuser.execute(text(f"CREATE ROLE {name} LOGIN PASSWORD 'worker'"))
    migrate(as_owner, worker=with_role(url, name, "worker"))
    with connected(with_role(url, name, "worker")) as worker:
        worker.execute(text("SELECT FROM trials"))


def test_an_address_that_cannot_be_one_is_named_without_its_password(url):
    said = migrate(url, worker="mysql://worker:its-password@h/d", code=1)
    assert "must be a PostgreSQL address" in said
    assert "Check NESTOR_WORKER_DATABASE_URL (" in said
    assert "its-password" not in said

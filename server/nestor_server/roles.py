"""The roles of the database: what server and workers may do in it.

The owner of the tables migrates them, and then grants these privileges. A service has a role of its own, which is no
superuser and owns nothing: taken over, it cannot run programs on the database's machine, read its files, or change
tables. A worker sees no credentials.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import psycopg
from psycopg.errors import InsufficientPrivilege
from sqlalchemy import Connection, make_url, text
from sqlalchemy.exc import ProgrammingError

from nestor_server.database import make_engine
from nestor_server.embedded.errors import RoleMissing, RoleUnusable
from nestor_server.models import Base
from nestor_server.settings import Settings

VERSION_TABLE = "alembic_version"
READ, WRITE = "SELECT", "SELECT, INSERT, UPDATE, DELETE"
NOTHING = ""

SERVER: Mapping[str, str] = MappingProxyType({**dict.fromkeys(Base.metadata.tables, WRITE), VERSION_TABLE: READ})

WORKER: Mapping[str, str] = MappingProxyType(
    {
        VERSION_TABLE: NOTHING,
        "users": "SELECT, UPDATE (served_at)",
        "tokens": NOTHING,
        "browser_sessions": NOTHING,
        "idempotency_keys": NOTHING,
        "studies": READ,
        "trials": "SELECT, UPDATE",
        "steps": WRITE,
        "step_numbers": WRITE,
        "distributions": WRITE,
        "events": WRITE,
        "snapshots": WRITE,
        "checkpoints": WRITE,
        "results": WRITE,
        "blobs": WRITE,
        "blob_chunks": WRITE,
        "unused_objects": WRITE,
        "programs": READ,
        "datasets": READ,
        "workers": WRITE,
        "webhooks": "SELECT (id, owner_id, study_id, events, enabled)",  # neither addresses nor secrets
        "webhook_deliveries": "SELECT, INSERT",
        "counts": "SELECT, INSERT, UPDATE",
    }
)


def admit(settings: Settings) -> None:
    """Create the roles that `settings` names for services, and grant them what they need and nothing else.

    A role that exists gets the password of its address, if the owner of the tables may set it.

    Raises:
        RoleUnusable: an address names no role, or one that can do what the owner can.
        RoleMissing: the role does not exist, and the owner may not create it.
    """
    engine = make_engine(settings)
    given = {
        "NESTOR_SERVER_DATABASE_URL": (settings.server_database_url, SERVER),
        "NESTOR_WORKER_DATABASE_URL": (settings.worker_database_url, WORKER),
    }
    try:
        for variable, (url, privileges) in given.items():
            if url is None:
                continue
            name, password = make_url(url).username, make_url(url).password
            if not name:
                raise RoleUnusable(variable=variable, what="names no role")
            with engine.begin() as connection:
                _prepare(connection, name, str(password or ""), variable)
                _grant(connection, name, privileges)
    finally:
        engine.dispose()


def _prepare(connection: Connection, name: str, password: str, variable: str) -> None:
    exists = "SELECT pg_has_role(rolname, current_user, 'MEMBER') FROM pg_roles WHERE rolname = :name"
    can_do_all = connection.execute(text(exists), {"name": name}).scalar_one_or_none()  # true of superusers, too
    if can_do_all:
        raise RoleUnusable(variable=variable, what=f"names {name}, which can do all that the owner of the tables can")
    action = "CREATE" if can_do_all is None else "ALTER"
    secret = f"PASSWORD '{_hashed(connection, name, password)}'" if password else ""
    try:
        with connection.begin_nested():
            connection.exec_driver_sql(f"{action} ROLE {_quoted(connection, name)} LOGIN {secret}")
    except ProgrammingError as error:
        if not isinstance(error.orig, InsufficientPrivilege):
            raise
        if can_do_all is None:
            raise RoleMissing(role=name, variable=variable) from error


def _hashed(connection: Connection, name: str, password: str) -> str:
    """The password as PostgreSQL stores it. The log of the database may show statements."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    return driver.pgconn.encrypt_password(password.encode(), name.encode(), b"scram-sha-256").decode()


def _grant(connection: Connection, name: str, privileges: Mapping[str, str]) -> None:
    role = _quoted(connection, name)
    database = _quoted(connection, connection.execute(text("SELECT current_database()")).scalar_one())
    for statement in (
        "REVOKE CREATE ON SCHEMA public FROM PUBLIC",  # as in databases since PostgreSQL 15
        f"REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {role}",
        f"GRANT CONNECT ON DATABASE {database} TO {role}",
        f"GRANT USAGE ON SCHEMA public TO {role}",
        *(f"GRANT {allowed} ON {table} TO {role}" for table, allowed in privileges.items() if allowed),
    ):
        connection.exec_driver_sql(statement)


def _quoted(connection: Connection, name: str) -> str:
    return connection.dialect.identifier_preparer.quote_identifier(name)

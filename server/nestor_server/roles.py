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
from nestor_server.settings import SERVICES, Settings

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
        "steps": "SELECT, INSERT, DELETE",
        "step_numbers": "SELECT, INSERT, DELETE",
        "distributions": WRITE,
        "events": "SELECT, INSERT",
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

PRIVILEGES: Mapping[str, Mapping[str, str]] = MappingProxyType({"server": SERVER, "worker": WORKER})


def admit(settings: Settings) -> None:
    """Create the roles that `settings` names for services, and grant them what they need and nothing else.

    A role that exists gets the password of its address, if the owner of the tables may set it.

    Raises:
        RoleUnusable: an address names no role, or one that can do what the owner can.
        RoleMissing: the role does not exist, and the owner may not create it.
    """
    urls = {service: make_url(url) for service in SERVICES if (url := settings.own_url_of(service))}
    engine = make_engine(settings)
    try:
        for service, url in urls.items():
            variable = f"NESTOR_{service.upper()}_DATABASE_URL"
            if not url.username:
                raise RoleUnusable(variable=variable, what="names no role")
            with engine.begin() as connection:
                _prepare(connection, url.username, str(url.password or ""), variable)
                _grant(connection, url.username, PRIVILEGES[service])
    finally:
        engine.dispose()


def _prepare(connection: Connection, name: str, password: str, variable: str) -> None:
    # Superusers are members of every role.
    query = text("SELECT pg_has_role(rolname, current_user, 'MEMBER') AS as_owner FROM pg_roles WHERE rolname = :name")
    found = connection.execute(query, {"name": name}).one_or_none()
    if found is not None and found.as_owner:
        raise RoleUnusable(variable=variable, what=f"names {name}, which can do all that the owner of the tables can")
    action = "CREATE" if found is None else "ALTER"
    secret = f"PASSWORD '{_hashed(connection, name, password)}'" if password else ""
    try:
        with connection.begin_nested():
            connection.exec_driver_sql(f"{action} ROLE {_quoted(connection, name)} LOGIN {secret}")
    except ProgrammingError as error:
        if not isinstance(error.orig, InsufficientPrivilege):
            raise
        if found is None:
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

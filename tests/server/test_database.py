"""The tables and their migrations say the same, in both directions."""

from __future__ import annotations

import subprocess
import sys

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, inspect, text

from nestor_server import database
from nestor_server.models import Base
from nestor_server.settings import Settings
from tests.support.server import new_database


@pytest.fixture
def url(services):
    with new_database(services) as url:
        yield url


@pytest.fixture
def engine(url):
    engine = create_engine(url)
    yield engine
    engine.dispose()


def differences(engine) -> list:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        return compare_metadata(context, Base.metadata)


def test_migrations_make_the_tables_that_the_models_describe(url, engine):
    database.migrate(url)
    assert differences(engine) == []


def test_down_and_up_again_ends_where_it_began(url, engine):
    database.migrate(url)
    command.downgrade(database.alembic_config(url), "base")
    assert inspect(engine).get_table_names() == ["alembic_version"]
    database.migrate(url)
    assert differences(engine) == []


def test_servers_that_start_together_migrate_one_after_the_other(url, engine):
    migrate = [sys.executable, "-c", f"from nestor_server import database; database.migrate({url!r})"]
    started = [subprocess.Popen(migrate, stderr=subprocess.PIPE) for _ in range(2)]
    for process in started:
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 0, errors.decode()
    assert differences(engine) == []


def test_chunks_are_stored_uncompressed(url, engine):
    database.migrate(url)
    with engine.connect() as connection:
        storage = connection.scalar(
            text("SELECT attstorage FROM pg_attribute WHERE attrelid = 'blob_chunks'::regclass AND attname = 'data'")
        )
    assert storage in ("e", b"e")


def test_an_address_of_another_database_is_refused_and_the_usual_ones_are_understood():
    for url in ("postgres://u:p@h/d", "postgresql://u:p@h/d", "postgresql+psycopg://u:p@h/d"):
        assert Settings(database_url=url).database_url == "postgresql+psycopg://u:p@h/d"
    for url in ("mysql://h/d", "postgresql+asyncpg://h/d", "h"):
        with pytest.raises(ValueError, match="postgresql://"):
            Settings(database_url=url)

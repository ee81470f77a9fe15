"""The revision of the database's schema, and the migrations that lead to it."""

from __future__ import annotations

import threading
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.orm import Session

_MIGRATING = threading.Lock()  # Alembic keeps its state in module variables


def migrations() -> Path:
    """The folder of migrations: inside an installed package, or at the top of the repository in a checkout."""
    installed = Path(__file__).parent / "migrations"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "migrations"


def alembic_config(url: str) -> Config:
    """What Alembic's commands need to work on the database at `url`."""
    config = Config()
    config.set_main_option("script_location", str(migrations()).replace("%", "%%"))
    config.attributes["url"] = url
    return config


def migrate(url: str, revision: str = "head") -> None:
    """Upgrade the database at `url` to `revision`. Concurrent calls, from any process, wait for each other."""
    with _MIGRATING:
        command.upgrade(alembic_config(url), revision)


def head() -> str | None:
    """The revision that this code expects."""
    return ScriptDirectory.from_config(alembic_config("")).get_current_head()


def revision(session: Session) -> str | None:
    """The revision of the database; None if it was never migrated."""
    return MigrationContext.configure(session.connection()).get_current_revision()

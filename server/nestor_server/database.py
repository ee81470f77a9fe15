"""Engines and sessions on Postgres."""

from __future__ import annotations

from sqlalchemy import Engine, create_engine, make_url
from sqlalchemy.orm import Session, sessionmaker

from nestor_server.settings import Settings
from nestor_server.settings import settings as from_environment

Sessions = sessionmaker[Session]


def make_engine(settings: Settings, name: str = "nestor") -> Engine:
    """An engine on `settings.database_url`. PostgreSQL's views and logs show `name`, up to its 63rd byte."""
    return create_engine(
        settings.database_url,
        pool_size=10,
        max_overflow=40,  # FastAPI's threadpool has 40 threads, and each may hold one
        pool_pre_ping=True,  # a restarted database costs a reconnect, not a failed request
        pool_timeout=10,
        connect_args={"connect_timeout": 5, "application_name": name},
    )


def make_sessions(engine: Engine, settings: Settings) -> Sessions:
    """A factory of sessions. They carry the settings, so that messages sent on commit find their broker."""
    return sessionmaker(engine, expire_on_commit=False, info={"settings": settings})


def settings_of(session: Session) -> Settings:
    """The settings that `session` carries, or those of the environment if it was made without `make_sessions`."""
    return session.info.get("settings") or from_environment()


def plain_url(url: str) -> str:
    """SQLAlchemy's address of a database as psycopg reads it."""
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)

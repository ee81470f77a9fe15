"""How Alembic reaches the database: over the connection or address that the caller gives, else NESTOR_DATABASE_URL."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection, create_engine, pool, text

from nestor_server.models import Base
from nestor_server.settings import settings

LOCK = 0x6E6573746F72  # "nestor": servers that start together migrate one after the other


def run(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=Base.metadata, compare_server_default=True)
    with context.begin_transaction():
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
        context.run_migrations()


if context.is_offline_mode():
    context.configure(url=settings().database_url, target_metadata=Base.metadata, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
elif (given := context.config.attributes.get("connection")) is not None:
    run(given)
else:
    engine = create_engine(context.config.attributes.get("url") or settings().database_url, poolclass=pool.NullPool)
    with engine.connect() as connection:
        run(connection)

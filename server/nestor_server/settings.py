"""What an operator can set, each from an environment variable that begins with NESTOR_."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="NESTOR_", extra="ignore", frozen=True)

    database_url: str = "postgresql+psycopg://localhost:5432/nestor"
    redis_url: str = "redis://localhost:6379/0"  # the broker; nothing is lost with it

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8000

    lease_seconds: Seconds = 30.0  # a worker that is silent for so long has lost its trial
    heartbeat_seconds: Seconds = 10.0
    reap_seconds: Seconds = 3.0  # between two looks for lost leases and unsent messages
    requeue_after_seconds: Seconds = 15.0  # a trial queued for so long gets another message
    answer_seconds: Seconds = 60.0  # a pause, stop or cancel that no worker did for so long is done by the server
    slice_seconds: Seconds = 300.0  # a trial that has run for so long makes way, if others wait
    max_restarts: Annotated[int, Field(ge=0)] = 3  # of one trial, without a new checkpoint in between
    max_preemptions: Annotated[int, Field(ge=0)] = 20  # the same, when its workers were shut down

    max_blob_bytes: Annotated[int, Field(gt=0)] = 8 * 2**30
    blob_url: str | None = None  # where large blobs go instead of the database: file:///…, s3://bucket/prefix, …
    large_blob_bytes: Annotated[int, Field(ge=1)] = 2**20  # from which size on
    object_grace_seconds: Annotated[float, Field(ge=0)] = 60.0  # between the end of an object's use and its deletion
    keep_unused_days: Annotated[float, Field(ge=0)] = 30.0  # deleted studies, and what was uploaded for no trial
    max_json_bytes: Annotated[int, Field(gt=0)] = 16 * 2**20
    stream_poll_seconds: Seconds = 3.0  # how late an event may be when its notification was lost
    stream_ping_seconds: Seconds = 15.0  # between two comments on a quiet stream

    @field_validator("blob_url")
    @classmethod
    def _or_none(cls, url: str | None) -> str | None:
        """A variable that is set to nothing, as in a compose file, is not set."""
        return url or None

    @field_validator("database_url")
    @classmethod
    def _by_psycopg(cls, url: str) -> str:
        """Operators write postgresql:// or postgres://; SQLAlchemy would look for another driver."""
        scheme, separator, rest = url.partition("://")
        if scheme in ("postgres", "postgresql"):
            scheme = "postgresql+psycopg"
        if not separator or scheme != "postgresql+psycopg":
            raise ValueError("must be a PostgreSQL address: postgresql://user:password@host:5432/database")
        return f"{scheme}://{rest}"


@lru_cache(maxsize=1)
def settings() -> Settings:
    return Settings()

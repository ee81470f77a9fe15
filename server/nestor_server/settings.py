"""Settings for operators, each read from an environment variable that begins with NESTOR_."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from nestor.options.mistakes.sentences import expected
from nestor_server.embedded.errors import DatabaseUnusable, SettingInvalid
from nestor_server.webhooks.addresses import AllowList


def _with_psycopg(url: str) -> str:
    """Operators write postgresql:// or postgres://, for which SQLAlchemy would load another driver."""
    scheme, separator, rest = url.partition("://")
    if scheme in ("postgres", "postgresql"):
        scheme = "postgresql+psycopg"
    if not separator or scheme != "postgresql+psycopg":
        raise ValueError("must be a PostgreSQL address: postgresql://user:password@host:5432/database")
    return f"{scheme}://{rest}"


SERVICES = ("server", "worker")  # that reach the database

DatabaseUrl = Annotated[str, AfterValidator(_with_psycopg)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def _parsed(allowed: str | AllowList) -> AllowList:
    return AllowList.parse(allowed) if isinstance(allowed, str) else allowed


class Settings(BaseSettings):
    """`NESTOR_DATABASE_URL` sets `database_url`, and so on. Units are in the names."""

    model_config = SettingsConfigDict(env_prefix="NESTOR_", extra="ignore", frozen=True)

    database_url: DatabaseUrl = "postgresql+psycopg://localhost:5432/nestor"
    redis_url: str = "redis://localhost:6379/0"  # the broker; no data is lost with it
    # For `nestor migrate` and `nestor up`: the same database, with the roles that they create for each of `SERVICES`.
    server_database_url: DatabaseUrl | None = None
    worker_database_url: DatabaseUrl | None = None

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8000
    server_workers: Annotated[int, Field(ge=1, le=256)] = 1  # processes that serve the port
    request_connections: Annotated[int, Field(ge=1, le=1_000)] = 16  # of a process: requests that work at once
    max_waiting_requests: Annotated[int, Field(ge=0)] = 2_000  # of a process; further ones get 503
    root_path: Annotated[str, Field(pattern=r"^(/[A-Za-z0-9._~-]+)*$")] = (
        ""  # the path at which a proxy shows the server
    )
    trusted_proxies: str = "127.0.0.1,::1"  # whose X-Forwarded-Proto and X-Forwarded-For are believed
    stall_seconds: Seconds = 60.0  # a client that sends or reads nothing for this long in a request is disconnected

    lease_seconds: Seconds = 30.0  # a worker without a heartbeat for this long loses its trial
    heartbeat_seconds: Seconds = 10.0
    reap_seconds: Seconds = 3.0  # between two checks for expired leases and lost messages
    requeue_after_seconds: Seconds = 15.0  # a trial queued for this long gets another message
    answer_seconds: Seconds = 60.0  # the server itself pauses, stops or cancels if the worker did not within this time
    slice_seconds: Seconds = 300.0  # a trial that has run for this long is preempted if others wait
    max_restarts: Annotated[int, Field(ge=0)] = 3  # of one trial, between two new checkpoints
    max_preemptions: Annotated[int, Field(ge=0)] = 20  # the same, for shutdowns of its workers

    max_blob_bytes: Annotated[int, Field(gt=0)] = 8 * 2**30
    blob_url: str | None = None  # where large blobs go instead of the database: file:///…, s3://bucket/prefix, …
    large_blob_bytes: Annotated[int, Field(ge=1)] = 2**20  # the smallest blob in the object store
    object_grace_seconds: Annotated[float, Field(ge=0)] = 60.0  # between an object's last use and its deletion
    # Retention of deleted studies, and of uploads that no trial uses.
    keep_unused_days: Annotated[float, Field(ge=0)] = 30.0
    max_json_bytes: Annotated[int, Field(gt=0)] = 2**20  # routes that need more say so
    # Of each user. The first two hold for each process, the others for the whole server.
    max_requests_per_minute: Annotated[int, Field(gt=0)] = 6_000
    max_streams: Annotated[int, Field(gt=0)] = 1_000  # that are open, and requests that wait for events
    max_studies: Annotated[int, Field(gt=0)] = 5_000
    max_trials: Annotated[int, Field(gt=0)] = 200_000
    max_unfinished_trials: Annotated[int, Field(gt=0)] = 10_000
    max_stored_bytes: Annotated[int, Field(gt=0)] = 256 * 2**30  # also those that are announced only
    stream_poll_seconds: Seconds = 3.0  # how late an event is if its notification is lost
    stream_ping_seconds: Seconds = 15.0  # between two comments on an idle stream
    # Hosts and networks to which users may let the server send notices; see docs/operations.md.
    webhook_allow: Annotated[AllowList, NoDecode, BeforeValidator(_parsed), PlainSerializer(str)] = AllowList(())
    metrics: Literal["admin", "open"] = "admin"  # who may read /metrics: holders of an admin token, or everybody
    traces: bool = False  # send spans with OpenTelemetry, to where OTEL_EXPORTER_OTLP_ENDPOINT says
    log_format: Literal["text", "json"] = "text"
    log_reads: bool = False  # log successful GET and HEAD requests too, of which dashboards send many

    @field_validator("blob_url", "server_database_url", "worker_database_url", mode="before")
    @classmethod
    def _empty_is_none(cls, url: str | None) -> str | None:
        """Treat an empty variable, as in a compose file, as unset."""
        return url or None

    def url_of(self, service: str) -> str:
        """The address of the database for one of `SERVICES`: with its own role, or that of `database_url`."""
        return self.own_url_of(service) or self.database_url

    def own_url_of(self, service: str) -> str | None:
        """The address of the database with the role of one of `SERVICES`; None if it has none of its own."""
        return {"server": self.server_database_url, "worker": self.worker_database_url}[service]


Read = TypeVar("Read", bound=BaseSettings)


def read_settings(model: type[Read], **given: Any) -> Read:
    """The settings `model`, read from the environment except for those that are `given`.

    Raises:
        DatabaseUnusable: a variable is not the address of a PostgreSQL database.
        SettingInvalid, WebhookAllowInvalid: another variable has a value that it does not take.
    """
    try:
        return model(**given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0])
        variable = f"NESTOR_{name.upper()}"
        if name.endswith("database_url"):  # its value has a password
            reason = first["msg"].removeprefix("Value error, ")
            raise DatabaseUnusable(variable=variable, reason=reason) from None
        raise SettingInvalid(variable=variable, value=first["input"], rule=expected(first, [])) from None


@lru_cache(maxsize=1)
def settings() -> Settings:
    """The settings of the environment, read once per process.

    Raises:
        DatabaseUnusable, SettingInvalid, WebhookAllowInvalid: a variable has a value that it does not take.
    """
    return read_settings(Settings)

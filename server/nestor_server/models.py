"""The tables. All state of Nestor is in Postgres; brokers and processes may lose theirs at any time."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, ClassVar
from uuid import UUID

import uuid_utils.compat
from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Computed,
    DateTime,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSON, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from nestor.options import Frozen
from nestor.ranking import Ranking
from nestor.schemas import DeliveryStatus, Desired, Direction, Scope, State

NAMING = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


def _one_of(column: str, words: type[State | Desired | Scope | DeliveryStatus]) -> CheckConstraint:
    """Restrict a column to the values of an enumeration. Text with a check migrates more easily than an enum type."""
    return CheckConstraint(f"{column} IN ({_listed(words)})", name=column)


def _listed(words: Iterable[State | Desired | Scope | DeliveryStatus]) -> str:
    return ", ".join(f"'{word.value}'" for word in words)


# As PostgreSQL writes them, so that a migration can be compared with them.
LABELED = text("(tags <> '{}'::text[] OR note <> ''::text)")  # also in queries, or the index would not fit
FINISHED = [state.value for state in State if state.finished]
UNFINISHED = [state.value for state in State if not state.finished]
_RUNS = f"state = '{State.running.value}'"
_TUNES = f"(spec #>> '{{response,kind}}') IS DISTINCT FROM '{Frozen.tag}'"  # the first version names no response


def _resting(column: str, type_: str, *, where: str = "") -> Computed:
    """A column's value while no worker has the trial, else null: indexes of it do not change with each step."""
    return Computed(f"CASE WHEN {where}NOT {_RUNS} THEN {column} ELSE NULL::{type_} END", persisted=True)


class Base(DeclarativeBase):
    """The base of all tables: names of constraints and indexes, and column types for Python types."""

    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map: ClassVar = {
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB,
        list[str]: ARRAY(Text),
        str: Text,
    }


def _key() -> Mapped[UUID]:
    return mapped_column(primary_key=True, default=uuid_utils.compat.uuid7)


def _now() -> Mapped[datetime]:
    return mapped_column(server_default=func.now())


class User(Base):
    """An owner of studies, blobs, programs and data sets."""

    __tablename__ = "users"

    id: Mapped[UUID] = _key()
    name: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[datetime] = _now()
    served_at: Mapped[datetime | None]  # when a worker last claimed one of their trials


class Token(Base):
    """A bearer token of a user, valid until it expires or is revoked."""

    __tablename__ = "tokens"
    __table_args__ = (_one_of("scope", Scope),)

    id: Mapped[UUID] = _key()
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    name: Mapped[str]
    sha256: Mapped[str] = mapped_column(String(64), unique=True)  # hex; the token itself is never stored
    scope: Mapped[str] = mapped_column(default=Scope.write.value)
    created_at: Mapped[datetime] = _now()
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]  # to the minute; null: never, or before this was recorded


class BrowserSession(Base):
    """What the cookie of a browser stands for: a token, until the browser logs out or either expires."""

    __tablename__ = "browser_sessions"
    __table_args__ = (Index("ix_browser_sessions_token_id", "token_id", "id"),)

    id: Mapped[UUID] = _key()
    token_id: Mapped[UUID] = mapped_column(ForeignKey("tokens.id", ondelete="CASCADE"))
    sha256: Mapped[str] = mapped_column(String(64), unique=True)  # hex, of the id that the cookie holds
    expires_at: Mapped[datetime]


class Study(Base):
    """A group of trials. A deleted study stays until the reaper purges it."""

    __tablename__ = "studies"
    __table_args__ = (
        # A deleted study's name is free again.
        Index("uq_studies_owner_name", "owner_id", "name", unique=True, postgresql_where=text("deleted_at IS NULL")),
        Index("ix_studies_owner_id", "owner_id", "id"),
        CheckConstraint("direction IN ('minimize', 'maximize')", name="direction"),
    )

    id: Mapped[UUID] = _key()
    owner_id: Mapped[UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    name: Mapped[str]
    metric: Mapped[str | None]
    direction: Mapped[Direction] = mapped_column(Text, default="minimize")
    user_attrs: Mapped[dict[str, Any]] = mapped_column(default=dict)
    tags: Mapped[list[str]] = mapped_column(default=list)
    note: Mapped[str] = mapped_column(default="")  # Markdown
    next_number: Mapped[int] = mapped_column(Integer, default=0)  # the next trial's, and how many there are
    created_at: Mapped[datetime] = _now()
    updated_at: Mapped[datetime] = _now()
    deleted_at: Mapped[datetime | None]

    @property
    def ranking(self) -> Ranking:
        """By which number its trials are compared."""
        return Ranking(self.metric, self.direction)


class Trial(Base):
    """A trial and its lease. Only `scheduling.leases` changes `state`."""

    __tablename__ = "trials"
    __table_args__ = (
        UniqueConstraint("study_id", "number", name="uq_trials_study_number"),
        _one_of("state", State),
        _one_of("desired", Desired),
        CheckConstraint("(ends_after IS NULL) = (ends_as IS NULL)", name="end"),
        # The line of each study, in the order of `scheduling.fair_share`.
        Index(
            "ix_trials_line",
            "study_id",
            text("(ends_after IS NULL)"),
            text("priority DESC"),
            "queued_at",
            "id",
            postgresql_where=text("is_queued"),
        ),
        Index("ix_trials_running", "study_id", postgresql_where=text("is_running")),
        # The queue behind each worker is counted from this index alone.
        Index("ix_trials_waiting", "devices", "entry_point", postgresql_where=text("is_queued")),
        # The counts of a study are read from the first index alone, and its best value and its last activity are at
        # ends of the others. Lists are sorted by them. None has a column that changes with each step, which would
        # change all indexes of the row. The few trials that run are found by the index above.
        Index("ix_trials_of_study", "study_id", "state"),  # short, because its entries are few
        Index("ix_trials_state", "study_id", "state", "number"),
        Index(
            "ix_trials_ranked_value",
            "study_id",
            "ranked_value",
            "number",
            postgresql_where=text("ranked_value IS NOT NULL"),
        ),
        Index(
            "ix_trials_resting_active_at",
            "study_id",
            "resting_active_at",
            postgresql_where=text("resting_active_at IS NOT NULL"),
        ),
        *(
            Index(f"ix_trials_{name}", "study_id", name, "number", postgresql_where=text("NOT is_running"))
            for name in ("resting_value", "resting_step", "resting_seconds")
        ),
        # Those that a search for tags or text may find.
        Index("ix_trials_labeled", "study_id", "number", postgresql_where=LABELED),
        # Those under fixed hyperparameters: a study has few.
        Index("ix_trials_fixed", "study_id", "number", postgresql_where=text("NOT tunes")),
        Index("ix_trials_starts_from", "starts_from", postgresql_where=text("starts_from IS NOT NULL")),
    )

    id: Mapped[UUID] = _key()
    study_id: Mapped[UUID] = mapped_column(ForeignKey("studies.id", ondelete="CASCADE"))
    number: Mapped[int]
    spec: Mapped[dict[str, Any]]  # schemas.TrialSpec
    user_attrs: Mapped[dict[str, Any]] = mapped_column(default=dict)
    tags: Mapped[list[str]] = mapped_column(default=list)
    note: Mapped[str] = mapped_column(default="")  # Markdown
    revision: Mapped[int] = mapped_column(default=0)  # of its attributes, tags and note, for the ETag
    # Parts of the spec by which trials are found. PostgreSQL computes them.
    entry_point: Mapped[str | None] = mapped_column(Computed("spec #>> '{problem,entry_point}'", persisted=True))
    starts_from: Mapped[str | None] = mapped_column(Computed("spec #>> '{warm_start,trial}'", persisted=True))
    tunes: Mapped[bool] = mapped_column(Computed(_TUNES, persisted=True))
    # The best value of a trial that can be the best of its study; as Ranking.best_trial.
    ranked_value: Mapped[float | None] = mapped_column(
        Float, _resting("best_value", "double precision", where=f"{_TUNES} AND ")
    )
    resting_value: Mapped[float | None] = mapped_column(Float, _resting("best_value", "double precision"))
    resting_step: Mapped[int | None] = mapped_column(_resting("step", "integer"))
    resting_seconds: Mapped[float | None] = mapped_column(Float, _resting("seconds", "double precision"))
    resting_active_at: Mapped[datetime | None] = mapped_column(_resting("active_at", "timestamp with time zone"))
    program_id: Mapped[UUID | None] = mapped_column(ForeignKey("programs.id"), index=True)
    dataset_id: Mapped[UUID | None] = mapped_column(ForeignKey("datasets.id"), index=True)
    n_steps: Mapped[int]  # total; above the spec's if the trial was extended
    start_blob_id: Mapped[UUID | None] = mapped_column(ForeignKey("blobs.id"), index=True)  # the warm start's tensors
    priority: Mapped[int] = mapped_column(default=0)
    devices: Mapped[int] = mapped_column(default=1)  # the spec's devices_per_trial

    state: Mapped[str] = mapped_column(default=State.queued.value)
    desired: Mapped[str] = mapped_column(default=Desired.run.value)
    ends_after: Mapped[int | None]  # the last step that counts, if its user asked for an end after that step
    ends_as: Mapped[str | None]  # the desired state of that request: stop or prune
    seq: Mapped[int] = mapped_column(BigInteger, default=0)  # the last number given to a step or an event of this trial
    step: Mapped[int] = mapped_column(default=0)
    value: Mapped[float | None] = mapped_column(Float)
    best_value: Mapped[float | None] = mapped_column(Float)
    best_step: Mapped[int | None]
    seconds: Mapped[float] = mapped_column(Float, default=0.0)  # wall time of training, over all attempts
    error: Mapped[dict[str, Any] | None]  # problem+json
    hyperparameters: Mapped[list[dict[str, Any]] | None] = mapped_column(JSONB)  # [schemas.HyperparameterInfo]
    evidence: Mapped[dict[str, Any] | None]  # verdicts.Evidence of all recorded steps
    sparkline: Mapped[dict[str, Any] | None] = mapped_column(deferred=True)  # courses.Sparkline of all recorded steps
    pace: Mapped[dict[str, Any] | None]  # courses.Pace
    active_at: Mapped[datetime] = _now()  # of its newest step or event

    # The fencing token: every write of the worker must match it.
    lease_token: Mapped[int] = mapped_column(BigInteger, default=0)
    lease_owner: Mapped[str | None]
    lease_expires_at: Mapped[datetime | None]
    claimed_at: Mapped[datetime | None]  # start of the current or the last lease
    attempt: Mapped[int] = mapped_column(default=0)
    answer_by: Mapped[datetime | None]  # deadline for the worker to reach `desired`
    batches: Mapped[int] = mapped_column(default=0)  # recorded under this lease, which makes repeated batches harmless
    restarts: Mapped[int] = mapped_column(default=0)  # lost leases since the newest checkpoint
    preemptions: Mapped[int] = mapped_column(default=0)  # shutdowns of its worker since the newest checkpoint
    crash: Mapped[str | None]  # how its newest attempt crashed, and after which step; null: it did not, or was retried
    traceparent: Mapped[str | None]  # of the submission, as W3C Trace Context writes it; null: it was not traced

    created_at: Mapped[datetime] = _now()
    queued_at: Mapped[datetime] = _now()
    sent_at: Mapped[datetime] = _now()  # when the last message to the workers was sent
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]

    # For the indexes above. Statements with this condition can use no other index: while statistics say that no
    # trial is queued, all indexes that fit `state = 'queued'` have the same cost to PostgreSQL.
    is_queued: Mapped[bool] = mapped_column(Computed(f"state = '{State.queued.value}'", persisted=True))
    is_running: Mapped[bool] = mapped_column(Computed(_RUNS, persisted=True))


class Step(Base):
    """One recorded outer step of a trial."""

    __tablename__ = "steps"
    __table_args__ = (Index("uq_steps_trial_seq", "trial_id", "seq", unique=True),)

    trial_id: Mapped[UUID] = mapped_column(ForeignKey("trials.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger)
    recorded_at: Mapped[datetime] = _now()
    data: Mapped[dict[str, Any]]  # schemas.Step


class StepNumbers(Base):
    """The numbers of one recorded step, by which a plot's steps are chosen: a tenth of the bytes of its record.

    Steps that earlier versions recorded have none; they come before those that have some.
    """

    __tablename__ = "step_numbers"

    trial_id: Mapped[UUID] = mapped_column(ForeignKey("trials.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    train_loss: Mapped[float | None] = mapped_column(Float)
    val_loss: Mapped[float | None] = mapped_column(Float)
    val_examples: Mapped[float | None] = mapped_column(Float)
    value: Mapped[float | None] = mapped_column(Float)
    held_out_loss: Mapped[float | None] = mapped_column(Float)
    test_loss: Mapped[float | None] = mapped_column(Float)
    hypergradient_norm: Mapped[float | None] = mapped_column(Float)
    hypergradient_cosine: Mapped[float | None] = mapped_column(Float)
    inner_gradient_norm: Mapped[float | None] = mapped_column(Float)
    inner_gradient_ratio: Mapped[float | None] = mapped_column(Float)
    residual: Mapped[float | None] = mapped_column(Float)
    products: Mapped[float | None] = mapped_column(Float)
    alpha: Mapped[float | None] = mapped_column(Float)
    alpha_norm: Mapped[float | None] = mapped_column(Float)


NUMBERS = tuple(column.name for column in StepNumbers.__table__.columns if not column.primary_key)


class Distribution(Base):
    """How the hyperparameters of a trial are distributed at some of its steps; `lifecycle.distribution_interval`."""

    __tablename__ = "distributions"

    trial_id: Mapped[UUID] = mapped_column(ForeignKey("trials.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    # Name → schemas.Distribution. As text, which takes half as many bytes as JSONB.
    data: Mapped[dict[str, Any]] = mapped_column(JSON)


class Event(Base):
    """An entry of a trial's event log. Steps have numbers from the same sequence and a table of their own."""

    __tablename__ = "events"

    trial_id: Mapped[UUID] = mapped_column(ForeignKey("trials.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    type: Mapped[str]  # schemas.EventType, except `step`
    data: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = _now()


class Blob(Base):
    """Bytes of one owner by their SHA-256. Sharing blobs between owners would reveal which bytes others have."""

    __tablename__ = "blobs"
    __table_args__ = (UniqueConstraint("owner_id", "digest", name="uq_blobs_owner_digest"),)

    id: Mapped[UUID] = _key()
    owner_id: Mapped[UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    digest: Mapped[str] = mapped_column(String(71))  # "sha256:" and 64 hexadecimal digits
    size: Mapped[int] = mapped_column(BigInteger)
    offset: Mapped[int] = mapped_column(BigInteger, default=0)  # bytes received
    complete: Mapped[bool] = mapped_column(default=False)  # all bytes were received and hash to the digest
    # {"nan": […], "infinite": […]}: tensors of a safetensors file, as in `NumberCheck`; null: it was not checked yet.
    not_finite: Mapped[dict[str, list[int]] | None] = mapped_column(JSONB)
    created_at: Mapped[datetime] = _now()
    wanted_at: Mapped[datetime | None]  # last use by a client that may be about to refer to it


class BlobChunk(Base):
    """A part of a blob: in `data`, or in the object store under the key `object`."""

    __tablename__ = "blob_chunks"
    __table_args__ = (CheckConstraint("(data IS NULL) <> (object IS NULL)", name="one_home"),)

    blob_id: Mapped[UUID] = mapped_column(ForeignKey("blobs.id", ondelete="CASCADE"), primary_key=True)
    start: Mapped[int] = mapped_column(BigInteger, primary_key=True)  # byte offset in the blob
    size: Mapped[int] = mapped_column(BigInteger)
    # STORAGE EXTERNAL, without compression: floats do not compress.
    data: Mapped[bytes | None] = mapped_column(LargeBinary)
    object: Mapped[str | None]


class UnusedObject(Base):
    """An object without a chunk. A trigger adds those of deleted chunks, `object_store.put` those being written."""

    __tablename__ = "unused_objects"

    key: Mapped[str] = mapped_column(primary_key=True)
    since: Mapped[datetime] = _now()


class Program(Base):
    """An exported problem: two blobs of its owner."""

    __tablename__ = "programs"
    __table_args__ = (
        Index("ix_programs_graphs", "owner_id", "graphs"),
        Index("ix_programs_tensors", "owner_id", "tensors"),
    )

    id: Mapped[UUID] = _key()
    owner_id: Mapped[UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    graphs: Mapped[str]  # digests
    tensors: Mapped[str]
    torch: Mapped[str]
    metrics: Mapped[list[str] | None] = mapped_column(JSONB)  # names; null: recorded before they were listed
    created_at: Mapped[datetime] = _now()


class Dataset(Base):
    """Splits: a blob each, or files by reference."""

    __tablename__ = "datasets"
    __table_args__ = (
        Index("ix_datasets_splits", "splits", postgresql_using="gin", postgresql_ops={"splits": "jsonb_path_ops"}),
    )

    id: Mapped[UUID] = _key()
    owner_id: Mapped[UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    splits: Mapped[dict[str, Any]]  # name → digest, or a schemas.ReferencedSplit
    sizes: Mapped[dict[str, Any]]  # name → examples
    created_at: Mapped[datetime] = _now()


class Snapshot(Base):
    """All hyperparameters at one step, as safetensors."""

    __tablename__ = "snapshots"

    trial_id: Mapped[UUID] = mapped_column(ForeignKey("trials.id", ondelete="CASCADE"), primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True)
    blob_id: Mapped[UUID] = mapped_column(ForeignKey("blobs.id"), index=True)
    entries: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))  # schemas.RecordedEntries


class Checkpoint(Base):
    """Everything needed to continue exactly from one step. The newest two are kept."""

    __tablename__ = "checkpoints"

    trial_id: Mapped[UUID] = mapped_column(ForeignKey("trials.id", ondelete="CASCADE"), primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True)
    blob_id: Mapped[UUID] = mapped_column(ForeignKey("blobs.id"), index=True)


class Result(Base):
    """Weights, buffers and hyperparameters of a best step, without the optimizers' state.

    The newest is kept, and the newest before the newest checkpoint: to that checkpoint a lost lease rolls back.
    """

    __tablename__ = "results"

    trial_id: Mapped[UUID] = mapped_column(ForeignKey("trials.id", ondelete="CASCADE"), primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True)
    blob_id: Mapped[UUID] = mapped_column(ForeignKey("blobs.id"), index=True)


class Worker(Base):
    """A worker process and its last heartbeat."""

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(primary_key=True)  # host:pid, unique among running workers
    device: Mapped[str]
    versions: Mapped[dict[str, Any]]
    entry_points: Mapped[dict[str, Any]] = mapped_column(default=dict)  # name → schemas.EntryPointInfo
    started_at: Mapped[datetime] = _now()
    heartbeat_at: Mapped[datetime] = _now()
    draining_since: Mapped[datetime | None]  # it takes no trials; null: it does
    trial_id: Mapped[UUID | None] = mapped_column(ForeignKey("trials.id", ondelete="SET NULL"))
    runner_bytes: Mapped[int | None] = mapped_column(BigInteger)  # resident memory of its trial's processes

    @staticmethod
    def id_of(pid: int) -> str:
        """The id of the worker process `pid` on this machine. With several slots, each appends "/" and its number."""
        return f"{socket.gethostname()}:{pid}"


class Webhook(Base):
    """An address of a user's own program that gets notices about trials."""

    __tablename__ = "webhooks"

    id: Mapped[UUID] = _key()
    owner_id: Mapped[UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    study_id: Mapped[UUID | None] = mapped_column(ForeignKey("studies.id", ondelete="CASCADE"), index=True)  # null: all
    url: Mapped[str]
    events: Mapped[list[str]]  # schemas.WebhookEvent
    secret: Mapped[str]  # as it is, because signatures are computed from it
    enabled: Mapped[bool] = mapped_column(default=True)
    disabled_reason: Mapped[str | None]  # if the server disabled it
    succeeded_at: Mapped[datetime | None]  # when it last took a notice
    created_at: Mapped[datetime] = _now()


class WebhookDelivery(Base):
    """A notice for one webhook: the outbox, written with the event that it is about, and a record of what was sent."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        _one_of("status", DeliveryStatus),
        Index("ix_webhook_deliveries_webhook_id", "webhook_id", "id"),
        Index(
            "ix_webhook_deliveries_pending",
            "webhook_id",
            "next_attempt_at",
            postgresql_where=text(f"status = '{DeliveryStatus.pending.value}'"),
        ),
    )

    id: Mapped[UUID] = _key()  # in order of creation; the receiver gets it with each attempt
    webhook_id: Mapped[UUID] = mapped_column(ForeignKey("webhooks.id", ondelete="CASCADE"))
    trial_id: Mapped[UUID | None] = mapped_column(ForeignKey("trials.id", ondelete="CASCADE"), index=True)
    type: Mapped[str]  # schemas.WebhookEvent, or that of a test
    data: Mapped[dict[str, Any]]
    status: Mapped[str] = mapped_column(default=DeliveryStatus.pending.value)
    attempts: Mapped[int] = mapped_column(default=0)
    next_attempt_at: Mapped[datetime] = _now()  # while an attempt is made: when another process may make the next one
    http_status: Mapped[int | None]  # of the last attempt
    error: Mapped[str | None]  # of the last attempt
    created_at: Mapped[datetime] = _now()
    delivered_at: Mapped[datetime | None]


class Count(Base):
    """One of `observability.counts.COUNTERS`, over all workers and servers."""

    __tablename__ = "counts"

    name: Mapped[str] = mapped_column(primary_key=True)
    label: Mapped[str] = mapped_column(primary_key=True)  # the value of its label; "" if it has none
    value: Mapped[float] = mapped_column(Float)


IDEMPOTENCY_WINDOW = timedelta(hours=24)


class IdempotencyKey(Base):
    """The response to a POST, which is sent again for the same key within `IDEMPOTENCY_WINDOW`."""

    __tablename__ = "idempotency_keys"

    token_id: Mapped[UUID] = mapped_column(ForeignKey("tokens.id", ondelete="CASCADE"), primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    request_sha256: Mapped[str] = mapped_column(String(64))
    status: Mapped[int]
    response: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = _now()

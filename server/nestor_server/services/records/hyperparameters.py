"""Hyperparameters of a trial: their names and shapes, and the tensors at any recorded step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from nestor import schemas
from nestor.errors import HyperparametersNotFound, TensorNotNumpy
from nestor.schemas import HyperparameterInfo
from nestor_server.models import Blob, Snapshot, Trial
from nestor_server.services import versions
from nestor_server.services.trials import queries as trial_queries
from nestor_server.services.versions import OF_TRIAL, Versioned
from nestor_server.storage import tensor_blobs
from nestor_server.storage.safetensors_header import Malformed, npy_prefix, safetensors_prefix
from nestor_server.storage.tensor_blobs import Slice

Format = Literal["safetensors", "npy"]


def describe(session: Session, owner_id: UUID, trial_id: UUID) -> Versioned:
    """Names, shapes and types, and the steps that have a snapshot. Its functions raise `TrialNotFound`."""

    def read() -> tuple[schemas.Hyperparameters, str]:
        trial = trial_queries.read(session, owner_id, trial_id, Trial.hyperparameters, *OF_TRIAL)
        steps = session.scalars(select(Snapshot.step).where(Snapshot.trial_id == trial_id).order_by(Snapshot.step))
        items = tuple(HyperparameterInfo.model_validate(item) for item in trial.hyperparameters or ())
        return schemas.Hyperparameters(items=items, steps=tuple(steps), seq=trial.seq), versions.of_trial(trial)

    return Versioned(lambda: trial_queries.version(session, owner_id, trial_id), read)


def in_declared_order(described: Sequence[Mapping[str, Any]] | None, named: dict[str, Any]) -> dict[str, Any]:
    """`named` in the order in which a trial's problem declares its hyperparameters; JSONB stores another one."""
    names = [item["name"] for item in described or ()]
    return {name: named[name] for name in names if name in named} | named


def snapshot(session: Session, owner_id: UUID, trial_id: UUID, step: int | None) -> Slice:
    """The safetensors file of all hyperparameters at `step`, by default the latest recorded one.

    Raises:
        HyperparametersNotFound: that step has no snapshot.
    """
    return Slice.whole(_blob(session, owner_id, trial_id, step))


def tensor(session: Session, owner_id: UUID, trial_id: UUID, name: str, step: int | None, format: Format) -> Slice:
    """One hyperparameter, as a file of its own.

    Raises:
        HyperparametersNotFound: that step has no snapshot, or the snapshot has no tensor of that name.
        InvalidInput: the format has no such data type.
    """
    blob = _blob(session, owner_id, trial_id, step)
    entry = tensor_blobs.header(session, blob).tensors.get(name)
    if entry is None:
        raise HyperparametersNotFound(trial=str(trial_id), what=f"of the name {name!r}")
    try:
        prefix = npy_prefix(entry) if format == "npy" else safetensors_prefix(entry)
    except Malformed as error:
        raise TensorNotNumpy(name=name, reason=error) from None
    return Slice(prefix, blob, entry.begin, entry.end)


def _blob(session: Session, owner_id: UUID, trial_id: UUID, step: int | None) -> Blob:
    trial_queries.read(session, owner_id, trial_id, Trial.id)
    query = select(Blob).join(Snapshot, Snapshot.blob_id == Blob.id).where(Snapshot.trial_id == trial_id)
    if step is not None:
        query = query.where(Snapshot.step == step)
    blob = session.scalars(query.order_by(Snapshot.step.desc()).limit(1)).one_or_none()
    if blob is None:
        raise HyperparametersNotFound(trial=str(trial_id), what="yet" if step is None else f"of step {step}")
    return blob

"""Hyperparameters of a trial: what there is, and the tensors themselves at any recorded step."""

from __future__ import annotations

import hashlib
from typing import Literal
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from nestor import schemas
from nestor.errors import HyperparametersNotFound, TensorNotNumpy
from nestor.schemas import HyperparameterInfo
from nestor_server.models import Blob, Snapshot
from nestor_server.services import trial_queries
from nestor_server.storage import tensor_blobs
from nestor_server.storage.safetensors_header import Malformed, npy_prefix, safetensors_prefix
from nestor_server.storage.tensor_blobs import Slice

Format = Literal["safetensors", "npy"]


def describe(session: Session, owner_id: UUID, trial_id: UUID) -> schemas.Hyperparameters:
    trial = trial_queries.find(session, owner_id, trial_id)
    steps = session.scalars(select(Snapshot.step).where(Snapshot.trial_id == trial_id).order_by(Snapshot.step))
    items = tuple(HyperparameterInfo.model_validate(item) for item in trial.hyperparameters or ())
    return schemas.Hyperparameters(items=items, steps=tuple(steps), seq=trial.seq)


def snapshot(session: Session, owner_id: UUID, trial_id: UUID, step: int | None) -> Slice:
    """All of them at `step`, or at the latest recorded one.

    Raises:
        HyperparametersNotFound: there is no snapshot of that step.
    """
    blob = _blob(session, owner_id, trial_id, step)
    return Slice(b"", blob, 0, blob.size)


def tensor(session: Session, owner_id: UUID, trial_id: UUID, name: str, step: int | None, format: Format) -> Slice:
    """One of them, as a file of its own.

    Raises:
        HyperparametersNotFound: there is no snapshot of that step, or no tensor of that name in it.
        InvalidInput: the format cannot hold it.
    """
    blob = _blob(session, owner_id, trial_id, step)
    found = tensor_blobs.header(session, blob).tensors.get(name)
    if found is None:
        raise HyperparametersNotFound(trial=str(trial_id), what=f"of the name {name!r}")
    try:
        prefix = npy_prefix(found) if format == "npy" else safetensors_prefix(found)
    except Malformed as error:
        raise TensorNotNumpy(name=name, reason=error) from None
    return Slice(prefix, blob, found.begin, found.end)


def sha256(session: Session, file: Slice) -> str:
    if not file.prefix and (file.begin, file.end) == (0, file.blob.size):
        return file.blob.digest.removeprefix("sha256:")
    digest = hashlib.sha256()
    for piece in file.read(session):
        digest.update(piece)
    return digest.hexdigest()


def _blob(session: Session, owner_id: UUID, trial_id: UUID, step: int | None) -> Blob:
    trial_queries.find(session, owner_id, trial_id)
    query = select(Blob).join(Snapshot, Snapshot.blob_id == Blob.id).where(Snapshot.trial_id == trial_id)
    if step is not None:
        query = query.where(Snapshot.step == step)
    blob = session.scalars(query.order_by(Snapshot.step.desc()).limit(1)).one_or_none()
    if blob is None:
        raise HyperparametersNotFound(trial=str(trial_id), what="yet" if step is None else f"of step {step}")
    return blob

"""Hyperparameters of a trial: their names and shapes, and the tensors at any recorded step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from nestor import lifecycle, schemas
from nestor.errors import HyperparametersNotFound, HyperparameterUnknown, TensorNotNumpy
from nestor.schemas import HyperparameterInfo
from nestor_server.models import Blob, Checkpoint, Snapshot, Trial
from nestor_server.services import versions
from nestor_server.services.trials import queries as trial_queries
from nestor_server.services.versions import OF_TRIAL, Versioned
from nestor_server.storage import selection, tensor_blobs
from nestor_server.storage.safetensors_header import Header, Malformed, Tensor, npy_prefix, safetensors_prefix
from nestor_server.storage.tensor_blobs import Slice

Format = Literal["safetensors", "npy"]


def describe(session: Session, owner_id: UUID, trial_id: UUID) -> Versioned:
    """Names, shapes and types, and the steps that have a snapshot. Its functions raise `TrialNotFound`."""

    def read() -> tuple[schemas.Hyperparameters, str]:
        trial = trial_queries.read(session, owner_id, trial_id, Trial.hyperparameters, *OF_TRIAL)
        steps = session.scalars(select(Snapshot.step).where(Snapshot.trial_id == trial_id).order_by(Snapshot.step))
        items = infos(trial.hyperparameters)
        return schemas.Hyperparameters(items=items, steps=tuple(steps), seq=trial.seq), versions.of_trial(trial)

    return Versioned(lambda: trial_queries.version(session, owner_id, trial_id), read)


def infos(described: Sequence[Mapping[str, Any]] | None) -> tuple[HyperparameterInfo, ...]:
    """The hyperparameters as the row of a trial has them."""
    return tuple(HyperparameterInfo.model_validate(item) for item in described or ())


def in_declared_order(described: Sequence[Mapping[str, Any]] | None, named: dict[str, Any]) -> dict[str, Any]:
    """`named` in the order in which a trial's problem declares its hyperparameters; JSONB stores another one."""
    names = [item["name"] for item in described or ()]
    return {name: named[name] for name in names if name in named} | named


@dataclass(frozen=True)
class SnapshotFile:
    """The snapshot of one step.

    Attributes:
        is_settled: the step was named, and a checkpoint follows it. Steps after the newest checkpoint may be computed
            again on another device, whose numbers can differ in the last bits.
    """

    step: int
    blob: Blob
    is_settled: bool

    def tensor(self, session: Session, trial_id: UUID, name: str) -> Tensor:
        """Where the tensor lies in the file.

        Raises:
            HyperparameterUnknown: it has no tensor of this name.
        """
        return tensor_of(tensor_blobs.header(session, self.blob), trial_id, name)


@dataclass(frozen=True)
class Readable:
    """A file, and whether its bytes stay what they are."""

    content: Slice
    is_settled: bool


def snapshot(session: Session, owner_id: UUID, trial_id: UUID, step: int | None) -> Readable:
    """The safetensors file of all hyperparameters at `step`, by default the latest recorded one.

    Raises:
        HyperparametersNotFound: that step has no snapshot.
    """
    found = find(session, owner_id, trial_id, step)
    return Readable(Slice.whole(found.blob), found.is_settled)


def tensor(
    session: Session,
    owner_id: UUID,
    trial_id: UUID,
    name: str,
    *,
    step: int | None = None,
    format: Format = "safetensors",
    part: str | None = None,
) -> Readable:
    """One hyperparameter, or a part of it such as "3,0:5", as a file of its own.

    Raises:
        HyperparametersNotFound: that step has no snapshot.
        HyperparameterUnknown: the trial has no hyperparameter of that name.
        SliceInvalid, SliceTooFine: there is no such part, or it lies in too many places.
        TensorNotNumpy: the format has no such data type.
    """
    found = find(session, owner_id, trial_id, step)
    entry = found.tensor(session, trial_id, name)
    chosen = selection.select(entry, part)
    nbytes = chosen.length * len(chosen.begins)
    alone = replace(entry, shape=chosen.shape, begin=0, end=nbytes)
    try:
        prefix = npy_prefix(alone) if format == "npy" else safetensors_prefix(alone)
    except Malformed as error:
        raise TensorNotNumpy(name=name, reason=error) from None
    return Readable(Slice(prefix, found.blob, chosen.begins, chosen.length), found.is_settled)


def find(session: Session, owner_id: UUID, trial_id: UUID, step: int | None) -> SnapshotFile:
    """The snapshot of a step, by default the latest one.

    Raises:
        TrialNotFound
        HyperparametersNotFound: that step has no snapshot.
    """
    trial_queries.read(session, owner_id, trial_id, Trial.id)
    return at(session, trial_id, step)


def at(session: Session, trial_id: UUID, step: int | None) -> SnapshotFile:
    """The snapshot of a step of a trial that the caller has found, by default the latest one.

    Raises:
        HyperparametersNotFound: that step has no snapshot.
    """
    settled = exists().where(Checkpoint.trial_id == trial_id, Checkpoint.step >= Snapshot.step)
    query = select(Snapshot.step, Blob, settled).join(Blob, Snapshot.blob_id == Blob.id)
    query = query.where(Snapshot.trial_id == trial_id)
    if step is not None:
        query = query.where(Snapshot.step == step)
    row = session.execute(query.order_by(Snapshot.step.desc()).limit(1)).one_or_none()
    if row is None:
        stored = trial_queries.newest_steps(session, trial_id, Snapshot)
        raise HyperparametersNotFound(trial=str(trial_id), what=lifecycle.missing_step(step, None, stored))
    number, blob, is_settled = row
    return SnapshotFile(number, blob, is_settled and step is not None)


def tensor_of(header: Header, trial_id: UUID, name: str) -> Tensor:
    """Where the tensor of that name lies in the file of a snapshot.

    Raises:
        HyperparameterUnknown: it has no tensor of this name.
    """
    if name not in header.tensors:
        raise HyperparameterUnknown(trial=str(trial_id), name=name, hparams=list(header.tensors))
    return header.tensors[name]

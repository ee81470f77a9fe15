"""Checkpoints and snapshots of a trial from which other trials start, or which users download."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from nestor import lifecycle
from nestor.errors import ArchitectureMismatch, CheckpointNotFound, HyperparametersNotFound
from nestor.schemas import EntryPointProblem, ProgramProblem, WarmStart, WhichStep
from nestor.schemas.problems import AnyProblem
from nestor_server.models import Blob, Checkpoint, Result, Snapshot, Trial
from nestor_server.services.problems import architectures, programs
from nestor_server.services.trials import queries as trial_queries
from nestor_server.storage import blobs, tensor_blobs
from nestor_server.storage.safetensors_header import Malformed
from nestor_server.storage.tensor_blobs import Slice


def find(session: Session, owner_id: UUID, start: WarmStart) -> tuple[WarmStart, UUID]:
    """`start` with the number of its step, and the blob's id. The blob cannot be deleted before this is committed.

    Raises:
        TrialNotFound
        CheckpointNotFound, HyperparametersNotFound: no checkpoint, result or snapshot of that step is stored.
    """
    best_step = trial_queries.read(session, owner_id, start.trial, Trial.best_step).best_step
    step = best_step if start.step == "best" else start.step
    stored = (Checkpoint, Result) if start.step is not None else (Checkpoint,)  # the newest is one to continue from
    for table in () if start.step == "best" and step is None else stored if start.weights else (Snapshot,):
        query = select(table.step, Blob.id).join(Blob, Blob.id == table.blob_id).where(table.trial_id == start.trial)
        if step is not None:
            query = query.where(table.step == step)
        newest = query.order_by(table.step.desc()).limit(1).with_for_update(of=Blob, read=True, key_share=True)
        if found := session.execute(newest).one_or_none():
            return start.model_copy(update={"step": found.step}), found.id
    kept: set[int] = set()
    for table in stored if start.weights else (Snapshot,):
        kept.update(trial_queries.newest_steps(session, start.trial, table))
    missing = CheckpointNotFound if start.weights else HyperparametersNotFound
    raise missing(trial=str(start.trial), what=lifecycle.missing_step(start.step, best_step, kept))


def validate(session: Session, owner_id: UUID, start: WarmStart, blob_id: UUID, problem: AnyProblem) -> None:
    """Check that `problem` has the names and shapes of the tensors that it starts from.

    The runner checks what is not known here: checkpoints of format 2, hyperparameters of presets, and entry points.

    Raises:
        InvalidInput: they differ. The error names the first difference.
    """
    if isinstance(problem, EntryPointProblem):
        return
    try:
        stored = architectures.of_start(tensor_blobs.header(session, session.get_one(Blob, blob_id)), start)
    except Malformed:
        return
    if isinstance(problem, ProgramProblem):
        program = programs.get(session, owner_id, problem.program)
        tensors = blobs.find(session, owner_id, program.tensors)
        expected = architectures.of_program(tensor_blobs.header(session, tensors))
    else:
        expected = architectures.of_preset(problem.preset)
    if reason := architectures.difference(stored, expected):
        raise ArchitectureMismatch(trial=str(start.trial), reason=reason)


def checkpoint(session: Session, owner_id: UUID, trial_id: UUID, step: WhichStep) -> Slice:
    """What is stored of `step`: a checkpoint, with the optimizers' state, or the result of a best step, without.

    Raises:
        TrialNotFound
        CheckpointNotFound: nothing of that step is stored.
    """
    return Slice.whole(stored(session, owner_id, trial_id, step, weights=True))


def stored(session: Session, owner_id: UUID, trial_id: UUID, step: WhichStep, *, weights: bool) -> Blob:
    """The checkpoint or the result of a step, or its snapshot, as `find` finds it.

    Raises:
        TrialNotFound
        CheckpointNotFound, HyperparametersNotFound: nothing of that step is stored.
    """
    start = WarmStart(trial=trial_id, step=None if step == "latest" else step, weights=weights)
    return session.get_one(Blob, find(session, owner_id, start)[1])

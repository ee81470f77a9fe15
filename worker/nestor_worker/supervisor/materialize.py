"""Writes what a runner needs for its trial from the database and the blobs to the work directory."""

from __future__ import annotations

import hashlib
import json
from functools import partial
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from nestor.options import Config
from nestor.program_format import GRAPHS_FILE, TENSORS_FILE, split_file
from nestor.schemas import TrialSpec
from nestor_server.models import Blob, Checkpoint, Dataset, Program, Snapshot, Study, Trial
from nestor_server.storage import blobs
from nestor_worker.supervisor.blob_cache import BlobCache
from nestor_worker.workdir import CHECKPOINT, INITIAL, START, TRACES, WorkSpec


def materialize(
    session: Session,
    trial: Trial,
    directory: Path,
    cache: BlobCache,
    *,
    threads: int,
    checkpoint_seconds: float,
    memory_bytes: int | None = None,
    file_bytes: int | None = None,
    roots: tuple[str, ...] = (),
    is_contained: bool = True,
) -> WorkSpec:
    """Write everything that the trial's runner needs to `directory`, and return the spec among it.

    Raises:
        BlobNotFound: a blob of the problem was deleted.
        BlobDamaged: the contents of a blob do not match its digest.
    """
    study = session.get_one(Study, trial.study_id)
    owner = study.owner_id
    # Validated again, because jsonb returns the float 1e30 as an integer, which torch cannot multiply with.
    submitted = TrialSpec.model_validate(trial.spec).model_dump(mode="json")
    config = {name: submitted[name] for name in Config.model_fields}
    # It differs from the submission if the trial was extended, or is to end after a step.
    config["n_steps"] = trial.n_steps if trial.ends_after is None else min(trial.n_steps, trial.ends_after)
    warm = submitted["warm_start"]
    digests: dict[str, str] = {}
    if trial.program_id is not None:
        program = session.get_one(Program, trial.program_id)
        digests |= {GRAPHS_FILE: program.graphs, TENSORS_FILE: program.tensors}
    problem = submitted["problem"]
    spec = WorkSpec(
        config=config,
        preset=problem.get("preset"),
        entry_point=problem if "entry_point" in problem else None,
        best_step=trial.best_step,
        best_value=trial.best_value,
        metric=study.metric,
        direction=study.direction,
        timeout=submitted["timeout"] if trial.ends_after is None else None,
        seconds=trial.seconds,
        warm=None if warm is None else "weights" if warm["weights"] else "hyperparameters",
        nudge=None if warm is None else warm["nudge"],
        threads=threads,
        checkpoint_seconds=checkpoint_seconds,
        memory_bytes=memory_bytes,
        file_bytes=file_bytes,
        roots=roots if "entry_point" in problem else (),
        is_contained=is_contained,
        devices=trial.devices,
        traces=_traces_name(owner, digests.get(GRAPHS_FILE) or problem, config),
    )
    spec.write(directory)

    if trial.dataset_id is not None:
        splits = session.get_one(Dataset, trial.dataset_id).splits
        parts: dict[str, str | None] = {
            name: cast("dict[str, Any]", split)["uploaded"] if isinstance(split, dict) else split
            for name, split in splits.items()
        }
        digests |= {split_file(name): digest for name, digest in parts.items() if digest}
    files = {name: blobs.find(session, owner, digest) for name, digest in digests.items()}
    if trial.start_blob_id is not None:
        files[START] = session.get_one(Blob, trial.start_blob_id)

    newest = (
        select(Blob)
        .join(Checkpoint, Checkpoint.blob_id == Blob.id)
        .where(Checkpoint.trial_id == trial.id)
        .order_by(Checkpoint.step.desc())
        .limit(1)
    )
    if checkpoint := session.scalars(newest).one_or_none():
        files[CHECKPOINT] = checkpoint
        first = select(Blob).join(Snapshot, Snapshot.blob_id == Blob.id)
        initial = session.scalars(first.where(Snapshot.trial_id == trial.id, Snapshot.step == 0)).one_or_none()
        if initial is not None:
            files[INITIAL] = initial
    for name, blob in files.items():
        cache.place(blob.digest, directory / name, partial(blobs.read, session, blob))
    if (traces := cache.get_named(spec.traces)) is not None:
        (directory / TRACES).write_bytes(traces)
    return spec


def _traces_name(owner: UUID, problem: str | dict[str, Any], config: dict[str, Any]) -> str:
    """A cache name shared by a user's trials whose curvature products probably have the same traces.

    Each trial checks the traces before it uses them. The owner is a part of the name, so that a trial never reads what
    another user's runner wrote.
    """
    key = json.dumps([str(owner), problem, config["response"], config["batch_size"]], sort_keys=True)
    return f"traces:{hashlib.sha256(key.encode()).hexdigest()}"

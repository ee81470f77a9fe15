"""The files through which a trial reaches its runner: written by the supervisor, read by the runner."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from nestor.options import Config
from nestor.program_format import GRAPHS_FILE, TENSORS_FILE, split_file
from nestor.schemas import TrialSpec
from nestor_server.models import Blob, Checkpoint, Dataset, Program, Study, Trial
from nestor_server.storage import blobs
from nestor_worker.supervisor.blob_cache import Cache

SPEC = "spec.json"
CHECKPOINT = "checkpoint.safetensors"
TRACES = "traces.json"  # of curvature products, by an earlier trial of the same program, or by this one
START = "start.safetensors"  # what another trial reached, where this one begins


def prefix(pid: int) -> str:
    return f"nestor-run-{pid}-"


def sweep() -> None:
    """Remove the work directories of workers that were killed and could not do it themselves."""
    for path in Path(tempfile.gettempdir()).glob("nestor-run-*-*"):
        owner = path.name.split("-")[2]
        # Our own number on a directory that we did not make: a container gives the same one to every worker.
        if owner.isdigit() and (int(owner) == os.getpid() or not Path(f"/proc/{owner}").exists()):
            shutil.rmtree(path, ignore_errors=True)


@dataclass(frozen=True)
class Spec:
    """What the runner is to do."""

    config: dict[str, Any]  # nestor.Config
    preset: dict[str, Any] | None  # schemas.Preset; None: a program and its data are in the directory
    best_step: int | None  # of the steps so far
    best_value: float | None
    warm: Literal["weights", "hyperparameters"] | None  # what START holds
    threads: int
    checkpoint_seconds: float
    memory_bytes: int | None = None
    devices: int = 1
    traces: str = ""  # a name for those of trials like this one

    @staticmethod
    def read(directory: Path) -> Spec:
        return Spec(**json.loads((directory / SPEC).read_text()))


def materialise(
    session: Session,
    trial: Trial,
    directory: Path,
    cache: Cache,
    *,
    threads: int,
    checkpoint_seconds: float,
    memory_bytes: int | None = None,
) -> Spec:
    """Write all that the trial's runner needs, and say what that is.

    Raises:
        BlobNotFound: a part of the problem is gone.
        BlobDamaged: the bytes of one are others than they were.
    """
    owner = session.scalars(select(Study.owner_id).where(Study.id == trial.study_id)).one()
    # Read as the schema reads it: jsonb returns the float 1e30 as an integer, which torch does not multiply with.
    submitted = TrialSpec.model_validate(trial.spec).model_dump(mode="json")
    config = {name: submitted[name] for name in Config.model_fields}
    config["n_steps"] = trial.n_steps  # the submission's, unless the trial was extended
    warm = submitted["warm_start"]
    digests: dict[str, str] = {}
    if trial.program_id is not None:
        program = session.get_one(Program, trial.program_id)
        digests |= {GRAPHS_FILE: program.graphs, TENSORS_FILE: program.tensors}
    preset = submitted["problem"].get("preset")
    spec = Spec(
        config=config,
        preset=preset,
        best_step=trial.best_step,
        best_value=trial.best_value,
        warm=None if warm is None else "weights" if warm["weights"] else "hyperparameters",
        threads=threads,
        checkpoint_seconds=checkpoint_seconds,
        memory_bytes=memory_bytes,
        devices=trial.devices,
        traces=_traced_alike(owner, digests.get(GRAPHS_FILE) or preset, config),
    )
    (directory / SPEC).write_text(json.dumps(asdict(spec)))

    if trial.dataset_id is not None:
        dataset = session.get_one(Dataset, trial.dataset_id)
        digests |= {split_file(split): digest for split, digest in dataset.splits.items() if digest}
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
    for name, blob in files.items():
        cache.place(blob.digest, directory / name, partial(blobs.read, session, blob))
    if (traces := cache.noted(spec.traces)) is not None:
        (directory / TRACES).write_bytes(traces)
    return spec


def _traced_alike(owner: UUID, problem: str | dict[str, Any], config: dict[str, Any]) -> str:
    """A name that one user's trials share if their products are likely to have one trace; each trial checks.

    The owner is a part of it: what one user's runner wrote is never read for another's trial.
    """
    key = json.dumps([str(owner), problem, config["response"], config["batch_size"]], sort_keys=True)
    return f"traces:{hashlib.sha256(key.encode()).hexdigest()}"

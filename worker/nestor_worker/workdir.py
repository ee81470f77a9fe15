"""The files that pass a trial to its runner: written by the supervisor, read by the runner."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from nestor.ranking import Ranking
from nestor.schemas import Direction

SPEC = "spec.json"
REFERENCES = "references.json"
CHECKPOINT = "checkpoint.safetensors"
TRACES = "traces.json"  # of curvature products, from an earlier trial of the same program or from this one
INITIAL = "initial.safetensors"  # the hyperparameters from which the trial started, if an earlier attempt began it
START = "start.safetensors"  # the warm start: a checkpoint or a snapshot of another trial


def prefix(pid: int) -> str:
    """The beginning of the names of the work directories that the worker process `pid` makes."""
    return f"nestor-run-{pid}-"


def remove_orphans() -> None:
    """Remove the work directories that killed workers left behind. Call it before the first runner is spawned."""
    for path in Path(tempfile.gettempdir()).glob("nestor-run-*-*"):
        owner = path.name.split("-")[2]
        # A directory with our own pid is an old one too: in a container, every worker gets the same pid.
        if owner.isdigit() and (int(owner) == os.getpid() or not Path(f"/proc/{owner}").exists()):
            shutil.rmtree(path, ignore_errors=True)


@dataclass(frozen=True)
class PlacedFile:
    """A referenced file on this machine, with the digest that was recorded.

    Attributes:
        size, mtime_ns, inode: of the file whose digest was computed.
        columns: name in the split → a schemas.ReferencedColumn.
    """

    uri: str
    path: str
    size: int
    mtime_ns: int
    inode: int
    columns: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class WorkSpec:
    """What the runner does: the contents of `spec.json`."""

    config: dict[str, Any]  # nestor.Config
    preset: dict[str, Any] | None  # schemas.Preset
    best_step: int | None  # of the steps that were recorded so far
    best_value: float | None
    warm: Literal["weights", "hyperparameters"] | None  # the contents of START
    threads: int
    checkpoint_seconds: float
    memory_bytes: int | None = None
    file_bytes: int | None = None  # that a file may have
    roots: tuple[str, ...] = ()  # directories that the code of a package may read; a program reads its references alone
    is_contained: bool = True
    devices: int = 1
    nudge: dict[str, Any] | None = None  # schemas.Nudge
    entry_point: dict[str, Any] | None = None  # schemas.EntryPointProblem; without both, a program is in the directory
    timeout: float | None = None  # seconds of training after which the trial ends
    seconds: float = 0.0  # that earlier attempts have trained
    traces: str = ""  # the cache name of the traces of similar trials
    metric: str | None = None  # these two are the fields of Ranking
    direction: Direction = "minimize"

    @property
    def ranking(self) -> Ranking:
        """How the study compares steps."""
        return Ranking.of(self)

    @staticmethod
    def read(directory: Path) -> WorkSpec:
        """The spec that the supervisor wrote to this work directory."""
        return WorkSpec(**json.loads((directory / SPEC).read_text()))

    def write(self, directory: Path) -> None:
        """Write the spec to this work directory."""
        (directory / SPEC).write_text(json.dumps(asdict(self)))


def write_references(directory: Path, placed: dict[str, list[PlacedFile]]) -> None:
    """Write which referenced files belong to which split."""
    written = {split: [asdict(file) for file in files] for split, files in placed.items()}
    (directory / REFERENCES).write_text(json.dumps(written))


def read_references(directory: Path) -> dict[str, list[PlacedFile]]:
    """What `write_references` wrote; empty if it was not called."""
    path = directory / REFERENCES
    if not path.exists():
        return {}
    return {split: [PlacedFile(**file) for file in files] for split, files in json.loads(path.read_text()).items()}

"""The errors that the engine raises, which are `nestor.errors`, and how exhausted memory shows."""

from __future__ import annotations

from nestor.errors import CheckpointFormatUnknown as CheckpointFormatUnknown
from nestor.errors import ConfigInvalid as ConfigInvalid
from nestor.errors import Diverged as Diverged
from nestor.errors import NotExportable as NotExportable
from nestor.errors import ProblemInvalid as ProblemInvalid
from nestor.errors import ProgramRejected as ProgramRejected
from nestor.errors import StateInvalid as StateInvalid


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: for devices torch has an error of its own, for the CPU's memory a plain RuntimeError."""
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)

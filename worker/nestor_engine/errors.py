"""The errors that the engine raises, which are `nestor.errors`, and how exhausted memory shows."""

from __future__ import annotations

from nestor.errors import CheckpointFormatUnknown as CheckpointFormatUnknown
from nestor.errors import ConfigInvalid as ConfigInvalid
from nestor.errors import Diverged as Diverged
from nestor.errors import NestorError
from nestor.errors import NotExportable as NotExportable
from nestor.errors import ProblemInvalid as ProblemInvalid
from nestor.errors import ProgramRejected as ProgramRejected
from nestor.errors import StateInvalid as StateInvalid


def code_of(error: BaseException) -> str | None:
    """The code of an error that the engine explains: its own, or "out-of-memory". None: of somebody else's code."""
    if isinstance(error, NestorError):
        return error.code()
    return "out-of-memory" if is_out_of_memory(error) else None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: for devices torch has an error of its own, for the CPU's memory a plain RuntimeError."""
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)

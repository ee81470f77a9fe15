"""The errors that the engine raises, from `nestor.errors`, and the recognition of exhausted memory."""

from __future__ import annotations

from nestor.errors import CheckpointFormatUnknown as CheckpointFormatUnknown
from nestor.errors import ConfigInvalid as ConfigInvalid
from nestor.errors import Diverged as Diverged
from nestor.errors import NotExportable as NotExportable
from nestor.errors import ProblemInvalid as ProblemInvalid
from nestor.errors import ProgramRejected as ProgramRejected
from nestor.errors import StateInvalid as StateInvalid


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out. Torch has its own error for devices, and a plain RuntimeError for the CPU's memory."""
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)

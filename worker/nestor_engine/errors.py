"""The errors that the engine raises, from `nestor.errors`."""

from __future__ import annotations

from nestor.errors import CheckpointFormatUnknown as CheckpointFormatUnknown
from nestor.errors import ConfigInvalid as ConfigInvalid
from nestor.errors import Diverged as Diverged
from nestor.errors import NotExportable as NotExportable
from nestor.errors import ProblemInvalid as ProblemInvalid
from nestor.errors import ProgramRejected as ProgramRejected
from nestor.errors import StateInvalid as StateInvalid

"""What the engine refuses or gives up on, each with one sentence and its remedy."""

from __future__ import annotations

import re
from typing import Any, ClassVar


class EngineError(Exception):
    """The root of the engine's errors; `message` is a template over the keywords it is raised with."""

    message: ClassVar[str] = "{reason}"

    def __init__(self, **context: Any) -> None:
        self.context = context
        super().__init__(self.message.format(**context))

    @classmethod
    def code(cls) -> str:
        """The class's name as other systems write it: ProblemInvalid → problem-invalid."""
        return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", cls.__name__).lower()


class ProblemInvalid(EngineError):
    """The problem cannot be trained as it was stated."""


class NotExportable(ProblemInvalid):
    """A function of the problem does something that no graph can hold."""

    message = "{function} cannot be exported{where}: {reason} {remedy}"


class ConfigInvalid(EngineError):
    """An option has a value that cannot work."""


class StateInvalid(EngineError):
    message = "The checkpoint does not belong to this problem: {reason}. Start from a checkpoint of the same problem."


class CheckpointFormatUnknown(StateInvalid):
    message = "The checkpoint has format {version}; this version of Nestor reads formats 2 to {known}. {remedy}"


class Diverged(EngineError):
    """A number that must be finite is not."""

    message = (
        "Step {step}: the {what} is not finite. The training diverged. "
        "Try a smaller learning rate for the {where}, more damping, or a smaller initial value of the hyperparameters."
    )


class ProgramRejected(EngineError):
    message = "The program was refused: {reason}"


def code_of(error: BaseException) -> str | None:
    """The code of an error that the engine explains: its own, or "out-of-memory". None: of somebody else's code."""
    if isinstance(error, EngineError):
        return error.code()
    return "out-of-memory" if is_out_of_memory(error) else None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: for devices torch has an error of its own, for the CPU's memory a plain RuntimeError."""
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)

"""What a trial can end with: no request raises it, it is recorded in the trial's `error`."""

from __future__ import annotations

from nestor.errors.base import NestorError


class TrialError(NestorError):
    """A trial ended in failure."""

    message = "{reason}"


class Diverged(TrialError):
    """A number that must be finite is not."""

    message = "Step {step}: the {what} is not finite. The training diverged."
    remedy = (
        "Try a smaller learning rate for the {where}, more damping, or a smaller initial value of the hyperparameters."
    )


class OutOfMemory(TrialError):
    """The device ran out of memory."""

    message = "The device ran out of memory."
    remedy = "Try a smaller model, smaller batches, or a larger device."


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out. Torch has its own error for devices, and a plain RuntimeError for the CPU's memory."""
    if isinstance(error, MemoryError) or any(cls.__name__ == "OutOfMemoryError" for cls in type(error).__mro__):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


class ProblemFailed(TrialError):
    """The problem's own functions raised an error while the trial ran."""

    message = "The problem's own functions failed with {reason}."
    remedy = "Run problem.check() where the problem was written."


class RestartsSpent(TrialError):
    """A trial was interrupted again and again without a new checkpoint."""

    message = (
        "The trial was interrupted {count} times in a row before it wrote a new checkpoint, the last time because "
        "{reason}."
    )
    remedy = "Look into the worker's log. If the worker runs out of memory, try a smaller model or batch."


class TrialCrashed(TrialError):
    """A trial's process crashed or hung twice in the same way."""

    message = "After step {step}, the trial ended twice in the same way: {reason}."
    remedy = (
        "It was not tried again. If a signal ended it, an operator of the program got arguments that torch does not "
        "check, such as indices or sizes. If it was silent, make outer steps shorter, or have the operator of the "
        "service raise NESTOR_SILENCE_SECONDS."
    )


class PreemptionsSpent(TrialError):
    """A trial's workers were shut down again and again without a new checkpoint."""

    message = (
        "The trial's workers were shut down {count} times in a row before it wrote a new checkpoint, the last time "
        "because {reason}."
    )
    remedy = "Give it a worker that stays, or let it write checkpoints more often, and retry it."

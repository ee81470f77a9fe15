"""What is wrong with an exported program or with a checkpoint."""

from __future__ import annotations

from typing import Any

from nestor.errors.problems import ProblemInvalid
from nestor.errors.requests import InvalidInput

# A function of a program → what its author wrote.
_USERS_NAMES = {
    "prepare": "The change of a batch by its transform and its hyperparameters",
    "forward": "The model",
    "criterion": "train_loss",
    "penalty": "The penalty",
    "predict": "The model in evaluation mode",
    "val_loss": "val_loss",
}


class NotExportable(ProblemInvalid):
    """A function of the problem does something that no graph can hold."""

    message = "{function} cannot be exported{where}: {reason} {remedy}"

    def __init__(self, **context: Any) -> None:
        if "function" in context:
            context["function"] = _USERS_NAMES.get(context["function"], context["function"])
        super().__init__(**context)


class MetricNotExportable(NotExportable):
    """A metric leaves torch, which works in this process only."""

    message = "The metric {metric!r} cannot be exported: it returned a {type} in place of a tensor."
    remedy = "Write it with torch functions, or run the problem in this process (server=None)."


class OutputDependsOnBatchSize(NotExportable):
    """The model returns an object with a number that was computed from the batch size."""

    message = "The model returns an object that holds {number}, a number computed from the batch size."
    remedy = "Return it as a tensor, or let the loss take the size from a tensor, as in logits.shape[0]."


class ProgramInvalid(InvalidInput):
    """A program does not follow the format."""

    message = "The program was refused: {reason}."
    remedy = "Export it again with `nestor.Problem.export()` of this version."


class ProgramTooLarge(ProgramInvalid):
    """A part of a program has more bytes than it may have."""

    message = "The program was refused: {what} has {size:,} bytes; the limit is {limit:,}."
    remedy = "Simplify the model."


class ProgramFormatUnknown(ProgramInvalid):
    """A program was written by another version of Nestor."""

    message = "The program was refused: its format is {version}, and {known} is read here."
    remedy = "Export it again with this version of Nestor."


class ProgramNotFinite(ProgramInvalid):
    """A program's tensors hold NaN or infinity."""

    message = "The program was refused: its tensor {tensor!r} holds NaN or infinite numbers."
    remedy = "Export it again from finite weights."


class ProgramRejected(ProgramInvalid):
    """The engine refuses a program or a trace."""

    message = "The program was refused: {reason}"


class ProgramInputMissing(ProblemInvalid):
    """An exported program reads a column that it was not given."""

    message = "The program reads {name!r}, but was given {given}."
    remedy = "Give the columns of the data the same names as at the export."


class StateInvalid(InvalidInput):
    """A checkpoint does not belong to the problem."""

    message = "The checkpoint does not belong to this problem: {reason}."
    remedy = "Start from a checkpoint of the same problem."


class CheckpointFormatUnknown(StateInvalid):
    """A checkpoint was written by another version of Nestor."""

    message = "The checkpoint has format {version}; this version of Nestor reads formats 2 to {known}. {remedy}"


class CheckpointMismatch(StateInvalid):
    """A checkpoint holds other tensors than a model."""

    message = "The trial's checkpoint does not fit this model: {reason}."
    remedy = "Pass the model of the problem, or one that was built in the same way."


class ArchitectureMismatch(StateInvalid):
    """A warm start names a trial of another architecture."""

    message = "Trial {trial} has another architecture than this problem: {reason}."
    remedy = "Start from a trial of the same problem, or omit warm_start."

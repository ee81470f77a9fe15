"""What is wrong with the examples of a problem, or with an uploaded data set."""

from __future__ import annotations

from nestor.errors.problems import ProblemInvalid


class DatasetInvalid(ProblemInvalid):
    """The examples cannot be trained on."""

    message = "The data set was refused: {reason}."


class SplitInvalid(DatasetInvalid):
    """A split is neither a tuple (x, y) nor a dict of columns."""

    message = "The {split} split is {given}."
    remedy = "Pass a tuple (x, y), or a dict of columns by name."


class SplitNotSafetensors(DatasetInvalid):
    """An uploaded split is not a safetensors file."""

    message = "The {split} split is not a safetensors file: {reason}."
    remedy = "Save it with safetensors, and upload it again."


class SplitEmpty(DatasetInvalid):
    """A split has no examples."""

    message = "The {split} split is empty."
    remedy = "Give it at least one example."


class ColumnsMissing(DatasetInvalid):
    """A split has no columns."""

    message = "The {split} split has no columns."
    remedy = "Give it at least one, such as 'x'."


class ColumnNotTensor(DatasetInvalid):
    """A column cannot be made a tensor."""

    message = "The column {column!r} of the {split} split cannot be made a tensor: {reason}."
    remedy = "Pass a tensor, or an array of numbers."


class DataLengthsDiffer(DatasetInvalid):
    """The columns of a split have different numbers of examples."""

    message = "The columns of the {split} split must be equally long; their lengths are {lengths}."
    remedy = "The first dimension of each must be the number of examples."


class ColumnReserved(DatasetInvalid):
    """A column has the name of the examples' positions."""

    message = "The {split} split has a column {column!r}, the reserved name of an example's position."
    remedy = "Rename it."


class ColumnTwice(DatasetInvalid):
    """A split takes two columns of one name from different places."""

    message = "The {split} split has two columns with the name {column!r}."
    remedy = "Rename one of them."


class ColumnNotFound(DatasetInvalid):
    """A column that is read does not exist."""

    message = "{reader} reads the column {column!r}, but the {split} split has {columns}."
    remedy = "Name one of these with {argument}=…."


class ColumnNotFinite(DatasetInvalid):
    """A column holds NaN or infinity."""

    message = "The column {column!r} of the {split} split holds NaN or infinite numbers."
    remedy = "Remove or replace them."


class ColumnUnusable(DatasetInvalid):
    """A column has another dtype or shape than a kind of hyperparameters needs."""

    message = "{kind} takes {expected}, not {dtype} of shape {shape}."
    remedy = "{advice}"


class LabelsOutOfRange(DatasetInvalid):
    """Labels do not run from 0 to the number of classes."""

    message = "{kind}(classes={classes}): the labels run from {low} to {high}."
    remedy = "Count them from 0, and pass the number of classes."


class GroupsOutOfRange(DatasetInvalid):
    """A column holds groups that a kind of hyperparameters has no weight for."""

    message = "{kind}: the column {column!r} runs from {low} to {high}, but there are {groups} groups, from 0."
    remedy = "Number the groups from 0, and pass how many there are."


class SplitsDiffer(DatasetInvalid):
    """Folds need the same columns in both splits."""

    message = "Folds exchange training and validation examples, but their columns differ: {train}, and {val}."
    remedy = "Give both the same columns, or tune without folds."


class TooFewExamples(DatasetInvalid):
    """There are fewer examples than an option needs."""

    message = "{option} needs at least {needed} {what}, and there are {n}."
    remedy = "Give more examples, or change that option."


class HoldOutEmpty(DatasetInvalid):
    """Early stopping would hold out no example, or all of them."""

    message = (
        "{option} of {n} validation examples holds out {taken}. At least one must be held out, and one must be left."
    )
    remedy = "Give more validation examples, or change that option."

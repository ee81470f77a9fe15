"""What is wrong with the examples of a problem, or with an uploaded data set."""

from __future__ import annotations

from nestor.errors.problems import ProblemInvalid


class DatasetInvalid(ProblemInvalid):
    """The examples cannot be trained on."""

    message = "The data set was refused: {reason}."


class SplitInvalid(DatasetInvalid):
    """A split has a form that holds no columns."""

    message = "The {split} split is {given}."
    remedy = "{advice}"


class SplitTooLarge(DatasetInvalid):
    """The items of a Dataset do not fit into memory together."""

    message = "The {split} split is a {given} of {n:,} items, which take {size}, and {free} of memory are free."
    remedy = "Pass a Subset of it, or write its columns to files and pass them by reference."


class ItemFailed(DatasetInvalid):
    """A Dataset raised an error when an item was read; the error is the `__cause__`."""

    message = "Item {item} of the {split} split cannot be read: {error}."
    remedy = "Correct the __getitem__ of {given}, or pass columns."


class ItemRandom(DatasetInvalid):
    """An item of a Dataset differs each time that it is read, and a split is read once."""

    message = "Item {item} of the {split} split has another {column!r} each time that it is read."
    remedy = (
        "A Dataset is read once, which would fix its random transform at one draw. Pass it without the transform, "
        "and draw in Problem(transform=…)."
    )


class ItemsDiffer(DatasetInvalid):
    """The items of a Dataset have different columns."""

    message = "Item {item} of the {split} split has the columns {columns}; item 0 has {first}."
    remedy = "Return the same columns for every item."


class ExamplesDiffer(DatasetInvalid):
    """The examples of a column have different shapes or dtypes, so that they are not the rows of one tensor."""

    message = "{entry} of the column {column!r} of the {split} split is {shape}; the first is {first}."
    remedy = "Pad, crop or convert all of them to one shape and dtype."


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
    """A column cannot be made a tensor of numbers."""

    message = "The column {column!r} of the {split} split cannot be used: {reason}."
    remedy = "{advice}"


class ColumnNameInvalid(DatasetInvalid):
    """A column has a name that a program cannot hold."""

    message = "The {split} split has a column named {column}."
    remedy = "Rename it: a name is a string of 1 to {most} printable characters, without quotes and backslashes."


class ColumnNameTaken(DatasetInvalid):
    """Two columns of a split have one name."""

    message = "The {split} split has two columns named {column!r}."
    remedy = "Rename one of them."


class RowsMisaligned(DatasetInvalid):
    """Two pandas objects of a split have the same index in different orders."""

    message = "In the {split} split, {first!r} and {second!r} have the same index in different orders."
    remedy = (
        "Examples are matched by position, so give both the same order, for example with y.loc[x.index]. If the "
        "positions are right, call reset_index(drop=True) on both."
    )


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


class TransformInvalid(DatasetInvalid):
    """The transform of training batches does not return a batch."""

    message = "The transform {reason}."
    remedy = "{advice}"


class TransformNotReproducible(DatasetInvalid):
    """Two calls of the transform with one seed give different batches."""

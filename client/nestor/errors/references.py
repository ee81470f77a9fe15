"""What is wrong with data by reference."""

from __future__ import annotations

from nestor.errors.data import DatasetInvalid


class ReferenceInvalid(DatasetInvalid):
    """The URI of a reference cannot be used."""

    message = "The reference {uri} cannot be used: {reason}."
    remedy = "Write it like file:///data/train.safetensors, s3://bucket/train.npy or file:///data/train.parquet."


class ReferenceNotFound(DatasetInvalid):
    """No file is where a reference points, or it cannot be opened."""

    message = "The reference {uri!r} cannot be read on {machine}: {reason}."
    remedy = "Check the path and its permissions; the file must be readable by the client and by every worker."


class ReferenceUnreadable(DatasetInvalid):
    """A referenced file is not in the format that its name says."""

    message = "The reference {uri!r} is not a {format} file that can be mapped: {reason}."
    remedy = "{advice}"


class ReferenceColumnNotFound(DatasetInvalid):
    """A referenced file has no such column."""

    message = "The reference {uri!r} names the column {column!r}, but the file has {columns}."
    remedy = "Name one of these with nestor.data.ref(uri, columns=…)."


class ReferenceNotOneColumn(DatasetInvalid):
    """A reference stands for one column, but its file has several."""

    message = "The column {column!r} of the {split} split is a reference to several columns: {columns}."
    remedy = "Name one of them: nestor.data.ref(uri, columns='…')."


class ReferenceWithoutNames(DatasetInvalid):
    """An .npy file stands for a whole split."""

    message = "The {split} split is a reference to the file {uri!r}, which has no column names."
    remedy = "Put it into a dict: {split}={{'x': nestor.data.ref(…)}}."


class ReferenceChanged(DatasetInvalid):
    """A referenced file is not what it was when the trial was submitted."""

    message = "The file {uri!r} has changed since the data set was registered: {reason}."
    remedy = "Restore the file, or submit the trial again with the present one."


class ReferenceNotAllowed(DatasetInvalid):
    """The operator of a worker does not allow a reference."""

    message = "This worker may not read {uri!r}: its operator allows {roots}."
    remedy = "Move the file there, or ask the operator to add its directory or bucket to NESTOR_DATA_ROOTS."


class ReferenceTooLarge(DatasetInvalid):
    """A referenced object does not fit into a worker's cache."""

    message = "The object {uri!r} has {size:,} bytes, and the worker's cache holds {limit:,}."
    remedy = "Ask the operator to raise NESTOR_CACHE_BYTES, or split the object into smaller ones."


class ColumnNotInMemory(DatasetInvalid):
    """An operation would read all of a column that is read batch by batch."""

    message = "A column by reference is read in batches and does not support {operation}."
    remedy = "Take rows of it, such as column[:100], or pass a tensor."

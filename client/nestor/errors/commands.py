"""What is wrong with a command, or with a file that it reads or writes."""

from __future__ import annotations

from nestor.errors.client import ClientError


class FileNotReadable(ClientError):
    """A file that a command is to read cannot be read."""

    message = "{file} cannot be read: {reason}."
    remedy = "Check the path, or pass - to read from standard input."


class FileNotWritable(ClientError):
    """A file that a command is to write cannot be written."""

    message = "{file} cannot be written: {reason}."
    remedy = "Pass a path in an existing directory that you can write to, or - for standard output."


class DocumentNotJson(ClientError):
    """A file that should hold a JSON object holds something else."""

    message = "{file} is not a JSON object: {reason}."
    remedy = "Write it like the body of POST /api/v1/studies/{{id}}/trials, such as {example}."


class BinaryOnTerminal(ClientError):
    """Bytes would be written to a terminal."""

    message = "{what} are binary, and standard output is a terminal."
    remedy = "Pass a file, or redirect standard output."


class WeightsUnnamed(ClientError):
    """An earlier version of Nestor wrote a checkpoint, without the names of the weights."""

    message = "The checkpoint of trial {trial!r} does not name its weights, because an earlier version wrote it."
    remedy = "Load it into the model in Python: trial.load_weights(model)."


class StudyGivenAsTrial(ClientError):
    """A trial is expected, and a study was named."""

    message = "{study!r} is a study, not a trial."
    remedy = "Name one of its trials, such as {trial!r}."


class DeletionNotConfirmed(ClientError):
    """A study is to be deleted, and nobody can be asked for a confirmation."""

    message = "Study {study!r} was not deleted: this is not a terminal, so nobody can confirm it."
    remedy = "Pass --yes."

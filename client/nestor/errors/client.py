"""What is raised in the client alone; no server sends it."""

from __future__ import annotations

from nestor.errors.base import NestorError
from nestor.errors.requests import InvalidInput


class ClientError(NestorError):
    """Something went wrong on the client's side."""

    status = 0
    message = "{reason}"


class ServerUnreachable(ClientError):
    """No server answers."""

    retryable = True
    message = "No Nestor server answers at {server}: {reason}."
    remedy = "Start one with `nestor up`, or check the address."


class AnswerUnreadable(ClientError):
    """A server answered something that this version of the client does not understand."""

    message = "The answer of {server} to {path} cannot be read: {reason}."
    remedy = "Check that the address is a Nestor server's and that both have the same version."


class RequestNotSent(ClientError):
    """An argument cannot be written into a request."""

    message = "The request cannot be sent: {reason}."
    remedy = "Shorten or correct its arguments."


class ConnectionsClosed(ClientError):
    """A client was used after it was closed, or an `AsyncClient` in a second event loop."""

    message = "The connections of this client to {server} are closed."
    remedy = "Create another client. An AsyncClient serves one event loop."


class ConnectionSettingsInvalid(ClientError):
    """A variable about proxies or certificates has a value that cannot be used."""

    message = "No connection can be made with the environment's settings: {reason}."
    remedy = "Check HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY, SSL_CERT_FILE and SSL_CERT_DIR."


class AddressInvalid(ClientError):
    """A server's address is not one."""

    message = "{server!r} is not the address of a server."
    remedy = "Write it like http://127.0.0.1:8000."


class CredentialsUnreadable(ClientError):
    """The credentials file is damaged."""

    message = "The credentials file {file} cannot be read: {reason}."
    remedy = "Fix or delete it."


class NoToken(ClientError):
    """No token is known for a server."""

    message = "No token is known for {server}."
    remedy = (
        "Pass token=…, or set NESTOR_TOKEN. "
        "`nestor up` prints one on a terminal, and `nestor token create` makes another."
    )


class TokenNotPickled(NoToken):
    """A pickled client, study or trial was loaded where no token is known for its server."""

    message = "No token is known for {server}: pickles do not contain tokens, so that they can be passed on."
    remedy = "Set NESTOR_TOKEN in this process."


class LocalNotPicklable(ClientError):
    """A study or trial of this process was pickled."""

    message = "A study without a server, and its trials, cannot be pickled, because they run in this process."
    remedy = "Create the study with server=… to use it in other processes, or pickle results: dict(trial.hparams)."


class SnapshotMemoryInvalid(ClientError):
    """The setting NESTOR_SNAPSHOT_MEMORY_BYTES is not a number of bytes."""

    message = "NESTOR_SNAPSHOT_MEMORY_BYTES cannot be used: {given} is not a number of bytes."
    remedy = "Write it like 268435456, or leave it out; with 0, all snapshots but the newest go to disk."


class SnapshotNotWritten(ClientError):
    """A trial in this process has more snapshots than fit in memory, and cannot write them to disk.

    The trial continues, and its log has this sentence.
    """

    message = "Snapshots of the hyperparameters cannot be written to disk: {reason}. Training continues without them."
    remedy = "Free some space in {directory}, set TMPDIR to another directory, or raise {variable}, now {budget:,}."


class TrialFailed(ClientError):
    """A trial that was waited for failed; the sentence is the one that the worker recorded."""

    message = "Trial {number} failed: {reason}"


class TrialNotFinished(ClientError):
    """A study has no trial with a value yet."""

    message = "Study {study!r} has no trial with a recorded value yet."
    remedy = "Run one with study.optimize(problem, n_steps=…)."


class HparamNotFound(InvalidInput, KeyError):
    """A trial has no hyperparameter of that name."""

    message = "There is no hyperparameter {name!r}; there are: {hparams}."
    remedy = "Name one of them, or the first parts of a name."

    def __str__(self) -> str:
        return Exception.__str__(self)  # a KeyError shows its sentence in quotation marks


class FileUnusable(ClientError):
    """A file cannot be read or written."""

    message = "The file {file} cannot be {done}: {reason}."
    remedy = "Check its path. nestor.load_values reads files that hparams.save wrote."


class DecayNotInGroups(InvalidInput):
    """Decays differ inside of a tensor, and `torch.optim` has one weight decay per tensor at the finest."""

    message = "{name!r} has more than one decay for a tensor, and a parameter group of torch.optim has one."
    remedy = "Add L2(model, per=…).penalty(dict(model.named_parameters()), hparams.transformed) to train_loss."


class DecaysForAnotherModel(InvalidInput):
    """The decays were tuned for other parameters than the model's."""

    message = "The decays {name!r} do not fit the model: {reason}."
    remedy = "Pass a model of the architecture that the trial tuned, with the same parameters frozen."


class MissingExtra(ClientError):
    """A package that is needed is not installed."""

    message = "{what} needs {package}, which is not installed."
    remedy = "Install it: pip install 'nestor[{extra}]'."

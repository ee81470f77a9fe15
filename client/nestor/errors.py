"""Every error that Nestor raises across a wire, each with one sentence and its remedy.

An error is raised on the server, travels as RFC 9457 problem+json under its class's name, and is
raised again as the same class in the client; the HTTP status belongs to the class.

    NestorError
    ├── InvalidInput (422)      what was sent cannot be used
    │   ├── ValidationFailed    fields, one by one
    │   ├── DigestMismatch, DatasetInvalid, ProgramInvalid
    ├── Unauthenticated (401), Forbidden (403)
    ├── NotFound (404)          StudyNotFound, TrialNotFound, BlobNotFound, …
    ├── Conflict (409)          StudyExists, IllegalTransition, …
    ├── TooLarge (413)
    ├── Unavailable (503)
    └── ClientError             never on the wire: ServerUnreachable, NoToken, TrialFailed, MissingExtra
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

PROBLEM_JSON = "application/problem+json"


class NestorError(Exception):
    """The root: something went wrong inside Nestor itself."""

    status: ClassVar[int] = 500
    message: ClassVar[str] = "Nestor failed: {reason}. The server's log has the details under this request's id."
    retryable: ClassVar[bool] = False
    known: ClassVar[dict[str, type[NestorError]]] = {}

    def __init_subclass__(cls) -> None:
        NestorError.known[cls.code()] = cls

    def __init__(self, **context: Any) -> None:
        self.context = context
        super().__init__(self.message.format(**context))

    @classmethod
    def code(cls) -> str:
        """The class's name as the wire writes it: StudyExists → study-exists."""
        return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", cls.__name__).lower()

    def problem(self, request_id: str | None = None) -> dict[str, Any]:
        """This error as an RFC 9457 problem document."""
        return {
            "type": f"https://nestor.invalid/errors/{self.code()}",
            "title": re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(self).__name__),
            "status": self.status,
            "detail": str(self),
            "code": self.code(),
            "retryable": self.retryable,
            "request_id": request_id,
            "context": self.context,
            "errors": self.context.get("errors", []),
        }

    @staticmethod
    def from_problem(problem: dict[str, Any]) -> NestorError:
        """The error that `problem` describes, as the class that was raised on the other side.

        A code that this version does not know still gives its sentence, as a plain `NestorError`.
        """
        cls = NestorError.known.get(problem.get("code", ""), NestorError)
        error = cls.__new__(cls)
        context: dict[str, Any] = problem.get("context") or {}
        error.context = context
        Exception.__init__(error, problem.get("detail") or problem.get("title") or "unknown error")
        return error


class InvalidInput(NestorError):
    """What was sent cannot be used."""

    status = 422
    message = "{reason}"


class ValidationFailed(InvalidInput):
    """Fields that are missing, unknown or of the wrong kind; `errors` names each."""

    message = "{summary}"


class ConfigInvalid(InvalidInput):
    """An option has a value that cannot work."""


class DigestMismatch(InvalidInput):
    """An upload arrived with other bytes than announced."""

    message = (
        "The upload was announced as sha256:{expected} but its bytes hash to sha256:{actual}. "
        "Nothing was stored; compute the digest from the same bytes and upload them again."
    )


class OffsetMismatch(InvalidInput):
    """An upload was continued at the wrong place."""

    status = 409
    message = "The upload stands at byte {expected}, not {actual}. Ask for its offset with HEAD and continue there."


class ProgramInvalid(InvalidInput):
    """An uploaded program does not follow the format."""

    message = "The program was refused: {reason}. Export it again with `nestor.Problem.export()` of this version."


class DatasetInvalid(InvalidInput):
    """An uploaded data set cannot be trained on."""

    message = "The data set was refused: {reason}"


class Unauthenticated(NestorError):
    """No token, or one that is unknown, expired or revoked."""

    status = 401
    message = (
        "This request needs a valid token: {reason}. Send `Authorization: Bearer <token>`; "
        "`nestor token create` makes one on the server's machine."
    )


class Forbidden(NestorError):
    """The token is valid but may not do this."""

    status = 403
    message = "This token may not do that: {reason}. Use a token with the scope {scope!r}."


class CrossSite(Forbidden):
    message = (
        "A browser's session changes something only in a request with the header `X-Nestor-Request: 1`, "
        "which no other site's page can send. Add the header, or authenticate with a token."
    )


class NotFound(NestorError):
    """Nothing of that name exists, or it belongs to someone else."""

    status = 404
    message = "There is no such resource: {path}. See /docs for what exists."


class MethodNotAllowed(NestorError):
    """The path exists, but not for this method."""

    status = 405
    message = "{method} is not possible on {path}. Possible: {allowed}."


class StudyNotFound(NotFound):
    message = "There is no study {study!r} of yours. `nestor studies` lists what there is."


class TrialNotFound(NotFound):
    message = "There is no trial {trial!r} of yours. `nestor trials STUDY` lists what there is."


class BlobNotFound(NotFound):
    message = "There is no blob {digest} of yours. Upload it first: POST /api/v1/blobs."


class BlobDamaged(NestorError):
    """What is stored under a digest has another one."""

    message = (
        "The blob {digest} is damaged: its bytes are others than were stored. "
        "Look for errors of the disk under the database or the object store, and restore a backup."
    )


class UploadNotFound(NotFound):
    message = "There is no upload {upload!r} in progress. Begin again with POST /api/v1/blobs."


class ProgramNotFound(NotFound):
    message = "There is no program {program!r} of yours. Upload it first: POST /api/v1/programs."


class DatasetNotFound(NotFound):
    message = "There is no data set {dataset!r} of yours. Upload it first: POST /api/v1/datasets."


class HyperparametersNotFound(NotFound):
    message = "Trial {trial!r} has no recorded hyperparameters {what}. A snapshot is written with the first step."


class CheckpointNotFound(NotFound):
    message = (
        "Trial {trial!r} has no checkpoint {what}; its newest two are kept. Leave the step out to start from the "
        "newest, or start from the hyperparameters alone: weights=False."
    )


class TokenNotFound(NotFound):
    message = "There is no token {token!r} of yours. GET /api/v1/tokens lists what there is."


class Conflict(NestorError):
    """The request is well formed but does not fit the present state."""

    status = 409
    message = "{reason}"


class StudyExists(Conflict):
    message = "You already have a study named {name!r}. Pass load_if_exists=True to continue it, or pick another name."


class IllegalTransition(Conflict):
    message = "A trial that is {state} cannot {action}. From here it can: {allowed}."


class IdempotencyConflict(Conflict):
    message = "The idempotency key {key!r} was used before for another request. Use a new key for a new request."


class TooLarge(NestorError):
    """More bytes than this server takes."""

    status = 413
    message = "{what} is larger than this server takes ({limit} bytes). Send less, or raise {setting} on the server."


class ChunkTooLarge(TooLarge):
    message = "One PATCH carries at most {limit} bytes of an upload. Send it in pieces of that size."


class Unavailable(NestorError):
    """A part that the server needs does not answer."""

    status = 503
    retryable = True
    message = "{part} does not answer right now. Nothing was changed; try again in a few seconds."


class TrialError(NestorError):
    """What a trial ended with; no request raises one, it is recorded in the trial's `error`."""

    message = "{reason}"


class RestartsSpent(TrialError):
    message = (
        "The trial was interrupted {count} times in a row without getting as far as a new checkpoint, the last time "
        "because {reason}. Look into the worker's log; if the worker runs out of memory, try a smaller model or batch."
    )


class PreemptionsSpent(TrialError):
    message = (
        "The trial's workers were shut down {count} times in a row before it got as far as a new checkpoint, the last "
        "time because {reason}. Give it a worker that stays, or let it write checkpoints more often, and retry it."
    )


class ClientError(NestorError):
    """Raised in the client alone; the server never sends one."""

    status = 0
    message = "{reason}"


class ServerUnreachable(ClientError):
    retryable = True
    message = "No Nestor server answers at {server}: {reason}. Start one with `nestor up`, or check the address."


class NoToken(ClientError):
    message = (
        "No token for {server}. Pass token=…, or set NESTOR_TOKEN; `nestor up` prints one, and "
        "`nestor token create` makes another."
    )


class TrialFailed(ClientError):
    """The trial ended in failure; the sentence is the one that the worker recorded."""

    message = "Trial {number} failed: {reason}"


class TrialNotFinished(ClientError):
    message = "Study {study!r} has no trial with a recorded value yet. Run one with study.optimize(problem, n_steps=…)."


class MissingExtra(ClientError):
    message = "{what} needs {package}, which is not installed: pip install 'nestor[{extra}]'."

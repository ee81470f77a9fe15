"""Who may do what, what exists, and what its present state allows."""

from __future__ import annotations

from nestor.errors.base import NestorError

# --- who may do what ------------------------------------------------------------------------------


class Unauthenticated(NestorError):
    """A request came without a valid token."""

    status = 401
    message = "This request needs a valid token: {reason}."
    remedy = "Send `Authorization: Bearer <token>`; `nestor token create` makes one on the server's machine."


class TokenMissing(Unauthenticated):
    """A request came without a token, or with a header of another form."""


class TokenUnknown(Unauthenticated):
    """This server did not issue the token."""


class TokenRevoked(Unauthenticated):
    """The token was revoked."""


class TokenExpired(Unauthenticated):
    """The token's time is over."""


class SessionEnded(Unauthenticated):
    """The browser has logged out, or the time of its session is over."""


class Forbidden(NestorError):
    """The token is valid but may not do this."""

    status = 403
    message = "This token may not do that: {reason}."
    remedy = "Use a token with the scope {scope!r}."


class CrossSite(Forbidden):
    """A browser's cookie came without the header that no other site's page can send."""

    message = "A browser's session changes something only in a request with the header `X-Nestor-Request: 1`."
    remedy = "Add the header, or authenticate with a token."


class WebhooksDisabled(NestorError):
    """The server sends no notices, because its operator has allowed no address."""

    status = 403
    message = "This server sends no notices: its operator allows no address."
    remedy = "Ask the operator to list your host in the setting NESTOR_WEBHOOK_ALLOW."


class WebhookAddressRefused(NestorError):
    """The operator of the server does not allow notices to this address."""

    status = 403
    message = "This server does not send notices to {address}."
    remedy = (
        "Ask the operator to list the host or the network in the setting NESTOR_WEBHOOK_ALLOW, with http:// for a URL "
        "without TLS."
    )


# --- what exists ----------------------------------------------------------------------------------


class NotFound(NestorError):
    """Nothing of that name exists, or it belongs to someone else."""

    status = 404
    message = "{path} was not found."
    remedy = "See /docs for what exists."


class TrailingSlash(NotFound):
    """The path exists without the slash at its end."""

    message = "{path} was not found."
    remedy = "Leave out the slash at its end: {existing}."


class MethodNotAllowed(NestorError):
    """The path exists, but not for this method."""

    status = 405
    message = "{method} is not possible on {path}."
    remedy = "Possible: {allowed}."


class StudyNotFound(NotFound):
    """You have no such study."""

    message = "Study {study!r} was not found."
    remedy = "`nestor studies` lists yours."


class TrialNotFound(NotFound):
    """You have no such trial."""

    message = "Trial {trial!r} was not found."
    remedy = "`nestor trials STUDY` lists yours."


class TrialNumberNotFound(TrialNotFound):
    """A study has no trial of that number."""

    message = "Trial {trial!r} was not found. The study's trials are {numbers}."


class BlobNotFound(NotFound):
    """You have no such blob."""

    message = "Blob {digest} was not found."
    remedy = "Upload it first: POST /api/v1/blobs."


class UploadNotFound(NotFound):
    """There is no such upload in progress."""

    message = "Upload {upload!r} was not found."
    remedy = "Begin again with POST /api/v1/blobs."


class ProgramNotFound(NotFound):
    """You have no such program."""

    message = "Program {program!r} was not found."
    remedy = "Upload it first: POST /api/v1/programs."


class DatasetNotFound(NotFound):
    """You have no such data set."""

    message = "Data set {dataset!r} was not found."
    remedy = "Upload it first: POST /api/v1/datasets."


class HyperparametersNotFound(NotFound):
    """A trial has no snapshot of a step."""

    message = "Trial {trial!r} has no recorded hyperparameters {what}."
    remedy = "A snapshot is written with the first step."


class HyperparameterUnknown(HyperparametersNotFound):
    """A trial tunes no hyperparameter of that name."""

    message = "Trial {trial!r} has no hyperparameter {name!r}; it has {hparams}."
    remedy = "Name one of them."


class EntriesNotRecorded(NotFound):
    """A snapshot does not say which of its entries stand out."""

    message = "Step {step} has no record of the first entries of {name!r} by {by}: {reason}."
    remedy = "Ask for another step or order, or read the tensor and compare its entries yourself."


class ExamplesNotStored(NotFound):
    """The server has no copy of the examples of a trial."""

    message = "The server has no copy of the {split} examples: {reason}."
    remedy = "Look at them where the worker has them."


class SplitNotFound(NotFound):
    """A trial has no test examples."""

    message = "Trial {trial!r} has no {split} split."
    remedy = "Ask for one of its splits: {splits}."


class PicturesNotFound(NotFound):
    """A column of a split cannot be drawn, or no column can."""

    message = "The {split} split has no pictures{where}; its columns of pictures are {columns}."
    remedy = (
        "Pictures have the shape (n, h, w) or (n, 1 or 3, h, w), or are float vectors whose length is a square number "
        "from 16, with at most {side} pixels along a side."
    )


class CheckpointNotFound(NotFound):
    """No checkpoint of that step was kept."""

    message = "Trial {trial!r} has no checkpoint {what}."
    remedy = (
        "The newest two are kept, and the weights of the best step with the next checkpoint after it. Ask for the "
        "newest, step='latest', or start from the hyperparameters alone: weights=False."
    )


class RaterNotFound(NotFound):
    """A trial tunes no network of that name."""

    message = "Trial {trial!r} has no network {name!r}. Its hyperparameters are {hparams}."
    remedy = "A rater is the network of LossReweighting; pass its `name` if it has another one than loss_reweighting."


class TokenNotFound(NotFound):
    """You have no such token."""

    message = "Token {token!r} was not found."
    remedy = "`nestor token list` lists yours."


class WorkerNotFound(NotFound):
    """No running worker has this id."""

    message = "Worker {worker!r} was not found."
    remedy = "`nestor workers` lists those that run."


class WebhookNotFound(NotFound):
    """You have no such webhook."""

    message = "Webhook {webhook!r} was not found."
    remedy = "`nestor webhook list` lists yours."


# --- the present state ----------------------------------------------------------------------------


class Conflict(NestorError):
    """The request is well formed but does not fit the present state."""

    status = 409
    message = "{reason}"


class StudyExists(Conflict):
    """You already have a study of that name."""

    message = "You already have a study named {name!r}."
    remedy = "Pass load_if_exists=True to continue it, or pick another name."


class StudyNameTaken(StudyExists):
    """A study is to be restored or copied under a name that another one has."""

    remedy = (
        'Pass another name: {{"name": "…"}} in the body, new_name= or to_study_name= in Python, --name or the name of '
        "the copy on the command line."
    )


class StudyNotDeleted(Conflict):
    """A study is to be restored under another name, and was not deleted."""

    message = "Study {name!r} was not deleted, so it keeps its name."
    remedy = "Copy it to have it under another name."


class StudyTooLarge(Conflict):
    """A study is to be copied whose finished trials have recorded too much for one request."""

    message = "The finished trials of study {name!r} have {amount}, and a copy may have at most {limit}."
    remedy = "Create a new study, and start its trials from those of this one: warm_start=trial."


class RankingDiffers(Conflict):
    """A study ranks its trials by another metric or in another direction than the one that was asked for."""

    message = "Study {name!r} ranks its trials by {ranking}, and this asks for {given}."
    remedy = "Leave out metric and direction, or create another study: the best weights of its trials are kept by that."


class IllegalTransition(Conflict):
    """A trial's present state does not allow the action."""

    message = "A trial that is {state} cannot {action}."
    remedy = "From here it can: {allowed}."


class NotFinished(Conflict):
    """A trial is to be confirmed, or its truth is asked for, while it may still find a better step."""

    message = "Trial {trial} is {state}, so that its best step may change."
    remedy = "Wait for its end, or stop it."


class NothingToConfirm(Conflict):
    """A trial is to be confirmed, or its truth is asked for, and none of its steps was evaluated."""

    message = "Trial {trial} has no best step: none of its steps was evaluated."
    remedy = "Retry or extend it."


class NothingTuned(Conflict):
    """A trial is to be confirmed, or its truth is asked for, and it trained under fixed hyperparameters."""

    message = "Trial {trial} trained under fixed hyperparameters, so it tuned nothing."
    remedy = "Use the trial that tuned them."


class TooManyWebhooks(Conflict):
    """You have as many webhooks as a user may have."""

    message = "You have {limit} webhooks, and a user has no more."
    remedy = "Delete one first; `nestor webhook list` lists yours."


class TooManyTokens(Conflict):
    """You have as many tokens as a user may have."""

    message = "You have {limit} valid tokens, and a user has no more."
    remedy = "Revoke one first; `nestor token list` lists yours."


class VersionMismatch(Conflict):
    """A request was meant for another version of a study or a trial than the present one."""

    status = 412
    message = "The {what} has changed: its ETag is {etag}, and If-Match names another one. Nothing was changed."
    remedy = "Read it again, and repeat the request with the new ETag. Without If-Match, attributes are merged by key."


class IdempotencyConflict(Conflict):
    """An idempotency key was used for another request."""

    message = "The idempotency key {key!r} was used before for another request."
    remedy = "Use a new key for a new request."

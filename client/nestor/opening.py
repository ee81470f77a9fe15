"""Functions that create, load and delete studies, and find trials: on a server, or in this process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID, uuid4

from nestor import callbacks, schemas
from nestor.backend import Backend
from nestor.errors import OptionInvalid, OptionTypeWrong, called_as, shown
from nestor.errors.optuna_names import ARGUMENTS
from nestor.schemas.storable import json_attributes
from nestor.study import Study
from nestor.trial import Trial

if TYPE_CHECKING:
    from nestor.remote.client import Client


@called_as("create_study", **ARGUMENTS)
def create_study(
    name: str | None = None,
    *,
    server: str | Client | None = None,
    token: str | None = None,
    load_if_exists: bool = False,
    metric: str | None = None,
    direction: Literal["minimize", "maximize"] | None = None,
    user_attrs: Mapping[str, Any] | None = None,
    tags: Sequence[str] = (),
    note: str = "",
) -> Study:
    """Create a study on `server`; without one, in this process and for its lifetime.

    Args:
        name: unique among your studies; by default a random one.
        server: an address such as "http://localhost:8000", or a `Client`.
        token: by default NESTOR_TOKEN, else the one that `nestor up` saved for this server.
        load_if_exists: return the study of that name if it exists.
        metric: one of the problems' metrics, by which steps and trials are ranked; by default the loss on all held-out
            examples, or on all validation examples if none are held out. Hypergradients always minimize `val_loss`.
        direction: "minimize", the default, or "maximize", which requires a metric. Neither changes after the first
            trial.
        user_attrs: stored with the study; any JSON-serializable values.
        tags: labels of the study.
        note: text in Markdown. `study.set_note` changes it.

    Raises:
        InvalidInput: an argument is outside of its range; the message says which.
        StudyExists: you already have a study of that name.
        RankingDiffers: the study that exists has another metric or direction.
    """
    new = schemas.build(
        schemas.StudyCreate,
        {
            "name": f"study-{uuid4().hex[:8]}" if name is None else name,
            "load_if_exists": load_if_exists,
            "metric": metric,
            "direction": direction,
            "user_attrs": json_attributes(user_attrs),
            "tags": tags,
            "note": note,
        },
    )
    backend = _backend(server, token)
    return Study(backend, backend.create_study(new))


@called_as("load_study", **ARGUMENTS)
def load_study(name: str, *, server: str | Client | None = None, token: str | None = None) -> Study:
    """The study of that name.

    Raises:
        StudyNotFound: you have no such study.
    """
    backend = _backend(server, token)
    return Study(backend, backend.find_study(_checked_name(name)))


@called_as("get_trial", **ARGUMENTS)
def get_trial(trial_id: UUID | str, *, server: str | Client | None = None, token: str | None = None) -> Trial:
    """A trial of any of your studies, by its id.

    Raises:
        TrialNotFound: you have no such trial.
    """
    checked = callbacks.trial_id(trial_id)
    backend = _backend(server, token)
    return Trial(backend, backend.trial(checked))


@called_as("delete_study", **ARGUMENTS)
def delete_study(name: str, *, server: str | Client | None = None, token: str | None = None) -> None:
    """Delete a study with its trials; running ones are canceled first.

    Raises:
        StudyNotFound: you have no such study.
    """
    backend = _backend(server, token)
    backend.delete_study(backend.find_study(_checked_name(name)).id)


@called_as("copy_study", from_storage="Pass server=….", to_storage="A copy is made on the same server: server=….")
def copy_study(
    *, from_study_name: str, to_study_name: str, server: str | Client | None = None, token: str | None = None
) -> Study:
    """Copy a study: attributes, tags, note and ranking, and its finished trials with all that they recorded.

    Unlike in Optuna, unfinished trials are not copied, and the copies are numbered anew.

    Raises:
        StudyNotFound: you have no study `from_study_name`.
        StudyNameTaken: you have a study `to_study_name`.
        StudyTooLarge: the finished trials have recorded too much.
    """
    backend = _backend(server, token)
    source = backend.find_study(_checked_name(from_study_name))
    return Study(backend, backend.copy_study(source.id, _checked_name(to_study_name)))


@called_as("get_all_study_names", **ARGUMENTS)
def get_all_study_names(*, server: str | Client | None = None, token: str | None = None) -> list[str]:
    """The names of your studies on `server`, or of those in this process; newest first."""
    return [study.name for study in _backend(server, token).studies()]


def _checked_name(name: str) -> str:
    """`name`, checked as that of a new study."""
    return schemas.build(schemas.StudyCreate, {"name": name}).name


def _backend(server: object, token: str | None) -> Backend:
    if server is None:
        if token is not None:
            rule = "it is for a server: pass server=… too, or leave it out"
            raise OptionInvalid(option="token", rule=rule)
        from nestor.local.backend import here

        return here
    from nestor.remote.client import Client

    if isinstance(server, str):
        return Client(server, token)
    if not isinstance(server, Client):
        raise OptionTypeWrong(option=f"server={shown(server)}", rule="pass an address, or a nestor.Client")
    return server

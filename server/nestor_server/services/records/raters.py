"""The network that `LossReweighting` has tuned, as a file that its class loads without Nestor."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from uuid import UUID

from sqlalchemy.orm import Session

from nestor.errors import RaterNotFound, RaterOfSeveralTypes
from nestor.schemas import WhichStep
from nestor_server.services.trials import warm_starts
from nestor_server.storage import tensor_blobs
from nestor_server.storage.safetensors_header import Tensor, safetensors_prefix
from nestor_server.storage.tensor_blobs import Slice


def rater(session: Session, owner_id: UUID, trial_id: UUID, name: str, step: WhichStep) -> Slice:
    """The network's state at a step: the hyperparameters `<name>.<parameter>`, named `<parameter>`.

    Raises:
        TrialNotFound
        HyperparametersNotFound: that step has no snapshot.
        RaterNotFound: the trial tunes no network of that name.
        RaterOfSeveralTypes: its tensors are not next to each other in the snapshot.
    """
    blob = warm_starts.stored(session, owner_id, trial_id, step, weights=False)
    stored = tensor_blobs.header(session, blob).tensors
    prefix = f"{name}."
    found = sorted((one for one in stored.values() if one.name.startswith(prefix)), key=lambda one: one.begin)
    if not found:
        raise RaterNotFound(trial=str(trial_id), name=name, hparams=", ".join(sorted(stored)))
    if any(one.end != following.begin for one, following in pairwise(found)):
        raise RaterOfSeveralTypes(name=name)
    parameters: list[Tensor] = [replace(one, name=one.name.removeprefix(prefix)) for one in found]
    return Slice(safetensors_prefix(*parameters), blob, (found[0].begin,), found[-1].end - found[0].begin)

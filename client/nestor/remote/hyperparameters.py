"""The part of a client that reads what a trial tunes, and its checkpoints."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote
from uuid import UUID

from nestor import schemas
from nestor.callbacks import choice
from nestor.remote.connection import Connection
from nestor.schemas import WhichStep


def path_of(trial_id: UUID, name: str) -> str:
    """The path of one hyperparameter of a trial."""
    return f"/trials/{trial_id}/hyperparameters/{quote(str(name), safe='')}"


class Hyperparameters(Connection):
    """Names, snapshots and single entries of a trial's hyperparameters, and the weights that belong to them."""

    def hyperparameters(self, trial_id: UUID) -> schemas.Hyperparameters:
        """Names, shapes and types of the hyperparameters, and the steps that have a snapshot.

        Raises:
            TrialNotFound
        """
        return self._get(f"/trials/{trial_id}/hyperparameters", schemas.Hyperparameters)

    def hyperparameter_summary(
        self, trial_id: UUID, name: str, *, after: int = 0, max_points: int = schemas.DEFAULT_POINTS
    ) -> schemas.HyperparameterSummary:
        """The course of one hyperparameter in the steps above `after`, as needed for a plot.

        Args:
            max_points: of each 100,000 steps, at most so many are read.

        Raises:
            TrialNotFound
            HyperparameterUnknown: the trial has no hyperparameter of that name.
        """
        path, found = f"{path_of(trial_id, name)}/summary", None
        while True:
            page = self._get(path, schemas.HyperparameterSummary, after=after, max_points=max_points)
            found = page if found is None else found.followed_by(page)
            if page.next_after is None:
                return found
            after = page.next_after

    def snapshot(self, trial_id: UUID, step: int | None = None) -> bytes:
        """All hyperparameters at `step`, by default the latest recorded one, as a safetensors file.

        Raises:
            TrialNotFound
            HyperparametersNotFound: that step has no snapshot.
        """
        params = {} if step is None else {"step": step}
        path = f"/trials/{trial_id}/hyperparameters.safetensors"
        return self._transport.request("GET", path, params=params).content

    def top(
        self, trial_id: UUID, name: str, by: schemas.Order | str, k: int = 20, step: int | None = None
    ) -> schemas.TopEntries:
        """The first `k` entries of a hyperparameter by an order at `step`, by default the latest recorded one.

        Raises:
            TrialNotFound
            HyperparameterUnknown: the trial has no hyperparameter of that name.
            HyperparametersNotFound: that step has no snapshot.
            EntriesNotRecorded: the snapshot does not say which entries these are.
        """
        asked: dict[str, Any] = {"by": choice("by", by, schemas.Order), "k": k}
        asked |= {} if step is None else {"step": step}
        return self._get(f"{path_of(trial_id, name)}/top", schemas.TopEntries, **asked)

    def entry_values(
        self,
        trial_id: UUID,
        name: str,
        index: str,
        form: schemas.Form | str = schemas.Form.optimized,
        after: int | None = None,
        max_points: int | None = None,
    ) -> schemas.EntryValues:
        """Some entries of a hyperparameter, such as "0,17,3.5", at the steps that have a snapshot.

        Raises:
            TrialNotFound
            HyperparameterUnknown: the trial has no hyperparameter of that name.
            EntryUnknown, TooManyEntries: the hyperparameter has no such entries, or there are too many.
        """
        asked: dict[str, Any] = {"index": index, "form": choice("form", form, schemas.Form)}
        asked |= {} if after is None else {"after": after}
        asked |= {} if max_points is None else {"max_points": max_points}
        return self._get(f"{path_of(trial_id, name)}/values", schemas.EntryValues, **asked)

    def checkpoint(self, trial_id: UUID, step: WhichStep = "latest") -> bytes:
        """What is stored of a step, as a safetensors file: a checkpoint, or the weights of the best step.

        Raises:
            TrialNotFound
            CheckpointNotFound: nothing is stored of that step.
        """
        path = f"/trials/{trial_id}/checkpoint.safetensors"
        return self._transport.request("GET", path, params={"step": step}).content

    def rater(self, trial_id: UUID, step: WhichStep = "best", *, name: str = "loss_reweighting") -> bytes:
        """The network that `LossReweighting` has tuned, as a safetensors file of its `state_dict`.

        Args:
            name: of the problem's `LossReweighting`.

        Raises:
            TrialNotFound
            HyperparametersNotFound: that step has no snapshot.
            RaterNotFound: the trial tunes no network of that name.
        """
        path = f"/trials/{trial_id}/rater.safetensors"
        return self._transport.request("GET", path, params={"step": step, "name": name}).content

"""A weight for each of several losses that one model is trained with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from nestor.errors import ArgumentInvalid, TaskLossesInvalid, shown
from nestor.program_format import EntryNames, labels
from nestor_engine.hparams.arguments import at_least, positive
from nestor_engine.hparams.hyperparameters import Hyperparameters
from nestor_engine.objective import Tensors


class LossWeights(Hyperparameters):
    """A weight for each task of a model that is trained with several losses: Σ_t w_t × loss_t.

    The training loss returns a dict with one loss for each task, each of shape () or (B,); or a tensor with the tasks
    in its last dimension, shape (tasks,) or (B, tasks). The weights are w = tasks × softmax(λ), as in [1]: their mean
    stays one, so that their sum cannot be traded for the learning rate or against a decay. Equal weights are the sum
    of the losses. The validation loss returns one loss, as always: what the tasks are trained for.

    The weights exp(−s) of [2] have a term s, without which they would go to zero; s is fitted to the training loss.
    That term does not depend on the model's weights, and these hyperparameters minimize the validation loss.

    Named `loss_weights`, shape (tasks,), in the order of `tasks`. The transformed values are exp(λ).

    Args:
        tasks: their names, which are the keys of the dict; or how many there are, for a tensor.
        init: initial weights, one for each task, up to a common factor; equal by default.

    [1] Liu, Johns and Davison (2019), End-to-end multi-task learning with attention.
    [2] Kendall, Gal and Cipolla (2018), Multi-task learning using uncertainty to weigh losses for scene geometry and
        semantics.
    """

    init_shown = None  # `init` are weights

    def __init__(
        self, tasks: Sequence[str] | int, *, init: Sequence[float] | None = None, name: str | None = None
    ) -> None:
        self._by_name = isinstance(tasks, list | tuple)
        names = tuple(tasks) if isinstance(tasks, list | tuple) else ()
        if isinstance(tasks, int) and not isinstance(tasks, bool):
            at_least(2, "LossWeights", "tasks", tasks, largest=1_000)
            names = tuple(map(str, range(tasks)))
        if (
            len(names) < 2
            or not all(isinstance(cast("object", name), str) for name in names)
            or len(set(names)) != len(names)
        ):
            raise ArgumentInvalid(
                owner="LossWeights",
                argument="tasks",
                given=shown(tasks),
                expected="the names of at least two tasks, or their number",
            )
        self.tasks = names
        self._name = self._named(name, "loss_weights")
        self.init = {self._name: positive("LossWeights", init, len(names)).log()}
        self.transforms = {self._name: "exp"}
        self.entry_names = {self._name: EntryNames(axes=(labels(names, "task") if self._by_name else "task",))}

    def _options(self) -> list[str]:
        return [f"tasks={list(self.tasks) if self._by_name else len(self.tasks)}"]

    def combine(self, losses: Any, values: Tensors) -> Tensor:
        """The weighted sum of the tasks' losses, shape () or (B,).

        Raises:
            TaskLossesInvalid: the training loss returned something else than one loss for each task.
        """
        relative = values[self._name]
        weights = relative / relative.mean()
        if isinstance(losses, Tensor):
            if self._by_name and losses.ndim == 0:
                raise self._refused("one loss")
            if losses.ndim not in (1, 2) or losses.shape[-1] != len(self.tasks):
                raise self._refused(f"a tensor of shape {tuple(losses.shape)}")
            return losses @ weights.to(losses.dtype)
        if not isinstance(losses, Mapping):
            raise self._refused(f"a {type(losses).__name__}")
        named = cast("Mapping[str, Any]", losses)
        if set(named) != set(self.tasks):
            raise self._refused(f"losses for {', '.join(map(repr, named)) or 'no task'}")
        each: list[Tensor] = []
        for task in self.tasks:
            loss = named[task]
            if not isinstance(loss, Tensor) or loss.ndim > 1 or not loss.is_floating_point():
                what = f"shape {tuple(loss.shape)}, {loss.dtype}" if isinstance(loss, Tensor) else type(loss).__name__
                raise self._refused(f"for {task!r} {what}")
            each.append(loss)
        if len({loss.ndim for loss in each}) > 1:  # a mean of a batch is no loss of an example
            each = [loss.mean() for loss in each]
        return torch.stack([weight * loss for weight, loss in zip(weights.unbind(), each, strict=True)]).sum(0)

    def _refused(self, returned: str) -> TaskLossesInvalid:
        n = len(self.tasks)
        expected = (
            f"a dict with the keys {', '.join(map(repr, self.tasks))} and losses of shape () or (B,)"
            if self._by_name
            else f"a tensor of shape ({n},) or (B, {n}), such as torch.stack([…], dim=-1)"
        )
        return TaskLossesInvalid(returned=returned, expected=expected)

"""A weight for every training example."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from nestor.program_format import EntryNames
from nestor_engine.data.splits import INDEX
from nestor_engine.hparams.arguments import at_least
from nestor_engine.hparams.examples import validate_examples
from nestor_engine.hparams.hyperparameters import Hyperparameters, priors
from nestor_engine.objective import Batch, Tensors


class ExampleWeights(Hyperparameters):
    """A weight for every training example: the training loss becomes the mean of weight × loss.

    The training loss must return one loss per example, shape (B,). The weights share a level, and a normal prior of the
    precision 1/(2n) keeps them near it if the validation examples say little about them; see `with_prior`.

    Args:
        n: number of training examples.
        init: initial value before the transform.
        transform: keeps the weights positive; with the sigmoid they stay below one.
    """

    per_example = by_position = True

    def __init__(
        self,
        n: int,
        *,
        init: float = 0.0,
        transform: Literal["identity", "exp", "sigmoid", "softplus"] = "sigmoid",
        name: str | None = None,
    ) -> None:
        at_least(1, "ExampleWeights", "n", n)
        self._n, self._name = n, self._named(name, "example_weights")
        self.init = {self._name: torch.full((n,), init)}
        self.transforms = {self._name: transform}
        self.priors = priors(self.init, 0.5 / n)  # what one example does to the loss is about 1/n, too
        self.entry_names = {self._name: EntryNames(axes=("example",))}
        self.init_shown = f"ExampleWeights(init={init:g})"

    def validate(self, model: nn.Module, train: Tensors) -> None:
        """Check the number of training examples.

        Raises:
            ExampleCountDiffers: it is not `n`.
        """
        validate_examples("ExampleWeights", self._n, train)

    def weigh(self, losses: Tensor, values: Tensors, batch: Batch) -> Tensor:
        """Each loss times the weight of its example, shape (B,)."""
        return losses * values[self._name][batch[INDEX]]

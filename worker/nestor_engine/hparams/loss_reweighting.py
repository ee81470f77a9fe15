"""Weights of training losses from a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from torch import Tensor, nn

from nestor.errors import NetworkOutputInvalid
from nestor_engine.hparams.examples import column_of
from nestor_engine.hparams.hyperparameters import TRANSFORMS, Hyperparameters
from nestor_engine.hparams.network import Network
from nestor_engine.objective import Batch, Tensors


class Rater(nn.Module):
    """The weights that `LossReweighting` gives to examples.

    Attributes:
        network: a copy of its network.
    """

    def __init__(self, network: nn.Module, positive: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network, self._positive = network, positive

    def forward(self, read: Tensor) -> Tensor:
        """Weights of shape (B,), of examples as the network reads them: a column, or losses of shape (B, 1)."""
        return self._positive(self.network(read).flatten())


class LossReweighting(Hyperparameters):
    """A weight for every training loss from a network that sees the example, or its loss [1].

    The training loss, which must return one loss per example, becomes the mean of weight × loss. Unlike
    `ExampleWeights` it generalizes to new examples, and its size does not depend on their number. The
    hyperparameters are the network's parameters, named `loss_reweighting.<parameter>`.

    Args:
        network: a module from the column or loss to one number for each example, shape (B,) or (B, 1), that writes
            into no buffer; it is copied.
        reads: a column, after the changes of other kinds; or "loss", shape (B, 1). The loss is detached: the
            inner gradient and the curvature do not contain the dependence of the weights on the loss.
        positive: makes the number a weight; with the sigmoid it stays below one.

    [1] Shu et al. (2019), Meta-Weight-Net: learning an explicit mapping for sample weighting.
    """

    per_example = True

    def __init__(
        self,
        network: nn.Module,
        *,
        reads: str = "x",
        positive: Literal["sigmoid", "softplus", "exp"] = "sigmoid",
        name: str | None = None,
    ) -> None:
        self._network = Network("LossReweighting", network, self._named(name, "loss_reweighting"))
        self._reads, self._positive = reads, TRANSFORMS[positive]
        self.init, self.entry_names = self._network.init, self._network.entry_names
        self.transforms = {}

    def validate(self, model: nn.Module, train: Tensors) -> None:
        """Check that the column that the network reads exists.

        Raises:
            ColumnNotFound: it does not.
        """
        if self._reads != "loss":
            column_of("LossReweighting", self._reads, train)

    def rater(self, hparams: Mapping[str, Any]) -> Rater:
        """What was learned, as an ordinary module that scores new examples.

        Args:
            hparams: the hyperparameters of a trial, such as `trial.best_hparams`. If a problem has several
                kinds of this class, give each a name.

        Raises:
            HparamNotFound: they are not of this kind.
        """
        return Rater(self._network.module(hparams), self._positive)

    def weigh(self, losses: Tensor, values: Tensors, batch: Batch) -> Tensor:
        """Each loss times the weight that the network gives its example, shape (B,).

        Raises:
            NetworkOutputInvalid: the network did not return one number per example.
        """
        read = losses.detach().unsqueeze(1) if self._reads == "loss" else batch[self._reads]
        output = self._network(values, read)
        if output.shape[1:] not in ((), (1,)):
            raise NetworkOutputInvalid(
                kind="LossReweighting",
                inputs=tuple(read.shape),
                outputs=tuple(output.shape),
                expected="one number for each example, shape (B,) or (B, 1)",
            )
        return losses * self._positive(output.flatten())

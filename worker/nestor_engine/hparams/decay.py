"""Decays of weights, with one strength for all, one per tensor, or one per weight."""

from __future__ import annotations

import abc
from typing import Literal

import torch
from torch import Tensor, nn

from nestor.errors import OptionOutOfRange
from nestor_engine.hparams.weights import OfWeights
from nestor_engine.objective import PyTree, Tensors
from nestor_engine.tensors.ravel import named_leaves

Per = Literal["global", "tensor", "weight"]


class Decay(OfWeights, abc.ABC):
    """Adds a Σ exp(λ) c(w) to the training loss, for a cost c and a factor a of the kind of decay."""

    factor = 1.0

    @abc.abstractmethod
    def cost(self, w: Tensor) -> Tensor:
        """c(w), of the shape of `w`."""

    def penalty(self, params: PyTree, values: Tensors) -> Tensor:
        """a Σ exp(λ) c(w) over all weights, shape ()."""
        costs = {name: self.cost(w) for name, w in named_leaves(params).items()}
        if self._per != "weight":
            costs = {name: cost.sum() for name, cost in costs.items()}
        decays = self.of(costs, values)
        return self.factor * torch.stack([(decays[name] * cost).sum() for name, cost in costs.items()]).sum()


class L2(Decay):
    """Weight decay: adds ½ Σ exp(λ) w² to the training loss, so that exp(λ) is the decay of torch.optim.

    Named `l2` when there is one decay for all ("global"; shape ()) or one for each tensor
    ("tensor"; shape (number of tensors,), in the order of the parameters), and `l2.<parameter>`,
    each of its parameter's shape, when every weight has its own ("weight").

    Args:
        model: the module, or any pytree of tensors, whose weights decay.
        per: how many decays there are.
        init: the logarithm of the initial decay.
    """

    def __init__(self, model: nn.Module | PyTree, *, per: Per = "weight", init: float = -6.0, name: str = "l2") -> None:
        super().__init__(model, per, init, name)

    factor = 0.5  # applied to the sum, which saves a pass over all weights

    def cost(self, w: Tensor) -> Tensor:
        """w², elementwise; `factor` adds the ½."""
        return w * w


class L1(Decay):
    """Sparsity: adds Σ exp(λ) (√(w² + ε²) − ε) to the training loss.

    It is close to |w| for |w| ≫ ε, and to ½ w²/ε for |w| ≪ ε. It is smooth, because the implicit function theorem
    needs a second derivative; so weights come close to zero, but do not reach it. Named as `L2` is.

    Args:
        model: the module, or any pytree of tensors, whose weights decay.
        per: how many decays there are.
        init: the logarithm of the initial decay.
        epsilon: ε. The curvature at zero is exp(λ)/ε, which limits the learning rate.

    Raises:
        ProblemInvalid: `epsilon` is not positive.
    """

    def __init__(
        self,
        model: nn.Module | PyTree,
        *,
        per: Per = "weight",
        init: float = -6.0,
        epsilon: float = 1e-2,
        name: str = "l1",
    ) -> None:
        if not epsilon > 0:
            raise OptionOutOfRange(option=f"L1({epsilon=})", rule="it must be positive, or |w| has a kink at zero")
        super().__init__(model, per, init, name)
        self._epsilon = epsilon

    def cost(self, w: Tensor) -> Tensor:
        """√(w² + ε²) − ε, elementwise."""
        return (w * w + self._epsilon**2).sqrt() - self._epsilon

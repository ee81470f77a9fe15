"""Decays of weights, from one strength for all of them to one for each."""

from __future__ import annotations

import abc

import torch
from torch import Tensor, nn

from nestor.errors import OptionOutOfRange
from nestor_engine.hparams.hyperparameters import priors
from nestor_engine.hparams.weights import OfWeights, Only
from nestor_engine.hparams.weights import Per as Per
from nestor_engine.objective import PyTree, Tensors
from nestor_engine.tensors.ravel import named_leaves

PRIOR = 1e-2  # precision: decays move away from their level by a factor of e⁷, one standard deviation


class Decay(OfWeights, abc.ABC):
    """Adds a Σ exp(λ) c(w) to the training loss, for a cost c and a factor a of the kind of decay."""

    factor = 1.0

    def __init__(
        self,
        model: nn.Module | PyTree,
        per: str,
        init: float,
        name: str | None,
        only: Only | None,
        *,
        default_name: str,
    ) -> None:
        super().__init__(model, per, init, name, only, default_name=default_name)
        if per not in ("global", "tensor"):
            self.priors = priors(self.init, PRIOR)
        if init == 0:
            self.remarks = (
                f"{self.init_shown} starts with a decay of exp(0) = 1: initial values are given before the transform. "
                "If no decay was meant, pass the logarithm of a small one, such as -14.",
            )

    @abc.abstractmethod
    def cost(self, w: Tensor) -> Tensor:
        """c(w), of the shape of `w`."""

    def penalty(self, params: PyTree, values: Tensors) -> Tensor:
        """a Σ exp(λ) c(w) over all weights, shape ()."""
        leaves = named_leaves(params)
        decays = self.of(leaves, values)
        costs = {name: self.cost(leaves[name]) for name in decays}
        # One number for a tensor: multiplying the sum saves a pass over the weights.
        terms = [decay * costs[n].sum() if not decay.ndim else (decay * costs[n]).sum() for n, decay in decays.items()]
        return self.factor * torch.stack(terms).sum()


class L2(Decay):
    """Weight decay: adds ½ Σ exp(λ) w² to the training loss, so that exp(λ) is the decay of torch.optim.

    Named `l2` when there is one decay for all ("global"; shape ()) or one for each tensor ("tensor"; shape (number of
    tensors,), in the order of the parameters), and `l2.<parameter>` otherwise: of its parameter's shape when every
    weight has its own ("weight"), and of shape (features,) when every input feature, output unit or filter has its own
    ("input", "output", "channel"). Parameters with fewer than two dimensions then have one each. `OfWeights` in
    `nestor_engine.hparams.weights` says which dimension is which.

    Args:
        model: the model, or any pytree of tensors, whose weights decay.
        per: how many decays there are.
        only: the part of the model that decays, such as "head.", or several: the first parts of parameter names. One
            decay for all, or for each tensor, is then named `l2.head`.
        init: the logarithm of the initial decay.
        name: in place of `l2`, or of `l2_2` and so on for further decays of the same weights.

    Raises:
        PartNotFound: no trained parameter is in a part of `only`.
    """

    def __init__(
        self,
        model: nn.Module | PyTree,
        *,
        per: Per = "weight",
        only: Only | None = None,
        init: float = -6.0,
        name: str | None = None,
    ) -> None:
        super().__init__(model, per, init, name, only, default_name="l2")

    factor = 0.5  # applied to the sum, which saves a pass over all weights

    def cost(self, w: Tensor) -> Tensor:
        """w², elementwise; `factor` adds the ½."""
        return w * w


class L1(Decay):
    """Sparsity: adds Σ exp(λ) (√(w² + ε²) − ε) to the training loss.

    It is close to |w| for |w| ≫ ε, and to ½ w²/ε for |w| ≪ ε. It is smooth, because the implicit function theorem
    needs a second derivative; so weights come close to zero, but do not reach it. Named as `L2` is.

    Args:
        model: the model, or any pytree of tensors, whose weights decay.
        per: how many decays there are, as for `L2`.
        only: the part of the model that decays, as for `L2`.
        init: the logarithm of the initial decay.
        epsilon: ε. The curvature at zero is exp(λ)/ε, which limits the learning rate.
        name: in place of `l1`.

    Raises:
        ProblemInvalid: `epsilon` is not positive.
    """

    def __init__(
        self,
        model: nn.Module | PyTree,
        *,
        per: Per = "weight",
        only: Only | None = None,
        init: float = -6.0,
        epsilon: float = 1e-2,
        name: str | None = None,
    ) -> None:
        if not epsilon > 0:
            raise OptionOutOfRange(option=f"L1({epsilon=})", rule="it must be positive, or |w| has a kink at zero")
        super().__init__(model, per, init, name, only, default_name="l1")
        self._epsilon = epsilon

    def cost(self, w: Tensor) -> Tensor:
        """√(w² + ε²) − ε, elementwise."""
        return (w * w + self._epsilon**2).sqrt() - self._epsilon

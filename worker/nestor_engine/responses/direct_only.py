"""No response: what simultaneous gradient descent sees."""

from __future__ import annotations

from nestor import options
from nestor_engine.objective import Tensors
from nestor_engine.responses.response import Hypergradient, Moment, Response


class DirectOnly(options.DirectOnly, Response):
    """∂g/∂λ alone, as if the weights did not answer [1].

    For most hyperparameters it is zero: hyperparameter optimisation is a game of pure response. It is
    here to show that.

    [1] Lorraine, Vicol and Duvenaud (2020), Optimizing millions of hyperparameters by implicit differentiation.
    """

    def hypergradient(self, moment: Moment, memory: Tensors) -> Hypergradient:
        del memory
        outer = moment.outer()
        return Hypergradient(outer.by_hparams, outer.evaluation)

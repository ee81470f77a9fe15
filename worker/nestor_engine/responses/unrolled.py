"""The response by differentiating through the optimizer."""

from __future__ import annotations

import torch

from nestor import options
from nestor_engine.objective import Tensors
from nestor_engine.responses.response import Hypergradient, Moment, Response
from nestor_engine.training.inner_loop import Adjoint


class Unrolled(options.Unrolled, Response):
    """Reverse mode through the last inner steps, of any of our optimizers [1, 2, truncated as in 3].

    With w_{t+1} = opt(w_t, ∂f/∂w(w_t, λ)) the adjoint runs backwards from a_T = ∂g/∂w,

        a_t = (∂w_{t+1}/∂w_t)ᵀ a_{t+1},      dF/dλ = ∂g/∂λ + Σ_t (∂w_{t+1}/∂λ)ᵀ a_{t+1},

    and the optimizer's slots have adjoints likewise. Every step is taken again from where it began,
    so the graph of one step is held at a time, and `steps` copies of weights and slots. From a
    minimum, i steps of SGD give the Neumann series of i − 1 terms with α = lr, which is the slides'
    theorem; and a step in which the weights still move contributes what the theorem leaves out. Going
    back to the very first step adds (∂w_0/∂λ)ᵀ a_0, for hyperparameters that scale the initial weights.

    Args:
        steps: inner steps to go back, at most those between two outer steps; fewer of them cut the sum short.

    [1] Domke (2012), Generic methods for optimization-based modeling.
    [2] Maclaurin, Duvenaud and Adams (2015), Gradient-based hyperparameter optimization through reversible learning.
    [3] Shaban et al. (2019), Truncated back-propagation for bilevel optimization.
    """

    def hypergradient(self, moment: Moment, memory: Tensors) -> Hypergradient:
        del memory
        assert moment.inner is not None
        assert len(moment.steps) == self.steps
        outer = moment.outer()
        slots = moment.steps[-1].slots
        adjoint = Adjoint(outer.by_w, {name: torch.zeros_like(slot) for name, slot in slots.items()})
        gradient = dict(outer.by_hparams)
        for step in reversed(moment.steps):
            adjoint, contribution = moment.inner.pull(step, moment.hparams, adjoint)
            gradient = {name: total + contribution[name] for name, total in gradient.items()}
        if moment.steps[0].k == 0:
            contribution = moment.pull_initial(adjoint.w)
            gradient = {name: total + contribution[name] for name, total in gradient.items()}
        return Hypergradient(gradient, outer.evaluation)

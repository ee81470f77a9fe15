"""The response from differentiating through the optimizer."""

from __future__ import annotations

import torch

from nestor import options
from nestor_engine.responses.response import Hypergradient, OuterStepContext, StatelessResponse
from nestor_engine.tensors.part_state import NoState
from nestor_engine.training.inner_loop import Adjoint


class Unrolled(options.Unrolled, StatelessResponse):
    """Reverse mode through the last inner steps, with any optimizer [1, 2; truncated as in 3].

    With w_{t+1} = opt(w_t, ∂f/∂w(w_t, λ)) the adjoint runs backwards from a_T = ∂g/∂w,

        a_t = (∂w_{t+1}/∂w_t)ᵀ a_{t+1},      dF/dλ = ∂g/∂λ + Σ_t (∂w_{t+1}/∂λ)ᵀ a_{t+1},

    and the optimizer state has adjoints, too. Every step is taken again from its start. So the memory is that
    of one step's graph and of `steps` copies of weights and optimizer state. From a minimum, i steps of SGD
    give the Neumann series of i − 1 terms with α = lr (the slides' theorem). Before convergence it includes
    terms that the theorem omits. If it goes back to the very first step, it adds (∂w_0/∂λ)ᵀ a_0, for
    hyperparameters that scale the initial weights.

    Args:
        steps: inner steps to go back, at most those between two outer steps; the sum is truncated there.

    [1] Domke (2012), Generic methods for optimization-based modeling.
    [2] Maclaurin, Duvenaud and Adams (2015), Gradient-based hyperparameter optimization through reversible learning.
    [3] Shaban et al. (2019), Truncated back-propagation for bilevel optimization.
    """

    def hypergradient(self, context: OuterStepContext, state: NoState) -> tuple[Hypergradient, NoState]:
        """dF/dλ by reverse mode through `context.inner_steps`, of which there must be at least one."""
        outer = context.outer()
        last = context.inner_steps[-1].optimizer_state
        adjoint = Adjoint(outer.by_w, {name: torch.zeros_like(value) for name, value in last.items()})
        gradient = dict(outer.by_hparams)
        for step in reversed(context.inner_steps):
            adjoint, contribution = context.inner_loop.pull(step, context.hparams, adjoint)
            gradient = {name: total + contribution[name] for name, total in gradient.items()}
        if context.inner_steps[0].k == 0:
            contribution = context.pull_initial(adjoint.w)
            gradient = {name: total + contribution[name] for name, total in gradient.items()}
        return Hypergradient(gradient, outer.evaluation), state

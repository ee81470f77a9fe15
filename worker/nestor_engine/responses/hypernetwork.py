"""The response from a network that is trained to predict it."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from nestor import options
from nestor_engine.curvature import NormState, Operator
from nestor_engine.responses.response import Hypergradient, OuterStepContext, Response
from nestor_engine.solvers import Outcome, Solution
from nestor_engine.tensors.linalg import qr, vector_norm
from nestor_engine.tensors.part_state import PartState, kept_as
from nestor_engine.tensors.random import derive_seed, randomness
from nestor_engine.tensors.ravel import Ravel


@dataclass(frozen=True)
class HypernetworkState(PartState):
    """The network and the progress of its training.

    Attributes:
        directions: V, shape (m, r); None before the first outer step.
        response: U, shape (n, r); None before the first outer step.
        draws: batches and perturbations drawn so far.
        norm: the estimate of ‖H‖.
    """

    directions: Tensor | None = field(default=None, metadata=kept_as("hypernetwork.directions"))
    response: Tensor | None = field(default=None, metadata=kept_as("hypernetwork.response"))
    draws: int = field(default=0, metadata=kept_as("hypernetwork.draws"))
    norm: NormState = field(default_factory=NormState)


class Hypernetwork(options.Hypernetwork, Response[HypernetworkState]):
    """A self-tuning network in weight space [1]: best responses ŵ(λ + ε) = w + U Vᵀε, and U is trained.

    U has shape (n, r); V, of shape (m, r), stays as it is: the identity if there are at most `rank`
    hyperparameters, and random orthonormal directions otherwise. Each update draws a perturbation
    ε = s V z with z normal and descends f(w + U Vᵀε, λ + ε) in U, by the difference of two gradients,

        d = [∂f/∂w(w + s U z, λ + s V z) − ∂f/∂w(w − s U z, λ − s V z)] / 2s + δ‖H‖ U z,
        U ← U − (lr / ‖H‖) d zᵀ / ‖z‖².

    The pair ±ε cancels ∂f/∂w itself, so a w that is not at its minimum adds no noise [2]. To first
    order in s, d = ((H + δ‖H‖) U + ∂²f/∂w∂λ V) z, which vanishes for every z at once: on a fixed
    batch U tends to the response of the implicit function theorem along V, without a decaying rate
    (which is why there is no momentum and no Adam here: their steps do not vanish with d). Then

        dF/dλ = ∂g/∂λ + V Uᵀ ∂g/∂w.

    It needs first derivatives only, so it works for modules without second ones. An update costs two
    training gradients, on its own batch, and U and V have r (n + m) entries. The first response is zero
    and is learned during training. With more than `rank` hyperparameters it uses `rank` fixed directions.

    Args:
        rank: directions of λ in which the response is learned.
        scale: s, in units of the hyperparameters as they are optimized.
        steps: updates of U in each outer step.
        lr: relative to 1 / ‖H‖, which is estimated by power iteration; the updates diverge beyond 2.
        damping: δ, as for the curvatures.

    [1] MacKay et al. (2019), Self-tuning networks: bilevel optimization using structured best-response functions.
    [2] Bae and Grosse (2020), Delta-STN: efficient bilevel optimization using structured response Jacobians.
    """

    def init(self) -> HypernetworkState:
        """The state before the first outer step: no directions and no response."""
        return HypernetworkState()

    def hypergradient(
        self, context: OuterStepContext, state: HypernetworkState
    ) -> tuple[Hypergradient, HypernetworkState]:
        """dF/dλ after `steps` more updates of U. The residual of its solution is measured on a fresh draw."""
        w, around = context.w, _Differences(context, self.scale)
        directions = around.directions(self.rank) if state.directions is None else state.directions
        response = w.new_zeros(len(w), directions.shape[1]) if state.response is None else state.response
        last = state.draws + self.steps
        operator = Operator(lambda v: around(last, weights=v), damping=self.damping, norm_state=state.norm)
        shift, norm = operator.shift(w), operator.norm(w)
        for k in range(state.draws, last):
            z = around.normal(k, directions.shape[1])
            d = around(k, weights=response @ z, hparams=directions @ z) + shift * (response @ z)
            response = response - torch.outer(d, z) * (self.lr / (norm * (z @ z)) if norm > 0 else 0.0)
        response, solution = self._with_residual(around, last, response, directions, shift)

        outer = context.outer()
        indirect = around.hparams.tree(directions @ (response.T @ outer.by_w))
        hypergradient = Hypergradient(
            gradient={name: direct + indirect[name].to(direct) for name, direct in outer.by_hparams.items()},
            evaluation=outer.evaluation,
            inner_gradient_norm=float(vector_norm(around.slope(last, w))),
            solution=solution,
            products=around.taken,
        )
        return hypergradient, HypernetworkState(directions, response, last + 1, operator.norm_state)

    def _with_residual(
        self, around: _Differences, k: int, response: Tensor, directions: Tensor, shift: float
    ) -> tuple[Tensor, Solution]:
        """Measure the residual of the response on a new draw, relative to that of a zero response.

        A response with a larger residual than zero is scaled to the multiple with the smallest one: with
        negative curvature beyond the damping the response grows from update to update.
        """
        z = around.normal(k, directions.shape[1])
        asked = around(k, hparams=directions @ z)
        answer = around(k, weights=response @ z) + shift * (response @ z)
        left, size = vector_norm(asked + answer), vector_norm(asked)
        if not torch.isfinite(response).all() or not torch.isfinite(left):
            return torch.zeros_like(response), Solution(torch.zeros_like(response), Outcome.nonfinite, 1.0)
        if left > size > 0:
            factor = (-(answer @ asked) / (answer @ answer)).clamp(0, 1)
            response, left = factor * response, vector_norm(asked + factor * answer)
        return response, Solution(response, Outcome.truncated, float(left / size) if size > 0 else 0.0)


class _Differences:
    """Central differences of ∂f/∂w around an outer step's weights: two gradients each, on separate batches.

    Attributes:
        hparams: the correspondence between hyperparameters and a vector of shape (m,), of the weights' dtype.
        taken: differences computed so far.
    """

    def __init__(self, context: OuterStepContext, scale: float) -> None:
        named = {name: value.detach().to(context.w) for name, value in context.hparams.items()}
        self.hparams = Ravel(named)
        self.taken = 0
        self._context, self._scale, self._at = context, scale, self.hparams.vector(named)
        self._seed, self._group = context.inner_loop.seed, context.inner_loop.group
        self._batches = context.inner_loop.batches("hypernetwork")

    def __call__(self, k: int, *, weights: Tensor | None = None, hparams: Tensor | None = None) -> Tensor:
        """How ∂f/∂w changes along a step of the weights (n,) and of the hyperparameters (m,); shape (n,)."""
        self.taken += 1
        w, h = self._context.w, self._at
        step = torch.zeros_like(w) if weights is None else self._scale * weights
        move = torch.zeros_like(h) if hparams is None else self._scale * hparams
        return (self.slope(k, w + step, h + move) - self.slope(k, w - step, h - move)) / (2 * self._scale)

    def slope(self, k: int, w: Tensor, hparams: Tensor | None = None) -> Tensor:
        """∂f/∂w on batch number `k` and with its draws, so that a difference is that of one function; shape (n,)."""
        w, context = w.detach().requires_grad_(), self._context
        named = self.hparams.tree(self._at if hparams is None else hparams)
        with randomness(self._group.seed(derive_seed(self._seed, "hypernetwork", "draws", k)), w.device):
            loss, _ = context.bilevel.train_loss(context.ravel.tree(w), context.buffers, named, self._batches[k])
            return self._batches.share.mean(torch.autograd.grad(loss, w)[0])

    def normal(self, k: int, *shape: int) -> Tensor:
        """Standard normal numbers, a function of `k`."""
        generator = torch.Generator().manual_seed(derive_seed(self._seed, "hypernetwork", "normal", k))
        return torch.randn(*shape, generator=generator, dtype=torch.float64, device="cpu").to(self._at)

    def directions(self, rank: int) -> Tensor:
        """V, shape (m, min(m, rank)), with orthonormal columns."""
        m = len(self._at)
        if m <= rank:
            return torch.eye(m).to(self._at)
        return qr(self.normal(-1, m, rank))[0].contiguous()

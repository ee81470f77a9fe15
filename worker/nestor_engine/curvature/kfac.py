"""Kronecker-factored curvature."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from nestor_engine.autodiff.linearization import Linearization
from nestor_engine.curvature.curvature import Curvature
from nestor_engine.curvature.kronecker import Block, Kronecker
from nestor_engine.curvature.layers import Layer, Recorder, as_rows
from nestor_engine.curvature.operator import Operator
from nestor_engine.curvature.preconditioner import Preconditioner
from nestor_engine.curvature.signals import Fisher, signals
from nestor_engine.errors import ConfigInvalid
from nestor_engine.objective import Tensors
from nestor_engine.tensors.part_state import PartState, kept_as
from nestor_engine.tensors.random import derive_seed


@dataclass(frozen=True)
class KFACState(PartState):
    """Running averages of the factors.

    Attributes:
        count: outer steps that are averaged.
        factors: `<p>.inputs` and `<p>.outputs`, E[a aᵀ] and Σ g gᵀ of the layer whose weight is parameter number p, and
            `<p>.squares`, squared gradients of a parameter of no layer.
    """

    count: int = field(default=0, metadata=kept_as("kfac.count"))
    factors: Tensors = field(default_factory=dict, metadata=kept_as("kfac"))


@dataclass(frozen=True)
class KFACPreconditionerState(KFACState):
    """The same of a preconditioner, under keys of its own."""

    count: int = field(default=0, metadata=kept_as("preconditioner.count"))
    factors: Tensors = field(default_factory=dict, metadata=kept_as("preconditioner"))


Role = Literal["kfac", "preconditioner"]  # for independent random signs where both occur


@dataclass(frozen=True)
class KFAC(Curvature[KFACState]):
    """Gauss–Newton with a Kronecker product for every layer, and an inverse in closed form [1, 2].

    For a layer with inputs a and gradients g by its outputs, the block of its weights is

        E[a aᵀ] ⊗ Σ g gᵀ  (+ the mean of the penalty's diagonal · I, so that the inverse stays closed),

    and blocks of different layers do not meet. Rows of one example, such as tokens, places of a
    convolution or steps of a recurrence, are taken for independent ("expand" in [3]). Parameters
    that no such layer reads alone, such as norms, embeddings and tied weights, have the diagonal:
    the squared gradients under the signals' signs, whose mean is that of Gauss–Newton, plus the
    penalty's own. Factors are running averages over outer steps; the penalty is that of the step.

    As a preconditioner it stands for the curvature of the system with the system's damping, or with
    its own if the system has none.

    Args:
        decay: of the running averages, which are corrected for their start; 0 keeps this step's factors only.
        fisher: what g is: sent back once from a random root of the criterion's curvature ("sampled"), once for
            each of an example's columns ("exact"), or the gradient itself ("empirical", not a Gauss–Newton).
            What meets on its way back, such as the examples of a batch norm, is right in the mean over signs only.

    [1] Martens and Grosse (2015), Optimizing neural networks with Kronecker-factored approximate curvature.
    [2] Grosse and Martens (2016), A Kronecker-factored approximate Fisher matrix for convolution layers.
    [3] Eschenhagen et al. (2023), Kronecker-factored approximate curvature for modern neural network architectures.
    """

    damping: float = 0.03
    decay: float = 0.95
    fisher: Fisher = "sampled"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.decay < 1:
            raise ConfigInvalid(reason=f"KFAC(decay={self.decay}): the decay must be at least 0 and below 1.")
        if self.fisher not in ("sampled", "exact", "empirical"):
            raise ConfigInvalid(reason=f"KFAC(fisher={self.fisher!r}): choose 'sampled', 'exact' or 'empirical'.")

    @property
    def supports_sharding(self) -> bool:
        return False  # its factors are drawn from whole batches

    def init(self) -> KFACState:
        return KFACState()

    def at(self, linearization: Linearization, state: KFACState) -> tuple[Operator, KFACState]:
        matrix, factors = self.average(linearization, state, "kfac")
        operator = Operator(
            matrix.product,
            damping=self.damping,
            norm=matrix.norm(),
            linearization=linearization,
            inverse=matrix.inverse,
        )
        return operator, KFACState(state.count + 1, factors)

    def as_preconditioner(self) -> KFACPreconditioner:
        return KFACPreconditioner(self)

    def average(self, linearization: Linearization, state: KFACState, role: Role) -> tuple[Kronecker, Tensors]:
        """The matrix of the averaged factors, and these factors, after those at `linearization` came in."""
        count, factors = state.count + 1, dict(state.factors)
        rate = (1 - self.decay) / (1 - self.decay**count)
        generator = torch.Generator().manual_seed(derive_seed(0, role, count))

        def averaged(name: str, new: Tensor) -> Tensor:
            factors[name] = torch.lerp(factors.get(name, new), new, rate)
            return factors[name]

        layers, outputs, squares = self._measured(linearization, generator)
        penalty = pytree.tree_leaves(linearization.ravel.tree(_diagonal(linearization, generator)))
        blocks = []
        for layer, output in zip(layers, outputs, strict=True):
            own = [penalty[p].reshape(-1) for p in (layer.weight, layer.bias) if p is not None]
            inputs = averaged(f"{layer.weight}.inputs", layer.second_moment)
            output = averaged(f"{layer.weight}.outputs", output)
            blocks.append(Block.of(layer, inputs, output, torch.cat(own).mean()))
        diagonal = {p: averaged(f"{p}.squares", square) + penalty[p] for p, square in squares.items()}
        return Kronecker(linearization.ravel, blocks, diagonal), factors

    def _measured(
        self, linearization: Linearization, generator: torch.Generator
    ) -> tuple[list[Layer], list[Tensor], dict[int, Tensor]]:
        """The layers, Σ g gᵀ for each, and squared gradients of the other parameters, of this outer step alone."""
        params = pytree.tree_map(lambda leaf: leaf.detach().requires_grad_(), linearization.ravel.tree(linearization.w))
        leaves = pytree.tree_leaves(params)
        with Recorder(leaves) as recorder:
            outputs = linearization.replay(params)
        layers = recorder.layers()
        covered = {position for layer in layers for position in (layer.weight, layer.bias)}
        squares = {p: torch.zeros_like(leaf).detach() for p, leaf in enumerate(leaves) if p not in covered}
        edges = [edge for layer in layers for edge in layer.edges]
        grams = [layer.second_moment.new_zeros(layer.out, layer.out) for layer in layers]

        for signal in signals(linearization, self.fisher, generator):
            wanted = [*edges, *(leaves[p] for p in squares)]
            slopes = iter(torch.autograd.grad(outputs, wanted, signal, retain_graph=True, allow_unused=True))
            for layer, gram in zip(layers, grams, strict=True):
                for slope in (next(slopes) for _ in layer.edges):
                    if slope is not None:
                        rows = as_rows(slope).to(gram)
                        gram.addmm_(rows.T, rows)
            for square, slope in zip(squares.values(), slopes, strict=True):
                if slope is not None:
                    square.addcmul_(slope, slope)
        return layers, grams, squares


@dataclass(frozen=True)
class KFACPreconditioner(Preconditioner[KFACPreconditionerState]):
    """The inverse of `kfac` with the system's damping, or with its own if the system has none."""

    kfac: KFAC

    @property
    def supports_sharding(self) -> bool:
        return self.kfac.supports_sharding

    def init(self) -> KFACPreconditionerState:
        return KFACPreconditionerState()

    def prepare(
        self, operator: Operator, like: Tensor, state: KFACPreconditionerState
    ) -> tuple[Callable[[Tensor], Tensor], KFACPreconditionerState]:
        matrix, factors = self.kfac.average(operator.linearization, state, "preconditioner")
        shift = operator.shift(like) or self.kfac.damping * matrix.norm()
        return lambda r: matrix.inverse(r, shift), KFACPreconditionerState(state.count + 1, factors)


def _diagonal(linearization: Linearization, generator: torch.Generator) -> Tensor:
    """The diagonal of the penalty's Hessian P, shape (n,): z ∘ P z for random signs z, exact where P is diagonal."""
    z = (2 * torch.randint(2, linearization.w.shape, generator=generator, device="cpu") - 1).to(linearization.w)
    return (z * linearization.penalty_product(z)).clamp_min(0)

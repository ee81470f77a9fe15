"""Kronecker-factored approximate curvature (K-FAC)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from nestor import options
from nestor_engine.autodiff.gradients import grad_or_none
from nestor_engine.autodiff.linearization import Linearization
from nestor_engine.curvature.curvature import Curvature
from nestor_engine.curvature.kronecker import Block, Kronecker
from nestor_engine.curvature.layers import Layer, Recorder, as_rows
from nestor_engine.curvature.operator import Operator
from nestor_engine.curvature.preconditioner import Preconditioner, Preconditions
from nestor_engine.curvature.signals import signals
from nestor_engine.objective import Tensors
from nestor_engine.tensors.part_state import PartState, kept_as
from nestor_engine.tensors.random import derive_seed


@dataclass(frozen=True)
class KFACState(PartState):
    """Running averages of the factors.

    Attributes:
        count: outer steps in the averages.
        factors: `<p>.inputs` and `<p>.outputs`, E[a aᵀ] and Σ g gᵀ of the layer whose weight is parameter number p, and
            `<p>.squares`, squared gradients of a parameter that belongs to no layer.
    """

    count: int = field(default=0, metadata=kept_as("kfac.count"))
    factors: Tensors = field(default_factory=dict, metadata=kept_as("kfac"))


@dataclass(frozen=True)
class KFACPreconditionerState(KFACState):
    """The same for a preconditioner, under its own keys."""

    count: int = field(default=0, metadata=kept_as("preconditioner.count"))
    factors: Tensors = field(default_factory=dict, metadata=kept_as("preconditioner"))


Role = Literal["kfac", "preconditioner"]  # both may occur in one outer step, with independent random signs


class KFAC(options.KFAC, Curvature[KFACState], Preconditions):
    """Gauss–Newton with a Kronecker product for every layer, and an inverse in closed form [1, 2].

    For a layer with inputs a and gradients g by its outputs, the block of its weights is

        E[a aᵀ] ⊗ Σ g gᵀ  (+ the mean of the penalty's diagonal · I, so that the inverse stays closed),

    and entries between different layers are zero. Rows of one example, such as tokens, positions of a
    convolution or steps of a recurrence, count as independent ("expand" in [3]). Parameters that no such
    layer reads alone, such as norms, embeddings and tied weights, have a diagonal: the squared gradients
    of the signals, whose mean is the diagonal of Gauss–Newton, plus that of the penalty. Factors are
    running averages over outer steps; the penalty is that of the present step.

    As a preconditioner it has the damping of the linear system, or its own if the system has none.

    Args:
        decay: decay of the running averages, which are corrected for their start; 0 uses the factors of this step only.
        fisher: how g is computed: one back-propagation of a random root of the criterion's curvature ("sampled"),
            one for each column of an example's root ("exact"), or the gradient itself ("empirical", which is not
            Gauss–Newton). If examples interact, as in a batch norm, it is right only in the mean over signs.

    [1] Martens and Grosse (2015), Optimizing neural networks with Kronecker-factored approximate curvature.
    [2] Grosse and Martens (2016), A Kronecker-factored approximate Fisher matrix for convolution layers.
    [3] Eschenhagen et al. (2023), Kronecker-factored approximate curvature for modern neural network architectures.
    """

    def init(self) -> KFACState:
        """The state before the first outer step: no factors."""
        return KFACState()

    def at(self, linearization: Linearization, state: KFACState) -> tuple[Operator, KFACState]:
        """The operator of the averaged factors, whose norm and inverse are exact.

        Raises:
            ProblemInvalid: see `signals`.
        """
        matrix, factors = self.average(linearization, state, "kfac")
        operator = Operator(
            matrix.product,
            damping=self.damping_at(linearization),
            norm=matrix.norm(),
            linearization=linearization,
            inverse=matrix.inverse,
        )
        return operator, KFACState(state.count + 1, factors)

    def as_preconditioner(self) -> KFACPreconditioner:
        """The inverse of this curvature as a preconditioner of another curvature. It keeps factors of its own."""
        return KFACPreconditioner(self)

    def average(self, linearization: Linearization, state: KFACState, role: Role) -> tuple[Kronecker, Tensors]:
        """The matrix of the averaged factors, and the factors, both including those at `linearization`."""
        count, factors = state.count + 1, dict(state.factors)
        rate = (1 - self.decay) / (1 - self.decay**count)
        generator = torch.Generator().manual_seed(derive_seed(0, role, count))

        def averaged(name: str, new: Tensor) -> Tensor:
            factors[name] = torch.lerp(factors.get(name, new), new, rate)
            return factors[name]

        layers, outputs, squares = self._measured(linearization, generator)
        penalty = pytree.tree_leaves(linearization.ravel.tree(_diagonal(linearization, generator)))
        blocks: list[Block] = []
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
        """The layers, Σ g gᵀ for each, and squared gradients of the other parameters, of this outer step only."""
        params = pytree.tree_map(_free, linearization.ravel.tree(linearization.w))
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
            slopes = iter(grad_or_none(outputs, wanted, signal, retain_graph=True))
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
    """The inverse of `kfac` with the damping of the linear system, or with its own if the system has none."""

    kfac: KFAC

    def init(self) -> KFACPreconditionerState:
        """The state before the first outer step: no factors."""
        return KFACPreconditionerState()

    def prepare(
        self, operator: Operator, like: Tensor, state: KFACPreconditionerState
    ) -> tuple[Callable[[Tensor], Tensor], KFACPreconditionerState]:
        """The inverse of the averaged factors plus the damping, and the factors after this outer step.

        Raises:
            PreconditionerUnavailable: `operator` has no linearization.
        """
        matrix, factors = self.kfac.average(operator.linearization, state, "preconditioner")
        shift = operator.shift(like) or self.kfac.damping_at(operator.linearization).of(matrix.norm())
        return lambda r: matrix.inverse(r, shift), KFACPreconditionerState(state.count + 1, factors)


def _free(leaf: Tensor) -> Tensor:
    return leaf.detach().requires_grad_()


def _diagonal(linearization: Linearization, generator: torch.Generator) -> Tensor:
    """The diagonal of the penalty's Hessian P, shape (n,): z ∘ P z for random signs z, exact where P is diagonal."""
    z = (2 * torch.randint(2, linearization.w.shape, generator=generator, device="cpu") - 1).to(linearization.w)
    return (z * linearization.penalty_product(z)).clamp_min(0)

"""Kronecker-factored curvature."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from nestor import options
from nestor_engine.autodiff.linearization import Point
from nestor_engine.curvature.kronecker import Block, Kronecker
from nestor_engine.curvature.layers import Layer, Recorder, as_rows
from nestor_engine.curvature.operator import Curvature, Operator
from nestor_engine.curvature.signals import signals
from nestor_engine.objective import Tensors
from nestor_engine.tensors.random import derive_seed


class KFAC(options.KFAC, Curvature):
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

    def at(self, point: Point, memory: Tensors) -> Operator:
        matrix = self._matrix(point, memory, "kfac")
        return Operator(matrix.product, damping=self.damping, point=point, norm=matrix.norm(), inverse=matrix.inverse)

    def prepare(self, operator: Operator, like: Tensor, memory: Tensors) -> Callable[[Tensor], Tensor]:
        matrix = self._matrix(operator.point, memory, "preconditioner")
        shift = operator.shift(like) or self.damping * matrix.norm()
        return lambda r: matrix.inverse(r, shift)

    def _matrix(self, point: Point, memory: Tensors, keep: str) -> Kronecker:
        """The factors at `point`, averaged with those that `memory` holds under `keep`."""
        count = int(memory.get(f"{keep}.count", 0)) + 1
        memory[f"{keep}.count"] = torch.tensor(count)
        rate = (1 - self.decay) / (1 - self.decay**count)
        generator = torch.Generator().manual_seed(derive_seed(0, keep, count))

        def averaged(name: str, new: Tensor) -> Tensor:
            kept = memory.get(f"{keep}.{name}", new)
            memory[f"{keep}.{name}"] = torch.lerp(kept, new, rate)
            return memory[f"{keep}.{name}"]

        layers, outputs, squares = self._measured(point, generator)
        penalty = pytree.tree_leaves(point.ravel.tree(_diagonal(point, generator)))
        blocks = []
        for layer, output in zip(layers, outputs, strict=True):
            own = [penalty[p].reshape(-1) for p in (layer.weight, layer.bias) if p is not None]
            inputs = averaged(f"{layer.weight}.inputs", layer.moment)
            output = averaged(f"{layer.weight}.outputs", output)
            blocks.append(Block.of(layer, inputs, output, torch.cat(own).mean()))
        diagonal = {p: averaged(f"{p}.squares", square) + penalty[p] for p, square in squares.items()}
        return Kronecker(point.ravel, blocks, diagonal)

    def _measured(
        self, point: Point, generator: torch.Generator
    ) -> tuple[list[Layer], list[Tensor], dict[int, Tensor]]:
        """The layers, Σ g gᵀ for each, and squared gradients of the other parameters, at this point alone."""
        params = pytree.tree_map(lambda leaf: leaf.detach().requires_grad_(), point.ravel.tree(point.w))
        leaves = pytree.tree_leaves(params)
        with Recorder(leaves) as recorder:
            outputs = point.replay(params)
        layers = recorder.layers()
        covered = {position for layer in layers for position in (layer.weight, layer.bias)}
        squares = {p: torch.zeros_like(leaf).detach() for p, leaf in enumerate(leaves) if p not in covered}
        edges = [edge for layer in layers for edge in layer.edges]
        grams = [layer.moment.new_zeros(layer.out, layer.out) for layer in layers]

        for signal in signals(point, self.fisher, generator):
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


def _diagonal(point: Point, generator: torch.Generator) -> Tensor:
    """The diagonal of the penalty's Hessian P, shape (n,): z ∘ P z for random signs z, exact where P is diagonal."""
    z = (2 * torch.randint(2, point.w.shape, generator=generator, device="cpu") - 1).to(point.w)
    return (z * point.penalty_product(z)).clamp_min(0)

"""A positive semidefinite matrix over all weights, in terms of eigenvalues: Kronecker products and a diagonal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from nestor_engine.curvature.layers import Layer
from nestor_engine.tensors.linalg import eigh
from nestor_engine.tensors.ravel import Ravel


@dataclass(frozen=True)
class Block:
    """V ↦ U_G (Λ ∘ (U_Gᵀ V U_A)) U_Aᵀ for a layer's matrix V of shape (out, in), whose last column is the bias.

    Attributes:
        inputs, outputs: the eigenvectors U_A, shape (in, in), and U_G, shape (out, out).
        values: Λ, shape (out, in).
    """

    layer: Layer
    inputs: Tensor
    outputs: Tensor
    values: Tensor

    @staticmethod
    def of(layer: Layer, inputs: Tensor, outputs: Tensor, shift: Tensor) -> Block:
        """G ⊗ A + shift · I, with A = `inputs` and G = `outputs` symmetric."""
        (a, inputs), (g, outputs) = _eigh(inputs), _eigh(outputs)
        return Block(layer, inputs, outputs, torch.outer(g, a) + shift)

    def apply(self, function: Callable[[Tensor], Tensor], leaves: list[Tensor]) -> dict[int, Tensor]:
        """f(block) V, where f acts on the eigenvalues.

        Args:
            leaves: all parameters of a vector, by position. The matrix V is made of those of this layer.

        Returns:
            The position of the weight, and of the bias if there is one → a tensor of the shape of the parameter.
        """
        layer, shape = self.layer, leaves[self.layer.weight].shape
        weight = leaves[layer.weight].T if layer.transposed else leaves[layer.weight].flatten(1)
        matrix = weight if layer.bias is None else torch.cat([weight, leaves[layer.bias].unsqueeze(1)], 1)
        inside = function(self.values) * (self.outputs.T @ matrix @ self.inputs)
        matrix = self.outputs @ inside @ self.inputs.T
        if layer.bias is None:
            return {layer.weight: matrix.T if layer.transposed else matrix.view(shape)}
        weight, bias = matrix[:, :-1], matrix[:, -1]
        return {layer.weight: weight.T if layer.transposed else weight.reshape(shape), layer.bias: bias}


@dataclass(frozen=True)
class Kronecker:
    """Blocks for the layers, and a diagonal for the other parameters: their position → entries."""

    ravel: Ravel
    blocks: list[Block]
    diagonal: dict[int, Tensor]

    def apply(self, function: Callable[[Tensor], Tensor], v: Tensor) -> Tensor:
        """f(C) v, shape (n,), where f acts on eigenvalues."""
        leaves = pytree.tree_leaves(self.ravel.tree(v))
        done = {position: function(values) * leaves[position] for position, values in self.diagonal.items()}
        for block in self.blocks:
            done |= block.apply(function, leaves)
        return torch.cat([done[position].reshape(-1) for position in range(len(leaves))])

    def product(self, v: Tensor) -> Tensor:
        """C v, shape (n,)."""
        return self.apply(lambda values: values, v)

    def inverse(self, v: Tensor, shift: float) -> Tensor:
        """(C + shift · I)⁻¹ v; not finite where that is singular."""
        return self.apply(lambda values: 1 / (values + shift), v)

    def norm(self) -> float:
        """The largest eigenvalue of C, exactly."""
        values = [block.values for block in self.blocks] + list(self.diagonal.values())
        return float(torch.stack([v.max() for v in values]).max())


def _eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, clamped at zero against rounding, and eigenvectors; NaN for a matrix that is not finite."""
    if not torch.isfinite(matrix).all():
        return matrix.new_full((len(matrix),), torch.nan), matrix
    values, vectors = eigh((matrix + matrix.T) / 2)
    return values.clamp_min(0), vectors

"""Vectors to back-propagate from the outputs, whose gradients' outer products form a curvature."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from nestor.errors import OutputsCoupled
from nestor_engine.autodiff.linearization import Linearization, examples_of
from nestor_engine.tensors.linalg import eigh, vector_norm

Fisher = Literal["sampled", "exact", "empirical"]
MAX_OUTPUTS = 2048  # of one example: their second derivatives are a matrix of shape (MAX_OUTPUTS, MAX_OUTPUTS)


def signals(linearization: Linearization, fisher: Fisher, generator: torch.Generator) -> Iterator[list[Tensor]]:
    """Each signal holds a tensor for each output; summed over signals, E[s sᵀ] is the criterion's curvature.

    Let Λ_r be the block of ∂²ℓ/∂o∂o that belongs to row r of the outputs, and S_r Sᵣᵀ = Λ_r with negative
    eigenvalues set to zero. All rows are back-propagated together, with independent random signs ε. Because of
    E[ε_r ε_s] = 0, rows that share a weight or the statistics of a batch do not mix in the mean.

    - "sampled": one signal, S_r ε_r with a sign for each entry.
    - "exact": one signal for each column of the S_r of an example, with a sign for each example.
    - "empirical": one signal, √B ε_i ∂ℓ/∂o_i for each of B examples, of which ℓ must be the mean.

    Raises:
        ProblemInvalid: the criterion couples more than `MAX_OUTPUTS` outputs, or examples have no gradients.
    """

    def signs(*shape: int) -> Tensor:
        return (2 * torch.randint(2, shape, generator=generator, device="cpu") - 1).to(linearization.w)

    at, slopes = linearization.output_slopes
    if fisher == "empirical":
        examples = examples_of(at)
        sign = signs(examples)
        yield [math.sqrt(examples) * sign.view(-1, *[1] * (slope.ndim - 1)) * slope.detach() for slope in slopes]
        return
    blocks, rows = _blocks(linearization, at)
    values, vectors = eigh((blocks + blocks.mT) / 2)
    roots = vectors * values.clamp_min(0).sqrt().unsqueeze(1)  # (rows, size, size)
    if fisher == "sampled":
        yield rows.split((roots @ signs(*roots.shape[:2], 1)).squeeze(2))
        return
    # Rows of one example, such as entries or tokens, meet in the layers below, so each gets a signal of its own.
    roots = roots.view(rows.examples, -1, rows.size, rows.size)  # (examples, rows of one, size, size)
    sign = signs(rows.examples, 1)
    for row, column in itertools.product(range(roots.shape[1]), range(rows.size)):
        signal = torch.zeros_like(roots[..., 0])
        signal[:, row] = sign * roots[:, row, :, column]
        yield rows.split(signal.flatten(0, 1))


class _Rows:
    """Outputs as rows of shape (rows, size), one for each position along the shared dimensions `along`."""

    def __init__(self, outputs: list[Tensor], along: tuple[int, ...]) -> None:
        self._orders = [(*along, *(d for d in range(o.ndim) if d not in along)) for o in outputs]
        self._shapes = [o.permute(order).shape for o, order in zip(outputs, self._orders, strict=True)]
        self.count = math.prod(self._shapes[0][: len(along)])
        self.examples = self._shapes[0][0] if along else 1
        self._sizes = [math.prod(shape[len(along) :]) for shape in self._shapes]
        self.size = sum(self._sizes)

    def join(self, outputs: list[Tensor]) -> Tensor:
        ordered = [o.permute(order) for o, order in zip(outputs, self._orders, strict=True)]
        return torch.cat([o.reshape(self.count, -1) for o in ordered], 1)

    def split(self, rows: Tensor) -> list[Tensor]:
        parts = zip(rows.split_with_sizes(self._sizes, 1), self._shapes, self._orders, strict=True)
        return [part.reshape(shape).permute(*map(order.index, range(len(order)))) for part, shape, order in parts]


def _blocks(linearization: Linearization, at: list[Tensor]) -> tuple[Tensor, _Rows]:
    """∂²ℓ/∂o∂o as blocks of shape (rows, size, size), in the smallest rows that the criterion does not couple.

    One product shows whether it couples rows: a squared error couples no entries, a cross-entropy those
    of one example or token, a contrastive loss those of the whole batch.
    """
    probe_source = torch.Generator().manual_seed(0)
    for rows in _divisions(at):
        if rows.size > MAX_OUTPUTS:
            break

        def product(v: Tensor, rows: _Rows = rows) -> Tensor:
            return rows.join(linearization.criterion_product(rows.split(v)))

        eye = torch.eye(rows.size, dtype=at[0].dtype, device=at[0].device)
        blocks = torch.stack([product(unit.expand(rows.count, -1)) for unit in eye], 2)
        probe = torch.randn(rows.count, rows.size, generator=probe_source, device="cpu").to(at[0])
        whole, parts = product(probe), (blocks @ probe.unsqueeze(2)).squeeze(2)
        tolerance = torch.finfo(at[0].dtype).eps ** 0.5
        # Non-finite values count as uncoupled: the solver reports them.
        if not vector_norm(whole - parts) > tolerance * vector_norm(whole):
            return blocks, rows
    raise OutputsCoupled(limit=MAX_OUTPUTS)


def _divisions(outputs: list[Tensor]) -> list[_Rows]:
    """All divisions of the outputs into rows, the smallest rows first.

    The rows run along any choice of leading dimensions that all outputs share, examples included, or along none.
    Classes need not come last: they are the second dimension of (examples, classes, positions).
    """
    shapes = [o.shape for o in outputs]
    shared = 0
    while all(len(shape) > shared and shape[shared] == shapes[0][shared] for shape in shapes):
        shared += 1
    choices = [(0, *rest) for k in reversed(range(shared)) for rest in itertools.combinations(range(1, shared), k)]
    return sorted((_Rows(outputs, along) for along in [*choices, ()]), key=lambda rows: rows.size)

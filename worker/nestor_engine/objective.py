"""A bilevel problem as pure functions of tensors, which the engine differentiates.

The inner objective is f(w, λ), the outer objective g(w, λ):

    f(w, λ) = criterion(forward(w, λ, batch'), λ, batch') + penalty(w, λ),   batch' = prepare(λ, batch)
    g(w, λ) = evaluate(w, λ, batch)["loss"]

Outputs and criterion are separate, which Gauss–Newton products need. The penalty is separate, because it
reads the weights directly and its curvature is exact. Buffers are arguments and results, never
hidden state. The functions take the values of hyperparameters: `Bilevel.values` applies the transforms,
once for each evaluation of f or g.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

Tensors = dict[str, Tensor]
Batch = dict[str, Tensor]  # columns of equal length, and "index": their positions in the split, int64
PyTree = Any


@dataclass(frozen=True)
class Bilevel:
    """Initial values and functions of a bilevel problem.

    Attributes:
        params: any pytree of floating-point tensors of one dtype; what the inner objective trains.
        buffers: tensors that the forward pass updates without gradient, such as running means.
        hparams: what the outer objective tunes, before the transforms.
        transforms: hyperparameter → name of the transform that gives the value that the losses read.
        bounds: hyperparameter → (least, largest) value, before the transform, onto which every outer step projects.
        prepare: (values, batch) → batch, on training data only.
        forward: (params, buffers, values, batch) → (outputs, buffers), in training mode.
        criterion: (outputs, values, batch) → scalar, the mean over the batch.
        penalty: (params, values) → scalar.
        evaluate: (params, buffers, values, batch) → {"loss": scalar, metric: scalar, …}, in evaluation mode.
        initial: (params, values) → params before the first inner step; unchanged by default.
        values: hparams → the values that the six functions above take. The identity by default, for functions that
            apply the transforms themselves, such as those of a program.
    """

    params: PyTree
    buffers: Tensors
    hparams: Tensors
    transforms: dict[str, str]
    prepare: Callable[[Tensors, Batch], Batch]
    forward: Callable[[PyTree, Tensors, Tensors, Batch], tuple[PyTree, Tensors]]
    criterion: Callable[[PyTree, Tensors, Batch], Tensor]
    penalty: Callable[[PyTree, Tensors], Tensor]
    evaluate: Callable[[PyTree, Tensors, Tensors, Batch], Tensors]
    bounds: dict[str, tuple[float, float]] = field(default_factory=dict)
    initial: Callable[[PyTree, Tensors], PyTree] = lambda params, values: params
    values: Callable[[Tensors], Tensors] = lambda hparams: hparams

    def to(self, device: torch.device | str) -> Bilevel:
        """The same problem on `device`. Functions with a method `to` are moved; others follow their arguments."""

        def moved(leaf: Tensor) -> Tensor:
            return leaf.detach().to(device)

        functions = {
            name: function.to(device)
            for name in ("prepare", "forward", "criterion", "penalty", "evaluate")
            if hasattr(function := getattr(self, name), "to")
        }
        return replace(
            self,
            params=pytree.tree_map(moved, self.params),
            buffers=pytree.tree_map(moved, self.buffers),
            hparams=pytree.tree_map(moved, self.hparams),
            **functions,
        )

    def train_loss(self, params: PyTree, buffers: Tensors, hparams: Tensors, batch: Batch) -> tuple[Tensor, Tensors]:
        """f(w, λ) on one batch, and the buffers after it."""
        return self.train_loss_at(params, buffers, self.values(hparams), batch)

    def train_loss_at(self, params: PyTree, buffers: Tensors, values: Tensors, batch: Batch) -> tuple[Tensor, Tensors]:
        """f(w, λ) on one batch at transformed hyperparameters, and the buffers after it."""
        prepared = self.prepare(values, batch)
        outputs, buffers = self.forward(params, buffers, values, prepared)
        return self.criterion(outputs, values, prepared) + self.penalty(params, values), buffers

    def untransformed(self) -> Bilevel:
        """The same problem as functions of hyperparameters before their transforms, which each of them applies."""
        values = self.values
        return Bilevel(
            params=self.params,
            buffers=self.buffers,
            hparams=self.hparams,
            transforms=self.transforms,
            bounds=self.bounds,
            prepare=lambda hparams, batch: self.prepare(values(hparams), batch),
            forward=lambda params, buffers, hparams, batch: self.forward(params, buffers, values(hparams), batch),
            criterion=lambda outputs, hparams, batch: self.criterion(outputs, values(hparams), batch),
            penalty=lambda params, hparams: self.penalty(params, values(hparams)),
            evaluate=lambda params, buffers, hparams, batch: self.evaluate(params, buffers, values(hparams), batch),
            initial=lambda params, hparams: self.initial(params, values(hparams)),
        )

    def autocast(self, dtype: torch.dtype) -> Bilevel:
        """The same problem with a forward pass in mixed precision [1]; its outputs and the losses keep their precision.

        [1] Micikevicius et al. (2018), Mixed precision training.
        """

        def forward(params: PyTree, buffers: Tensors, values: Tensors, batch: Batch) -> tuple[PyTree, Tensors]:
            first = pytree.tree_leaves(params)[0]
            with torch.autocast(first.device.type, dtype):
                outputs, buffers = self.forward(params, buffers, values, batch)

            def restored(leaf: object) -> object:
                return leaf.to(first.dtype) if isinstance(leaf, Tensor) and leaf.dtype == dtype else leaf

            return pytree.tree_map(restored, outputs), buffers

        return replace(self, forward=forward)

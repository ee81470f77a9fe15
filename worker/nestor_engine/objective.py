"""A bilevel problem as pure functions of tensors, which the engine differentiates.

The inner objective is f(w, λ), the outer objective g(w, λ):

    f(w, λ) = criterion(forward(w, λ, batch'), λ, batch') + penalty(w, λ),   batch' = prepare(λ, batch)
    g(w, λ) = val_loss(predict(w, λ, batch), λ, batch)

Outputs and criterion are separate, which Gauss–Newton products need. The penalty is separate, because it
reads the weights directly and its curvature is exact. Buffers are arguments and results, never
hidden state. The functions take the values of hyperparameters: `Bilevel.values` applies the transforms,
once for each evaluation of f or g.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import InitVar, asdict, dataclass, field, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from nestor.errors import BilevelIncomplete
from nestor.program_format import UNNAMED, EntryNames
from nestor_engine.measuring.results import Measured, single

Tensors = dict[str, Tensor]
Batch = dict[str, Tensor]  # columns of equal length, and "index": their positions in the split, int64
PyTree = Any
Evaluate = Callable[[PyTree, Tensors, Tensors, Batch], Tensors]
ByPosition = Literal["weights", "values"]


def _missing(*arguments: object) -> Any:
    """Stands for a function that was not given."""
    raise AssertionError("replaced in Bilevel.__post_init__")


@dataclass(frozen=True)
class Bilevel:
    """Initial values and functions of a bilevel problem.

    Attributes:
        params: any pytree of floating-point tensors of one dtype; what the inner objective trains.
        buffers: tensors that the forward pass updates without gradient, such as running means.
        hparams: what the outer objective tunes, before the transforms.
        transforms: hyperparameter → name of the transform that gives the value that the losses read.
        bounds: hyperparameter → (least, largest) value, before the transform, onto which every outer step projects.
        priors: hyperparameter → precision of the normal prior of its entries' deviations from their level, as
            `nestor_engine.optim.levels` defines it; others have none.
        prepare: (values, batch) → batch, on training data only.
        forward: (params, buffers, values, batch) → (outputs, buffers), in training mode.
        criterion: (outputs, values, batch) → scalar, the mean over the batch.
        penalty: (params, values) → scalar.
        predict: (params, buffers, values, batch) → outputs, in evaluation mode.
        val_loss: (outputs, values, batch) → scalar, the mean over the batch; or (sum, weight), whose sums over batches
            give the loss on all of them.
        metrics: name → (outputs, values, batch) → scalar, computed on all examples of a split at once; or (sum,
            weight). None: the tensors beside "loss" in the outputs, which are means over the batch.
        by_position: hyperparameter with an entry for each training example → "weights" if the entries weigh the
            examples' losses, else "values"; None: not known.
        entry_names: hyperparameter → how its entries are called; others have no names.
        initial: (params, values) → params before the first inner step; unchanged by default.
        values: hparams → the values that the functions above take. The identity by default, for functions that
            apply the transforms themselves, such as those of a program.

    Args:
        evaluate: in place of `predict`, `val_loss` and `metrics`: (params, buffers, values, batch) → {"loss": mean over
            the batch, metric: mean over the batch, …}, in evaluation mode.

    Raises:
        BilevelIncomplete: neither these three nor `evaluate` are given.
    """

    params: PyTree
    buffers: Tensors
    hparams: Tensors
    transforms: dict[str, str]
    prepare: Callable[[Tensors, Batch], Batch]
    forward: Callable[[PyTree, Tensors, Tensors, Batch], tuple[PyTree, Tensors]]
    criterion: Callable[[PyTree, Tensors, Batch], Tensor]
    penalty: Callable[[PyTree, Tensors], Tensor]
    predict: Callable[[PyTree, Tensors, Tensors, Batch], PyTree] = _missing
    val_loss: Callable[[PyTree, Tensors, Batch], Measured] = _missing
    metrics: Mapping[str, Callable[[PyTree, Tensors, Batch], Measured]] | None = field(
        default_factory=dict[str, "Callable[[PyTree, Tensors, Batch], Measured]"]
    )
    bounds: dict[str, tuple[float, float]] = field(default_factory=dict)
    priors: Mapping[str, float] = field(default_factory=dict[str, float])
    by_position: Mapping[str, ByPosition] | None = field(default_factory=dict[str, "ByPosition"])
    entry_names: Mapping[str, EntryNames] = field(default_factory=dict[str, EntryNames])
    initial: Callable[[PyTree, Tensors], PyTree] = lambda params, values: params
    values: Callable[[Tensors], Tensors] = lambda hparams: hparams
    evaluate: InitVar[Evaluate | None] = None

    def __post_init__(self, evaluate: Evaluate | None) -> None:
        if evaluate is not None:
            object.__setattr__(self, "predict", evaluate)
            object.__setattr__(self, "val_loss", _loss_among_means)
            object.__setattr__(self, "metrics", None)
        elif self.predict is _missing or self.val_loss is _missing:
            raise BilevelIncomplete()

    def described(self) -> list[dict[str, Any]]:
        """The hyperparameters in order, with the fields of `nestor.schemas.HyperparameterInfo`, as JSON can hold them.

        Infinite bounds are left out.
        """
        return [
            {
                "name": name,
                "shape": list(value.shape),
                "dtype": str(value.dtype).removeprefix("torch."),
                "transform": self.transforms.get(name, "identity"),
                **({"prior": self.priors[name]} if name in self.priors else {}),
                **asdict(self.entry_names.get(name, UNNAMED)),
                **{
                    end: bound
                    for end, bound in zip(("least", "largest"), self.bounds.get(name, ()), strict=False)
                    if math.isfinite(bound)
                },
            }
            for name, value in self.hparams.items()
        ]

    def to(self, device: torch.device | str) -> Bilevel:
        """The same problem on `device`. Functions with a method `to` are moved; others follow their arguments."""

        def moved(leaf: Tensor) -> Tensor:
            return leaf.detach().to(device)

        functions = {
            name: function.to(device)
            for name in ("prepare", "forward", "criterion", "penalty", "predict", "val_loss")
            if hasattr(function := getattr(self, name), "to")
        }
        metrics: Any = self.metrics
        if metrics is not None:
            metrics = {name: f.to(device) if hasattr(f, "to") else f for name, f in metrics.items()}
        return replace(
            self,
            params=pytree.tree_map(moved, self.params),
            buffers=pytree.tree_map(moved, self.buffers),
            hparams=pytree.tree_map(moved, self.hparams),
            **functions,
            metrics=metrics,
        )

    def train_loss(self, params: PyTree, buffers: Tensors, hparams: Tensors, batch: Batch) -> tuple[Tensor, Tensors]:
        """f(w, λ) on one batch, and the buffers after it."""
        return self.train_loss_at(params, buffers, self.values(hparams), batch)

    def train_loss_at(self, params: PyTree, buffers: Tensors, values: Tensors, batch: Batch) -> tuple[Tensor, Tensors]:
        """f(w, λ) on one batch at transformed hyperparameters, and the buffers after it."""
        prepared = self.prepare(values, batch)
        outputs, buffers = self.forward(params, buffers, values, prepared)
        return self.criterion(outputs, values, prepared) + self.penalty(params, values), buffers

    def val_loss_at(self, params: PyTree, buffers: Tensors, values: Tensors, batch: Batch) -> Tensor:
        """g(w, λ) on one batch at transformed hyperparameters, shape ()."""
        return single(self.val_loss(self.predict(params, buffers, values, batch), values, batch))

    def metrics_of(self, outputs: PyTree) -> Mapping[str, Callable[[PyTree, Tensors, Batch], Measured]]:
        """Name → metric, for outputs of `predict`."""
        if self.metrics is not None:
            return self.metrics
        return {name: partial(_metric_among_means, name) for name in outputs if name != "loss"}

    def untransformed(self) -> Bilevel:
        """The same problem as functions of hyperparameters before their transforms, which each of them applies."""
        values = self.values

        def applied(function: Callable[[PyTree, Tensors, Batch], Measured]) -> Callable[..., Measured]:
            def at(outputs: PyTree, hparams: Tensors, batch: Batch) -> Measured:
                return function(outputs, values(hparams), batch)

            return at

        return Bilevel(
            params=self.params,
            buffers=self.buffers,
            hparams=self.hparams,
            transforms=self.transforms,
            bounds=self.bounds,
            priors=self.priors,
            by_position=self.by_position,
            entry_names=self.entry_names,
            prepare=lambda hparams, batch: self.prepare(values(hparams), batch),
            forward=lambda params, buffers, hparams, batch: self.forward(params, buffers, values(hparams), batch),
            criterion=lambda outputs, hparams, batch: self.criterion(outputs, values(hparams), batch),
            penalty=lambda params, hparams: self.penalty(params, values(hparams)),
            predict=lambda params, buffers, hparams, batch: self.predict(params, buffers, values(hparams), batch),
            val_loss=applied(self.val_loss),
            metrics=None if self.metrics is None else {name: applied(f) for name, f in self.metrics.items()},
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


def _loss_among_means(outputs: PyTree, values: Tensors, batch: Batch) -> Measured:
    return outputs["loss"]


def _metric_among_means(name: str, outputs: PyTree, values: Tensors, batch: Batch) -> Measured:
    mean = outputs[name].detach().double()
    n = next(iter(batch.values())).shape[0]  # a symbol while this is traced
    return mean * n, torch.ones_like(mean) * n

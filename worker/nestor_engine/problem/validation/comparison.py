"""Compare an exported program with the problem itself: losses, metrics and derivatives, on one batch."""

# pyright: reportUnknownMemberType=false
# (torch does not type manual_seed)

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from nestor_engine.measuring.results import single
from nestor_engine.objective import Batch, Bilevel, Tensors
from nestor_engine.tensors.linalg import vector_norm

_TOLERANCE = 1e-3  # relative to the larger of the two


@dataclass(frozen=True)
class Difference:
    """What differs, in words, and the two values: of a loss itself, of a derivative its norm."""

    what: str
    problem: float
    program: float

    def __str__(self) -> str:
        return f"the exported {self.what} is {self.program:.6g}, the problem's {self.problem:.6g}"


def differences(problem: Bilevel, program: Bilevel, train: Batch, val: Batch) -> list[Difference]:
    """The losses and derivatives that differ by more than rounding, in the order of their causes.

    Args:
        problem: with weights at which to compare.
    """
    written, exported = (_measured(functions, problem, train, val) for functions in (problem, program))
    found: list[Difference] = []
    for (what, ours), theirs in zip(written.items(), exported.values(), strict=True):
        larger = max(_length(ours), _length(theirs))
        if torch.equal(ours.isfinite(), theirs.isfinite()):
            ours, theirs = ours.nan_to_num(), theirs.nan_to_num()  # a metric may be NaN on a few examples
        if not _length(ours - theirs) <= _TOLERANCE * larger + 1e-6:
            found.append(Difference(what, _shown(ours), _shown(theirs)))
    return found


def _length(value: Tensor) -> float:
    return float(vector_norm(value.reshape(-1)))


def _shown(value: Tensor) -> float:
    return _length(value) if value.ndim else float(value)


def _measured(functions: Bilevel, at: Bilevel, train: Batch, val: Batch) -> Tensors:
    """Named losses and derivatives."""
    torch.manual_seed(0)
    params, hparams = ({n: t.detach().requires_grad_() for n, t in g.items()} for g in (at.params, at.hparams))
    loss, _ = functions.train_loss(params, at.buffers, hparams, train)
    measured = {"training loss": loss}
    slopes = _slopes(loss, params, hparams, create_graph=True)
    measured |= {f"gradient of the training loss by {what}": slope for what, slope in slopes}
    # One product with the Hessian, and the mixed product by the same vector.
    generator = torch.Generator().manual_seed(0)
    along = [
        (slope * torch.randn(slope.shape, generator=generator, dtype=slope.dtype).to(slope.device)).sum()
        for what, slope in slopes
        if what.startswith("parameter")
    ]
    products = _slopes(torch.stack(along).sum(), params, hparams)
    measured |= {f"second derivative of the training loss by {what}": product for what, product in products}
    torch.manual_seed(0)
    outputs = functions.predict(params, at.buffers, hparams, val)
    evaluated = single(functions.val_loss(outputs, hparams, val))
    measured["validation loss"] = evaluated
    measured |= {f"gradient of the validation loss by {what}": s for what, s in _slopes(evaluated, params, hparams)}
    for name, metric in sorted(functions.metrics_of(outputs).items()):
        measured[f"metric {name!r}"] = single(metric(outputs, hparams, val))
    return {what: value.detach() for what, value in measured.items()}


def _slopes(
    value: Tensor, params: Tensors, hparams: Tensors, *, create_graph: bool = False
) -> list[tuple[str, Tensor]]:
    named = list(_named(params, hparams))
    tensors = [tensor for _, tensor in named]
    if not value.requires_grad:
        return [(what, torch.zeros_like(tensor)) for what, tensor in named]
    slopes = torch.autograd.grad(value, tensors, create_graph=create_graph, allow_unused=True, materialize_grads=True)
    return [(what, slope) for (what, _), slope in zip(named, slopes, strict=True)]


def _named(params: Tensors, hparams: Tensors) -> Iterator[tuple[str, Tensor]]:
    yield from ((f"parameter {name!r}", tensor) for name, tensor in params.items())
    yield from ((f"hyperparameter {name!r}", tensor) for name, tensor in hparams.items())

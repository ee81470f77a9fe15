"""The record of one outer step: numbers, warnings, and the state after it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from nestor_engine.training.metrics import Summary
from nestor_engine.training.state import State


@dataclass(frozen=True)
class Step:
    """One outer update of the hyperparameters, with the inner steps before it. Losses are means over examples.

    Attributes:
        number: from 1.
        train_loss: on the last inner batch, before its update; the hyperparameters' terms included.
        val_loss, val_metrics: on this step's validation batch, at the weights after the inner steps.
        held_out_loss: on the held-out examples; with folds, the mean over the last step of each fold.
        test_loss, test_metrics: on the whole test split, every `evaluate_every` steps and at the last step.
        hypergradient_norm, hypergradient_cosine: over all hyperparameters; the cosine with the last hypergradient.
        inner_gradient_norm: ‖∂f/∂w‖ at the hypergradient; the implicit function theorem assumes zero.
        inner_gradient_ratio: the same, relative to the first inner step.
        outcome, residual, products, alpha: of the adjoint solve; None for a response without one.
        traced: whether the products came from a trace; their bits are the same.
        alpha_norm: α times the estimated norm of the curvature; a series converges below 2.
        hyperparameters: name → summary.
        seconds: wall time of the inner steps, the hypergradient and the evaluation; and the part of it for the adjoint
            system (`products`) and for gathering batches (`data`).
        warnings: sentences with a remedy, each topic once in a trajectory.
        state: the state after this step; later steps do not change it.
    """

    number: int
    train_loss: float
    val_loss: float
    hypergradient_norm: float
    inner_gradient_norm: float | None
    outcome: str | None
    state: State = field(repr=False)
    held_out_loss: float | None = None
    test_loss: float | None = None
    val_metrics: dict[str, float] = field(default_factory=dict)
    test_metrics: dict[str, float] = field(default_factory=dict)
    hypergradient_cosine: float | None = None
    inner_gradient_ratio: float | None = None
    residual: float | None = None
    products: int = 0
    traced: bool = False
    alpha: float | None = None
    alpha_norm: float | None = None
    hyperparameters: dict[str, Summary] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def value(self) -> float:
        """The objective: the loss on held-out examples, or the validation loss if no examples are held out."""
        return self.val_loss if self.held_out_loss is None else self.held_out_loss

    def record(self) -> dict[str, Any]:
        """Everything but the state, as plain data. Non-finite numbers are None; non-finite metrics are left out."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "state"}
        for metrics in ("val_metrics", "test_metrics"):
            plain[metrics] = {name: value for name, value in plain[metrics].items() if math.isfinite(value)}
        plain["hyperparameters"] = {name: asdict(summary) for name, summary in self.hyperparameters.items()}
        return {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in plain.items()}

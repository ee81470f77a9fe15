"""Where a trajectory stands: all that it needs to continue, as tensors and a few counters.

Random draws, batches and permutations are functions of the seed and the counters, so no generator's state is kept.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from nestor.errors import StateInvalid
from nestor_engine.objective import Bilevel, PyTree, Tensors
from nestor_engine.optim.optimizers import Optimizer
from nestor_engine.tensors.layout import Layout
from nestor_engine.training.metrics import mean_of
from nestor_engine.training.state import checkpoint
from nestor_engine.training.state.checkpoint import grouped, prefixed
from nestor_engine.training.state.fold_state import FoldState, moved
from nestor_engine.training.state.matching import expect_names


@dataclass(frozen=True)
class State:
    """Where a trajectory stands, after `step` outer steps. The loop replaces tensors and never writes into them.

    Attributes:
        folds: the training of each fold that has begun, in their order; without folds there is one.
        active: the fold that the last outer step trained.
        hparams: before their transforms.
        outer_optimizer_state: hyperparameter → the outer optimizer's state, named tensors of its shape.
        previous: the hypergradient of the last outer step.
        warned: topics of the warnings that were given.
        held_out: the last losses on held-out examples, one for each fold.
        held_out_metrics: the metrics on them, likewise; fewer after loading a checkpoint of an earlier version.
        held_out_best: the lowest mean of these losses so far.
        steps_since_best: outer steps since then.
        layout: names and shapes of the parameters in `weights`; None after loading a checkpoint of format 2.
        is_result: only weights, buffers and hyperparameters are there, from which no training continues.
    """

    folds: tuple[FoldState, ...]
    hparams: Tensors
    outer_optimizer_state: dict[str, Tensors]
    active: int = 0
    seed: int = 0
    step: int = 0
    previous: Tensors = field(default_factory=dict)
    warned: list[str] = field(default_factory=list)
    held_out: list[float] = field(default_factory=list)
    held_out_metrics: list[dict[str, float]] = field(default_factory=list)
    held_out_best: float | None = None
    steps_since_best: int = 0
    layout: Layout | None = None
    is_result: bool = False

    @staticmethod
    def initial(
        bilevel: Bilevel, inner: Optimizer, outer: Optimizer, seed: int = 0, hparams: Tensors | None = None
    ) -> State:
        """Before the first inner step, under `hparams`; the problem's own by default."""
        hparams = {name: value.detach().clone() for name, value in sorted((hparams or bilevel.hparams).items())}
        return State(
            folds=(FoldState.initial(bilevel, inner, hparams),),
            hparams=hparams,
            outer_optimizer_state={name: outer.init(value) for name, value in hparams.items()},
            seed=seed,
            layout=Layout.of(bilevel.params),
        )

    @property
    def active_fold(self) -> FoldState:
        """The training of the fold that the last outer step trained, or that `activate_fold` chose since."""
        return self.folds[self.active]

    @property
    def inactive_folds(self) -> dict[int, FoldState]:
        """The other folds that have begun, by number."""
        return {number: fold for number, fold in enumerate(self.folds) if number != self.active}

    @property
    def weights(self) -> Tensor:
        """The active fold's weights, shape (n,)."""
        return self.active_fold.weights

    @property
    def buffers(self) -> Tensors:
        """The active fold's buffers, by name."""
        return self.active_fold.buffers

    @property
    def params(self) -> Tensors:
        """The active fold's weights by name, as views.

        Raises:
            StateInvalid: the state comes from format 2, which has no names; see `with_layout`.
        """
        if self.layout is None:
            raise StateInvalid(reason="it is of format 2, which holds no names of parameters")
        return self.layout.split(self.weights)

    def activate_fold(self, number: int, bilevel: Bilevel, inner: Optimizer) -> State:
        """The same trajectory with fold `number` active.

        Folds up to this one that have not begun begin here: at the problem's initial weights, with the present
        hyperparameters. There are several if the trajectory had fewer folds before.
        """
        new = [FoldState.initial(bilevel, inner, self.hparams) for _ in range(len(self.folds), number + 1)]
        return replace(self, active=number, folds=(*self.folds, *new))

    def with_active_fold(self, fold: FoldState) -> State:
        """The same trajectory with the active fold's training replaced."""
        return replace(self, folds=(*self.folds[: self.active], fold, *self.folds[self.active + 1 :]))

    def with_held_out(self, evaluated: dict[str, float], folds: int) -> tuple[State, dict[str, float]]:
        """The state after one more evaluation on held-out examples, and the mean over the last one of each fold.

        Args:
            evaluated: "loss" and the metrics.
        """
        losses = [*self.held_out, evaluated["loss"]][-folds:]
        of_fold = {name: value for name, value in evaluated.items() if name != "loss"}
        metrics = [*self.held_out_metrics, of_fold][-folds:] if of_fold else []
        means = {"loss": sum(losses) / len(losses), **mean_of(metrics)}
        state = replace(self, held_out=losses, held_out_metrics=metrics)
        if self.held_out_best is None or means["loss"] < self.held_out_best:
            return replace(state, held_out_best=means["loss"], steps_since_best=0), means
        return replace(state, steps_since_best=self.steps_since_best + 1), means

    def result(self) -> State:
        """Weights and buffers of the active fold, and the hyperparameters, on the CPU: what users take away."""
        fold = self.active_fold
        taken = State(
            folds=(FoldState(fold.weights, fold.buffers, {}),),
            hparams=self.hparams,
            outer_optimizer_state={name: {} for name in self.hparams},
            seed=self.seed,
            step=self.step,
            layout=self.layout,
            is_result=True,
        )
        return taken.to("cpu")

    def save(self) -> bytes:
        """As safetensors; the counters travel in the header."""
        tensors = self.active_fold.to_tensors(self.layout)
        tensors |= prefixed("hparams", self.hparams) | prefixed("previous", self.previous)
        for hparam, named in self.outer_optimizer_state.items():
            tensors |= {f"outer.{name}.{hparam}": value for name, value in named.items()}
        for number, fold in self.inactive_folds.items():
            tensors |= prefixed(f"folds.{number}", fold.to_tensors(self.layout))
        counters = {
            "params": self.layout and self.layout.names,
            "seed": self.seed,
            "step": self.step,
            "inner_steps": self.active_fold.inner_steps,
            "inner_gradient_start": self.active_fold.inner_gradient_start,
            "warned": self.warned,
            "folds": {k: [fold.inner_steps, fold.inner_gradient_start] for k, fold in self.inactive_folds.items()},
            "held_out": self.held_out,
            "held_out_metrics": self.held_out_metrics,
            "held_out_best": self.held_out_best,
            "waited": self.steps_since_best,
            **({"is_result": True} if self.is_result else {}),
        }
        return checkpoint.write(tensors, counters)

    @staticmethod
    def load(data: bytes) -> State:
        """The state that `save` wrote, here or in an earlier version.

        Raises:
            StateInvalid: these bytes are not a checkpoint.
            CheckpointFormatUnknown: the checkpoint has another format.
        """
        tensors, counters = checkpoint.read(data)
        try:
            return _state_of(tensors, counters)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise checkpoint.unreadable(error) from error

    def to(self, device: torch.device | str) -> State:
        """The same state with its tensors on `device`."""
        return replace(
            self,
            folds=tuple(fold.to(device) for fold in self.folds),
            hparams=moved(self.hparams, device),
            previous=moved(self.previous, device),
            outer_optimizer_state={hparam: moved(of, device) for hparam, of in self.outer_optimizer_state.items()},
        )

    def with_layout(self, params: PyTree) -> State:
        """The same state with a layout. A state of format 2 takes the names and the order of `params`.

        Raises:
            StateInvalid: the state comes from format 2 and has another number of weights.
        """
        if self.layout is not None:
            return self
        layout = Layout.of(params)
        if self.weights.numel() != layout.numel:
            raise StateInvalid(reason=f"it has {self.weights.numel():,} weights and the problem has {layout.numel:,}")
        return replace(self, layout=layout)

    def expect(self, bilevel: Bilevel) -> State:
        """This state with a layout, checked to belong to this problem.

        Raises:
            StateInvalid: it is a result, or belongs to another problem; the message names the first difference.
        """
        if self.is_result:
            raise StateInvalid(
                reason="it is a result without the optimizers' state, from which only a new training starts"
            )
        state, layout = self.with_layout(bilevel.params), Layout.of(bilevel.params)
        expect_names(state.params, state.buffers, state.hparams, bilevel)
        # Optimizers and solvers keep vectors in the order of the layout, so the order of the parameters must agree.
        held = state.layout or layout
        if held != layout:
            ours, theirs = next((a, b) for a, b in zip(held.names, layout.names, strict=True) if a != b)
            raise StateInvalid(
                reason=f"it holds the parameters in another order, {ours!r} where the problem has {theirs!r}"
            )
        return state


def _state_of(tensors: Tensors, counters: dict[str, Any]) -> State:
    groups = grouped(tensors)
    names = counters.pop("params")
    layout = None if names is None else Layout(tuple(names), tuple(tuple(groups["params"][n].shape) for n in names))
    inactive, counted = grouped(groups.pop("folds", {})), counters.pop("folds")
    folds = {int(k): FoldState.from_tensors(grouped(inactive[k]), layout, *counted[k]) for k in counted}
    (active,) = set(range(len(folds) + 1)) - folds.keys()  # folds begin in order
    outer = grouped(groups.pop("outer", {}))
    hparams, previous = groups.pop("hparams", {}), groups.pop("previous", {})
    inner_steps, inner_gradient_start = counters.pop("inner_steps", 0), counters.pop("inner_gradient_start", None)
    folds[active] = FoldState.from_tensors(groups, layout, inner_steps, inner_gradient_start)
    return State(
        folds=tuple(fold for _, fold in sorted(folds.items())),
        hparams=hparams,
        outer_optimizer_state={
            hparam: {name: of[hparam] for name, of in outer.items() if hparam in of} for hparam in hparams
        },
        active=active,
        previous=previous,
        steps_since_best=counters.pop("waited", 0),
        layout=layout,
        **counters,
    )

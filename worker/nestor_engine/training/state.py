"""All that a trajectory needs to go on, as tensors and a few counters, to bytes and back bit for bit.

Random draws, batches and permutations are functions of the seed and the counters, so no generator's
state is kept. `nestor_engine.training.checkpoint` has the form of the bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from nestor_engine.errors import StateInvalid
from nestor_engine.objective import Bilevel, PyTree, Tensors
from nestor_engine.optim.optimizers import Optimizer
from nestor_engine.tensors.layout import Layout, difference, shapes_of
from nestor_engine.tensors.ravel import Ravel, named_leaves
from nestor_engine.training import checkpoint
from nestor_engine.training.checkpoint import grouped, prefixed

# Attribute of a fold → the group of its tensors in a checkpoint.
FOLD_GROUPS = {"buffers": "buffers", "optimizer_state": "inner", "response": "memory"}


@dataclass(frozen=True)
class FoldState:
    """The training of one fold.

    Attributes:
        weights: shape (n,).
        optimizer_state: the inner optimizer's, named vectors of shape (n,).
        response: what the response keeps, such as the adjoint and the curvature's norm; see `tensors.part_state`.
        inner_steps: taken so far.
        inner_gradient_start: ‖∂f/∂w‖ at the first inner step; None before it.
    """

    weights: Tensor
    buffers: Tensors
    optimizer_state: Tensors
    response: Tensors = field(default_factory=dict)
    inner_steps: int = 0
    inner_gradient_start: float | None = None

    @staticmethod
    def initial(bilevel: Bilevel, inner: Optimizer, hparams: Tensors) -> FoldState:
        """Before the first inner step, under `hparams`."""
        weights = Ravel(bilevel.params).vector(bilevel.initial(bilevel.params, bilevel.values(hparams))).detach()
        return FoldState(weights, dict(bilevel.buffers), inner.init(weights))

    def to(self, device: torch.device | str) -> FoldState:
        groups = {name: _moved(getattr(self, name), device) for name in FOLD_GROUPS}
        return replace(self, weights=self.weights.to(device), **groups)


@dataclass(frozen=True)
class State:
    """Where a trajectory stands, after `step` outer steps. The loop replaces tensors and never writes into them.

    Attributes:
        folds: the training of each fold that has begun, in their order; without folds there is one.
        active: the fold that the last outer step trained.
        hparams: before their transforms.
        outer_optimizer_state: hyperparameter → the outer optimizer's state, named tensors of its shape.
        previous: the hypergradient of the step before.
        warned: topics that have been warned about.
        held_out: the last losses on held-out examples, one for each fold.
        held_out_best: the lowest mean of these.
        steps_since_best: outer steps since then.
        layout: which parameters the weights are; None where a checkpoint of format 2 was loaded, which does not tell.
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
    held_out_best: float | None = None
    steps_since_best: int = 0
    layout: Layout | None = None

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
        return self.folds[self.active]

    @property
    def inactive_folds(self) -> dict[int, FoldState]:
        """Those that have begun, by their number."""
        return {number: fold for number, fold in enumerate(self.folds) if number != self.active}

    @property
    def weights(self) -> Tensor:
        """The active fold's, shape (n,)."""
        return self.active_fold.weights

    @property
    def buffers(self) -> Tensors:
        """The active fold's."""
        return self.active_fold.buffers

    @property
    def params(self) -> Tensors:
        """The active fold's weights by name, as views.

        Raises:
            StateInvalid: the state is of format 2 and does not know the names; see `with_layout`.
        """
        if self.layout is None:
            raise StateInvalid(reason="it is of format 2, which holds no names of parameters")
        return self.layout.split(self.weights)

    def activate_fold(self, number: int, bilevel: Bilevel, inner: Optimizer) -> State:
        """The same trajectory with fold `number` active. The next fold after those that have begun begins here.

        It begins at the problem's initial weights under the hyperparameters of now.
        """
        if number < len(self.folds):
            return replace(self, active=number)
        return replace(self, active=number, folds=(*self.folds, FoldState.initial(bilevel, inner, self.hparams)))

    def with_active_fold(self, fold: FoldState) -> State:
        """The same trajectory with the active fold's training replaced."""
        return replace(self, folds=(*self.folds[: self.active], fold, *self.folds[self.active + 1 :]))

    def with_validation_loss(self, loss: float, folds: int) -> tuple[State, float]:
        """The state after one more loss on held-out examples, and the mean over the last one of each fold."""
        last = [*self.held_out, loss][-folds:]
        mean = sum(last) / len(last)
        if self.held_out_best is None or mean < self.held_out_best:
            return replace(self, held_out=last, held_out_best=mean, steps_since_best=0), mean
        return replace(self, held_out=last, steps_since_best=self.steps_since_best + 1), mean

    def save(self) -> bytes:
        """As safetensors; the counters travel in the header."""
        tensors = _fold_tensors(self.active_fold, self.layout)
        tensors |= prefixed("hparams", self.hparams) | prefixed("previous", self.previous)
        for hparam, named in self.outer_optimizer_state.items():
            tensors |= {f"outer.{name}.{hparam}": value for name, value in named.items()}
        for number, fold in self.inactive_folds.items():
            tensors |= prefixed(f"folds.{number}", _fold_tensors(fold, self.layout))
        counters = {
            "params": self.layout and self.layout.names,
            "seed": self.seed,
            "step": self.step,
            "inner_steps": self.active_fold.inner_steps,
            "inner_gradient_start": self.active_fold.inner_gradient_start,
            "warned": self.warned,
            "folds": {k: [fold.inner_steps, fold.inner_gradient_start] for k, fold in self.inactive_folds.items()},
            "held_out": self.held_out,
            "held_out_best": self.held_out_best,
            "waited": self.steps_since_best,
        }
        return checkpoint.write(tensors, counters)

    @staticmethod
    def load(data: bytes) -> State:
        """The state that `save` wrote, here or in an earlier version.

        Raises:
            StateInvalid: these bytes are no checkpoint.
            CheckpointFormatUnknown: they are one of another format.
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
            hparams=_moved(self.hparams, device),
            previous=_moved(self.previous, device),
            outer_optimizer_state={hparam: _moved(of, device) for hparam, of in self.outer_optimizer_state.items()},
        )

    def with_layout(self, params: PyTree) -> State:
        """The same state, which knows its layout. A state of format 2 takes the names and the order of `params`.

        Raises:
            StateInvalid: it is of format 2 and has another number of weights.
        """
        if self.layout is not None:
            return self
        layout = Layout.of(params)
        if self.weights.numel() != layout.numel:
            raise StateInvalid(reason=f"it holds {self.weights.numel():,} weights and the problem has {layout.numel:,}")
        return replace(self, layout=layout)

    def expect(self, bilevel: Bilevel) -> State:
        """This state, as one of this problem, to go on with.

        Raises:
            StateInvalid: it is of another problem, naming the first difference.
        """
        state, layout = self.with_layout(bilevel.params), Layout.of(bilevel.params)
        _expect_names(state, bilevel)
        # What optimizers and solvers keep are vectors, too, so that the same parameters in another order will not do.
        held = state.layout or layout
        if held != layout:
            ours, theirs = next((a, b) for a, b in zip(held.names, layout.names, strict=True) if a != b)
            raise StateInvalid(
                reason=f"it holds the parameters in another order, {ours!r} where the problem has {theirs!r}"
            )
        return state


def start_from(bilevel: Bilevel, reached: State | Tensors) -> Bilevel:
    """The problem with what another trajectory reached as its initial values: all of a state, or hyperparameters alone.

    Raises:
        StateInvalid: that was another problem, naming the first difference.
    """
    if not isinstance(reached, State):
        _expect_same("hyperparameter", reached, bilevel.hparams)
        return replace(bilevel, hparams=reached)
    reached = reached.with_layout(bilevel.params)
    _expect_names(reached, bilevel)
    params = Ravel(bilevel.params).tree(Layout.of(bilevel.params).vector(reached.params))
    return replace(bilevel, params=params, buffers=reached.buffers, hparams=reached.hparams, initial=_as_reached)


def _as_reached(params: PyTree, values: Tensors) -> PyTree:
    """These weights have been initialized."""
    del values
    return params


def _expect_names(state: State, bilevel: Bilevel) -> None:
    """Names and shapes as the problem has them, in whatever order."""
    _expect_same("parameter", state.params, named_leaves(bilevel.params))
    _expect_same("buffer", state.buffers, bilevel.buffers)
    _expect_same("hyperparameter", state.hparams, bilevel.hparams)


def _expect_same(kind: str, held: Tensors, wanted: Tensors) -> None:
    if reason := difference(kind, shapes_of(held), shapes_of(wanted)):
        raise StateInvalid(reason=reason)


def _moved(named: Tensors, device: torch.device | str) -> Tensors:
    return {name: value.to(device) for name, value in named.items()}


# --- from and to a checkpoint's tensors and counters ----------------------------------------------


def _fold_tensors(fold: FoldState, layout: Layout | None) -> Tensors:
    # Without names it stays one vector: a state of format 2 that nothing was done with.
    keyed = {"weights": fold.weights} if layout is None else prefixed("params", layout.split(fold.weights))
    for name, group in FOLD_GROUPS.items():
        keyed |= prefixed(group, getattr(fold, name))
    return keyed


def _fold_of(groups: dict[str, Tensors], layout: Layout | None, inner_steps: int, start: float | None) -> FoldState:
    weights = groups.pop("weights")[""] if layout is None else layout.vector(groups.pop("params"))
    named = {name: groups.pop(group, {}) for name, group in FOLD_GROUPS.items()}
    if groups:
        raise ValueError(f"it holds {sorted(groups)[0]!r}, which no checkpoint has")
    return FoldState(weights, **named, inner_steps=inner_steps, inner_gradient_start=start)


def _state_of(tensors: Tensors, counters: dict[str, Any]) -> State:
    groups = grouped(tensors)
    names = counters.pop("params")
    layout = None if names is None else Layout(tuple(names), tuple(tuple(groups["params"][n].shape) for n in names))
    inactive, counted = grouped(groups.pop("folds", {})), counters.pop("folds")
    folds = {int(k): _fold_of(grouped(inactive[k]), layout, *counted[k]) for k in counted}
    (active,) = set(range(len(folds) + 1)) - folds.keys()  # folds begin in their order
    outer = grouped(groups.pop("outer", {}))
    hparams, previous = groups.pop("hparams", {}), groups.pop("previous", {})
    folds[active] = _fold_of(groups, layout, counters.pop("inner_steps", 0), counters.pop("inner_gradient_start", None))
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

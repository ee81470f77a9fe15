"""All that a trajectory needs to go on, as tensors and a few counters, to bytes and back bit for bit.

Random draws, batches and permutations are functions of the seed and the counters, so no generator's
state is kept.

A checkpoint is a safetensors file. Anyone can read these from it by name:

    params.<name>, buffers.<name>, hparams.<name>

The rest serves to continue exactly: the inner optimizer's state as vectors over all parameters (`inner.<slot>`), the
outer optimizer's (`outer.<slot>.<name>`), what the response keeps (`memory.<name>`), the last hypergradient
(`previous.<name>`), and the training of each inactive fold (`folds.<k>.params.<name>`, `folds.<k>.buffers.<name>` and
so on). The counters are JSON in the header, with the parameters' names in the order of the vectors: safetensors sorts.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields, replace
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from nestor_engine.errors import CheckpointFormatUnknown, StateInvalid
from nestor_engine.objective import Bilevel, PyTree, Tensors
from nestor_engine.optim.optimizers import Optimizer
from nestor_engine.tensors.layout import Layout, difference, shapes_of
from nestor_engine.tensors.ravel import Ravel, named_leaves
from nestor_engine.tensors.serialization import to_safetensors

FORMAT = 3  # 2 had no names of parameters, and one vector `weights`
_TRAINED = ("buffers", "inner", "memory")  # the attributes that are named tensors: of a training,
_GROUPS = (*_TRAINED, "hparams", "previous")  # and of a trajectory


@dataclass(frozen=True)
class Trained:
    """What belongs to one training: of a state's attributes, those that go with its weights."""

    weights: Tensor
    buffers: Tensors
    inner: Tensors
    memory: Tensors = field(default_factory=dict)
    inner_steps: int = 0
    inner_gradient_start: float | None = None


@dataclass
class State:
    """Where a trajectory stands, after `step` outer steps. The loop replaces tensors and never writes into them.

    Attributes:
        weights: shape (n,).
        inner: the inner optimizer's slots.
        outer: hyperparameter → the outer optimizer's slots.
        inner_gradient_start: ‖∂f/∂w‖ at the first inner step.
        memory: what the response keeps: the adjoint, the curvature's norm.
        previous: the hypergradient of the step before.
        warned: warnings given already.
        resting: with folds, fold → its training; without the one whose turn it was last, which this state itself holds.
        held_out: the last losses on held-out examples, one for each fold.
        held_out_best: the lowest mean of these.
        waited: outer steps since then.
        layout: which parameters the weights are; None where a checkpoint of format 2 was loaded, which does not tell.
    """

    weights: Tensor
    buffers: Tensors
    hparams: Tensors
    inner: Tensors
    outer: dict[str, Tensors]
    seed: int = 0
    step: int = 0
    inner_steps: int = 0
    inner_gradient_start: float | None = None
    memory: Tensors = field(default_factory=dict)
    previous: Tensors = field(default_factory=dict)
    warned: list[str] = field(default_factory=list)
    resting: dict[int, Trained] = field(default_factory=dict)
    held_out: list[float] = field(default_factory=list)
    held_out_best: float | None = None
    waited: int = 0
    layout: Layout | None = None

    @staticmethod
    def initial(
        bilevel: Bilevel, inner: Optimizer, outer: Optimizer, seed: int = 0, hparams: Tensors | None = None
    ) -> State:
        """Before the first inner step, under `hparams`; the problem's own by default."""
        hparams = {name: value.detach().clone() for name, value in sorted((hparams or bilevel.hparams).items())}
        weights = Ravel(bilevel.params).vector(bilevel.initial(bilevel.params, hparams)).detach()
        return State(
            weights=weights,
            buffers=dict(bilevel.buffers),
            hparams=hparams,
            inner=inner.init(weights),
            outer={name: outer.init(value) for name, value in hparams.items()},
            seed=seed,
            layout=Layout.of(bilevel.params),
        )

    @property
    def params(self) -> Tensors:
        """The weights by name; of a state that knows its layout."""
        assert self.layout is not None
        return self.layout.split(self.weights)

    def turn(self, last: int, fold: int, bilevel: Bilevel, inner: Optimizer) -> State:
        """The same trajectory with the training of `fold` in place of that of `last`, which rests meanwhile.

        A fold begins at the problem's initial weights, when its turn comes for the first time.
        """
        if fold == last:
            return self
        begin = lambda: _trained(State.initial(bilevel, inner, inner, self.seed, self.hparams))
        resting = self.resting | {last: _trained(self)}
        return replace(self, **vars(resting.pop(fold, None) or begin()), resting=resting)

    def judged(self, loss: float, folds: int) -> tuple[State, float]:
        """The state after one more loss on held-out examples, and the mean over the last one of each fold."""
        last = [*self.held_out, loss][-folds:]
        mean = sum(last) / len(last)
        if self.held_out_best is None or mean < self.held_out_best:
            return replace(self, held_out=last, held_out_best=mean, waited=0), mean
        return replace(self, held_out=last, waited=self.waited + 1), mean

    def save(self) -> bytes:
        """As safetensors; the counters travel in the header."""
        tensors = _keyed(self, _GROUPS, self.layout)
        for name, slots in self.outer.items():
            tensors |= {f"outer.{slot}.{name}": value for slot, value in slots.items()}
        for fold, trained in self.resting.items():
            tensors |= _prefixed(f"folds.{fold}", _keyed(trained, _TRAINED, self.layout))
        counters = {
            "format": FORMAT,
            "params": self.layout and self.layout.names,
            "seed": self.seed,
            "step": self.step,
            "inner_steps": self.inner_steps,
            "inner_gradient_start": self.inner_gradient_start,
            "warned": self.warned,
            "folds": {fold: [t.inner_steps, t.inner_gradient_start] for fold, t in self.resting.items()},
            "held_out": self.held_out,
            "held_out_best": self.held_out_best,
            "waited": self.waited,
        }
        return to_safetensors(tensors, {"nestor": json.dumps(counters)})

    @staticmethod
    def load(data: bytes) -> State:
        """The state that `save` wrote, here or in a version that wrote format 2.

        Raises:
            StateInvalid: these bytes are no checkpoint.
            CheckpointFormatUnknown: they are one of another format.
        """
        try:
            # In the order of their names, as they were: the file has its own, and sums over tensors would round
            # differently. And copied to where torch allocates, for products do so on memory that is not aligned.
            tensors = {name: value.clone() for name, value in sorted(safetensors.torch.load(data).items())}
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            counters = json.loads(header["__metadata__"]["nestor"])
            _expect_format(version := counters.pop("format"))
            if version == 2:
                tensors, counters = _from_format_2(tensors, counters)
            return _assembled(tensors, counters)
        except (safetensors.SafetensorError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise StateInvalid(reason=f"it cannot be read ({error})") from error

    def to(self, device: torch.device | str) -> State:
        """The same state with its tensors on `device`."""
        move = lambda named: {name: value.to(device) for name, value in named.items()}
        moved = lambda part, groups: {"weights": part.weights.to(device)} | {g: move(getattr(part, g)) for g in groups}
        return replace(
            self,
            outer={name: move(slots) for name, slots in self.outer.items()},
            resting={fold: replace(trained, **moved(trained, _TRAINED)) for fold, trained in self.resting.items()},
            **moved(self, _GROUPS),
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
        state = self.with_layout(bilevel.params)
        _expect_names(state, bilevel)
        # What optimizers and solvers keep are vectors, too, so that the same parameters in another order will not do.
        if state.layout != (layout := Layout.of(bilevel.params)):
            assert state.layout is not None
            ours, theirs = next((a, b) for a, b in zip(state.layout.names, layout.names, strict=True) if a != b)
            raise StateInvalid(
                reason=f"it holds the parameters in another order, {ours!r} where the problem has {theirs!r}"
            )
        return state


def _trained(state: State) -> Trained:
    return Trained(**{f.name: getattr(state, f.name) for f in fields(Trained)})


def start_from(bilevel: Bilevel, reached: State | Tensors) -> Bilevel:
    """The problem with what another trajectory reached as its initial values: all of a state, or hyperparameters alone.

    Raises:
        StateInvalid: that was another problem, naming the first difference.
    """
    if not isinstance(reached, State):
        _expect_hparams(reached, bilevel)
        return replace(bilevel, hparams=reached)
    reached = reached.with_layout(bilevel.params)
    _expect_names(reached, bilevel)
    params = Ravel(bilevel.params).tree(Layout.of(bilevel.params).vector(reached.params))
    as_reached = lambda params, hparams: params  # these weights have been initialised
    return replace(bilevel, params=params, buffers=reached.buffers, hparams=reached.hparams, initial=as_reached)


def _expect_names(state: State, bilevel: Bilevel) -> None:
    """Names and shapes as the problem has them, in whatever order."""
    _expect_same("parameter", state.params, named_leaves(bilevel.params))
    _expect_same("buffer", state.buffers, bilevel.buffers)
    _expect_hparams(state.hparams, bilevel)


def _expect_hparams(hparams: Tensors, bilevel: Bilevel) -> None:
    _expect_same("hyperparameter", hparams, bilevel.hparams)


def _expect_same(kind: str, held: Tensors, wanted: Tensors) -> None:
    if reason := difference(kind, shapes_of(held), shapes_of(wanted)):
        raise StateInvalid(reason=reason)


# --- a checkpoint's tensors, by key ---------------------------------------------------------------


def _keyed(part: State | Trained, groups: tuple[str, ...], layout: Layout | None) -> Tensors:
    # Without names it stays one vector: a state of format 2 that nothing was done with.
    keyed = {"weights": part.weights} if layout is None else _prefixed("params", layout.split(part.weights))
    for group in groups:
        keyed |= _prefixed(group, getattr(part, group))
    return keyed


def _prefixed(prefix: str, named: Tensors) -> Tensors:
    return {f"{prefix}.{name}": value for name, value in named.items()}


def _grouped(tensors: Tensors) -> dict[str, Tensors]:
    """First part of the key → rest of it → tensor."""
    groups: dict[str, Tensors] = {}
    for key, value in tensors.items():
        group, _, name = key.partition(".")
        groups.setdefault(group, {})[name] = value
    return groups


def _assembled(tensors: Tensors, counters: dict[str, Any]) -> State:
    groups = _grouped(tensors)
    names = counters.pop("params")
    layout = None if names is None else Layout(tuple(names), tuple(tuple(groups["params"][n].shape) for n in names))
    folds, counted = _grouped(groups.pop("folds", {})), counters.pop("folds")
    slots = _grouped(groups.pop("outer", {}))
    parts = {group: groups.pop(group, {}) for group in ("hparams", "previous")}
    return State(
        **_training(groups, layout),
        **parts,
        outer={name: {slot: of[name] for slot, of in slots.items() if name in of} for name in parts["hparams"]},
        resting={int(k): _resting(_grouped(folds[k]), layout, *counted[k]) for k in counted},
        layout=layout,
        **counters,
    )


def _resting(groups: dict[str, Tensors], layout: Layout | None, steps: int, start: float | None) -> Trained:
    return Trained(**_training(groups, layout), inner_steps=steps, inner_gradient_start=start)


def _training(groups: dict[str, Tensors], layout: Layout | None) -> dict[str, Any]:
    weights = groups.pop("weights")[""] if layout is None else layout.vector(groups.pop("params"))
    parts = {group: groups.pop(group, {}) for group in _TRAINED}
    if groups:
        raise ValueError(f"it holds {sorted(groups)[0]!r}, which no checkpoint has")
    return {"weights": weights, **parts}


def _from_format_2(tensors: Tensors, counters: dict[str, Any]) -> tuple[Tensors, dict[str, Any]]:
    """As format 3 has them: format 2 joined keys by slashes, and said `resting` for `folds`."""
    depths = {"resting": 3, "outer": 2}
    joined = {key.replace("/", ".", depths.get(key.split("/")[0], 1)): value for key, value in tensors.items()}
    renamed = {
        (key.replace("resting.", "folds.", 1) if key.startswith("resting.") else key): value
        for key, value in joined.items()
    }
    folds = counters.pop("resting", {})
    return renamed, {**counters, "params": None, "folds": folds}


def _expect_format(version: int) -> None:
    if version > FORMAT:
        remedy = "It was written by a newer version of Nestor: install that version here, on every worker and client."
        raise CheckpointFormatUnknown(version=version, known=FORMAT, remedy=remedy)
    if version < 2:
        remedy = "It was written by an early version of Nestor: go on with that version, or begin a new trial."
        raise CheckpointFormatUnknown(version=version, known=FORMAT, remedy=remedy)

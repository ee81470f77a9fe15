"""All that a trajectory needs to go on, as tensors and a few counters, to bytes and back bit for bit.

Random draws, batches and permutations are functions of the seed and the counters, so no generator's
state is kept.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields, replace

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from nestor_engine.errors import StateInvalid
from nestor_engine.objective import Bilevel, Tensors
from nestor_engine.optim.optimizers import Optimizer
from nestor_engine.tensors.ravel import Ravel
from nestor_engine.tensors.serialization import to_safetensors

FORMAT = 2
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
        )

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
        tensors: Tensors = {"weights": self.weights}
        for group in _GROUPS:
            tensors |= {f"{group}/{name}": value for name, value in getattr(self, group).items()}
        for name, slots in self.outer.items():
            tensors |= {f"outer/{slot}/{name}": value for slot, value in slots.items()}
        for fold, trained in self.resting.items():
            tensors[f"resting/{fold}/weights"] = trained.weights
            for group in _TRAINED:
                tensors |= {f"resting/{fold}/{group}/{name}": v for name, v in getattr(trained, group).items()}
        counters = {
            "format": FORMAT,
            "seed": self.seed,
            "step": self.step,
            "inner_steps": self.inner_steps,
            "inner_gradient_start": self.inner_gradient_start,
            "warned": self.warned,
            "resting": {fold: [t.inner_steps, t.inner_gradient_start] for fold, t in self.resting.items()},
            "held_out": self.held_out,
            "held_out_best": self.held_out_best,
            "waited": self.waited,
        }
        return to_safetensors(tensors, {"nestor": json.dumps(counters)})

    @staticmethod
    def load(data: bytes) -> State:
        """The state that `save` wrote.

        Raises:
            StateInvalid: these bytes are no checkpoint of this version.
        """
        try:
            # In the order of their names, as they were: the file has its own, and sums over tensors would round
            # differently. And copied to where torch allocates, for products do so on memory that is not aligned.
            tensors = {name: value.clone() for name, value in sorted(safetensors.torch.load(data).items())}
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            counters = json.loads(header["__metadata__"]["nestor"])
            if counters.pop("format") != FORMAT:
                raise StateInvalid(reason="it was written by another version of Nestor")
            resting = {
                int(fold): Trained(tensors.pop(f"resting/{fold}/weights"), {}, {}, {}, *counted)
                for fold, counted in counters.pop("resting", {}).items()
            }
            state = State(tensors.pop("weights"), {}, {}, {}, {}, **counters, resting=resting)
            for key, value in tensors.items():
                group, name = key.split("/", 1)
                if group == "resting":
                    fold, group, name = name.split("/", 2)
                    getattr(resting[int(fold)], group)[name] = value
                elif group == "outer":
                    slot, name = name.split("/", 1)
                    state.outer.setdefault(name, {})[slot] = value
                else:
                    getattr(state, group)[name] = value
        except (safetensors.SafetensorError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise StateInvalid(reason=f"it cannot be read ({error})") from error
        for name in state.hparams:
            state.outer.setdefault(name, {})
        return state

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

    def expect(self, bilevel: Bilevel) -> None:
        """Refuse a state of another problem.

        Raises:
            StateInvalid: naming the first difference.
        """
        n = Ravel(bilevel.params).numel
        if self.weights.numel() != n:
            raise StateInvalid(reason=f"it holds {self.weights.numel():,} weights and the problem has {n:,}")
        _expect_hparams(self.hparams, bilevel)


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
    reached.expect(bilevel)
    params = Ravel(bilevel.params).tree(reached.weights)
    as_reached = lambda params, hparams: params  # these weights have been initialised
    return replace(bilevel, params=params, buffers=reached.buffers, hparams=reached.hparams, initial=as_reached)


def _expect_hparams(hparams: Tensors, bilevel: Bilevel) -> None:
    ours = {name: tuple(value.shape) for name, value in hparams.items()}
    theirs = {name: tuple(value.shape) for name, value in bilevel.hparams.items()}
    if ours != theirs:
        raise StateInvalid(reason=f"it holds the hyperparameters {ours} and the problem has {theirs}")

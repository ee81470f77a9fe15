"""All that a trajectory needs to go on, as tensors and a few counters, to bytes and back bit for bit.

Random draws, batches and permutations are functions of the seed and the counters, so no generator's
state is kept.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from nestor_engine.bilevel import Bilevel, Tensors
from nestor_engine.errors import StateInvalid
from nestor_engine.flat import Ravel
from nestor_engine.optimizers import Optimizer
from nestor_engine.tensors import to_safetensors

FORMAT = 2
_GROUPS = ("buffers", "hparams", "inner", "memory", "previous")  # the attributes that are named tensors


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

    def save(self) -> bytes:
        """As safetensors; the counters travel in the header."""
        tensors: Tensors = {"weights": self.weights}
        for group in _GROUPS:
            tensors |= {f"{group}/{name}": value for name, value in getattr(self, group).items()}
        for name, slots in self.outer.items():
            tensors |= {f"outer/{slot}/{name}": value for slot, value in slots.items()}
        counters = {
            "format": FORMAT,
            "seed": self.seed,
            "step": self.step,
            "inner_steps": self.inner_steps,
            "inner_gradient_start": self.inner_gradient_start,
            "warned": self.warned,
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
            state = State(tensors.pop("weights"), {}, {}, {}, {}, **counters)
            for key, value in tensors.items():
                group, name = key.split("/", 1)
                if group == "outer":
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
        return replace(
            self,
            weights=self.weights.to(device),
            outer={name: move(slots) for name, slots in self.outer.items()},
            **{group: move(getattr(self, group)) for group in _GROUPS},
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

"""damping="auto": the response reaches along flat directions as far as the training has reached, and no further."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import nestor
import nestor_engine as engine
from benchmarks import truth
from nestor_engine.autodiff.linearization import Linearization
from nestor_engine.curvature.curvature import LEAST_DAMPING, WITHOUT_TRAINING
from nestor_engine.implementations import implementation
from nestor_engine.objective import Tensors
from nestor_engine.optim.optimizers import Optimizer
from nestor_engine.responses import Hypergradient, OuterStepContext
from nestor_engine.responses.response import StatelessResponse
from nestor_engine.retraining import unmoved
from nestor_engine.tensors.part_state import NoState
from tests.engine.cases import Dense, posed

OPTIMIZERS = {
    "SGD": nestor.SGD(0.1),
    "SGD with momentum": nestor.SGD(0.1, momentum=0.9),
    "Nesterov": nestor.SGD(0.1, momentum=0.9, nesterov=True),
    "Adam": nestor.Adam(0.01),
    "AdamW": nestor.AdamW(0.01, weight_decay=0.0),
    "RMSprop": nestor.RMSprop(0.01),
    "RMSprop with momentum": nestor.RMSprop(0.01, momentum=0.5),
    "a schedule": nestor.SGD(0.1, schedule=nestor.CosineDecay(steps=1_500, warmup=100)),
}
STEPS = 2_000


@pytest.mark.parametrize("option", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_reach_is_how_far_a_constant_gradient_has_moved_the_weights(option: Any):
    optimizer: Optimizer = implementation(option)
    gradient = torch.full((3,), 0.3, dtype=torch.float64)
    start = x = torch.zeros_like(gradient)
    state = optimizer.init(x)
    assert optimizer.reach(state, 0) == 0
    for k in range(STEPS):
        x, state = optimizer.step(x, gradient, state, k)
    moved = float(((start - x) / gradient).mean())
    assert optimizer.reach(state, STEPS) == pytest.approx(moved, rel=0.1)  # RMSprop is faster at first


@pytest.mark.parametrize("steps", [1, 10, 1_000])
def test_the_damped_inverse_is_within_a_half_of_what_so_many_steps_reach(steps: int):
    """The series of the steps and 1 / (c + 1/(αk)), for curvatures from flat to as steep as the rate allows."""
    alpha = 0.5
    curvature = torch.logspace(-6, 0, 50, dtype=torch.float64)
    series = sum(alpha * (1 - alpha * curvature) ** j for j in range(steps))
    ratio = series * (curvature + 1 / (alpha * steps))
    assert float(ratio.min()) > 1 - 1e-9
    assert float(ratio.max()) <= 1.5 + 1e-9


@pytest.mark.parametrize("curvature", ["Hessian", "GaussNewton", "EmpiricalFisher", "KFAC"])
@pytest.mark.parametrize("reach", [0.5, 40.0, 1e9])
def test_every_curvature_is_damped_by_the_inverse_of_the_reach_but_never_by_nothing(curvature: str, reach: float):
    case = Dense(*posed("GELU MLP"))
    b = case.bilevel
    at = Linearization(b, case.ravel, case.w, b.buffers, b.hparams, case.train, reach=lambda: reach)
    operator = getattr(engine, curvature)("auto").operator(at)
    shift = operator.shift(case.w)
    assert shift == pytest.approx(max(1 / reach, LEAST_DAMPING * (operator.norm(case.w) - shift)))
    v = torch.randn_like(case.w)
    assert torch.allclose(operator(v) - operator.undamped(v), shift * v, atol=1e-12)


def test_outside_of_a_training_it_is_the_usual_one():
    case = Dense(*posed("GELU MLP"))
    operator = engine.GaussNewton("auto").operator(case.linearization())
    shift = operator.shift(case.w)
    assert shift == pytest.approx(WITHOUT_TRAINING * (operator.norm(case.w) - shift))


@dataclass(frozen=True)
class Noting(StatelessResponse):
    """Notes how far the training has reached at each outer step."""

    noted: list[float]

    def hypergradient(self, context: OuterStepContext, state: NoState) -> tuple[Hypergradient, NoState]:
        self.noted.append(context.linearization().reach())
        return engine.DirectOnly().hypergradient(context, state)


def test_a_trial_counts_the_inner_steps_of_its_warm_up_and_of_all_outer_steps():
    bilevel, data = posed("GELU MLP")
    noting = Noting([])
    inner = engine.SGD(0.1, momentum=0.5)
    config = engine.Config(n_steps=3, inner_steps=4, warmup_steps=2, inner=inner, response=noting)
    list(engine.optimize(bilevel, data, config))
    assert noting.noted == pytest.approx([(2 + 4 * number) * 0.1 / 0.5 for number in (1, 2, 3)])


def cosine(a: Tensors, b: Tensors) -> float:
    return float(F.cosine_similarity(truth.flat(a), truth.flat(b), dim=0))


def test_it_gives_the_right_sign_where_the_usual_damping_gives_the_wrong_one():
    """A decay per tensor of a network that has memorized its labels: the usual one reaches too little."""
    task = truth.TASKS["a decay per tensor, Adam on mini-batches"]
    problem = task.problem(seed=0)

    def at_the_end(**given: Any) -> Tensors:
        *_, last = unmoved(problem.bilevel(), problem.data, task.config(**given))
        return last.state.previous

    exact = at_the_end(n_steps=1, inner_steps=500, response=nestor.Unrolled(500))
    assert cosine(at_the_end(response=truth.sketched(0.03)), exact) < -0.5
    assert cosine(at_the_end(response=truth.sketched("auto")), exact) > 0.5

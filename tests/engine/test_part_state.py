"""What the parts of a method keep between outer steps, and the form that it is saved in."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest
import torch
from torch import Tensor

import nestor_engine as engine
from nestor_engine.curvature import Operator
from nestor_engine.curvature.kfac import KFACPreconditionerState, KFACState
from nestor_engine.responses import OuterStepContext, Response
from nestor_engine.tensors.part_state import NoState, from_tensors, to_tensors
from tests.engine.cases import dense

F64 = torch.float64
RESPONSES = {
    "Neumann series": engine.Implicit(),
    "KFAC twice": engine.Implicit(engine.KFAC(), engine.WarmStarted(engine.PreconditionedCG(2, engine.KFAC()))),
    "Richardson on a sketch": engine.Implicit(
        engine.GaussNewton(), engine.WarmStarted(engine.Richardson(2, preconditioner=engine.NystromSketch(rank=3)))
    ),
    "hypernetwork": engine.Hypernetwork(rank=2, steps=2),
}
# The keys that checkpoints of format 2 and 3 have.
KEYS = {
    "Neumann series": {"power", "norm", "norm.age", "adjoint"},
    "KFAC twice": {"kfac.count", "preconditioner.count", "adjoint", "kfac.0.inputs", "preconditioner.0.inputs"},
    "Richardson on a sketch": {
        *("power", "norm", "norm.age", "adjoint"),
        *("sketch.rows", "sketch.values", "sketch.age", "richardson.steps"),
    },
    "hypernetwork": {
        *("hypernetwork.directions", "hypernetwork.response", "hypernetwork.draws"),
        *("power", "norm", "norm.age"),
    },
}


@pytest.mark.parametrize("name", RESPONSES)
def test_a_response_goes_on_from_its_saved_state_as_from_the_state_itself(name: str):
    response, case = RESPONSES[name], dense("GELU MLP")
    context = OuterStepContext.at(case.bilevel, case.w, case.train, case.val)
    _, state = response.hypergradient(context, response.init())
    named = to_tensors(state)
    assert KEYS[name] <= named.keys()
    assert {key for key in named if not key.startswith(("kfac.", "preconditioner."))} <= KEYS[name]
    back = from_tensors(response.init(), named)
    assert same(to_tensors(back), named)
    whole, resumed = (after(response, context, of) for of in (state, back))
    assert same(whole, resumed)


def after(response: Response, context: OuterStepContext, state) -> dict[str, Tensor]:
    hypergradient, state = response.hypergradient(context, state)
    return to_tensors(state) | hypergradient.gradient


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("response", [engine.DirectOnly(), engine.Unrolled(2), *RESPONSES.values()], ids=repr)
def test_nothing_is_saved_before_the_first_outer_step(response: Response):
    assert to_tensors(response.init()) == {}
    assert from_tensors(response.init(), {"unheard.of": torch.ones(1)}) == response.init()


def test_a_state_is_never_written_to():
    case, kfac = dense("GELU MLP"), engine.KFAC()
    _, first = kfac.at(case.linearization(), kfac.init())
    kept = {name: value.clone() for name, value in first.factors.items()}
    _, second = kfac.at(case.linearization(), first)
    assert (first.count, second.count) == (1, 2)
    assert same(first.factors, kept)
    with pytest.raises(FrozenInstanceError):
        first.count = 3


def test_a_curvature_and_a_preconditioner_of_one_kind_do_not_share_keys():
    factors = {"0.inputs": torch.ones(2, 2)}
    named = to_tensors(KFACState(1, factors)) | to_tensors(KFACPreconditionerState(2, {}))
    assert from_tensors(KFACState(), named).count == 1
    assert from_tensors(KFACPreconditionerState(), named) == KFACPreconditionerState(2, {})


def test_a_damped_operator_is_another_one_that_shares_products_and_norm():
    operator = Operator(lambda v: 2 * v)
    damped, like = operator.damped(0.5), torch.ones(3, dtype=F64)
    assert torch.equal(damped(like), 3 * like)
    assert torch.equal(operator(like), 2 * like)
    assert damped.norm_state is operator.norm_state
    assert damped.products == operator.products > 2
    assert damped.damped(0.1) is damped  # it has a damping of its own


def test_a_solver_leaves_the_operator_as_it_was():
    operator, b = Operator(lambda v: 2 * v), torch.ones(3, dtype=F64)
    engine.ConjugateGradient(2, damping=0.5).solution(operator, b)
    engine.PreconditionedCG(2, engine.NystromSketch(rank=2), damping=0.5).solution(operator, b)
    assert operator.shift(b) == 0


def test_parts_say_what_they_need():
    adam = engine.WarmStarted(engine.PreconditionedCG(2, engine.AdamDiagonal()))
    assert engine.Implicit(engine.GaussNewton(), adam).needs_optimizer_state == {"square"}
    assert engine.Implicit().needs_optimizer_state == frozenset()
    on_kfac = engine.Richardson(preconditioner=engine.KFAC())
    for response in (engine.Implicit(engine.KFAC()), engine.Implicit(engine.GaussNewton(), on_kfac)):
        assert not response.supports_sharding
    assert all(response.supports_sharding for response in (engine.Implicit(), engine.Unrolled(), engine.DirectOnly()))
    assert engine.Identity().init() == NoState()

"""KFAC and Adam's diagonal as preconditioners get closer to the inverse of Gauss–Newton in fewer steps."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from torch import Tensor, nn

import nestor_engine as engine
from nestor_engine.curvature import Operator
from nestor_engine.hparams import L2
from nestor_engine.responses import OuterStepContext
from nestor_engine.tensors.part_state import NoState
from tests.engine.cases import build, cross_entropy, whole

pytestmark = pytest.mark.usefixtures("seeded")
F64 = torch.float64


def badly_scaled(n: int = 200) -> engine.Problem:
    """Inputs of scales from 0.03 to 1, so that Gauss–Newton's eigenvalues spread."""
    x, targets = torch.randn(n, 10, dtype=F64) * torch.logspace(-1.5, 0, 10, dtype=F64), torch.randn(n, 5, dtype=F64)
    model = nn.Sequential(nn.Linear(10, 8), nn.Tanh(), nn.Linear(8, 5)).double()
    decay = L2(model, per="weight", init=-6.0)
    loss = lambda outputs, batch: 0.5 * (outputs - batch["y"]).square().sum(1)
    val = torch.randn(40, 10, dtype=F64), torch.randn(40, 5, dtype=F64)
    return engine.Problem(model, decay, loss, loss, train=(x, targets), val=val)


def images(n: int = 300) -> engine.Problem:
    """Three noisy patterns, three labels in ten of them drawn anew, so that training ends at a minimum."""
    y = torch.arange(n) % 3
    x = torch.randn(n, 1, 6, 6, dtype=F64) + torch.randn(3, 1, 6, 6, dtype=F64)[y]
    y = torch.where(torch.rand(n) < 0.3, torch.randint(0, 3, (n,)), y)
    model = nn.Sequential(
        *(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.GELU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 3))
    ).double()
    decay = L2(model, per="weight", init=-4.0)
    val = x[:20] + 0.5 * torch.randn_like(x[:20]), y[:20]
    return engine.Problem(model, decay, cross_entropy, cross_entropy, train=(x, y), val=val)


def trained(problem: engine.Problem, inner: engine.Adam) -> tuple[OuterStepContext, Tensor]:
    """The linearization after training, and the right-hand side there."""
    config = engine.Config(n_steps=1, inner=inner, outer=engine.SGD(1e-12), response=engine.DirectOnly())
    bilevel = problem.bilevel()
    (step,) = engine.optimize(bilevel, problem.data, config)
    train, val = whole(problem.data.train), whole(problem.data.val)
    state = step.state
    context = OuterStepContext.at(
        bilevel, state.weights, train, val,
        buffers=state.buffers, hparams=state.hparams, optimizer_state=state.active_fold.optimizer_state,
    )  # fmt: skip
    return context, context.outer().by_w


def energy_error(solver: engine.PreconditionedCG | engine.ConjugateGradient) -> float:
    """The error that conjugate gradients minimize: ‖x − A⁻¹b‖ in the norm of A, relative to that of A⁻¹b."""
    context, b = trained(badly_scaled(), engine.Adam(1e-2, steps=50, batch_size=32))
    linearization = context.linearization()
    operator = lambda: engine.GaussNewton(1e-4).operator(linearization)
    exact = engine.Direct().solution(operator(), b).x
    error = solver.solution(operator(), b).x - exact
    return float((error @ operator()(error) / (exact @ operator()(exact))).sqrt())


def test_with_kfac_four_steps_of_conjugate_gradients_do_more_than_twelve_without():
    assert energy_error(engine.PreconditionedCG(4, engine.KFAC())) < energy_error(engine.ConjugateGradient(12))


def test_with_adam_s_diagonal_four_steps_of_conjugate_gradients_do_more_than_without():
    assert energy_error(engine.PreconditionedCG(4, engine.AdamDiagonal())) < energy_error(engine.ConjugateGradient(4))


@pytest.mark.cpu
@pytest.mark.parametrize("problem", [badly_scaled, images], ids=lambda make: make.__name__)
def test_kfac_s_hypergradient_points_nearer_to_gauss_newton_s_than_t1_t2_s(problem):
    """The mean over four training runs: with few examples left to learn, a single run may go either way."""

    def cosines(seed: int) -> Tensor:
        torch.manual_seed(seed)
        context, _ = trained(problem(), engine.Adam(1e-2, steps=300, batch_size=64))
        exact, kfac, t1_t2 = (
            engine.Implicit(curvature, solver).hypergradient_at(context).gradient
            for curvature, solver in (
                (engine.GaussNewton(), engine.Direct()),
                (engine.KFAC(), engine.Direct()),
                (engine.Hessian(), engine.Identity()),
            )
        )
        flat = lambda parts: torch.cat([part.flatten() for part in parts.values()])
        return torch.stack([torch.cosine_similarity(flat(exact), flat(other), dim=0) for other in (kfac, t1_t2)])

    kfac, t1_t2 = torch.stack([cosines(seed) for seed in range(4)]).mean(0)
    assert kfac > t1_t2


def test_adam_s_diagonal_is_scaled_to_the_curvature_and_damped_as_it_is():
    context, _ = trained(badly_scaled(), engine.Adam(1e-2, steps=5, batch_size=60))
    operator = engine.GaussNewton(0.1).operator(context.linearization())
    root = context.optimizer_state["square"].sqrt()
    norm, shift = operator.norm(context.w), operator.shift(context.w)
    expected = (root / root.max()).clamp_min(1e-3) * (norm - shift) + shift

    apply, _ = engine.AdamDiagonal().prepare(operator, context.w, NoState())
    got = apply(torch.ones_like(context.w))

    torch.testing.assert_close(1 / got, expected)


RESPONSES = {
    "KFAC": engine.Implicit(engine.KFAC(), engine.Direct()),
    "preconditioned by KFAC": engine.Implicit(
        engine.GaussNewton(), engine.WarmStarted(engine.PreconditionedCG(2, engine.KFAC()))
    ),
    "preconditioned by Adam": engine.Implicit(engine.GaussNewton(), engine.PreconditionedCG(2, engine.AdamDiagonal())),
}


@pytest.mark.parametrize("name", RESPONSES)
def test_a_trajectory_resumes_bitwise(name: str):
    problem = build("CNN, BatchNorm in training mode")
    inner = engine.Adam(1e-2, steps=2, batch_size=8)
    config = engine.Config(n_steps=4, inner=inner, response=RESPONSES[name])
    *_, whole = engine.optimize(problem.bilevel(), problem.data, config)
    half = next(islice(engine.optimize(problem.bilevel(), problem.data, config), 1, None))
    *_, resumed = engine.optimize(problem.bilevel(), problem.data, config, engine.State.load(half.state.save()))
    assert whole.state.save() == resumed.state.save()


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("wrap", [lambda solver: solver, engine.WarmStarted], ids=["cold", "warm"])
def test_adam_s_diagonal_needs_an_inner_optimizer_that_keeps_squares(wrap):
    response = engine.Implicit(engine.GaussNewton(), wrap(engine.PreconditionedCG(4, engine.AdamDiagonal())))
    with pytest.raises(engine.errors.ConfigInvalid, match="Adam, AdamW or RMSprop"):
        engine.Config(n_steps=1, inner=engine.SGD(0.1), response=response)
    assert engine.Config(n_steps=1, inner=engine.RMSprop(), response=response).response == response


@pytest.mark.parametrize("preconditioner", [engine.KFAC(), engine.AdamDiagonal()], ids=repr)
def test_a_preconditioner_that_reads_the_loss_refuses_a_bare_matrix(preconditioner):
    with pytest.raises(engine.errors.ConfigInvalid, match="NystromSketch"):
        engine.PreconditionedCG(2, preconditioner).solution(Operator(lambda v: v), torch.ones(3, dtype=F64))

"""Any trajectory resumes bit for bit after any step."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import nestor_engine as engine
from nestor import options
from nestor_engine.hparams import L2, Augmentation, Dropout, ExampleWeights

N, CLASSES, STEPS = 24, 3, 3

INNER = [
    engine.SGD(0.05, momentum=0.9, nesterov=True, clip_norm=1.0, schedule=engine.Warmup(warmup=3)),
    engine.Adam(1e-2, schedule=engine.LinearDecay(8)),
    engine.AdamW(1e-2, schedule=engine.CosineDecay(8, warmup=3)),
    engine.RMSprop(1e-3, momentum=0.5),
]
OUTER = [
    engine.SGD(0.5, momentum=0.9, schedule=engine.StepDecay(2, 0.5)),
    engine.Adam(0.05, clip_norm=0.1),
    engine.AdamW(0.05),
    engine.RMSprop(0.02),
]
CURVATURES = [engine.Hessian(0.5), engine.EmpiricalFisher()]
SOLVERS = [
    engine.Identity(),
    engine.Neumann(2),
    engine.ConjugateGradient(2),
    engine.PreconditionedCG(2, engine.AdamDiagonal()),
    engine.PreconditionedCG(2, engine.KFAC()),
    engine.Direct(),
    engine.Nystrom(rank=4),
    # Regression: its sketch was stored by columns, which no checkpoint accepted.
    engine.WarmStarted(engine.PreconditionedCG(2, engine.NystromSketch(rank=4))),
    engine.WarmStarted(engine.Neumann(2)),
    engine.WarmStarted(engine.Richardson(1, preconditioner=engine.NystromSketch(rank=4, refresh=2))),
]
RESPONSES = [
    *(engine.Implicit(engine.GaussNewton(), solver) for solver in SOLVERS),
    *(engine.Implicit(curvature, engine.WarmStarted(engine.Neumann(2))) for curvature in CURVATURES),
    engine.Implicit(engine.KFAC(), engine.Direct()),
    engine.Unrolled(2),
    engine.Hypernetwork(rank=3),
    engine.DirectOnly(),
    engine.Frozen(),
    engine.Frozen(measured=engine.Implicit(solver=engine.WarmStarted(engine.Neumann(2)))),
]


def config(**parts) -> engine.Config:
    trained = {"inner": engine.Adam(1e-2), "inner_steps": 2, "batch_size": 7}
    return engine.Config(**{"n_steps": STEPS, "warmup_steps": 1, "evaluate_every": 2, **trained, **parts})


CONFIGS = {
    **{f"{inner}, {outer}": config(inner=inner, outer=outer) for inner in INNER for outer in OUTER},
    **{str(response): config(response=response) for response in RESPONSES},
    "bfloat16": config(autocast="bfloat16"),
    "folds": config(folds=engine.Folds(2), early_stopping=engine.EarlyStopping(fraction=0.3), n_steps=6),
}


class Distort(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.3))

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        return x + self.scale * noise.expand_as(x)


def problem(config: engine.Config) -> engine.Problem:
    """With everything that is random or has state: BatchNorm, dropout at a tuned rate, noise on the inputs."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.GELU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(12, CLASSES)
    )
    x, y = torch.randn(N, 1, 4, 4), torch.arange(N) % CLASSES
    kinds = [L2(model, per="weight"), Augmentation(Distort()), Dropout(model)]
    if config.folds is None:
        kinds.append(ExampleWeights(N))
    loss = lambda outputs, batch: F.cross_entropy(outputs, batch["y"], reduction="none")
    return engine.Problem(model, kinds, loss, loss, train=(x, y), val=(x[:9], y[:9]), test=(x, y))


def as_recorded(step: engine.Step) -> dict:
    return {**step.record(), "warnings": step.warnings, "seconds": None, "traced": None}  # depends on a clock


@pytest.mark.parametrize("name", CONFIGS)
def test_a_trajectory_that_is_interrupted_after_every_step_is_bitwise_the_uninterrupted_one(name: str):
    config = CONFIGS[name]
    stated = problem(config)
    whole = list(engine.optimize(stated.bilevel(), stated.data, config))
    state = None
    for expected in whole:
        again = problem(config)  # as in another process, after other random draws
        torch.manual_seed(999 + expected.number)
        step = next(engine.optimize(again.bilevel(), again.data, config, state))
        assert as_recorded(step) == as_recorded(expected)
        assert step.state.save() == expected.state.save()
        state = engine.State.load(step.state.save())


def test_every_optimizer_schedule_curvature_solver_and_response_is_among_them():
    chosen = [value for config in CONFIGS.values() for _, value in config if isinstance(value, options.Option)]
    used = {part.tag for option in chosen for part in option.parts()}
    assert {cls.tag for cls in options.OPTIONS.values() if cls.is_public} <= used
    assert {config.outer.tag for config in CONFIGS.values()} == set(options.Optimizer.members)
    assert {config.inner.tag for config in CONFIGS.values()} == set(options.Optimizer.members)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_survives_its_way_over_a_wire(name: str):
    assert engine.Config(**json.loads(CONFIGS[name].model_dump_json())) == CONFIGS[name]

"""Unusual models and losses: their trajectory equals that of the plain form, or an error explains why not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import nestor_engine as engine
from nestor.errors import ProblemInvalid
from nestor_engine.hparams import L2, ExampleWeights
from tests.engine.cases import cross_entropy
from tests.engine.device import DEVICE

N, CLASSES = 20, 3
Y = torch.arange(N) % CLASSES
BATCH = 6  # which leaves a remainder


def stated(model: nn.Module, x: Tensor, loss: Callable[..., Tensor] = cross_entropy) -> engine.Problem:
    return engine.Problem(
        model, [L2(model, per="tensor"), ExampleWeights(N)], loss, loss, train=(x, Y), val=(x[:8], Y[:8])
    )


def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(4, CLASSES)


def features() -> Tensor:
    return torch.randn(N, 4, generator=torch.Generator(DEVICE).manual_seed(1))


class Around(nn.Module):
    """A model inside of another, whose outputs are wrapped; parameters keep their order."""

    def __init__(self, inner: nn.Module, wrap: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.inner, self.wrap = inner, wrap

    def forward(self, x: Tensor) -> object:
        return self.wrap(self.inner(x))


def _uncontiguous() -> nn.Linear:
    model = linear()
    model.weight = nn.Parameter(model.weight.detach().T.contiguous().T)
    return model


def _with_empty_parameter() -> nn.Linear:
    model = linear()
    model.empty = nn.Parameter(torch.zeros(0, 3))
    return model


def _embedding(*, sparse: bool) -> nn.Embedding:
    torch.manual_seed(0)
    return nn.Embedding(5, CLASSES, sparse=sparse)


def _convolution(layout: torch.memory_format) -> engine.Problem:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.GELU(), nn.Flatten(), nn.Linear(64, CLASSES))
    return stated(cast(Any, model).to(memory_format=layout), torch.randn(N, 2, 6, 6).to(memory_format=layout))


def plain() -> engine.Problem:
    return stated(linear(), features())


FORMS: dict[str, tuple[Callable[[], engine.Problem], Callable[[], engine.Problem]]] = {
    "weights that are not contiguous": (lambda: stated(_uncontiguous(), features()), plain),
    "a parameter without entries": (lambda: stated(_with_empty_parameter(), features()), plain),
    "sparse gradients": (
        lambda: stated(_embedding(sparse=True), torch.arange(N) % 5),
        lambda: stated(_embedding(sparse=False), torch.arange(N) % 5),
    ),
    "channels last": (lambda: _convolution(torch.channels_last), lambda: _convolution(torch.contiguous_format)),
    "nested outputs": (
        lambda: stated(
            Around(linear(), lambda o: {"heads": [{"logits": o}], "mask": o > 0, "none": None}),
            features(),
            lambda outputs, batch: cross_entropy(outputs["heads"][0]["logits"], batch),
        ),
        plain,
    ),
    "a scalar among the outputs": (
        lambda: stated(
            Around(linear(), lambda o: (o, o.mean())),
            features(),
            lambda outputs, batch: cross_entropy(outputs[0], batch) + 0 * outputs[1],
        ),
        plain,
    ),
    "hyperparameters by keyword": (
        lambda: stated(linear(), features(), lambda outputs, batch, *, hparams: cross_entropy(outputs, batch)),
        plain,
    ),
    "options of the loss": (
        lambda: stated(
            linear(), features(), lambda outputs, batch, smoothing=0.0, *rest, **named: cross_entropy(outputs, batch)
        ),
        plain,
    ),
}
RESPONSES = [engine.Implicit(), engine.Unrolled(2)]


@pytest.mark.parametrize("response", RESPONSES, ids=lambda response: type(response).__name__)
@pytest.mark.parametrize("name", FORMS)
def test_a_form_that_says_the_same_has_the_same_trajectory(name: str, response):
    config = engine.Config(
        n_steps=3, inner=engine.Adam(1e-2), inner_steps=4, batch_size=BATCH, outer=engine.SGD(0.5), response=response
    )
    unusual, usual = (
        list(engine.optimize(problem.bilevel(), problem.data, config))[-1]
        for problem in (make() for make in FORMS[name])
    )
    assert unusual.val_loss == pytest.approx(usual.val_loss, rel=1e-5)
    for one, other in zip(unusual.state.hparams.values(), usual.state.hparams.values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    assert usual.hypergradient_norm > 0


@pytest.mark.parametrize("size", [1, N, 10 * N])
def test_batches_of_one_and_of_everything_are_trained_on(size: int):
    config = engine.Config(n_steps=2, inner=engine.Adam(1e-2), inner_steps=3, batch_size=size)
    *_, last = engine.optimize(plain().bilevel(), plain().data, config)
    assert last.hypergradient_norm > 0


@pytest.mark.parametrize(
    "curvature", [engine.EmpiricalFisher(per="example"), engine.KFAC(fisher="empirical")], ids=repr
)
def test_gradients_of_examples_need_a_row_of_outputs_for_each(curvature):
    problem = FORMS["a scalar among the outputs"][0]()
    response = engine.Implicit(curvature, engine.Neumann())
    with pytest.raises(ProblemInvalid, match=r"a row for each example.*\(6, 3\), \(\).*Use GaussNewton"):
        list(
            engine.optimize(
                problem.bilevel(),
                problem.data,
                engine.Config(n_steps=1, inner=engine.SGD(), batch_size=BATCH, response=response),
            )
        )


# --- refusals -----------------------------------------------------------------------------------------


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(4, 5), nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(checkpoint(lambda h: torch.tanh(self.hidden(h)), x, use_reentrant=False))


@pytest.mark.parametrize(
    ("model", "dtype", "message"),
    [
        (lambda: Around(linear(), str), torch.float32, "returned a str, in which no tensor can be found"),
        (lambda: linear().bfloat16(), torch.bfloat16, "autocast='bfloat16'"),
        (Checkpointed, torch.float32, "Run every part once, inside forward"),
    ],
    ids=["outputs that hold no tensor", "weights in half precision", "a part that runs in the backward pass"],
)
def test_a_problem_that_cannot_be_trained_is_reported_with_a_remedy(
    model: Callable[[], nn.Module], dtype: torch.dtype, message: str
):
    problem = engine.Problem(
        model(),
        {"unread": torch.zeros(())},
        cross_entropy,
        cross_entropy,
        train=(features().to(dtype), Y),
        val=(features().to(dtype), Y),
    )
    assert message in str(problem.check())


def test_weights_in_half_precision_are_refused_before_they_train():
    problem = stated(linear().bfloat16(), features().bfloat16())
    with pytest.raises(ProblemInvalid, match=r"float32, or all float64"):
        next(engine.optimize(problem.bilevel(), problem.data, engine.Config(n_steps=1)))

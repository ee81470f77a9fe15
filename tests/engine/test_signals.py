"""The signals of KFAC and the diagonal: roots of the criterion's second derivatives."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import nestor_engine as engine
from nestor_engine.curvature.signals import MAX_OUTPUTS, Fisher, signals
from nestor_engine.objective import Batch
from tests.engine.cases import Dense, cross_entropy, dense_of, hessian, posed, squared

pytestmark = pytest.mark.usefixtures("seeded")
F64 = torch.float64


def token_cross_entropy(outputs: Tensor, batch: Batch) -> Tensor:
    return F.cross_entropy(outputs.flatten(0, 1), batch["y"].repeat_interleave(outputs.shape[1]))


def contrastive(outputs: Tensor, batch: Batch) -> Tensor:
    return F.cross_entropy(outputs @ outputs[:2].detach().T, batch["y"] % 2) + outputs.mean(0).square().sum()


CRITERIA: dict[str, tuple[Callable[[Tensor, Batch], Tensor], tuple[int, ...], int]] = {
    "squared error, entry by entry": (squared, (4,), 1),
    "cross-entropy of an example": (cross_entropy, (4,), 3),
    "cross-entropy of a token": (token_cross_entropy, (5, 4), 3),
    "a loss that couples the batch": (contrastive, (4,), 18),
}


@pytest.mark.parametrize("name", CRITERIA)
def test_exact_signals_are_the_columns_of_a_root_of_the_criterion_s_blocks(name: str):
    loss, shape, size = CRITERIA[name]
    point = dense_of(nn.Linear(4, 3), torch.randn(6, *shape, dtype=F64), torch.arange(6) % 3, loss).linearization()
    sent = [signal for (signal,) in signals(point, "exact", torch.Generator().manual_seed(0))]
    rows = torch.stack([signal.reshape(-1, size) for signal in sent])  # (signals, rows, size)
    assert len(sent) == max(sent[0][0].numel(), size)
    blocks = torch.einsum("kri,krj->rij", rows, rows)
    (output,) = point.output_slopes[0]
    expected = torch.stack(
        [point.criterion_product([e.view_as(output)])[0].flatten() for e in torch.eye(output.numel(), dtype=F64)]
    )
    torch.testing.assert_close(torch.block_diag(*blocks), expected)


def test_classes_need_not_be_the_last_dimension_of_the_outputs():
    """Regression: as one block, the positions of an example cost a thousand gradients, or were refused."""

    class Turned(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).mT  # (examples, classes, places), as `cross_entropy` has it

    linear, x, y = nn.Linear(4, 3), torch.randn(2, MAX_OUTPUTS + 1, 4, dtype=F64), torch.arange(2)
    tokens = dense_of(linear, x, y, token_cross_entropy)
    turned = dense_of(Turned(linear), x, y, lambda outputs, batch: token_cross_entropy(outputs.mT, batch))
    draws = (torch.Generator().manual_seed(0) for _ in range(2))
    (expected,), (signal,) = (next(signals(d.linearization(), "sampled", next(draws))) for d in (tokens, turned))
    torch.testing.assert_close(signal.mT, expected)


def test_a_criterion_that_couples_too_many_outputs_is_refused():
    loss = lambda outputs, batch: outputs.sum().square() + 0 * batch["y"].sum()
    n = MAX_OUTPUTS // 3 + 1
    dense = dense_of(nn.Linear(4, 3), torch.randn(n, 4, dtype=F64), torch.arange(n) % 3, loss)
    with pytest.raises(engine.errors.ProblemInvalid, match="empirical"):
        next(signals(dense.linearization(), "exact", torch.Generator()))


@pytest.mark.parametrize("name", ["softmax regression", "CNN, BatchNorm in training mode"])
@pytest.mark.parametrize("fisher", ["sampled", "empirical"])
def test_random_signs_have_the_diagonal_of_the_curvature_in_the_mean(name: str, fisher: Fisher):
    """Squares of the whole batch's gradient; rows cancel except in the mean. Here for every parameter."""
    dense = Dense(*posed(name))
    point, generator = dense.linearization(), torch.Generator().manual_seed(0)
    params = {leaf: p.detach().requires_grad_() for leaf, p in dense.ravel.tree(dense.w).items()}
    outputs, total = point.replay(params), torch.zeros_like(dense.w)
    for _ in range(200):
        for signal in signals(point, fisher, generator):
            slopes = torch.autograd.grad(outputs, list(params.values()), signal, retain_graph=True)
            total += dense.ravel.vector(slopes).square() / 200
    whole = dense.gauss_newton() if fisher == "sampled" else dense.fisher("example")
    penalty = hessian(lambda w: dense.functions.penalty(dense.ravel.tree(w), dense.bilevel.hparams), dense.w)
    expected = (whole - penalty).diag()
    assert (total - expected).norm() < 0.15 * expected.norm()

"""Kronecker factors equal dense constructions, invert exactly, and improve solves with Gauss–Newton."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import nestor_engine as engine
from nestor_engine.autodiff.linearization import Linearization
from nestor_engine.curvature import Operator
from nestor_engine.curvature.kfac import KFACState
from nestor_engine.curvature.layers import Recorder, as_rows
from nestor_engine.program import load
from nestor_engine.tensors.random import randomness
from nestor_engine.tensors.ravel import Ravel
from tests.engine.cases import PROBLEMS, SEED, Dense, cross_entropy, dense_of, posed, softmax_regression, squared
from tests.engine.device import DEVICE
from tests.engine.program.problems import exported

pytestmark = pytest.mark.usefixtures("seeded")
F64 = torch.float64
EXACT = engine.KFAC(0.0, decay=0.0, fisher="exact")
FISHERS = ["sampled", "exact", "empirical"]


def matrix(operator: Operator, n: int) -> Tensor:
    return torch.stack([operator(row) for row in torch.eye(n, dtype=F64)])


def classified(model: nn.Module, *shape: int, n: int) -> Dense:
    return dense_of(model, torch.randn(n, *shape, dtype=F64), torch.arange(n) % 3)


# --- factors against dense constructions ----------------------------------------------------------


def test_softmax_regression_has_the_closed_form_factors_and_the_mean_of_its_penalty():
    dense = Dense.of(softmax_regression())
    x, weights = dense.train["x"], torch.sigmoid(dense.bilevel.hparams["example_weights"])
    inputs = torch.cat([x, x.new_ones(len(x), 1)], 1)
    p = torch.softmax(dense.bilevel.forward(dense.ravel.tree(dense.w), {}, {}, dense.train)[0], 1)
    curved = torch.einsum("n,nij->ij", weights / len(x), torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1))
    decay = dense.bilevel.hparams["l2"].exp()  # of the weight, of the bias
    mean = (15 * decay[0] + 3 * decay[1]) / 18
    expected = torch.kron(curved, inputs.T @ inputs / len(x)) + mean * torch.eye(18, dtype=F64)

    got = matrix(EXACT.operator(dense.linearization()), 18)

    order = [*(6 * row + column for row in range(3) for column in range(5)), 5, 11, 17]  # the bias is the last column
    torch.testing.assert_close(got, expected[order][:, order])


def test_a_hidden_layer_has_the_factors_of_explicit_jacobians():
    first, second = nn.Linear(4, 5), nn.Linear(5, 3, bias=False)
    dense = classified(nn.Sequential(first, nn.Tanh(), second), 4, n=9)
    x = dense.train["x"]
    inputs = torch.cat([x, x.new_ones(9, 1)], 1)
    hidden = torch.tanh(first(x)).detach()
    p = torch.softmax(second(hidden), 1).detach()
    inner = torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)
    jacobians = second.weight.detach() * (1 - hidden**2).unsqueeze(1)  # (9, 3, 5)
    output = (torch.einsum("nki,nkl,nlj->ij", jacobians, inner, jacobians) / 9).contiguous()
    expected = torch.block_diag(
        torch.kron(output, inputs.T @ inputs / 9), torch.kron(inner.mean(0), hidden.T @ hidden / 9)
    )
    order = [*(5 * row + column for row in range(5) for column in range(4)), *range(4, 25, 5), *range(25, 40)]

    got = matrix(EXACT.operator(dense.linearization()), 40)

    torch.testing.assert_close(got, expected[order][:, order])


ONE_ROW: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "MLP": (lambda: nn.Sequential(nn.Linear(4, 5), nn.GELU(), nn.Linear(5, 3)), (4,)),
    "convolution with one place": (
        lambda: nn.Sequential(nn.Conv2d(2, 4, (3, 2), dilation=2), nn.GELU(), nn.Flatten(), nn.Linear(4, 3)),
        (2, 5, 3),
    ),
    "padded convolution in one dimension": (
        lambda: nn.Sequential(nn.Conv1d(2, 4, 5, padding=2, stride=4), nn.GELU(), nn.Flatten(), nn.Linear(4, 3)),
        (2, 3),
    ),
}


@pytest.mark.parametrize("name", ONE_ROW)
@pytest.mark.parametrize("loss", [cross_entropy, squared])
def test_for_a_single_example_every_block_is_gauss_newton_s(name: str, loss):
    """Also for a criterion that does not couple outputs: its signals still interact in the layers below."""
    make, shape = ONE_ROW[name]
    dense = dense_of(make(), torch.randn(1, *shape, dtype=F64), torch.tensor([1]), loss)
    got, expected = matrix(EXACT.operator(dense.linearization()), len(dense.w)), dense.gauss_newton()
    of = torch.cat([torch.full((p.numel(),), i // 2) for i, p in enumerate(dense.bilevel.params.values())])
    same_layer = of.unsqueeze(0) == of.unsqueeze(1)
    torch.testing.assert_close(got, expected * same_layer)


def test_for_equal_inputs_softmax_regression_is_gauss_newton_s():
    dense = dense_of(nn.Linear(4, 3), torch.randn(1, 4, dtype=F64).expand(6, -1), torch.arange(6) % 3)
    torch.testing.assert_close(matrix(EXACT.operator(dense.linearization()), 15), dense.gauss_newton())


LAYERS: dict[str, tuple[nn.Linear | nn.Conv1d | nn.Conv2d, tuple[int, ...]]] = {
    "rows": (nn.Linear(4, 3), (4,)),
    "sequences": (nn.Linear(4, 3), (5, 4)),
    "conv1d": (nn.Conv1d(2, 3, 3, padding=2, stride=2, dilation=2), (2, 9)),
    "conv2d": (nn.Conv2d(2, 3, (3, 2), padding=(1, 0), stride=(2, 1), dilation=(1, 2)), (2, 7, 6)),
    "conv2d, same padding": (nn.Conv2d(2, 3, 3, padding="same", bias=False), (2, 4, 4)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_s_outputs_have_the_moment_that_its_weights_make_of_its_inputs(name: str):
    """E[(W a)(W a)ᵀ] = W E[a aᵀ] Wᵀ, whatever stride, padding and dilation cut the rows a."""
    module, shape = LAYERS[name]
    with Recorder(list(module.parameters())) as recorder:
        rows = module(torch.randn(2, *shape))
    rows = as_rows(rows.flatten(0, -2) if isinstance(module, nn.Linear) else rows)
    (layer,) = recorder.layers()
    weight = module.weight.flatten(1)
    weight = weight if module.bias is None else torch.cat([weight, module.bias.unsqueeze(1)], 1)
    torch.testing.assert_close(weight @ layer.second_moment @ weight.T, rows.T @ rows / len(rows))


# --- which parameters are layers ------------------------------------------------------------------


def covered(model: nn.Module, *inputs: Tensor) -> dict[str, str | None]:
    """The weights that layers read, by name, and their biases."""
    names = [name for name, _ in model.named_parameters()]
    with Recorder(list(model.parameters())) as recorder:
        model(*inputs)
    layers = recorder.layers()
    return {names[layer.weight]: None if layer.bias is None else names[layer.bias] for layer in layers}


def test_attention_is_read_by_the_products_that_it_is_made_of():
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    assert covered(model, torch.randn(2, 3, 8)) == {
        "self_attn.in_proj_weight": None,  # torch adds its bias apart, where the diagonal serves
        "self_attn.out_proj.weight": "self_attn.out_proj.bias",
        "linear1.weight": "linear1.bias",
        "linear2.weight": "linear2.bias",
    }


def test_parameters_of_no_single_layer_use_the_diagonal():
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.plain, self.normed, self.grouped = nn.Linear(4, 4), nn.Linear(4, 4), nn.Conv1d(4, 4, 1, groups=2)
            self.normed = nn.utils.parametrizations.weight_norm(self.normed)
            self.shared, self.free = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.randn(4, 4))

        def forward(self, x: Tensor) -> Tensor:
            x = self.grouped(self.normed(self.plain(x)).unsqueeze(2)).squeeze(2)
            # One bias of two layers, and a matrix kept as (in, out).
            return F.linear(F.linear(x, self.plain.weight, self.shared) @ self.free, self.free.T, self.shared)

    assert covered(Odd(), torch.randn(3, 4)) == {"plain.weight": None}


def test_a_matrix_kept_as_inputs_by_outputs_has_the_block_of_its_transpose():
    class Turned(nn.Module):
        def __init__(self, weight: Tensor) -> None:
            super().__init__()
            self.weight = nn.Parameter(weight)

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.weight

    plain = nn.Linear(4, 3, bias=False)
    x, y, v = torch.randn(8, 4, dtype=F64), torch.arange(8) % 3, torch.randn(3, 4, dtype=F64)
    straight = EXACT.operator(dense_of(plain, x, y).linearization())(v.flatten())
    turned = EXACT.operator(dense_of(Turned(plain.weight.detach().T.contiguous()), x, y).linearization())(v.T.flatten())
    torch.testing.assert_close(turned.view(4, 3).T.flatten(), straight)


def test_an_activation_in_place_does_not_change_what_the_layer_below_it_is_sent():
    """Its gradient must be taken before the in-place activation, although the tensor is the same object."""
    x, y = torch.randn(8, 4, dtype=F64), torch.arange(8) % 3
    first, second = nn.Linear(4, 5), nn.Linear(5, 3)
    apart, inplace = (
        dense_of(nn.Sequential(first, nn.ReLU(inplace=inplace), second), x, y) for inplace in (False, True)
    )
    torch.testing.assert_close(
        matrix(EXACT.operator(inplace.linearization()), 43),
        matrix(EXACT.operator(apart.linearization()), 43),
        rtol=0,
        atol=0,
    )


def test_a_layer_used_twice_sums_over_its_uses():
    class Twice(nn.Module):
        def __init__(self, layer: nn.Linear) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x[:, 0]) + self.layer(x[:, 1])

    layer, x, y = nn.Linear(4, 3), torch.randn(6, 2, 4, dtype=F64), torch.arange(6) % 3
    twice = dense_of(Twice(layer), x, y)
    p = torch.softmax(twice.bilevel.forward(twice.bilevel.params, {}, {}, twice.train)[0], 1)
    inner = (torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)).mean(0)
    rows = torch.cat([x.flatten(0, 1), torch.ones(12, 1, dtype=F64)], 1)
    v = torch.randn(3, 5, dtype=F64)
    expected = 2 * inner @ v @ (rows.T @ rows / 12)

    got = EXACT.operator(twice.linearization())(torch.cat([v[:, :4].flatten(), v[:, 4]]))

    torch.testing.assert_close(got, torch.cat([expected[:, :4].flatten(), expected[:, 4]]))


@pytest.mark.cpu
@pytest.mark.parametrize("name", ["convolution", "transformer"])
def test_a_loaded_program_has_the_factors_of_the_module(name: str):
    problem, program = exported(name)
    batch = {column: values[:6] for column, values in problem.data.train.items()} | {"index": torch.arange(6)}
    results = []
    for bilevel in (problem.bilevel(), load(program.graphs, program.tensors)):
        ravel = Ravel(bilevel.params)
        with randomness(SEED, DEVICE):
            w = ravel.vector(bilevel.params)
            linearization = Linearization(bilevel, ravel, w, bilevel.buffers, bilevel.hparams, batch)
        results.append(engine.KFAC().at(linearization, KFACState())[1].factors)
    torch.testing.assert_close(results[0], results[1])


# --- the operator ---------------------------------------------------------------------------------


def test_negative_curvature_of_a_criterion_is_set_to_zero():
    dense = dense_of(
        nn.Linear(4, 3), torch.randn(6, 4, dtype=F64), torch.arange(6) % 3, lambda o, _: torch.cos(o).sum(1)
    )
    least = torch.linalg.eigvalsh(matrix(EXACT.operator(dense.linearization()), 15)).min()
    assert torch.linalg.eigvalsh(dense.gauss_newton()).min() < -0.01 < -1e-12 < least


# Without the cases that have no penalty: the signs of six examples can cancel, and then everything is zero.
@pytest.mark.parametrize("name", PROBLEMS)
def test_the_inverse_undoes_the_product_on_every_case(name: str):
    dense = Dense(*posed(name))
    for fisher in FISHERS:
        operator = engine.KFAC(0.1, fisher=fisher).operator(dense.linearization())
        b = torch.randn_like(dense.w)
        solution = engine.Direct().solution(operator, b)
        torch.testing.assert_close(operator(solution.x), b)
        assert solution.residual < 1e-12
        assert operator.products == 2  # one to measure the residual, and the one above


@pytest.mark.parametrize("name", PROBLEMS)
def test_it_is_symmetric_and_positive_definite_with_the_norm_it_tells(name: str):
    dense = Dense(*posed(name))
    operator = engine.KFAC(0.1).operator(dense.linearization())
    full = matrix(operator, len(dense.w))
    torch.testing.assert_close(full, full.T)
    eigenvalues = torch.linalg.eigvalsh(full)
    assert eigenvalues.min().item() > 0
    assert operator.norm(dense.w) == pytest.approx(eigenvalues.max().item())
    assert operator.shift(dense.w) == pytest.approx(eigenvalues.max().item() * 0.1 / 1.1)


def test_parameters_outside_of_layers_have_their_own_penalty_and_layers_its_mean():
    dense = Dense(*posed("CNN, BatchNorm in training mode"))
    decay = dense.bilevel.hparams["l2"]
    results = []
    for shift in (0.0, 1.0):  # of the norm's scale, whose curvature must move by as much, and nothing else's
        dense.bilevel.hparams["l2"] = torch.where(torch.arange(len(decay)) == 2, decay + shift, decay)
        results.append(matrix(EXACT.operator(dense.linearization()), len(dense.w)))
    names = list(dense.bilevel.params)
    scale = torch.cat([torch.full((p.numel(),), float(n == names[2])) for n, p in dense.bilevel.params.items()]).to(F64)
    torch.testing.assert_close(results[1] - results[0], torch.diag(scale * ((decay[2] + 1).exp() - decay[2].exp())))


def test_without_damping_a_singular_curvature_is_reported_as_singular():
    dense = dense_of(nn.Linear(4, 3), torch.zeros(6, 4, dtype=F64), torch.arange(6) % 3)  # no weight is felt
    solution = engine.Direct().solution(EXACT.operator(dense.linearization()), torch.ones_like(dense.w))
    assert solution.outcome is engine.Outcome.singular
    assert solution.x.count_nonzero() == 0


def test_weights_that_are_not_finite_are_reported_and_not_raised():
    dense = Dense(*posed("GELU MLP"))
    dense.w = dense.w * torch.nan
    solution = engine.Direct().solution(engine.KFAC().operator(dense.linearization()), dense.w.nan_to_num(1.0))
    assert solution.outcome is engine.Outcome.nonfinite


def test_factors_are_means_over_outer_steps_that_forget():
    """After two steps of decay d the weights of their factors are d / (1 + d) and 1 / (1 + d)."""
    dense, state, d = classified(nn.Linear(4, 3), 4, n=5), KFACState(), 0.5
    alone, steps = [], []
    for _ in range(2):
        dense.train = {**dense.train, "x": torch.randn(5, 4, dtype=F64)}
        alone.append(EXACT.at(dense.linearization(), KFACState())[1].factors)
        _, state = engine.KFAC(0.0, decay=d, fisher="exact").at(dense.linearization(), state)
        steps.append(state.factors)
    for name in ("0.inputs", "0.outputs"):
        torch.testing.assert_close(steps[0][name], alone[0][name])
        torch.testing.assert_close(steps[1][name], (d * alone[0][name] + alone[1][name]) / (1 + d))


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"decay": 1.0}, {"decay": -0.1}, {"fisher": "true"}, {"damping": -1.0}], ids=repr)
def test_options_that_cannot_work_are_refused(options):
    with pytest.raises(engine.errors.ConfigInvalid, match=next(iter(options))):
        engine.KFAC(**options)

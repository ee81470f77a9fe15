"""A thread with generators of its own draws what torch's default generators would give, and leaves these alone."""

from __future__ import annotations

import random
import threading
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from nestor_engine.autodiff.kernels import twice_differentiable
from nestor_engine.tensors.generators import OwnGenerators
from nestor_engine.tensors.random_operators import may_draw, with_generator
from tests.engine.device import DEVICE

X = torch.linspace(-1, 1, 64).view(8, 8).to(DEVICE)
CHANCES = X.abs()


def _attention(**given):
    query, key = (torch.randn(2, 2, n, 4, generator=torch.Generator().manual_seed(n)).to(DEVICE) for n in (5, 6))
    return F.scaled_dot_product_attention(query, key, key, **given)


def _module(made, *given, **named):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = made(*given, **named).to(DEVICE)

    def run():
        output = module(X, X, X, need_weights=False) if isinstance(module, nn.MultiheadAttention) else module(X)
        return output[0] if isinstance(output, tuple) else output

    return run


def _derivative(function):
    w = torch.ones(8, 8, device=DEVICE, requires_grad=True)
    return torch.autograd.grad(function(w).square().sum(), w)[0]


def _checkpointed(reentrant):
    """The mask of the recomputation is that of the forward pass."""
    w = torch.ones(8, 8, device=DEVICE, requires_grad=True)
    y = checkpoint(lambda w: F.dropout(w * X, 0.5) * torch.rand_like(X), w, use_reentrant=reentrant)
    if reentrant:
        (y * y).sum().backward()
        assert w.grad is not None
        return torch.cat([w.grad, y.detach()])
    return torch.cat([torch.autograd.grad((y * y).sum(), w)[0], y.detach()])


class _Noisy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * torch.rand_like(x)

    @staticmethod
    def backward(ctx, gradient):
        return gradient * torch.rand_like(gradient)


def _noisy_backward():
    w = torch.ones(8, device=DEVICE, requires_grad=True)
    return torch.autograd.grad(_Noisy.apply(w).sum(), w)[0]


@torch.library.custom_op("nestor_tests::noise", mutates_args=())
def _noise(x: torch.Tensor) -> torch.Tensor:
    return x + torch.rand_like(x)


def _in_inference_mode():
    with torch.inference_mode():
        return F.dropout(X, 0.5).clone()


def _seeding():
    torch.manual_seed(3)
    first = torch.rand(3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        second = torch.rand(3)
    return torch.cat([first, second, torch.rand(3)])


DRAWS = {
    "dropout": lambda: F.dropout(X, 0.5),
    "dropout of a view": lambda: F.dropout(X.t(), p=0.3),
    "dropout with its derivative": lambda: _derivative(lambda w: F.dropout(w * X, 0.5)),
    "torch.dropout": lambda: torch.dropout(X, 0.5, train=True),
    "dropout in evaluation mode": lambda: F.dropout(X, 0.5, training=False),
    "dropout of everything": lambda: F.dropout(X, 1.0),
    "dropout of nothing": lambda: F.dropout(X, 0.0),
    "dropout in half precision": lambda: F.dropout(X.bfloat16(), 0.3),
    "dropout in place": lambda: F.dropout(X.clone(), 0.5, inplace=True),
    "dropout of channels": lambda: F.dropout2d(X.view(1, 8, 8, 1).expand(2, 8, 8, 1), 0.5),
    "alpha dropout": lambda: F.alpha_dropout(X, 0.5, training=True),
    "alpha dropout of features": lambda: F.feature_alpha_dropout(X, 0.5, training=True),
    "native_dropout": lambda: torch.native_dropout(X, 0.3, True)[0],
    "native_dropout of everything": lambda: torch.native_dropout(X, 1.0, True)[0],
    "drop path": lambda: X * torch.empty(8, 1, device=DEVICE).bernoulli_(0.5) / 0.5,
    "rand": lambda: torch.rand(5, device=DEVICE),
    "randn": lambda: torch.randn(5, device=DEVICE),
    "randint": lambda: torch.randint(2, 9, (5,), device=DEVICE),
    "randperm": lambda: torch.randperm(9, device=DEVICE),
    "rand_like": lambda: torch.rand_like(X),
    "randn_like": lambda: torch.randn_like(X),
    "randint_like": lambda: torch.randint_like(X, 9),
    "rand into a tensor": lambda: torch.rand(5, out=torch.empty(5)),
    "the default generator by name": lambda: torch.rand(4, generator=torch.default_generator),
    "bernoulli": lambda: torch.bernoulli(CHANCES),
    "bernoulli_ with chances": lambda: X.clone().bernoulli_(CHANCES),
    "normal": lambda: torch.normal(X, CHANCES),
    "normal of a size": lambda: torch.normal(0.0, 1.0, (4,)),
    "normal_": lambda: X.clone().normal_(),
    "uniform_": lambda: X.clone().uniform_(),
    "exponential_": lambda: X.clone().exponential_(),
    "cauchy_": lambda: X.clone().cauchy_(),
    "geometric_": lambda: X.clone().geometric_(0.3),
    "log_normal_": lambda: X.clone().log_normal_(),
    "random_": lambda: X.clone().random_(9),
    "multinomial": lambda: torch.multinomial(CHANCES, 3),
    "poisson": lambda: torch.poisson(CHANCES * 4),
    "binomial": lambda: torch.binomial(torch.full((8, 8), 5.0, device=DEVICE), CHANCES),
    "gamma": lambda: torch._standard_gamma(CHANCES + 0.1),  # pyright: ignore[reportPrivateImportUsage]
    "Beta": lambda: torch.distributions.Beta(2.0, 3.0).sample((4,)),
    "Categorical": lambda: torch.distributions.Categorical(logits=X).sample(),
    "rrelu": lambda: F.rrelu(X, training=True),
    "Gumbel softmax": lambda: F.gumbel_softmax(X),
    "fractional pooling": lambda: F.fractional_max_pool2d(X.view(1, 1, 8, 8), 2, output_size=4),
    "low rank": lambda: torch.svd_lowrank(X, 3)[1],
    "attention": lambda: _attention(dropout_p=0.5),
    "multi-head attention": _module(nn.MultiheadAttention, 8, 2, dropout=0.5),
    "encoder layer": _module(nn.TransformerEncoderLayer, 8, 2, 16, dropout=0.3),
    "LSTM": _module(nn.LSTM, 8, 6, 2, dropout=0.5),
    "GRU": _module(nn.GRU, 8, 6, 2, dropout=0.5, bidirectional=True),
    "RNN": _module(nn.RNN, 8, 6, 2, dropout=0.5),
    "initialization": lambda: nn.init.trunc_normal_(torch.empty(4, 4)),
    "a new layer": lambda: nn.Linear(3, 3).weight.detach(),
    "vmap": lambda: torch.vmap(lambda row: F.dropout(row, 0.5), randomness="different")(X),
    "inference mode": _in_inference_mode,
    "checkpointing": lambda: _checkpointed(False),
    "reentrant checkpointing": lambda: _checkpointed(True),
    "a Function's backward": _noisy_backward,
    "another library's operator": lambda: _noise(X),
    "an operator of a program": lambda: torch.ops.aten.dropout.default(X, 0.5, True),
    "seeding": _seeding,
}
if DEVICE.type == "cuda":
    for name in ("LSTM", "GRU", "RNN"):  # cuDNN keeps the state of their dropout for the whole process
        del DRAWS[name]


@pytest.fixture(autouse=True)
def restored():
    with torch.random.fork_rng():
        yield


def numpy_state() -> Any:
    """The words of NumPy's legacy generator."""
    return cast("tuple[Any, ...]", np.random.get_state())[1]


@pytest.mark.parametrize("name", DRAWS)
def test_own_generators_draw_what_the_default_ones_would(name):
    def twice():
        torch.manual_seed(11)
        return [DRAWS[name](), DRAWS[name](), torch.get_rng_state()]

    expected = twice()
    torch.manual_seed(5)
    untouched, others = torch.get_rng_state(), (random.getstate(), numpy_state().copy())
    got = []

    def run():
        with OwnGenerators():
            got.extend(twice())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert [torch.equal(a, b) for a, b in zip(got, expected, strict=True)] == [True] * 3
    assert torch.equal(torch.get_rng_state(), untouched)
    assert random.getstate() == others[0]
    assert (numpy_state() == others[1]).all()
    assert torch.random.default_generator is torch.default_generator  # pyright: ignore[reportPrivateImportUsage]


def test_every_random_operator_of_torch_can_be_given_a_generator():
    """Or is computed from such operators, or is handled by name."""
    handled = {"native_dropout"}
    only_on_a_gpu = {
        "_cudnn_attention_backward",
        "_cudnn_attention_forward",
        "_cudnn_init_dropout_state",
        "_cudnn_rnn",
        "_efficient_attention_forward",
        "_fill_mem_eff_dropout_mask_",
        "_flash_attention_forward",
        "_flash_attention_forward_no_dropout_inplace",
        "_lstm_mps",
        "_scaled_dot_product_attention_math_for_mps",
        "_scaled_dot_product_cudnn_attention",
        "_scaled_dot_product_cudnn_attention_backward",
        "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_efficient_attention_backward",
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_fused_attention_overrideable",
        "_triton_scaled_dot_attention",
        "miopen_rnn",
    }
    without_draws = {
        "_fused_sdp_choice",
        "_nested_tensor_softmax_with_shape",
        "_scaled_dot_product_flash_attention_for_cpu",
    }
    missing = set()
    for qualified in torch._C._dispatch_get_all_op_names():
        namespace, _, name = qualified.partition("::")
        packet, _, overload = name.partition(".")
        operator = (
            getattr(getattr(torch.ops.aten, packet), overload or "default", None) if namespace == "aten" else None
        )
        if operator is None or torch.Tag.nondeterministic_seeded not in operator.tags:
            continue
        assert may_draw(operator)
        composite = torch._C._dispatch_has_kernel_for_dispatch_key(operator.name(), "CompositeImplicitAutograd")
        if with_generator(operator) is None and not composite:
            missing.add(packet)
    assert missing <= handled | only_on_a_gpu | without_draws


@pytest.mark.parametrize("function", [torch.relu, F.relu, F.linear, F.layer_norm, F.cross_entropy, torch.einsum])
def test_functions_without_draws_are_not_watched(function):
    assert not may_draw(function)


MASK = torch.rand(5, 6, generator=torch.Generator().manual_seed(0)).to(DEVICE) > 0.3
ATTENTION = {
    "plain": lambda: _attention(),
    "a mask": lambda: _attention(attn_mask=MASK),
    "a row without any": lambda: _attention(attn_mask=MASK & (torch.arange(5, device=DEVICE) != 2)[:, None]),
    "weights": lambda: _attention(attn_mask=MASK.float()),
    "causal": lambda: _attention(is_causal=True),
    "a scale": lambda: _attention(scale=0.3),
    "dropout": lambda: _attention(dropout_p=0.5),
    "multi-head attention": _module(nn.MultiheadAttention, 8, 2),
    "encoder layer": _module(nn.TransformerEncoderLayer, 8, 2, 16),
    "an operator of a program": lambda: torch.ops.aten.scaled_dot_product_attention.default(X, X, X),
}


@pytest.mark.parametrize("name", ATTENTION)
def test_attention_as_matrix_products_is_that_of_torch_and_chosen_for_one_thread_only(name):
    torch.manual_seed(0)
    with sdpa_kernel(SDPBackend.MATH):
        expected = ATTENTION[name]()
    torch.manual_seed(0)
    with twice_differentiable():
        assert torch.backends.cuda.flash_sdp_enabled()
        got = ATTENTION[name]()
    assert torch.equal(got, expected)

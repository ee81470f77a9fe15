from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree

from nestor_engine import Adam, Bilevel, Config, Problem, optimize
from nestor_engine.hparams import InitializationScale
from nestor_engine.objective import Batch
from nestor_engine.program import load
from tests.engine.program.problems import CLASSES, PROBLEMS, classes, cross_entropy, exported, features


def batch_of(size: int, columns: dict[str, Tensor]) -> Batch:
    return {name: values[:size] for name, values in columns.items()} | {"index": torch.arange(size)}


def same(a: object, b: object) -> bool:
    left, right = pytree.tree_flatten(a), pytree.tree_flatten(b)
    return left[1] == right[1] and all(
        torch.equal(x, y) and x.dtype == y.dtype if isinstance(x, Tensor) else x == y
        for x, y in zip(left[0], right[0], strict=True)
    )


def everything(bilevel: Bilevel, train: Batch, val: Batch) -> dict[str, object]:
    """What every function returns for one seed."""
    torch.manual_seed(0)
    bilevel = bilevel.untransformed()
    state = bilevel.params, bilevel.buffers, bilevel.hparams
    prepared = bilevel.prepare(bilevel.hparams, train)
    outputs, buffers = bilevel.forward(*state, prepared)
    predicted = bilevel.predict(bilevel.params, buffers, bilevel.hparams, val)
    return {
        "prepared": prepared,
        "outputs": outputs,
        "buffers": buffers,
        "criterion": bilevel.criterion(outputs, bilevel.hparams, prepared),
        "penalty": bilevel.penalty(bilevel.params, bilevel.hparams),
        "validation loss": bilevel.val_loss(predicted, bilevel.hparams, val),
        "metrics": {name: f(predicted, bilevel.hparams, val) for name, f in bilevel.metrics_of(predicted).items()},
        "next draw": torch.rand(3),
    }


@pytest.fixture
def unfused():
    """A program holds attention as it can be differentiated; in evaluation a module by itself would run one fused
    kernel for all of a layer, which on some machines rounds otherwise."""
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(True)


@pytest.mark.usefixtures("unfused")
@pytest.mark.parametrize("size", [1, 5, 24])
@pytest.mark.parametrize("name", PROBLEMS)
def test_a_loaded_program_computes_the_same_bits_at_any_batch_size(name: str, size: int):
    problem, program = exported(name)
    loaded = load(program.graphs, program.tensors)
    train, val = batch_of(max(size, 2), problem.data.train), batch_of(size, problem.data.val)

    assert same(everything(loaded, train, val), everything(problem.bilevel(), train, val))


@pytest.mark.parametrize("name", ["convolution", "lstm", "transformer", "odd", "augmentation", "every_kind", "weighed"])
def test_a_loaded_program_differentiates_twice_like_the_problem(name: str):
    problem, program = exported(name)
    batch = batch_of(6, problem.data.train)

    def products(bilevel: Bilevel) -> list[Tensor]:
        torch.manual_seed(0)
        params = {name: p.clone().requires_grad_() for name, p in bilevel.params.items()}
        hparams = {name: h.clone().requires_grad_() for name, h in bilevel.hparams.items()}
        with sdpa_kernel(SDPBackend.MATH):
            loss, _ = bilevel.train_loss(params, bilevel.buffers, hparams, batch)
            first = torch.autograd.grad(loss, list(params.values()), create_graph=True)
            dot = torch.stack([(g * torch.cos(g)).sum() for g in first]).sum()
            second = torch.autograd.grad(dot, [*params.values(), *hparams.values()], allow_unused=True)
        return [*first, *(g for g in second if g is not None)]

    loaded = products(load(program.graphs, program.tensors))
    eager = products(problem.bilevel())

    assert len(loaded) == len(eager) > len(problem.bilevel().params)
    assert all(torch.isfinite(g).all() for g in eager)
    for ours, theirs in zip(loaded, eager, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


def test_a_loaded_program_trains_to_the_same_bits():
    problem, program = exported("convolution")
    config = Config(n_steps=3, inner=Adam(), inner_steps=2, batch_size=8)
    ends = [
        list(optimize(bilevel, problem.data, config))[-1].state.save()
        for bilevel in (problem.bilevel(), load(program.graphs, program.tensors))
    ]
    assert ends[0] == ends[1]


def test_the_same_problem_gives_the_same_bytes():
    problem, program = exported("mlp")
    assert problem.export() == program


def test_initial_values_and_transforms_come_back():
    problem, program = exported("mlp")
    loaded, eager = load(program.graphs, program.tensors), problem.bilevel()
    for ours, theirs in (
        (loaded.params, eager.params),
        (loaded.hparams, eager.hparams),
        (loaded.buffers, eager.buffers),
    ):
        assert same(ours, theirs)
        assert list(ours) == list(theirs), "the order is that of one vector of parameters"
    assert loaded.transforms == eager.transforms
    assert loaded.bounds == eager.bounds


def test_a_program_holds_the_weights_as_its_problem_starts_them():
    """The graphs do not contain the initialization, so the weights must contain the initial scales."""
    model = nn.Linear(6, CLASSES)
    data = features(6), classes()
    problem = Problem(model, InitializationScale(model, init=0.5), cross_entropy, cross_entropy, train=data, val=data)
    program = problem.export()
    loaded, bilevel = load(program.graphs, program.tensors), problem.bilevel()
    assert same(loaded.params, bilevel.initial(bilevel.params, bilevel.values(bilevel.hparams)))
    assert not same(loaded.params, bilevel.params)


def test_what_a_function_does_not_read_the_data_need_not_have():
    problem, program = exported("mlp")
    loaded = load(program.graphs, program.tensors)
    batch = batch_of(4, problem.data.val) | {"unread": torch.zeros(4)}
    del batch["index"]
    assert loaded.val_loss_at(loaded.params, loaded.buffers, loaded.hparams, batch).isfinite()


def test_no_device_is_written_into_a_program():
    _, program = exported("transformer")
    assert b'"cpu"' not in program.graphs
    _, program = exported("lstm")
    assert b'{"device":"program"}' in program.graphs


def test_a_loaded_program_moves_with_its_constants():
    problem, program = exported("mlp")
    moved = load(program.graphs, program.tensors).to("meta")
    batch = {name: values.to("meta") for name, values in batch_of(4, problem.data.train).items()}
    loss, _ = moved.train_loss(moved.params, moved.buffers, moved.hparams, batch)
    assert loss.device.type == "meta"


def test_the_callers_buffers_are_not_written_to():
    problem, program = exported("convolution")
    loaded = load(program.graphs, program.tensors)
    before = {name: values.clone() for name, values in loaded.buffers.items()}
    _, after = loaded.train_loss(loaded.params, loaded.buffers, loaded.hparams, batch_of(6, problem.data.train))
    assert same(loaded.buffers, before)
    assert not same(after, before)

"""A trace gives the same bits as autograd. Without a trace, the engine uses autograd's graph and reports it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import nestor_engine as engine
from nestor.errors import ProgramInvalid, ProgramRejected
from nestor.program_format import MAX_TRACE_BYTES
from nestor_engine.autodiff.derivatives import Product
from nestor_engine.autodiff.linearization import Linearization
from nestor_engine.autodiff.partial_eval import split
from nestor_engine.autodiff.replay import same
from nestor_engine.autodiff.simplify import aten
from nestor_engine.autodiff.subgraph import Part
from nestor_engine.autodiff.trace_cache import TraceCache
from nestor_engine.curvature import Operator
from nestor_engine.graphs.operators import DERIVATIVES, lookup, of_trace
from tests.engine.cases import CASES, Dense, dense

EVERYWHERE = [Linearization.hessian_product, Linearization.gauss_newton_product]
PRODUCTS = [(name, product) for name in CASES for product in EVERYWHERE] + [
    (name, Linearization.fisher_product) for name in ("GELU MLP", "dropout")
]


def at(case: Dense, w: torch.Tensor, traces: TraceCache | None) -> Linearization:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        b = case.bilevel
        return Linearization(b, case.ravel, w, b.buffers, b.hparams, case.train, trace_cache=traces)


@cache
def traced_before(name: str, product: Product) -> TraceCache:
    """With the trace of one product at the weights of the case. Tests only read it: a trace takes a second."""
    case, traces = dense(name), TraceCache()
    at(case, case.w, traces).curved(product)
    return traces


@pytest.mark.parametrize(("name", "product"), PRODUCTS, ids=lambda p: getattr(p, "__name__", p))
def test_a_trace_taken_at_one_point_gives_autograd_s_bits_at_another(name: str, product):
    case, traces = dense(name), traced_before(name, product)
    w = case.w + 0.1 * torch.randn_like(case.w)
    v, q = torch.randn(2, len(w), dtype=w.dtype)
    traced, kept = at(case, w, traces), at(case, w, None)
    by_trace, by_graph = traced.curved(product), kept.curved(product)
    assert traced.traced, list(traces.news())
    assert not kept.traced
    for _ in range(2):
        assert same(by_trace(v), by_graph(v))
    assert same(traced.gradient, kept.gradient)
    assert all(same(traced.mixed(q)[name], kept.mixed(q)[name]) for name in case.bilevel.hparams)


@pytest.mark.parametrize("name", ["GELU MLP", "CNN, BatchNorm in training mode", "attention and embedding"])
def test_batched_products_are_those_of_the_rows(name: str):
    case = dense(name)
    point = at(case, case.w, TraceCache())
    curved = point.curved(Linearization.gauss_newton_product)
    rows = torch.randn(5, len(case.w), dtype=torch.float64)
    alone, together = Operator(curved), Operator(curved, batched=point.curved_rows)
    torch.testing.assert_close(together(rows), alone(rows))
    assert together.products == alone.products == 5


def test_the_part_without_the_vector_is_run_once_and_the_rest_does_not_hold_it():
    counted = []

    class Counted(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            counted.append(1)
            return x.exp()

    parts = split(lambda x, v: ([], [Counted.apply(x[0]) * v]), [torch.ones(3)], [torch.ones(3)])
    read, _ = parts.once(torch.full((3,), 2.0))
    v = torch.arange(3.0)
    for _ in range(2):
        assert torch.equal(parts.each[0](*read, v)[0], torch.full((3,), 2.0).exp() * v)
    assert len(read) == 1


@pytest.mark.parametrize("product", EVERYWHERE, ids=lambda p: p.__name__)
@pytest.mark.parametrize("name", CASES)
def test_the_part_that_runs_for_each_vector_repeats_no_work(name: str, product):
    (traced,) = traced_before(name, product)._traced.values()
    assert traced is not None
    for part in traced.split.each:
        nodes = [node for node in part.module.graph.nodes if node.op == "call_function"]
        assert len({(node.target, repr(node.args), repr(node.kwargs)) for node in nodes}) == len(nodes)
        assert not [node for node in nodes if node.target is aten.zeros_like.default]
        transposed = {node for node in nodes if node.target is aten.t.default}
        assert not [node for node in transposed if node.args[0] in transposed]


def test_a_graph_that_writes_into_its_values_is_left_as_it_is():
    def twice(x, v):
        a = v * x[0]
        a.add_(1)
        return [], [a + v * x[0]]

    parts = split(twice, [torch.ones(3)], [torch.ones(3)])
    v = torch.arange(3.0)
    read, _ = parts.once(torch.full((3,), 2.0))
    assert torch.equal(parts.each[0](*read, v)[0], 4 * v + 1)


@pytest.mark.parametrize("product", EVERYWHERE, ids=lambda p: p.__name__)
@pytest.mark.parametrize("name", sorted({*CASES} - {"quadratic", "one weight"}))  # whose losses hold constants
def test_a_trace_that_was_kept_is_not_made_again_and_gives_the_same_bits(name: str, product, monkeypatch):
    case, traces = dense(name), traced_before(name, product)
    kept = TraceCache(traces.save() or b"")
    assert kept.is_warm
    monkeypatch.setattr("nestor_engine.autodiff.trace_cache.split", None)  # no further tracing
    w = case.w + 0.1 * torch.randn_like(case.w)
    v, q = torch.randn(2, len(w), dtype=w.dtype)
    first, again = at(case, w, traces), at(case, w, kept)
    assert same(first.curved(product)(v), again.curved(product)(v))
    assert again.traced, list(kept.news())
    assert all(same(first.mixed(q)[name], again.mixed(q)[name]) for name in case.bilevel.hparams)
    assert kept.save() is None  # there is nothing new


@pytest.mark.parametrize(
    "corrupt",
    [
        lambda kept: b"",
        lambda kept: b"[1]",
        lambda kept: kept[:-20],
        lambda kept: kept.replace(torch.__version__.encode(), b"1.0"),
        lambda kept: kept.replace(b"aten.mm.default", b"aten.mm.other"),
        lambda kept: kept.replace(b"aten.mm.default", b"os.system"),
        lambda kept: kept.replace(b"aten.sub.Tensor", b"aten.add.Tensor"),
    ],
    ids=["none", "something else", "cut", "of another torch", "unknown", "no operator", "another function"],
)
def test_a_corrupted_trace_is_traced_again(corrupt):
    case, traces = dense("GELU MLP"), TraceCache()
    at(case, case.w, traces).curved(Linearization.hessian_product)
    corrupted = TraceCache(corrupt(traces.save()))
    point = at(case, case.w, corrupted)
    expected = at(case, case.w, None).hessian_product(case.w)
    assert torch.equal(point.curved(Linearization.hessian_product)(case.w), expected)
    assert point.traced
    assert corrupted.save() is not None


def test_a_trace_that_holds_a_constant_is_not_kept():
    case, traces = dense("quadratic"), TraceCache()
    assert at(case, case.w, traces).curved(Linearization.hessian_product) is not None
    assert traces.save() is None


def test_stored_traces_are_used_from_the_first_step_and_change_no_bit():
    problem = _problem(lambda o, b: F.cross_entropy(o, b["y"]))
    config = engine.Config(n_steps=3, inner=engine.Adam(), inner_steps=2, batch_size=16, trace=True)
    traces = TraceCache()
    whole = list(engine.optimize(problem.bilevel(), problem.data, config, trace_cache=traces))
    later = config.model_copy(update={"trace": None})
    again = list(engine.optimize(problem.bilevel(), problem.data, later, trace_cache=TraceCache(traces.save() or b"")))
    assert [step.traced for step in again] == [True] * 3
    assert again[-1].state.save() == whole[-1].state.save()


def _problem(train_loss) -> engine.Problem:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 3))
    x, y = torch.randn(40, 4), torch.randint(0, 3, (40,))
    return engine.Problem(
        net,
        engine.hparams.L2(net, per="weight", init=-4.0),
        train_loss,
        lambda out, batch: F.cross_entropy(out, batch["y"]),
        train=(x, y),
        val=(x, y),
    )


def _run(problem: engine.Problem, **options) -> list[engine.Step]:
    config = engine.Config(n_steps=4, inner=engine.Adam(1e-2), inner_steps=2, batch_size=10, **options)
    return list(engine.optimize(problem.bilevel(), problem.data, config))


def test_a_traced_trajectory_is_the_same_to_the_bit():
    problem = _problem(lambda out, batch: F.cross_entropy(out, batch["y"]))
    traced, kept = _run(problem, trace=True), _run(problem, trace=False)
    assert [step.traced for step in traced] == [True] * 4
    assert [step.traced for step in kept] == [False] * 4
    assert all(a.state.save() == b.state.save() for a, b in zip(traced, kept, strict=True))


def test_a_loss_that_looks_into_its_tensors_runs_on_the_kept_graph_and_says_so_once():
    def looking(out, batch):
        return F.cross_entropy(out, batch["y"]) * (2.0 if float(out.detach().mean()) > 1e9 else 1.0)

    steps = _run(_problem(looking), trace=True)
    assert not any(step.traced for step in steps)
    reported = [warning for step in steps for warning in step.warnings if "cannot be traced" in warning]
    assert len(reported) == 1
    assert reported == [warning for warning in steps[0].warnings if "cannot be traced" in warning]


def test_an_error_without_a_message_prevents_tracing_and_is_named():
    # Regression: a bare `assert` in a model has no message to quote, and the trial failed instead of using autograd.
    def failing(point: Linearization, v: torch.Tensor) -> torch.Tensor:
        raise RuntimeError

    case, traces = dense("quadratic"), TraceCache()
    assert traces.get(at(case, case.w, traces), failing) is None
    (warning,) = traces.news()
    assert "(RuntimeError)" in warning


def test_a_short_run_is_not_traced_by_itself():
    assert not any(step.traced for step in _run(_problem(lambda out, batch: F.cross_entropy(out, batch["y"]))))


FORBIDDEN = """
    aten.from_file.default aten.save.default aten.set_.source_Tensor aten.resize_.default aten.as_strided.default
    aten.item.default aten.empty.memory_format aten.manual_seed.default aten._print.default aten.record_stream.default
    aten.add.out aten.empty_like.out aten.convolution_backward.out aten.gelu_backward.grad_input
    aten.mm os.system operator.attrgetter
""".split()


@pytest.mark.parametrize("name", FORBIDDEN)
def test_a_kept_trace_calls_only_what_a_trace_may_hold(name: str):
    """Regression: a document could call any operator; one with `from_file` read a file."""
    with pytest.raises(ProgramRejected, match="programs may not use this operator"):
        Part.read(_written({"op": name, "args": [{"ref": 0}], "kwargs": {}}), torch.device("cpu"))


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        ({"op": "aten.mm.default", "args": [{"ref": 0}, "x"], "kwargs": {}}, "the argument 'mat2' must be Tensor"),
        ({"op": "aten.mm.default", "args": [{"ref": 0}, {"ref": 1}], "kwargs": {}}, "it refers to the value 1"),
        ({"op": "aten.tanh_backward.default", "args": [{"ref": 0}], "kwargs": {}}, "the argument 'output' is missing"),
        (["aten.mm.default", [{"ref": 0}, {"ref": 0}], {}], "must be an object with the fields args, kwargs, op"),
    ],
    ids=["wrong type", "no such value", "missing argument", "another form"],
)
def test_a_kept_trace_is_held_to_the_schemas_that_programs_are_held_to(node, reason: str):
    with pytest.raises((ProgramInvalid, ProgramRejected), match=reason):
        Part.read(_written(node), torch.device("cpu"))


def test_the_outputs_of_a_kept_trace_are_lists_of_values():
    for outputs in ({"ref": 0}, {"dict": [["x", {"ref": 0}]]}, ["x"], {"tuple": []}):
        written = _written()
        written["outputs"] = outputs
        with pytest.raises(ProgramRejected, match="its outputs are not lists"):
            Part.read(written, torch.device("cpu"))


def _written(*nodes: object) -> dict[str, Any]:
    return {"inputs": [{"ref": 0}], "constants": [], "nodes": [*nodes], "outputs": [{"ref": len(nodes)}]}


def test_an_operator_of_a_trace_that_no_program_may_call_writes_into_no_argument_and_returns_tensors():
    bases = {schema.name.partition("::")[2] for schema in torch._C._jit_get_all_schemas()}
    packets = {base: getattr(torch.ops.aten, base, None) for base in bases}
    packets = {base: packet for base, packet in packets.items() if isinstance(packet, torch._ops.OpOverloadPacket)}
    names = [f"aten.{base}.{overload}" for base, packet in packets.items() for overload in packet.overloads()]
    added = {name: operator for name in names if (operator := of_trace(name)) and lookup(name) is None}
    assert set(DERIVATIVES) <= {name.split(".")[1] for name in added}
    for name, operator in added.items():
        assert not operator.target._schema.is_mutable, name
        assert {"Tensor", "List[Tensor]"}.issuperset(operator.returns), name


LOSSES = {
    "mse": F.mse_loss,
    "smooth l1": F.smooth_l1_loss,
    "huber": F.huber_loss,
    "binary cross-entropy": lambda o, y: F.binary_cross_entropy(o.sigmoid(), y.sigmoid()),
    "KL divergence": lambda o, y: F.kl_div(o.log_softmax(1), y.softmax(1), reduction="batchmean"),
    "soft margin": lambda o, y: F.soft_margin_loss(o, y.sign()),
}
ACTIVATIONS = "ReLU GELU SiLU ELU Softplus LeakyReLU Hardtanh Mish SELU LogSigmoid PReLU".split()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_traces_of_usual_activations_are_read_by_the_next_trial(activation: str):
    _expect_read_again(nn.Sequential(nn.Linear(4, 5), getattr(nn, activation)(), nn.Linear(5, 3)), F.mse_loss)


@pytest.mark.parametrize("loss", LOSSES)
def test_traces_of_usual_losses_are_read_by_the_next_trial(loss: str):
    _expect_read_again(nn.Linear(4, 3), LOSSES[loss])


def test_traces_of_pooling_and_upsampling_are_read_by_the_next_trial():
    layers = [nn.Conv2d(1, 2, 2, padding=1), nn.MaxPool2d(2), nn.Upsample(scale_factor=2), nn.AvgPool2d(2)]
    _expect_read_again(nn.Sequential(nn.Unflatten(1, (1, 2, 2)), *layers, nn.Flatten(), nn.Linear(2, 3)), F.mse_loss)


def test_a_kept_trace_that_is_too_large_is_made_again():
    """Spaces change nothing of a document but its size."""
    model = nn.Linear(4, 3)
    saved = _kept(TraceCache(), model)
    assert saved is not None
    assert _kept(TraceCache(saved.ljust(MAX_TRACE_BYTES)), model) is None, "it was read"
    assert _kept(TraceCache(saved.ljust(MAX_TRACE_BYTES + 1)), model) is not None, "it was made again"


def _expect_read_again(model: nn.Module, loss: Callable[..., Tensor]) -> None:
    """A trace that is kept but refused when it is read would be made again in every trial, and nobody would notice."""
    saved = _kept(TraceCache(), model, loss)
    assert saved is not None
    assert _kept(TraceCache(saved), model, loss) is None  # nothing was traced again


def _kept(traces: TraceCache, model: nn.Module, loss: Callable[..., Tensor] = F.mse_loss) -> bytes | None:
    """What a traced step leaves to be kept; None if it made no trace."""
    x, y = torch.randn(12, 4), torch.randn(12, 3)
    of = lambda outputs, batch: loss(outputs, batch["y"])
    problem = engine.Problem(model, engine.hparams.L2(model, per="global"), of, of, train=(x, y), val=(x, y))
    config = engine.Config(n_steps=1, inner=engine.SGD(0.01), trace=True)
    (step,) = engine.optimize(problem.bilevel(), problem.data, config, trace_cache=traces)
    assert step.traced
    return traces.save()

"""No operator that a program or a saved trace may call crashes or hangs its process, whatever it is given.

A stranger can write into memory with a kernel of torch that does not check its arguments. `make fuzz` runs the first
test for longer. A call that it names is reproduced with the same seed: see `testbed/fuzzing/operators.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from nestor.errors import ProgramRejected
from nestor.program_format import Call, Graph, GraphValue, Ref
from nestor_engine.graphs.bounds import GUARDS, MAX_SETTING
from nestor_engine.graphs.build import build
from nestor_engine.graphs.check import NUMBER, TENSOR, check_graph
from nestor_engine.graphs.operators import GETITEM, lookup, of_trace
from nestor_engine.program import load
from testbed.fuzzing import operators
from tests.engine.program.conftest import tensors
from tests.engine.program.test_refused_nodes import X, node, with_node

SEED = 1


@pytest.mark.parametrize(("of", "rounds", "least"), [("program", 8, 1 / 4), ("derivative", 40, 1 / 6)])
def test_no_operator_ends_its_process_or_hangs_on_sizes_and_indices_that_lie(of: str, rounds: int, least: float):
    """Derivatives are the operators that traces alone may call. Their kernels trust autograd, and check the least."""
    report = operators.fuzz(SEED, seconds=600, rounds=rounds, of=of)  # the same calls on a fast machine and a slow one
    assert report.fatal == []
    assert report.calls == rounds * len(operators.names(of))
    assert report.taken > report.calls * least, "arguments that agree with nothing test nothing but torch's checks"


@pytest.mark.parametrize(
    ("kernel", "rounds"),
    [("aten._weight_norm", 60), ("aten.native_batch_norm", 160), ("aten._pdist_backward", 8)],
)
def test_the_test_above_finds_a_kernel_that_reads_or_writes_beyond_a_tensor(kernel: str, rounds: int):
    report = operators.fuzz(SEED, seconds=60, rounds=rounds, of="trace", only=kernel, guarded=False)
    assert report.fatal != []


def run(op: str, *args: Any, **kwargs: Any) -> Any:
    """One call as a program makes it, with tensors and computed numbers (`Number`) as inputs."""
    given = [arg for arg in args if isinstance(arg, torch.Tensor | Number)]
    values: list[GraphValue] = [Ref(given.index(arg)) if isinstance(arg, Number) else arg for arg in args]
    for at, arg in enumerate(args):
        if isinstance(arg, torch.Tensor):
            values[at] = Ref(next(i for i, one in enumerate(given) if one is arg))
    nodes = [Call(op, tuple(values), kwargs)]
    if op == "aten.native_batch_norm.default":  # the first of its results
        nodes.append(Call(GETITEM, (Ref(len(given)), 0), {}))
    results = Ref(len(given) + len(nodes) - 1)
    graph = Graph(tuple(Ref(i) for i in range(len(given))), (), tuple(nodes), results)
    kinds = [TENSOR if isinstance(one, torch.Tensor) else NUMBER for one in given]
    run = build(check_graph(graph, lookup, where="here", given=kinds), torch.device("cpu"))
    return run(*(one.value if isinstance(one, Number) else one for one in given))


class Number:
    """A number that the graph computes."""

    def __init__(self, value: float) -> None:
        self.value = value


LOGS = torch.randn(5, 1, 3).log_softmax(-1)


@pytest.mark.parametrize(
    ("op", "args", "what"),
    [
        ("native_batch_norm.default", (torch.randn(2, 9), None, None, torch.zeros(1), torch.ones(1)), "running_mean"),
        ("native_batch_norm.default", (torch.randn(2, 9), torch.ones(1), None, None, None), "weight"),
        ("native_batch_norm.default", (torch.randn(2, 9), torch.ones(9), torch.ones(8), None, None), "bias"),
        ("native_batch_norm.default", (torch.randn(2, 9), None, None, None, None, False), "running statistics"),
    ],
)
def test_batch_normalization_has_one_entry_of_each_vector_per_channel(op: str, args: tuple[Any, ...], what: str):
    with pytest.raises(ProgramRejected, match=what):
        run(f"aten.{op}", *args[:5], len(args) == 5, 0.1, 1e-5)


@pytest.mark.parametrize("label", [-1, 3, 12, 10**9])
@pytest.mark.parametrize("as_tensors", [False, True])
def test_a_label_of_ctc_is_one_of_the_classes(label: int, as_tensors: bool):
    lengths = (torch.tensor([5]), torch.tensor([1])) if as_tensors else ([5], [1])
    op = "aten.ctc_loss.Tensor" if as_tensors else "aten.ctc_loss.IntList"
    with pytest.raises(ProgramRejected, match="label"):
        run(op, LOGS, torch.tensor([[label]]), *lengths)
    assert run(op, LOGS, torch.tensor([[2]]), *lengths) == torch.nn.functional.ctc_loss(
        LOGS, torch.tensor([[2]]), torch.tensor([5]), torch.tensor([1])
    )


@pytest.mark.parametrize("g", [(2,), (3, 1), (1, 3)])
def test_weight_normalization_has_one_length_per_row(g: tuple[int, ...]):
    v = torch.randn(2, 3)
    with pytest.raises(ProgramRejected, match="g has"):
        run("aten._weight_norm.default", v, torch.ones(g), 0)
    assert run("aten._weight_norm.default", v, torch.ones(2, 1), 0).norm(dim=1).allclose(torch.ones(2))


@pytest.mark.parametrize("op", ["aten.median.default", "aten.nanmedian.default"])
def test_a_median_is_of_a_tensor_that_has_all_of_its_entries_in_memory(op: str):
    with pytest.raises(ProgramRejected, match="contiguous"):
        run(op, torch.ones(1).expand(3))
    assert run(op, torch.ones(3)) == 1


@pytest.mark.parametrize("size", [MAX_SETTING + 1, 2**62, -(2**63)])
@pytest.mark.parametrize("computed", [False, True])
def test_a_kernel_is_at_most_a_few_million_whether_written_or_computed(size: int, computed: bool):
    """`max_pool1d` with a kernel of 2**62 hung."""
    kernel: Any = Number(size) if computed else [size]
    with pytest.raises(ProgramRejected, match=r"'kernel_size' must be at most 4,194,304"):
        run("aten.max_pool1d.default", torch.randn(1, 1, 8), kernel)
    assert run("aten.max_pool1d.default", torch.randn(1, 1, 8), Number(8) if computed else [8]).shape == (1, 1, 1)


@pytest.mark.parametrize(
    ("op", "args"),
    [
        ("operator.mul", (2**62, 2)),
        ("operator.add", (2**63 - 1, 1)),
        ("operator.sub", (-(2**63), 1)),
        ("operator.neg", (-(2**63),)),
        ("operator.floordiv", (-(2**63), -1)),
        ("math.ceil", (1e300,)),
        ("math.trunc", (-1e300,)),
        ("torch.sym_int", (1e19,)),
    ],
)
def test_arithmetic_on_sizes_stays_within_64_bits(op: str, args: tuple[float, ...]):
    """38 squarings of a size took an unbounded time in one operation."""
    with pytest.raises(ProgramRejected, match=f"{op}: its result has more than 64 bits"):
        run(op, *map(Number, args))


def test_a_program_does_not_pin_memory_of_the_host():
    for value in (False, None):
        load(json.dumps(with_node(node("aten.ones_like.default", X, pin_memory=value))).encode(), tensors())
    with pytest.raises(ProgramRejected, match="pin_memory"):
        load(json.dumps(with_node(node("aten.ones_like.default", X, pin_memory=True))).encode(), tensors())


class Guarded(TorchDispatchMode):
    """Asks the guards about every call of an operator, and remembers which they were asked about."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        schema = func._schema
        if (guard := GUARDS.get(base := schema.name.partition("::")[2])) is not None:
            names = [argument.name for argument in schema.arguments]
            assert guard(dict(zip(names, args, strict=False)) | (kwargs or {})) is None, base
            self.asked.add(base)
        return func(*args, **(kwargs or {}))


LAYERS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "batch norm": lambda x: F.batch_norm(x, None, None, torch.ones(6), torch.ones(6), training=True),
    "batch norm, evaluated": lambda x: F.batch_norm(x, torch.zeros(6), torch.ones(6)),
    "layer norm": lambda x: F.layer_norm(x, (6, 6), torch.ones(6, 6)),
    "softmax": lambda x: x.softmax(1) + x.log_softmax(-1),
    "softmax in half": lambda x: x.half().log_softmax(1, dtype=torch.float32),
    "GELU": lambda x: F.gelu(x) + F.gelu(x, approximate="tanh"),
    "pdist": lambda x: F.pdist(x.flatten(1)),
    "cdist": lambda x: torch.cdist(x, x[..., :2, :].detach(), p=1.0),
    "unfold": lambda x: x.unfold(-1, 2, 3) + x.unfold(2, 6, 1).sum(),
    "embedding": lambda x: F.embedding(torch.tensor([[0, 1], [3, 0]]), x.flatten(1)),
    "embedding by frequency": lambda x: F.embedding(torch.tensor([0, 3]), x.flatten(1), scale_grad_by_freq=True),
    "adaptive average": lambda x: F.adaptive_avg_pool2d(x, (2, 4)).sum() + F.adaptive_avg_pool3d(x, (2, 3, 1)),
    "adaptive maximum": lambda x: F.adaptive_max_pool2d(x, (2, 4)).sum() + F.adaptive_max_pool3d(x, (2, 3, 1)),
    "reflection": lambda x: F.pad(x[0], (2, 1), "reflect").sum() + F.pad(x, (2, 1, 0, 3), "reflect"),
    "reflection in 3 dimensions": lambda x: F.pad(x[None], (2, 1, 0, 3, 1, 1), "reflect"),
    "replication": lambda x: F.pad(x[0], (2, 1), "replicate").sum() + F.pad(x, (2, 1, 0, 3), "replicate"),
    "replication in 3 dimensions": lambda x: F.pad(x[None], (2, 1, 0, 3, 1, 1), "replicate"),
    "cropped": lambda x: F.pad(x, (-1, 2, 0, -1), "replicate"),
    "margins": lambda x: F.multi_margin_loss(x[:, 0, 0], torch.tensor([0, 5, 2, 1]), weight=torch.ones(6)),
    "margin of one": lambda x: F.multi_margin_loss(x[0, 0, 0], torch.tensor(3), reduction="none"),
    "CTC": lambda x: F.ctc_loss(
        x[0].log_softmax(-1), torch.ones(6, 2).long(), torch.full((6,), 6), torch.full((6,), 2)
    ),
    "median": lambda x: x.median() + x.nanmedian(),
}
# Operators of GPUs, and those that torch divides into others before it shows them.
UNSEEN = {"cudnn_batch_norm", "cudnn_batch_norm_backward", "batch_norm_backward"} | {
    "_weight_norm",
    "ctc_loss",
    "embedding_backward",
}


def test_guards_take_what_autograd_gives():
    """A trace that is refused when it runs would be made again in every trial, and nobody would notice."""
    with Guarded() as guarded:
        for layer in LAYERS.values():
            x = torch.randn(4, 6, 6, 6, requires_grad=True)
            (slope,) = torch.autograd.grad(layer(x).sum(), x, create_graph=True)
            with suppress(NotImplementedError, RuntimeError):  # some have no second derivative
                torch.autograd.grad(slope.square().sum(), x)
    assert guarded.asked == GUARDS.keys() - UNSEEN


def test_every_guard_is_for_an_operator_that_a_program_or_a_trace_may_call():
    allowed = {operator.base for name in operators.names("trace") if (operator := of_trace(name)) is not None}
    assert GUARDS.keys() <= allowed

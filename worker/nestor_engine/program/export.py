"""From a problem to its program: trace its functions, write graphs as JSON and tensors as safetensors.

Torch's own archive format is not used, because reading one can execute code of its author.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from nestor.errors import NotExportable, ProgramInvalid, ProgramRejected
from nestor.program_format import (
    FUNCTIONS,
    INDEX,
    UNNAMED,
    Graph,
    HyperparameterSpec,
    ProgramDocument,
    valid_name,
    write_document,
)
from nestor_engine.data.splits import size_of
from nestor_engine.objective import Batch, Bilevel, Tensors
from nestor_engine.problem.model.outputs import Outputs
from nestor_engine.program.load import load, torch_version
from nestor_engine.program.quiet import quiet
from nestor_engine.program.trace import BATCH, Sizes, Traced, has_effects, trace
from nestor_engine.program.write import write
from nestor_engine.tensors.generators import OwnGenerators
from nestor_engine.tensors.serialization import to_safetensors

# Unlike any size that a model is likely to have, so that no dimension equals the batch's by chance.
EXAMPLES = 7


@dataclass(frozen=True)
class Program:
    """A problem without its code, as bytes. The same problem gives the same bytes."""

    graphs: bytes
    tensors: bytes


def export(bilevel: Bilevel, *, train: Tensors, val: Tensors) -> Program:
    """Write the functions and initial values of a problem, for any batch size and any device.

    Args:
        bilevel: its parameters must be a flat dict.
        train, val: the columns of the two splits, of which a few examples are read.

    Raises:
        NotExportable: a function does something that no graph can hold; the message says which and where.
    """
    for what, names in (
        ("parameter", bilevel.params),
        ("buffer", bilevel.buffers),
        ("hyperparameter", bilevel.hparams),
        ("column", train | val),
        ("metric", bilevel.metrics or {}),
    ):
        if refused := [name for name in names if not valid_name(name)]:
            raise NotExportable(
                function=f"The {what} {refused[0]!r}",
                where="",
                reason="its name holds quotes or characters that cannot be printed, or is too long.",
                remedy="Rename it.",
            )
    bilevel = bilevel.untransformed()  # a program's graphs apply the transforms themselves
    traced = _trace_all(bilevel, few(train), few(val))
    weights = {t.untyped_storage().data_ptr(): name for name, t in bilevel.params.items()}
    constants: Tensors = {}

    def written(traced: Traced) -> Graph:
        graph, read = write(traced)
        for constant, tensor in read.items():
            _refuse_weights(traced.name, tensor, weights)
            constants[constant] = tensor
        return graph

    graphs = {name: written(traced.functions[name]) for name in FUNCTIONS}
    metrics = {name: written(metric) for name, metric in traced.metrics.items()}
    hparams = {
        name: HyperparameterSpec(
            bilevel.transforms.get(name, "identity"),
            *bilevel.bounds.get(name, (-math.inf, math.inf)),
            prior=bilevel.priors.get(name, 0.0),
            by_position=(bilevel.by_position or {}).get(name),
            entry_names=bilevel.entry_names.get(name, UNNAMED),
        )
        for name in bilevel.hparams
    }
    groups = {
        # A program has no graph for `initial`: its weights are initialized already.
        "params": bilevel.initial(bilevel.params, bilevel.hparams),
        "buffers": bilevel.buffers,
        "hparams": bilevel.hparams,
        "constants": constants,
    }
    program = Program(
        graphs=write_document(ProgramDocument(torch_version(), hparams, graphs, metrics)),
        tensors=to_safetensors(
            {f"{group}.{name}": tensor for group, tensors in groups.items() for name, tensor in tensors.items()}
        ),
    )
    try:
        load(program.graphs, program.tensors)
    except (ProgramInvalid, ProgramRejected) as error:  # before an upload, not after it
        reason = str(error.context.get("reason", error)).rstrip(".") + "."
        raise NotExportable(
            function="The problem", where="", reason=reason, remedy="Change that part of the problem."
        ) from error
    return program


def few(columns: Tensors) -> Batch:
    """A batch of a few examples, with repetitions when there are fewer."""
    index = torch.arange(EXAMPLES) % size_of(columns)
    return {name: values[index.to(values.device)] for name, values in columns.items()} | {INDEX: index}


@dataclass(frozen=True)
class _Functions:
    """All functions of a problem, traced: those of the format, and the metrics by name."""

    functions: dict[str, Traced]
    metrics: dict[str, Traced]


def _trace_all(bilevel: Bilevel, train: Batch, val: Batch) -> _Functions:
    device = next(iter(bilevel.params.values())).device
    train, val = ({name: values.to(device) for name, values in batch.items()} for batch in (train, val))
    params, hparams = _requiring_grad(bilevel.params), _requiring_grad(bilevel.hparams)
    buffers = bilevel.buffers

    def batches(batch: Batch) -> Sizes:
        return [{0: BATCH} for _ in batch]

    prepare = trace("prepare", bilevel.prepare, (hparams, train), (None, batches(train)))
    with quiet(), OwnGenerators():
        prepared = _leaves_of(bilevel.prepare(hparams, train))
        outputs = _leaves_of(bilevel.forward(params, buffers, hparams, prepared)[0])
        predicted = _leaves_of(bilevel.predict(params, buffers, hparams, val))
    sizes = prepare.output_sizes()
    forward = trace("forward", bilevel.forward, (params, buffers, hparams, prepared), (None, None, None, sizes))
    # The form as it was traced: a number in it that is a size of a tensor stays one.
    form = forward.outputs[0].children()[0]
    outputs = pytree.tree_unflatten(pytree.tree_leaves(outputs), form)
    output_sizes = forward.output_sizes()[: form.num_leaves]
    criterion = trace("criterion", bilevel.criterion, (outputs, hparams, prepared), (output_sizes, None, sizes))
    if isinstance(outputs, Outputs):
        forward, (criterion,) = _without_unread(forward, [criterion], form.num_leaves)
    penalty = trace("penalty", bilevel.penalty, (params, hparams), (None, None))

    predict = trace("predict", bilevel.predict, (params, buffers, hparams, val), (None, None, None, batches(val)))
    predicted = pytree.tree_unflatten(pytree.tree_leaves(predicted), predict.outputs[0])
    reading = (predicted, hparams, val), (predict.output_sizes(), None, batches(val))
    metrics = bilevel.metrics_of(predicted)
    readers = [
        trace("val_loss", bilevel.val_loss, *reading),
        *(trace(f"The metric {name!r}", metric, *reading) for name, metric in metrics.items()),
    ]
    predict, (val_loss, *measures) = _without_unread(predict, readers, len(predict.outputs[1]))
    return _Functions(
        {traced.name: traced for traced in (prepare, forward, criterion, penalty, predict, val_loss)},
        dict(zip(metrics, measures, strict=True)),
    )


def _without_unread(producer: Traced, readers: Sequence[Traced], n: int) -> tuple[Traced, list[Traced]]:
    """All without those of the `n` leaves of the producer's outputs that no reader reads.

    An object may hold much more than a loss reads, such as hidden states and caches of keys and values.
    """
    form, results = producer.outputs

    def reads(reader: Traced, number: int) -> bool:
        leaf = reader.inputs[1][number]
        return isinstance(leaf, fx.Node) and bool(leaf.users)

    unread = {number for number in range(n) if not any(reads(reader, number) for reader in readers)}
    returned = [None if number in unread else leaf for number, leaf in enumerate(results)]
    (end,) = producer.graph.find_nodes(op="output")
    end.args = (tuple(returned),)
    producer.graph.eliminate_dead_code(is_impure_node=has_effects)
    passed = [
        replace(
            reader,
            inputs=(reader.inputs[0], [None if i in unread else leaf for i, leaf in enumerate(reader.inputs[1])]),
        )
        for reader in readers
    ]
    return replace(producer, outputs=(form, returned)), passed


def _requiring_grad(tensors: Tensors) -> Tensors:
    """With gradients required, as in training: some modules check this, and take another path."""
    return {name: t.detach().requires_grad_(t.is_floating_point()) for name, t in tensors.items()}


def _leaves_of(tree: Any) -> Any:
    """The same tensors without their history, which still require gradients where they did."""

    def cut(value: Any) -> Any:
        return value.detach().requires_grad_(value.requires_grad) if isinstance(value, Tensor) else value

    return pytree.tree_map(cut, tree)


def _refuse_weights(function: str, constant: Tensor, weights: dict[int, str]) -> None:
    name = weights.get(constant.untyped_storage().data_ptr())
    if name is not None and constant.numel():
        raise NotExportable(
            function=function,
            where="",
            reason=f"it reads the model's parameter {name!r} directly, without a gradient.",
            remedy="Use a kind of hyperparameters such as L2 for that, or return it from the model.",
        )

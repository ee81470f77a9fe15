"""The validation loss and the metrics on a whole split."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from nestor_engine.data.splits import INDEX, View, chunks, size_of
from nestor_engine.distributed import ALONE, Group
from nestor_engine.measuring.collector import Collector
from nestor_engine.measuring.results import Measured
from nestor_engine.objective import Bilevel, PyTree, Tensors

EVALUATION_BATCH = 1024  # examples at a time; limits the memory


def evaluate(
    bilevel: Bilevel,
    params: PyTree,
    buffers: Tensors,
    hparams: Tensors,
    columns: Tensors,
    group: Group = ALONE,
) -> dict[str, float]:
    """The validation loss (as "loss") and the metrics on a whole split.

    A loss or metric that returns (sum, weight) is added up over the split. Any other loss is a mean over the examples,
    and any other metric is computed on the outputs for all examples at once.

    Args:
        hparams: before their transforms.

    Raises:
        OutputNotJoinable: a metric needs an output for all examples that is not one row for each of them.
    """
    values = {name: value.detach() for name, value in bilevel.values(hparams).items()}
    try:
        with torch.no_grad():
            return _evaluate(bilevel, params, buffers, values, columns, group)
    except RuntimeError:
        # Some forward passes need a graph: they differentiate, or register a hook. Another error is raised again.
        with torch.enable_grad():
            return _evaluate(bilevel, pytree.tree_map(_leaf, params), buffers, values, columns, group)


def _evaluate(
    bilevel: Bilevel, params: PyTree, buffers: Tensors, values: Tensors, columns: Tensors, group: Group
) -> dict[str, float]:
    share = group.share(size_of(columns))
    collector: Collector | None = None
    total = weight = 0.0
    for batch in chunks(columns, EVALUATION_BATCH, share.part):
        outputs = bilevel.predict(params, buffers, values, batch)
        loss: Measured = _detached(bilevel.val_loss(outputs, values, batch))
        of_batch = loss if isinstance(loss, tuple) else (float(loss) * len(batch[INDEX]), len(batch[INDEX]))
        total, weight = total + float(of_batch[0]), weight + float(of_batch[1])
        outputs = _detached(outputs)
        if collector is None:
            collector = Collector(bilevel.metrics_of(outputs), values, share, View(columns).all())
        collector.add(outputs, batch)
        del outputs  # those of a whole split may be large
    sums = share.total(torch.tensor([total, weight], dtype=torch.float64, device=group.device))
    assert collector is not None  # a split has examples
    return {"loss": float(sums[0] / sums[1]), **collector.results()}


def _detached(tree: PyTree) -> PyTree:
    return pytree.tree_map_only(Tensor, Tensor.detach, tree)


def _leaf(param: Tensor) -> Tensor:
    return param.detach().requires_grad_()

"""The validation loss and the metrics on a whole split."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from nestor_engine.data.splits import INDEX, View, chunks, size_of
from nestor_engine.distributed import ALONE, Group
from nestor_engine.measuring.collector import Collector
from nestor_engine.objective import Bilevel, PyTree, Tensors

_REGISTER: Any = Tensor.register_hook  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] torch does not type it
EVALUATION_BATCH = 1024  # examples at a time; limits the memory


class _WithoutHooks(TorchFunctionMode):
    """A model may register hooks on its activations, and torch refuses that where nothing has a gradient."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is _REGISTER and not args[0].requires_grad:
            return RemovableHandle(OrderedDict[int, Any]())
        return func(*args, **(kwargs or {}))


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
    share = group.share(size_of(columns))
    collector: Collector | None = None
    total = weight = 0.0
    with torch.no_grad(), _WithoutHooks():
        values = bilevel.values(hparams)
        for batch in chunks(columns, EVALUATION_BATCH, share.part):
            outputs = bilevel.predict(params, buffers, values, batch)
            loss = bilevel.val_loss(outputs, values, batch)
            of_batch = loss if isinstance(loss, tuple) else (float(loss) * len(batch[INDEX]), len(batch[INDEX]))
            total, weight = total + float(of_batch[0]), weight + float(of_batch[1])
            if collector is None:
                collector = Collector(bilevel.metrics_of(outputs), values, share, View(columns).all())
            collector.add(outputs, batch)
            del outputs  # those of a whole split may be large
        sums = share.total(torch.tensor([total, weight], dtype=torch.float64, device=group.device))
        assert collector is not None  # a split has examples
        return {"loss": float(sums[0] / sums[1]), **collector.results()}

"""The validation loss and the metrics on a whole split."""

from __future__ import annotations

import torch

from nestor_engine.data.splits import chunks, size_of
from nestor_engine.distributed import ALONE, Group
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
    """The validation loss (as "loss") and the metrics over a whole split: means over its examples.

    Args:
        hparams: before their transforms.
    """
    share = group.share(size_of(columns))
    n = share.part.stop - share.part.start
    totals: dict[str, float] = {}
    with torch.no_grad():
        values = bilevel.values(hparams)
        for batch in chunks(columns, EVALUATION_BATCH, share.part):
            for name, mean in bilevel.evaluate(params, buffers, values, batch).items():
                totals[name] = totals.get(name, 0.0) + float(mean) * len(batch["index"])
    means = {name: torch.tensor(total / n, dtype=torch.float64, device=group.device) for name, total in totals.items()}
    return {name: float(mean) for name, mean in share.means(means).items()}

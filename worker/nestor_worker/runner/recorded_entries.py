"""What a snapshot records of the entries that stand out, so that no reader has to compare all numbers."""

# pyright: reportUnknownMemberType=false
# (torch does not type the entries of Tensor.tolist)

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nestor.schemas import RecordedEntries

if TYPE_CHECKING:
    from torch import Tensor


def recorded_entries(
    hparams: dict[str, Tensor], start: dict[str, Tensor], gradient: dict[str, Tensor]
) -> dict[str, Any]:
    """The fields of `RecordedEntries` for hyperparameters that began at `start`.

    Args:
        start: may be on another device than `hparams`.
        gradient: on the device of `hparams`; empty before the first step.
    """
    from nestor_engine.hparams.extremes import extreme_entries

    k = RecordedEntries.per_order(len(hparams))
    tensors: dict[str, Any] = {}
    for name, value in hparams.items():
        slope = gradient.get(name)
        index = extreme_entries(value, start[name].to(value.device), slope, k)
        tensors[name] = {
            "index": index.tolist(),
            "gradient": None if slope is None else slope.flatten()[index].tolist(),
        }
    return {"k": k, "tensors": tensors}

"""What a snapshot records of entries, so that no reader has to compare all numbers: which stand out, how many moved."""

# pyright: reportUnknownMemberType=false
# (torch does not type the entries of Tensor.tolist)

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nestor.schemas import RecordedEntries
from nestor.schemas.entries import COMPARED

if TYPE_CHECKING:
    from torch import Tensor


def recorded_entries(
    hparams: dict[str, Tensor],
    start: dict[str, Tensor],
    gradient: dict[str, Tensor],
    transforms: Mapping[str, str],
) -> dict[str, Any]:
    """The fields of `RecordedEntries` for hyperparameters that began at `start`.

    Args:
        start: may be on another device than `hparams`.
        gradient: on the device of `hparams`; empty before the first step.
        transforms: by name; those of other names are the identity.
    """
    import numpy as np

    from nestor_engine.hparams.extremes import extreme_entries, extreme_numbers, first_numbers
    from nestor_engine.hparams.moved import moved_fraction, moved_fractions
    from nestor_engine.hparams.on_host import SMALL, on_host

    sizes = {name: value.numel() for name, value in hparams.items()}
    k = RecordedEntries.per_order(sizes.values())
    small = [name for name, size in sizes.items() if size <= SMALL]
    values, starts = (on_host({name: of[name] for name in small}) for of in (hparams, start))
    slopes = on_host({name: slope for name, slope in gradient.items() if sizes[name] <= SMALL})
    moved = moved_fractions(values, starts, transforms)
    tensors: dict[str, Any] = {}
    for name, size in sizes.items():
        slope = slopes.get(name)
        if size > SMALL:
            slope = gradient[name].detach().flatten() if name in gradient else None
            began = start[name].to(hparams[name].device)
            index = extreme_entries(hparams[name], began, slope, k)
            moved[name] = moved_fraction(hparams[name], began, transforms.get(name, "identity"))
        elif size > COMPARED:
            index = extreme_numbers(values[name], starts[name], slope, k=k)
        elif slope is not None:
            index = np.sort(first_numbers(np.abs(slope), k))
        else:
            continue  # nothing that readers cannot find
        tensors[name] = {"index": index.tolist(), "gradient": None if slope is None else slope[index].tolist()}
    return {"k": k, "tensors": tensors, "moved": moved}

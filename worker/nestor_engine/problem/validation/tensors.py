"""Checks of a problem's data, parameters and hyperparameters that need no run."""

from __future__ import annotations

from collections.abc import Sequence

from nestor import errors
from nestor_engine.data.mapped import scan
from nestor_engine.data.splits import Data
from nestor_engine.objective import Bilevel
from nestor_engine.problem.validation.report import Findings


def check_data(findings: Findings, data: Data) -> None:
    """Look for non-finite values, and for test columns that differ from the validation columns."""
    for split, columns in data.splits.items():
        for name, values in columns.items():
            if values.is_floating_point() and (bad := scan(values).not_finite) is not None:
                findings.error(
                    f"{split} data",
                    f"The column {name!r} holds NaN or infinity, first in example {bad}. Remove or impute it.",
                    errors.ColumnNotFinite,
                )
    if data.test is not None and set(data.test) != set(data.val):
        findings.error(
            "test data",
            f"Its columns are {sorted(data.test)}, those of the validation data {sorted(data.val)}. Name them alike.",
            errors.SplitsDiffer,
        )


def check_tensors(findings: Findings, bilevel: Bilevel, data: Data, inputs: Sequence[str]) -> None:
    """Look for wrong dtypes, devices and values of parameters and hyperparameters.

    Args:
        inputs: the columns that the model is called with; floating-point ones must have the parameters' dtype.
    """
    params, hparams = bilevel.params, bilevel.hparams
    dtypes = sorted({str(p.dtype) for p in params.values()})
    if len(dtypes) > 1:
        findings.error(
            "model",
            f"Its parameters are {' and '.join(dtypes)}. Convert it, for example with model.float().",
            errors.ParameterDtypesDiffer,
        )
    elif dtypes[0] not in ("torch.float32", "torch.float64"):
        findings.error(
            "model",
            f"Its parameters are {dtypes[0]}, in which linear systems cannot be solved. Convert it with "
            "model.float(), and train with autocast='bfloat16' if you like.",
            errors.ParameterDtypesDiffer,
        )
    if len(devices := sorted({str(p.device) for p in params.values()})) > 1:
        findings.error(
            "model", f"Its parameters are on {' and '.join(devices)}. Move it to one device.", errors.DevicesDiffer
        )
    for what, tensors in (("parameter", params), ("hyperparameter", hparams)):
        for name, values in tensors.items():
            if not values.is_floating_point():
                findings.error(
                    what,
                    f"{name!r} is {values.dtype}, which has no gradient. Make it floating-point.",
                    errors.ValuesNotFloating,
                )
            elif not values.isfinite().all():
                findings.error(
                    what,
                    f"{name!r} holds NaN or infinity. Initialize it with finite numbers.",
                    errors.ValuesNotFinite,
                )
    for split, columns in data.splits.items():
        for name in inputs:
            dtype = columns[name].dtype
            if dtype.is_floating_point and len(dtypes) == 1 and str(dtype) != dtypes[0]:
                findings.error(
                    f"{split} data",
                    f"The column {name!r} is {dtype}, the model's parameters are {dtypes[0]}. Convert one of them.",
                    errors.ColumnDtypeDiffers,
                )

"""Run one batch through every path of a problem, here, and say in its author's terms what is wrong.

Nothing is raised: what is found is collected, so that one look mends everything.
"""

# pyright: reportUnknownMemberType=false
# (torch types neither fork_rng and manual_seed nor Tensor.split)

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from nestor import errors
from nestor_engine.data.splits import INDEX, Data, size_of
from nestor_engine.errors import NotExportable
from nestor_engine.hparams import CompositeHyperparameters
from nestor_engine.objective import Batch, Bilevel, Tensors
from nestor_engine.problem.validation.report import Finding as Finding
from nestor_engine.problem.validation.report import Findings as Findings
from nestor_engine.problem.validation.report import Report as Report
from nestor_engine.problem.validation.report import shapes
from nestor_engine.problem.validation.sensitivity import Missing, missing
from nestor_engine.program.export import EXAMPLES, Program, export
from nestor_engine.program.load import load


class Checkable(Protocol):
    """What a check reads of a `Problem`, which imports this module and so cannot be imported here."""

    hparams: CompositeHyperparameters
    train_loss: Callable[..., Tensor]
    val_loss: Callable[..., Tensor]
    inputs: tuple[str, ...]
    data: Data

    def bilevel(self) -> Bilevel: ...


def check(problem: Checkable, *, batch_size: int | None = None, ship: bool = True) -> Report:
    """Look for mistakes in a problem.

    Args:
        batch_size: of the training that is planned, if known.
        ship: whether the problem must be exportable, which takes a few seconds more.
    """
    return _Check(problem, batch_size).run(ship=ship)


class _Check(Findings):
    def __init__(self, problem: Checkable, batch_size: int | None) -> None:
        super().__init__()
        self._batch_size = batch_size
        self._original = problem
        self._program: Program | None = None
        self._problem = copy.copy(problem)
        self._problem.train_loss = self._noting("train_loss", problem.train_loss)
        self._problem.val_loss = self._noting("val_loss", problem.val_loss)

    def run(self, *, ship: bool) -> Report:
        devices: Sequence[int] = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
        with torch.random.fork_rng(devices=devices):
            self._data()
            with self._telling("the problem"):
                bilevel = self._problem.bilevel().untransformed()
                for remark in self._problem.hparams.remarks:
                    self._warning("hyperparameters", remark)
                self._state(bilevel)
                # With broken data or weights, every later sentence would be a riddle.
                if self._report().ok:
                    self._training(bilevel)
                    self._validation(bilevel)
                if ship and self._report().ok:
                    self._export(bilevel)
        return replace(self._report(), program=self._program)

    def _data(self) -> None:
        data = self._problem.data
        for split, columns in data.splits.items():
            for name, values in columns.items():
                if values.is_floating_point() and not values.isfinite().all():
                    bad = int((~values.isfinite()).reshape(len(values), -1).any(1).nonzero()[0])
                    self._error(
                        f"{split} data",
                        f"The column {name!r} holds NaN or infinity, first in example {bad}. Remove or impute it.",
                        errors.ColumnNotFinite,
                    )
        if data.test is not None and set(data.test) != set(data.val):
            self._error(
                "test data",
                f"Its columns are {sorted(data.test)}, those of the validation data {sorted(data.val)}. "
                "Name them alike.",
                errors.SplitsDiffer,
            )
        if self._batch_size is not None and self._batch_size < 1:
            self._error("batch size", f"It is {self._batch_size}; it must be at least one.", errors.OptionOutOfRange)

    def _state(self, bilevel: Bilevel) -> None:
        params, hparams = bilevel.params, bilevel.hparams
        dtypes = sorted({str(p.dtype) for p in params.values()})
        if len(dtypes) > 1:
            self._error(
                "model",
                f"Its parameters are {' and '.join(dtypes)}. Convert it, for example with model.float().",
                errors.ParameterDtypesDiffer,
            )
        elif dtypes[0] not in ("torch.float32", "torch.float64"):
            self._error(
                "model",
                f"Its parameters are {dtypes[0]}, in which no linear system can be solved. Convert it with "
                "model.float(), and train with autocast='bfloat16' if you like.",
                errors.ParameterDtypesDiffer,
            )
        if len(devices := sorted({str(p.device) for p in params.values()})) > 1:
            self._error(
                "model", f"Its parameters are on {' and '.join(devices)}. Move it to one device.", errors.DevicesDiffer
            )
        for what, tensors in (("parameter", params), ("hyperparameter", hparams)):
            for name, values in tensors.items():
                if not values.is_floating_point():
                    self._error(
                        what,
                        f"{name!r} is {values.dtype}, which has no gradient. Make it floating-point.",
                        errors.ValuesNotFloating,
                    )
                elif not values.isfinite().all():
                    self._error(
                        what,
                        f"{name!r} holds NaN or infinity. Initialize it with finite numbers.",
                        errors.ValuesNotFinite,
                    )
        for split, columns in self._problem.data.splits.items():
            for name in self._problem.inputs:
                dtype = columns[name].dtype
                if dtype.is_floating_point and len(dtypes) == 1 and str(dtype) != dtypes[0]:
                    self._error(
                        f"{split} data",
                        f"The column {name!r} is {dtype}, the model's parameters are {dtypes[0]}. Convert one of them.",
                        errors.ColumnDtypeDiffers,
                    )

    def _training(self, bilevel: Bilevel) -> None:
        columns = self._problem.data.train
        # Away from initial zeros: a decay of a bias that is zero has a gradient of zero, too.
        moved = {n: (p + 0.01 * torch.randn_like(p)).requires_grad_() for n, p in bilevel.params.items()}
        hparams = {name: values.detach().clone().requires_grad_() for name, values in bilevel.hparams.items()}
        batch = probe(columns, bilevel)
        with self._telling("hyperparameters, on the training batch", batch=batch):
            prepared = bilevel.prepare(hparams, batch)
            if self._batch_size == 1 or size_of(columns) == 1:
                self._batch_of_one(bilevel, prepared)
            before = {name: values.detach().clone() for name, values in prepared.items()}
            outputs = None
            with self._telling("model, in training mode", batch=_inputs(self._problem, prepared)):
                outputs = self._draw(bilevel, moved, hparams, prepared)
            for name, values in prepared.items():
                if not torch.equal(values.detach(), before[name]):
                    self._error(
                        "model",
                        f"It writes into its input {name!r}, that is into the data. Work on a copy.",
                        errors.InputOverwritten,
                    )
            if outputs is not None:
                told = {"loss": "train_loss", "note": _replaced(batch, prepared)}
                with self._telling("train_loss", **told, outputs=outputs, batch=prepared):
                    criterion = bilevel.criterion(outputs, hparams, prepared)
                    if self._returned_well("train_loss"):
                        self._gradients(bilevel, moved, hparams, batch, criterion)

    def _batch_of_one(self, bilevel: Bilevel, prepared: Batch) -> None:
        one = {name: values[:1] for name, values in prepared.items()}
        try:
            bilevel.forward(bilevel.params, bilevel.buffers, bilevel.hparams, one)
        except ValueError as error:
            if "more than 1 value per channel" in str(error):
                self._error(
                    "model",
                    "BatchNorm cannot train on a batch of one example. Use batches of at least two.",
                    errors.BatchNormInTraining,
                )

    def _draw(self, bilevel: Bilevel, params: Tensors, hparams: Tensors, batch: Batch) -> Any:
        """The model's outputs; twice from one seed, which must agree."""
        results: list[Any] = []
        for _ in range(2):
            torch.manual_seed(0)
            results.append(bilevel.forward(params, bilevel.buffers, hparams, batch)[0])
        first, second = (pytree.tree_leaves(result) for result in results)
        if not all(torch.equal(a, b) for a, b in zip(first, second, strict=True) if isinstance(a, Tensor)):
            self._error(
                "model",
                "Two calls with one seed give different outputs: it draws random numbers outside of torch, or "
                "remembers something between calls. Use torch's random functions, and buffers for memory.",
                errors.ModelNotReproducible,
            )
        return results[-1]

    def _gradients(self, bilevel: Bilevel, params: Tensors, hparams: Tensors, batch: Batch, criterion: Tensor) -> None:
        loss = criterion + bilevel.penalty(params, hparams)
        if not loss.isfinite():
            self._error(
                "training loss",
                "With the hyperparameters' terms it is not finite. Start from smaller values.",
                errors.LossNotFinite,
            )
            return
        if not loss.requires_grad:
            self._error(
                "train_loss",
                "No parameter reaches it: look for .detach(), .item() or torch.no_grad().",
                errors.LossDetached,
            )
            return
        reached = torch.autograd.grad(loss, list(params.values()), allow_unused=True)
        first = cast("tuple[Tensor | None, ...]", reached)  # which its annotation leaves out
        for name, gradient in zip(params, first, strict=True):
            if gradient is None:
                self._warning(
                    f"parameter {name!r}",
                    "It does not reach the training loss, so it will keep its value.",
                    errors.ParameterUnused,
                )
        for name, why in missing(bilevel, params, hparams, batch, probe(self._problem.data.val, bilevel)).items():
            tell = self._error if why is Missing.influence else self._warning
            tell(f"hyperparameter {name!r}", why.value, errors.HparamWithoutInfluence)

    def _validation(self, bilevel: Bilevel) -> None:
        for split, columns in self._problem.data.splits.items():
            if split == "train":
                continue
            batch = probe(columns, bilevel)
            buffers = {name: values.clone() for name, values in bilevel.buffers.items()}
            with self._telling(f"model, val_loss or metrics, on {split} data", loss="val_loss", batch=batch):
                told = bilevel.evaluate(bilevel.params, buffers, bilevel.hparams, batch)
                if self._returned_well("val_loss"):
                    for name in [name for name, value in told.items() if not value.isfinite()]:
                        self._warning(
                            f"metric {name!r}",
                            f"It is {float(told[name])} on {split} data with initial weights.",
                            errors.MetricNotFinite,
                        )
            for name, values in buffers.items():
                if not torch.equal(values, bilevel.buffers[name]):
                    self._warning(
                        "model",
                        f"In evaluation mode it changes its buffer {name!r}. Do that in training mode only.",
                        errors.BufferChanged,
                    )

    def _export(self, bilevel: Bilevel) -> None:
        data = self._original.data
        try:
            program = self._program = export(self._original.bilevel(), train=data.train, val=data.val)
        except NotExportable as error:
            self._error("export", str(error), type(error), error)
            return
        loaded = load(program.graphs, program.tensors).to(next(iter(bilevel.params.values())).device)
        batch = probe(self._problem.data.train, bilevel)
        batch = {name: torch.cat([values, values]) for name, values in batch.items()}
        results: list[Tensor] = []
        with self._telling("export", batch=batch):
            for functions in (bilevel, loaded):
                torch.manual_seed(0)
                results.append(functions.train_loss(bilevel.params, bilevel.buffers, bilevel.hparams, batch)[0])
            if not torch.allclose(results[0], results[1], rtol=1e-4, atol=1e-6):
                self._error(
                    "export",
                    f"The exported training loss is {float(results[1]):.6g}, the problem's {float(results[0]):.6g}: "
                    "what changes from call to call was fixed. Use torch's random functions, and no global state.",
                    errors.ExportDiffers,
                )


def probe(columns: Tensors, bilevel: Bilevel) -> Batch:
    """A small batch that holds what breaks first: the first and the last example, the smallest and largest labels."""
    n = size_of(columns)
    rows = [round(position * (n - 1) / (EXAMPLES - 1)) for position in range(EXAMPLES)]
    for values in columns.values():
        if not values.is_floating_point() and values.ndim and values.numel():
            flat = values.reshape(n, -1)
            rows += [int(flat.amin(1).long().argmin()), int(flat.amax(1).long().argmax())]
    device = next(iter(bilevel.params.values())).device
    index = torch.tensor(rows)
    return {name: values[index.to(values.device)].to(device) for name, values in columns.items()} | {
        INDEX: index.to(device)
    }


def _inputs(problem: Checkable, batch: Batch) -> Batch:
    return {name: batch[name] for name in problem.inputs}


def _replaced(batch: Batch, prepared: Batch) -> str:
    """Which columns hyperparameters gave another type or shape, which losses must take."""
    for name, values in batch.items():
        if (given := shapes(values)) != (now := shapes(prepared[name])):
            return (
                f"Hyperparameters turned its column {name!r} from {given} into {now}. If these are class "
                "probabilities, F.cross_entropy takes them. "
            )
    return ""

"""Run one batch through every path of a problem, in this process, and report mistakes in its author's terms.

Nothing is raised: findings are collected, so that the author can fix all of them at once.
"""

# pyright: reportUnknownMemberType=false
# (torch types neither fork_rng nor manual_seed)

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from nestor import errors
from nestor.errors import NotExportable
from nestor_engine.data.splits import INDEX, Data, size_of
from nestor_engine.hparams import CompositeHyperparameters
from nestor_engine.objective import Batch, Bilevel, Tensors
from nestor_engine.problem.transform import Transform, check_transform
from nestor_engine.problem.validation.report import Finding as Finding
from nestor_engine.problem.validation.report import Findings as Findings
from nestor_engine.problem.validation.report import Report as Report
from nestor_engine.problem.validation.report import shapes
from nestor_engine.problem.validation.sensitivity import Missing, missing
from nestor_engine.problem.validation.tensors import check_data, check_tensors
from nestor_engine.program.export import EXAMPLES, Program, export
from nestor_engine.program.load import load


class Checkable(Protocol):
    """The attributes of a `Problem` that a check reads; importing `Problem` here would be circular."""

    hparams: CompositeHyperparameters
    train_loss: Callable[..., Tensor]
    val_loss: Callable[..., Tensor]
    inputs: tuple[str, ...]
    data: Data
    transform: Transform | None

    def bilevel(self) -> Bilevel:
        """As `Problem.bilevel`."""
        ...


def check(problem: Checkable, *, batch_size: int | None = None, ship: bool = True) -> Report:
    """Look for mistakes in a problem.

    Args:
        batch_size: the batch size of the planned training, if known.
        ship: also check that the problem can be exported, which takes a few seconds more.
    """
    return _Check(problem, batch_size).run(ship=ship)


class _Check(Findings):
    def __init__(self, problem: Checkable, batch_size: int | None) -> None:
        super().__init__()
        self._batch_size = batch_size
        self._original = problem
        self._program: Program | None = None
        self._problem = copy.copy(problem)
        self._problem.train_loss = self.recording("train_loss", problem.train_loss)
        self._problem.val_loss = self.recording("val_loss", problem.val_loss)

    def run(self, *, ship: bool) -> Report:
        devices: Sequence[int] = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
        with torch.random.fork_rng(devices=devices):
            check_data(self, self._problem.data)
            if self._batch_size is not None and self._batch_size < 1:
                self.error("batch size", f"It is {self._batch_size}; it must be at least one.", errors.OptionOutOfRange)
            with self.explaining("the problem"):
                bilevel = self._problem.bilevel().untransformed()
                for remark in self._problem.hparams.remarks:
                    self.warning("hyperparameters", remark)
                check_tensors(self, bilevel, self._problem.data, self._problem.inputs)
                if self.report().ok:
                    check_transform(self, self._problem.transform, probe(self._problem.data.train, bilevel))
                # With broken data or weights, the later checks would report consequences, not causes.
                if self.report().ok:
                    self._training(bilevel)
                    self._validation(bilevel)
                if ship and self.report().ok:
                    self._export(bilevel)
        return replace(self.report(), program=self._program)

    def _training(self, bilevel: Bilevel) -> None:
        columns = self._problem.data.train
        # Away from initial zeros: the decay of a bias that is zero has a gradient of zero.
        nudged = {n: (p + 0.01 * torch.randn_like(p)).requires_grad_() for n, p in bilevel.params.items()}
        hparams = {name: values.detach().clone().requires_grad_() for name, values in bilevel.hparams.items()}
        batch = probe(columns, bilevel)
        with self.explaining("hyperparameters, on the training batch", batch=batch):
            prepared = bilevel.prepare(hparams, batch)
            if self._batch_size == 1 or size_of(columns) == 1:
                self._batch_of_one(bilevel, prepared)
            before = {name: values.detach().clone() for name, values in prepared.items()}
            outputs = None
            with self.explaining("model, in training mode", batch=_inputs(self._problem, prepared)):
                outputs = self._draw(bilevel, nudged, hparams, prepared)
            for name, values in prepared.items():
                if not torch.equal(values.detach(), before[name]):
                    self.error(
                        "model",
                        f"It writes into its input {name!r}, that is into the data. Work on a copy.",
                        errors.InputOverwritten,
                    )
            if outputs is not None:
                note = _replaced(batch, prepared)
                with self.explaining("train_loss", loss="train_loss", note=note, outputs=outputs, batch=prepared):
                    criterion = bilevel.criterion(outputs, hparams, prepared)
                    if self.returned_well("train_loss"):
                        self._gradients(bilevel, nudged, hparams, batch, criterion)

    def _batch_of_one(self, bilevel: Bilevel, prepared: Batch) -> None:
        one = {name: values[:1] for name, values in prepared.items()}
        try:
            bilevel.forward(bilevel.params, bilevel.buffers, bilevel.hparams, one)
        except ValueError as error:
            if "more than 1 value per channel" in str(error):
                self.error(
                    "model",
                    "BatchNorm cannot train on a batch of one example. Use batches of at least two.",
                    errors.BatchNormInTraining,
                )

    def _draw(self, bilevel: Bilevel, params: Tensors, hparams: Tensors, batch: Batch) -> Any:
        """The model's outputs. Two runs with one seed must agree."""
        results: list[Any] = []
        for _ in range(2):
            torch.manual_seed(0)
            results.append(bilevel.forward(params, bilevel.buffers, hparams, batch)[0])
        first, second = (pytree.tree_leaves(result) for result in results)
        if not all(torch.equal(a, b) for a, b in zip(first, second, strict=True) if isinstance(a, Tensor)):
            self.error(
                "model",
                "Two calls with one seed give different outputs: it draws random numbers outside of torch, or "
                "keeps state between calls. Use torch's random functions, and keep state in buffers.",
                errors.ModelNotReproducible,
            )
        return results[-1]

    def _gradients(self, bilevel: Bilevel, params: Tensors, hparams: Tensors, batch: Batch, criterion: Tensor) -> None:
        loss = criterion + bilevel.penalty(params, hparams)
        if not loss.isfinite():
            self.error(
                "training loss",
                "With the hyperparameters' terms it is not finite. Start from smaller values.",
                errors.LossNotFinite,
            )
            return
        if not loss.requires_grad:
            self.error(
                "train_loss",
                "No parameter reaches it: look for .detach(), .item() or torch.no_grad().",
                errors.LossDetached,
            )
            return
        reached = torch.autograd.grad(loss, list(params.values()), allow_unused=True)
        first = cast("tuple[Tensor | None, ...]", reached)  # which its annotation leaves out
        for name, gradient in zip(params, first, strict=True):
            if gradient is None:
                self.warning(
                    f"parameter {name!r}",
                    "It does not reach the training loss, so it will keep its value.",
                    errors.ParameterUnused,
                )
        for name, why in missing(bilevel, params, hparams, batch, probe(self._problem.data.val, bilevel)).items():
            report = self.error if why is Missing.influence else self.warning
            report(f"hyperparameter {name!r}", why.value, errors.HparamWithoutInfluence)

    def _validation(self, bilevel: Bilevel) -> None:
        for split, columns in self._problem.data.splits.items():
            if split == "train":
                continue
            batch = probe(columns, bilevel)
            buffers = {name: values.clone() for name, values in bilevel.buffers.items()}
            with self.explaining(f"model, val_loss or metrics, on {split} data", loss="val_loss", batch=batch):
                metrics = bilevel.evaluate(bilevel.params, buffers, bilevel.hparams, batch)
                if self.returned_well("val_loss"):
                    for name in [name for name, value in metrics.items() if not value.isfinite()]:
                        self.warning(
                            f"metric {name!r}",
                            f"It is {float(metrics[name])} on {split} data with initial weights.",
                            errors.MetricNotFinite,
                        )
            for name, values in buffers.items():
                if not torch.equal(values, bilevel.buffers[name]):
                    self.warning(
                        "model",
                        f"In evaluation mode it changes its buffer {name!r}. Do that in training mode only.",
                        errors.BufferChanged,
                    )

    def _export(self, bilevel: Bilevel) -> None:
        data = self._original.data
        try:
            program = self._program = export(self._original.bilevel(), train=data.train, val=data.val)
        except NotExportable as error:
            self.error("export", str(error), type(error), error)
            return
        loaded = load(program.graphs, program.tensors).to(next(iter(bilevel.params.values())).device)
        batch = probe(self._problem.data.train, bilevel)
        batch = {name: torch.cat([values, values]) for name, values in batch.items()}
        results: list[Tensor] = []
        with self.explaining("export", batch=batch):
            for functions in (bilevel, loaded):
                torch.manual_seed(0)
                results.append(functions.train_loss(bilevel.params, bilevel.buffers, bilevel.hparams, batch)[0])
            if not torch.allclose(results[0], results[1], rtol=1e-4, atol=1e-6):
                self.error(
                    "export",
                    f"The exported training loss is {float(results[1]):.6g}, the problem's {float(results[0]):.6g}: "
                    "the export fixed values that change between calls. Use torch's random functions, no global state.",
                    errors.ExportDiffers,
                )


def probe(columns: Tensors, bilevel: Bilevel) -> Batch:
    """A small batch with the examples that fail most often: the first and last, the smallest and largest labels."""
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
    """A sentence about a column whose dtype or shape the hyperparameters changed, to explain an error of a loss."""
    for name, values in batch.items():
        if (given := shapes(values)) != (now := shapes(prepared[name])):
            return (
                f"Hyperparameters or the transform turned its column {name!r} from {given} into {now}. If these are "
                "class probabilities, F.cross_entropy takes them. "
            )
    return ""

"""Run one batch through every path of a problem, in this process, and report mistakes in its author's terms.

Nothing is raised: findings are collected, so that the author can fix all of them at once.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from nestor import errors
from nestor.errors import NotExportable
from nestor.options import Config, DirectOnly
from nestor_engine.data.mapped import Scan, scan
from nestor_engine.data.splits import INDEX, Data, size_of
from nestor_engine.hparams import CompositeHyperparameters
from nestor_engine.measuring.results import single
from nestor_engine.objective import Batch, Bilevel, PyTree, Tensors
from nestor_engine.problem.transform import Transform, check_transform
from nestor_engine.problem.validation import hooks
from nestor_engine.problem.validation.batches.coupling import check_coupling
from nestor_engine.problem.validation.batches.means import check_mean, check_sums
from nestor_engine.problem.validation.comparison import differences
from nestor_engine.problem.validation.gradients import check_leaves, check_training_gradient, check_validation_gradient
from nestor_engine.problem.validation.rehearsal import rehearse
from nestor_engine.problem.validation.report import Finding as Finding
from nestor_engine.problem.validation.report import Findings as Findings
from nestor_engine.problem.validation.report import Report as Report
from nestor_engine.problem.validation.report import shapes
from nestor_engine.problem.validation.sensitivity import Missing, missing
from nestor_engine.problem.validation.tensors import check_data, check_tensors
from nestor_engine.program.export import EXAMPLES, Program, export
from nestor_engine.program.load import load
from nestor_engine.tensors.generators import OwnGenerators
from nestor_engine.tensors.random import randomness


class Checkable(Protocol):
    """The attributes of a `Problem` that a check reads; importing `Problem` here would be circular."""

    model: nn.Module
    hparams: CompositeHyperparameters
    train_loss: Callable[..., Tensor]
    val_loss: Callable[..., Tensor]
    inputs: tuple[str, ...]
    data: Data
    transform: Transform | None

    def bilevel(self) -> Bilevel:
        """As `Problem.bilevel`."""
        ...


def check(problem: Checkable, *, config: Config | None = None, ship: bool = True) -> Report:
    """Look for mistakes in a problem.

    Args:
        config: of the planned training; by default the defaults of `nestor.Config`.
        ship: also check that the problem can be exported, which takes a few seconds more.
    """
    return _Check(problem, config or Config(n_steps=1)).run(ship=ship)


class _Check(Findings):
    def __init__(self, problem: Checkable, config: Config) -> None:
        super().__init__()
        self._config = config
        self._original = problem
        self._program: Program | None = None
        self._problem = copy.copy(problem)
        if not problem.hparams.tasks:  # `LossWeights` checks several losses itself
            self._problem.train_loss = self.recording("train_loss", problem.train_loss)
        self._problem.val_loss = self.recording("val_loss", problem.val_loss)

    def run(self, *, ship: bool) -> Report:
        if torch.is_inference_mode_enabled() or not torch.is_grad_enabled():
            mode = "inference_mode" if torch.is_inference_mode_enabled() else "no_grad"
            sentence = f"It is used inside of torch.{mode}(), where nothing can be trained. Leave that block first."
            self.error("the problem", sentence, errors.GradientsDisabled)
            return self.report()
        with OwnGenerators():
            check_data(self, self._problem.data)
            with self.explaining("the problem"):
                bilevel = self._problem.bilevel().untransformed()
                for remark in self._problem.hparams.remarks:
                    self.warning("hyperparameters", remark)
                check_tensors(self, bilevel, self._problem.data, self._problem.inputs)
                self._hooks()
                if self.report().ok:
                    check_transform(self, self._problem.transform, probe(self._problem.data.train, bilevel))
                # With broken data or weights, the later checks would report consequences, not causes.
                if self.report().ok:
                    self._training(bilevel)
                    self._validation(bilevel)
                if self.report().ok:
                    self._outer_step()
                if ship and self.report().ok:
                    self._export(bilevel)
        return replace(self.report(), program=self._program)

    def _hooks(self) -> None:
        for where, sentence in hooks.unserved(self._original.model):
            self.error(where, sentence, errors.HookNotServed)
        for where, sentence in hooks.served(self._original.model):
            self.warning(where, sentence, errors.HookNotServed)

    def _training(self, bilevel: Bilevel) -> None:
        columns = self._problem.data.train
        nudged = _nudged(bilevel)
        hparams = {name: values.detach().clone().requires_grad_() for name, values in bilevel.hparams.items()}
        batch = probe(columns, bilevel)
        with self.explaining("hyperparameters, on the training batch", batch=batch):
            prepared = bilevel.prepare(hparams, batch)
            if self._config.batch_size == 1 or size_of(columns) == 1:
                self._batch_of_one(bilevel, prepared)
            outputs = None
            with self.explaining("model, in training mode", batch=_inputs(self._problem, prepared)):
                outputs = self._draw(bilevel, nudged, hparams, prepared)
            if outputs is not None:
                note = _replaced(batch, prepared)
                with self.explaining("train_loss", loss="train_loss", note=note, outputs=outputs, batch=prepared):
                    criterion = bilevel.criterion(outputs, hparams, prepared)
                    called = self.last_call("train_loss")
                    if self.returned_well("train_loss"):
                        self._gradients(bilevel, nudged, hparams, batch, criterion)
                        check_coupling(self, "train_loss", called)

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
        """The model's outputs. Two runs with one seed must agree, and leave their input as it is."""
        results: list[Any] = []
        for _ in range(2):
            given = {name: values.clone() for name, values in batch.items()}
            with randomness(0, next(iter(params.values())).device):
                results.append(bilevel.forward(params, bilevel.buffers, hparams, given)[0])
            for name, values in given.items():
                if not torch.equal(values.detach(), batch[name].detach()):
                    self.error(
                        "model",
                        f"It writes into its input {name!r}, that is into the data. Work on a copy.",
                        errors.InputOverwritten,
                    )
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
        penalty = bilevel.penalty(params, hparams)
        if not (criterion + penalty).isfinite():
            self.error(
                "training loss",
                "With the hyperparameters' terms it is not finite. Start from smaller values.",
                errors.LossNotFinite,
            )
            return
        twice = not isinstance(self._config.response, DirectOnly)
        check_leaves(self, "train_loss", criterion, [*params.values(), *hparams.values()])
        if not check_training_gradient(self, criterion, penalty, params, twice=twice):
            return
        for name, why in missing(bilevel, params, hparams, batch, probe(self._problem.data.val, bilevel)).items():
            report = self.error if why is Missing.influence else self.warning
            report(f"hyperparameter {name!r}", why.value, errors.HparamWithoutInfluence)

    def _validation(self, bilevel: Bilevel) -> None:
        for split, columns in self._problem.data.splits.items():
            if split == "train":
                continue
            batch = probe(columns, bilevel)
            buffers = {name: values.clone() for name, values in bilevel.buffers.items()}
            params, hparams = (
                {name: t.detach().requires_grad_() for name, t in group.items()}
                for group in (_nudged(bilevel), bilevel.hparams)
            )
            with self.explaining(f"model, val_loss or metrics, on {split} data", loss="val_loss", batch=batch):
                outputs = bilevel.predict(params, buffers, hparams, batch)
                loss = single(bilevel.val_loss(outputs, hparams, batch))
                called = self.last_call("val_loss")
                if self.returned_well("val_loss"):
                    self._metrics(bilevel, split, outputs, hparams, batch)
                    if split == "val":
                        check_leaves(self, "val_loss", loss, [*params.values(), *hparams.values()])
                        check_validation_gradient(self, loss, params, hparams)
                        check_coupling(self, "val_loss", called)
                    check_mean(self, "val_loss", called)
            for name, values in buffers.items():
                if not torch.equal(values, bilevel.buffers[name]):
                    self.warning(
                        "model",
                        f"In evaluation mode it changes its buffer {name!r}. Do that in training mode only.",
                        errors.BufferChanged,
                    )

    @torch.no_grad()
    def _metrics(self, bilevel: Bilevel, split: str, outputs: PyTree, hparams: Tensors, batch: Batch) -> None:
        for name, metric in bilevel.metrics_of(outputs).items():
            with self.explaining(f"metric {name!r}, on {split} data", outputs=outputs, batch=batch):
                value = metric(outputs, hparams, batch)
                if not (number := single(value)).isfinite():
                    self.warning(
                        f"metric {name!r}",
                        f"It is {float(number)} on {split} data with initial weights.",
                        errors.MetricNotFinite,
                    )
                if isinstance(value, tuple):
                    check_sums(self, f"metric {name!r}", _at(metric, hparams), outputs, batch)

    def _outer_step(self) -> None:
        """Do what the trial does first, on a few examples."""
        bilevel = self._problem.bilevel()
        train, val = (probe(columns, bilevel) for columns in (self._problem.data.train, self._problem.data.val))
        with self.explaining(
            "one outer step",
            again=lambda: bilevel.train_loss(bilevel.params, bilevel.buffers, bilevel.hparams, train),
        ):
            rehearse(bilevel, train, val, self._config)

    def _export(self, bilevel: Bilevel) -> None:
        data = self._original.data
        try:
            program = self._program = export(self._original.bilevel(), train=data.train, val=data.val)
        except NotExportable as error:
            self.error("export", str(error), type(error), error)
            return
        loaded = load(program.graphs, program.tensors).to(next(iter(bilevel.params.values())).device)
        train, val = (
            {name: torch.cat([values, values]) for name, values in probe(columns, bilevel).items()}
            for columns in (data.train, data.val)
        )
        moved = replace(bilevel, params={name: p.detach() for name, p in _nudged(bilevel).items()})
        with self.explaining("export", batch=train):
            found = differences(moved, loaded, train, val)
            modules = hooks.of_modules(self._original.model)
            if found:
                cause = (
                    f"The backward hooks of {', '.join(modules)} do not run on a server: use register_hook on a "
                    "tensor in forward."
                    if modules and "loss is" not in str(found[0])
                    else "The export fixed values that change between calls. Use torch's random functions, no global "
                    "state."
                )
                more = f" ({len(found) - 1} other numbers differ, too.)" if len(found) > 1 else ""
                self.error("export", _capitalized(f"{found[0]}. {cause}{more}"), errors.ExportDiffers)
            elif modules:
                self.warning(
                    "export",
                    f"The backward hooks of {', '.join(modules)} do not run on a server. On a few examples that "
                    "changes no gradient.",
                    errors.HookNotServed,
                )


def _at(metric: Callable[[PyTree, Tensors, Batch], Any], hparams: Tensors) -> Callable[[PyTree, Batch], Any]:
    return lambda outputs, batch: metric(outputs, hparams, batch)


def probe(columns: Tensors, bilevel: Bilevel) -> Batch:
    """A small batch with the examples that fail most often: the first and last, the smallest and largest labels."""
    n = size_of(columns)
    rows = [round(position * (n - 1) / (EXAMPLES - 1)) for position in range(EXAMPLES)]
    for values in columns.values():
        found = Scan() if values.is_floating_point() else scan(values)
        rows += [row for row in (found.lowest, found.highest) if row is not None]
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


def _nudged(bilevel: Bilevel) -> Tensors:
    """Weights away from initial zeros: the decay of a bias that is zero has a gradient of zero."""
    return {n: (p + 0.01 * torch.randn_like(p)).detach().requires_grad_() for n, p in bilevel.params.items()}


def _capitalized(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]

"""The problem as its author writes it: a module, two losses, hyperparameters, and data."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from nestor.errors import (
    ArgumentInvalid,
    ColumnNotFound,
    FunctionFailed,
    HparamsMissing,
    MetricNameReserved,
    ModelHasNoParameters,
    NestorError,
    OutOfMemory,
    TensorNotReplaceable,
    arguments_of,
    called_as,
    is_out_of_memory,
    shown,
)
from nestor_engine.data.forms import with_parts
from nestor_engine.data.splits import Columns, Data
from nestor_engine.hparams import Hyperparameters, compose
from nestor_engine.hparams.weights import trainable
from nestor_engine.objective import Batch, Bilevel, PyTree, Tensors
from nestor_engine.problem.eager import EagerFunctions, Loss, TrainLoss
from nestor_engine.problem.embedding_bags import use_embeddings
from nestor_engine.problem.gradient_hooks import gradient_hooks
from nestor_engine.problem.losses import expect_loss, expect_metrics
from nestor_engine.problem.meta_copy import meta_copy
from nestor_engine.problem.model.inputs import Inputs
from nestor_engine.problem.model.wrappers import unwrapped
from nestor_engine.problem.transform import Transform, TransformedBatches
from nestor_engine.tensors.inference import detached

if TYPE_CHECKING:
    from nestor.options import Config
    from nestor_engine.problem.validation.report import Report
    from nestor_engine.program.export import Program


class Problem:
    """An ordinary module and what to tune about its training.

    Args:
        model: trained from its present weights; parameters that do not require gradients stay constant. `DataParallel`,
            `DistributedDataParallel` and the result of torch.compile stand for the module inside.
        hparams: a kind from `nestor.hparams`, a dict of tensors that the losses read, or a list of both.
        train_loss: (outputs, batch) or (outputs, batch, hparams) → a scalar, or one loss per example, shape (B,);
            with `LossWeights`, one for each task.
        val_loss: the same for the validation loss that is minimized over hyperparameters; a mean over examples, or
            the pair (sum, weight) of two scalars, such as for token losses with ignored positions.
        metrics: name → function with the same arguments; reported for validation and test data. It is called with the
            outputs for all examples of a split, unless it returns (sum, weight). See docs/metrics.md.
        train, val, test: tuples (x, y), dicts of columns, Datasets, which are read once, or references. The test split
            is only evaluated. See docs/data.md.
        inputs: the column, or columns, that are the arguments of the model in order; or a dict from the names of
            arguments to columns, such as {"input_ids": "ids", "attention_mask": "mask"}.
        transform: batch → batch, applied to training batches alone, before hyperparameters and model; its random
            draws are torch's. It returns all columns that it was given.

    `batch` holds the columns and `index`, the examples' positions in their split; `hparams` holds the
    transformed values.
    """

    @arguments_of("Problem", loss="Pass train_loss and val_loss.", criterion="Pass train_loss and val_loss.")
    def __init__(
        self,
        model: nn.Module,
        hparams: Hyperparameters | Sequence[Hyperparameters | Tensors] | Tensors,
        train_loss: TrainLoss,
        val_loss: Loss,
        *,
        train: Columns,
        val: Columns,
        test: Columns | None = None,
        metrics: dict[str, Loss] | None = None,
        inputs: str | Sequence[str] | Mapping[str, str] = "x",
        transform: Transform | None = None,
    ) -> None:
        _expect("model", model, _has_forward, "a torch.nn.Module with a forward")
        expect_loss("train_loss", train_loss)
        expect_loss("val_loss", val_loss)
        expect_metrics({} if metrics is None else metrics)
        if transform is not None:
            _expect("transform", transform, callable, "a function from a batch to a batch")
        self.transform = transform
        self.model = unwrapped(model)
        self.hparams = compose(hparams)
        self.train_loss, self.val_loss = train_loss, val_loss
        self.metrics = dict({} if metrics is None else metrics)
        if "loss" in self.metrics:
            raise MetricNameReserved(name="loss")
        self.data = Data.of(train=train, val=val, test=test, dtype=_dtype_of(self.model))
        self.arguments = Inputs.of(with_parts(inputs, self.data.train)).fitted(self.model)
        self.inputs = self.arguments.columns
        for split, columns in self.data.splits.items():
            if missing := [name for name in self.inputs if name not in columns]:
                raise ColumnNotFound(
                    reader="The model", column=missing[0], split=split, columns=sorted(columns), argument="inputs"
                )

    def __repr__(self) -> str:
        numbers = sum(p.numel() for p in trainable(self.model).values())
        columns = {name: tuple(values.shape[1:]) for name, values in self.data.train.items()}
        return (
            f"Problem({type(self.model).__name__} with {numbers:,} trained parameters, {self.hparams!r}, "
            f"sizes={self.data.sizes}, columns={columns})"
        )

    def bilevel(self) -> Bilevel:
        """The problem as functions, running the module eagerly.

        Raises:
            ProblemInvalid: there are no trainable parameters or no hyperparameters, or the hyperparameters were
                made for another model or other data.
        """
        params = {name: detached(p) for name, p in trainable(self.model).items()}
        frozen = {name: detached(p) for name, p in self.model.named_parameters() if name not in params}
        if not params:
            raise ModelHasNoParameters(owner="The model")
        kinds = self.hparams
        if not kinds.init:
            raise HparamsMissing()
        kinds.validate(self.model, self.data.train)
        kinds = kinds.for_data(self.data.train)
        # Submodules in evaluation mode, such as a frozen BatchNorm, stay in this mode.
        training = meta_copy(self.model) if self.model.training else meta_copy(self.model).train()
        evaluating = meta_copy(self.model).eval()
        for module in (training, evaluating):
            use_embeddings(module)
            kinds.adapt(module)
        kept = {**{name: detached(buffer) for name, buffer in self.model.named_buffers()}, **frozen}
        supplied = kinds.tensors(kinds.values(kinds.init))
        for name in supplied:
            _expect_replaceable(name, training)
            kept.pop(name, None)
        functions = EagerFunctions(
            training=training,
            evaluating=evaluating,
            inputs=self.arguments,
            kinds=kinds,
            supplies=bool(supplied),
            frozen=frozenset(frozen),
            hooks=gradient_hooks(self.model),
            train_loss=_with_hparams(self.train_loss),
            val_loss=_with_hparams(self.val_loss),
            metrics={name: _with_hparams(metric) for name, metric in self.metrics.items()},
        )
        return Bilevel(
            params=params,
            buffers=kept,
            # Kinds are made from sizes, so theirs are on the CPU even if the model is not.
            hparams={
                name: detached(value).to(next(iter(params.values())).device) for name, value in kinds.init.items()
            },
            transforms=dict(kinds.transforms),
            bounds=dict(kinds.bounds),
            priors=dict(kinds.priors),
            by_position=kinds.positions,
            entry_names=dict(kinds.entry_names),
            prepare=kinds.prepare if self.transform is None else TransformedBatches(self.transform, kinds),
            forward=functions.forward,
            criterion=functions.criterion,
            penalty=functions.penalty,
            predict=functions.predict,
            val_loss=functions.measure,
            metrics={name: functions.metric(name) for name in self.metrics},
            initial=kinds.initial,
            values=kinds.values,
        )

    @called_as("problem.check")
    def check(self, config: Config | None = None) -> Report:
        """Take one outer step on a few examples, in this process, and report mistakes in the problem's own terms.

        The report also says whether the problem can be sent to a server, and whether it would be trained there as it
        is here: losses, gradients and second derivatives of its program are compared with its own.

        Args:
            config: as for `nestor.Study.optimize`; the defaults of `nestor.Config` otherwise.
        """
        from nestor_engine.problem.validation.checks import check  # torch.export takes a second to import

        return check(self, config=config)

    def export(self) -> Program:
        """The problem as graphs and tensors, which run without its code. See `nestor_engine.program`.

        Raises:
            NotExportable: a function does something that graphs cannot represent.
            FunctionFailed: a function raised an error, which is the `__cause__`.
        """
        from nestor_engine.program.export import export  # torch.export takes a second to import
        from nestor_engine.program.failures import place_of_error

        bilevel = self.bilevel()
        try:
            return export(bilevel, train=self.data.train, val=self.data.val)
        except NestorError:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise OutOfMemory() from error
            where, sentence = place_of_error(error.__traceback__), f"{type(error).__name__}: {error}".split("\n")[0]
            raise FunctionFailed(function="The model or a loss", where=where, error=sentence.rstrip(".")) from error


def _expect(argument: str, given: object, fits: Callable[[object], bool], expected: str) -> None:
    if not fits(given):
        raise ArgumentInvalid(owner="Problem", argument=argument, given=shown(given), expected=expected)


def _has_forward(given: object) -> bool:
    """Whether it is a module, and no mere container such as ModuleList."""
    return isinstance(given, nn.Module) and getattr(given.forward, "__func__", None) is not nn.Module.forward


def _dtype_of(model: nn.Module) -> torch.dtype | None:
    """The one dtype in which the model can be trained; None if it has none or several."""
    dtypes = {p.dtype for p in trainable(model).values()}
    return dtypes.pop() if dtypes in ({torch.float32}, {torch.float64}) else None


def _expect_replaceable(name: str, module: nn.Module) -> None:
    frozen = {parameter for parameter, p in module.named_parameters(remove_duplicate=False) if not p.requires_grad}
    if name not in {buffer for buffer, _ in module.named_buffers(remove_duplicate=False)} | frozen:
        raise TensorNotReplaceable(name=name)


def _with_hparams(function: Loss) -> Loss:
    """`function` with three arguments; the third is dropped if it takes only two."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # a builtin without a signature
        parameters = ()
    # A parameter with a default, such as `eps=0.1`, does not ask for hyperparameters.
    wanted = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty]
    if any(p.name == "hparams" and p.kind is p.KEYWORD_ONLY for p in parameters):

        def by_name(outputs: PyTree, batch: Batch, hparams: Tensors) -> Any:
            return function(outputs, batch, hparams=hparams)

        return by_name
    if len(wanted) >= 3 or any(p.name == "hparams" for p in parameters):
        return function

    def without(outputs: PyTree, batch: Batch, hparams: Tensors) -> Any:
        del hparams
        return function(outputs, batch)

    return without

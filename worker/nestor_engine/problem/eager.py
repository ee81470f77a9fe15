"""The functions of a problem, which run its own module eagerly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call
from torch.utils import _pytree as pytree

from nestor.errors import LossNotPerExample, ModelOutputInvalid
from nestor_engine.hparams import CompositeHyperparameters
from nestor_engine.measuring.results import Measured, loss_of, metric_of
from nestor_engine.objective import Batch, PyTree, Tensors
from nestor_engine.problem.gradient_hooks import GradientHooks, with_hooks
from nestor_engine.problem.model.inputs import Inputs
from nestor_engine.problem.model.outputs import flattened, restored

Loss = Callable[..., Any]  # (outputs, batch) or (outputs, batch, hparams) → a tensor, or (sum, weight)
TrainLoss = Callable[..., Any]  # the same; with `LossWeights` it returns a dict or a tensor of several losses


@dataclass(frozen=True)
class EagerFunctions:
    """The functions of a `Bilevel` from `forward` to `metrics`; see there for the signatures.

    Attributes:
        training, evaluating: copies of the module without tensors, in the two modes.
        inputs: the arguments of the module.
        supplies: whether hyperparameters replace buffers or frozen parameters.
        frozen: names of the parameters that are not trained; they are among the buffers.
        hooks: the gradient hooks of parameters, by name.
        train_loss, val_loss, metrics: (outputs, batch, values) → losses.
    """

    training: nn.Module
    evaluating: nn.Module
    inputs: Inputs
    kinds: CompositeHyperparameters
    supplies: bool
    frozen: frozenset[str]
    hooks: GradientHooks
    train_loss: TrainLoss
    val_loss: Loss
    metrics: dict[str, Loss]

    def forward(self, params: PyTree, buffers: Tensors, values: Tensors, batch: Batch) -> tuple[PyTree, Tensors]:
        """The outputs in training mode, and the buffers after the call; the given buffers are not written to.

        Objects other than lists, tuples and dicts are returned as `Outputs`, which `criterion` turns back into them.

        Raises:
            ModelOutputInvalid: the module returned no tensor.
        """
        # The module writes its running statistics into these, so they must not be the caller's.
        updated = {name: b if name in self.frozen else b.clone() for name, b in buffers.items()}
        outputs = flattened(self._run(self.training, with_hooks(params, self.hooks), updated, values, batch))
        if not any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(outputs)):
            raise ModelOutputInvalid(type=type(restored(outputs)).__name__)
        return outputs, updated

    def criterion(self, outputs: PyTree, values: Tensors, batch: Batch) -> Tensor:
        """The mean over the batch of the training loss, weighted by the hyperparameters; shape ().

        Raises:
            LossNotPerExample: there are weights per example, but the loss is not one per example.
            LossInvalid: it returned several losses, and no kind weighs them; or other losses than a kind weighs.
        """
        losses = self.kinds.combine(self.train_loss(restored(outputs), batch, values), values)
        if self.kinds.per_example and (losses.ndim != 1 or losses.shape[0] != batch["index"].shape[0]):
            raise LossNotPerExample(shape=tuple(losses.shape), batch=len(batch["index"]))
        return self.kinds.weigh(losses, values, batch).mean()

    def penalty(self, params: PyTree, values: Tensors) -> Tensor:
        """The sum of the penalties of all kinds, shape (); zero if no kind has one."""
        term = self.kinds.penalty(with_hooks(params, self.hooks), values)
        return next(iter(params.values())).new_zeros(()) if term is None else term

    def predict(self, params: PyTree, buffers: Tensors, values: Tensors, batch: Batch) -> PyTree:
        """The outputs in evaluation mode, of the form that `forward` gives them."""
        return flattened(self._run(self.evaluating, params, buffers, values, batch))

    def measure(self, outputs: PyTree, values: Tensors, batch: Batch) -> Measured:
        """The validation loss: its mean over the batch, shape (), or (sum, weight)."""
        return loss_of("val_loss", self.val_loss(restored(outputs), batch, values))

    def metric(self, name: str) -> Callable[[PyTree, Tensors, Batch], Measured]:
        """A metric as a function of `predict`'s outputs: a number, shape (), or (sum, weight)."""
        function = self.metrics[name]

        def metric(outputs: PyTree, values: Tensors, batch: Batch) -> Measured:
            return metric_of(name, function(restored(outputs), batch, values))

        return metric

    def _run(self, module: nn.Module, params: PyTree, buffers: Tensors, values: Tensors, batch: Batch) -> PyTree:
        if self.supplies:
            buffers = buffers | self.kinds.tensors(values)
        args, named = self.inputs.read(batch)
        return functional_call(module, (params, buffers), args, named)

"""Several kinds of hyperparameters as one."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from nestor.errors import ChoiceUnknown, HparamsNameTaken, TensorSuppliedTwice
from nestor_engine.hparams.custom import Custom
from nestor_engine.hparams.hyperparameters import TRANSFORMS, Hyperparameters
from nestor_engine.objective import Batch, PyTree, Tensors


class CompositeHyperparameters(Hyperparameters):
    """Several kinds of hyperparameters, which apply in their order; the names of their tensors must differ."""

    def __init__(self, kinds: Sequence[Hyperparameters]) -> None:
        self.kinds = tuple(kinds)
        self.init, self.transforms = {}, {}
        self.bounds = {name: bounds for kind in self.kinds for name, bounds in kind.bounds.items()}
        for kind in self.kinds:
            for name, value in kind.init.items():
                if name in self.init:
                    raise HparamsNameTaken(name=name)
                self.init[name] = value
                self.transforms[name] = kind.transforms.get(name, "identity")
        for name, transform in self.transforms.items():
            if transform not in TRANSFORMS:
                raise ChoiceUnknown(option=f"{name!r} has the transform {transform!r}", choices=sorted(TRANSFORMS))
        self.per_example = any(kind.per_example for kind in self.kinds)
        self.by_position = any(kind.by_position for kind in self.kinds)
        self.remarks = tuple(remark for kind in self.kinds for remark in kind.remarks)

    def values(self, hparams: Tensors) -> Tensors:
        """The transformed hyperparameters, by name."""
        return {name: TRANSFORMS[self.transforms[name]](raw) for name, raw in hparams.items()}

    def validate(self, model: nn.Module, train: Tensors) -> None:
        """Check each kind.

        Raises:
            ProblemInvalid: from the first kind that does not fit.
        """
        for kind in self.kinds:
            kind.validate(model, train)

    def adapt(self, module: nn.Module) -> None:
        """Apply the changes of each kind to the module, in order."""
        for kind in self.kinds:
            kind.adapt(module)

    def tensors(self, values: Tensors) -> Tensors:
        """The tensors that all kinds supply.

        Raises:
            TensorSuppliedTwice: two kinds supply a tensor of the same name.
        """
        supplied: Tensors = {}
        for kind in self.kinds:
            for name, value in kind.tensors(values).items():
                if name in supplied:
                    raise TensorSuppliedTwice(name=name)
                supplied[name] = value
        return supplied

    def initial(self, params: PyTree, values: Tensors) -> PyTree:
        """The initial weights, changed by each kind in order."""
        for kind in self.kinds:
            params = kind.initial(params, values)
        return params

    def prepare(self, values: Tensors, batch: Batch) -> Batch:
        """The training batch, changed by each kind in order."""
        for kind in self.kinds:
            batch = kind.prepare(values, batch)
        return batch

    def weigh(self, losses: Tensor, values: Tensors, batch: Batch) -> Tensor:
        """The losses, changed by each kind in order: weights of several kinds multiply."""
        for kind in self.kinds:
            losses = kind.weigh(losses, values, batch)
        return losses

    def penalty(self, params: PyTree, values: Tensors) -> Tensor | None:
        """The sum of the penalties, shape (); None if no kind has one."""
        terms = [term for kind in self.kinds if (term := kind.penalty(params, values)) is not None]
        return sum(terms[1:], start=terms[0]) if terms else None


def compose(hparams: Hyperparameters | Sequence[Hyperparameters] | Tensors) -> CompositeHyperparameters:
    """One object from the forms that a user may pass: a kind, several kinds, or a dict of tensors."""
    if isinstance(hparams, CompositeHyperparameters):
        return hparams
    if isinstance(hparams, Hyperparameters):
        return CompositeHyperparameters([hparams])
    if isinstance(hparams, dict):
        return CompositeHyperparameters([Custom(hparams)])
    return CompositeHyperparameters(list(hparams))

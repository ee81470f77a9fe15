"""Several kinds as one."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from nestor.errors import ChoiceUnknown, HparamsNameTaken, TensorSuppliedTwice
from nestor_engine.hparams.custom import Custom
from nestor_engine.hparams.hyperparameters import TRANSFORMS, Hyperparameters
from nestor_engine.objective import Batch, PyTree, Tensors


class Together(Hyperparameters):
    """Several kinds at once, in their order; their names must differ."""

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
        """The transformed hyperparameters."""
        return {name: TRANSFORMS[self.transforms[name]](raw) for name, raw in hparams.items()}

    def expect(self, model: nn.Module, train: Tensors) -> None:
        for kind in self.kinds:
            kind.expect(model, train)

    def adapt(self, module: nn.Module) -> None:
        for kind in self.kinds:
            kind.adapt(module)

    def tensors(self, values: Tensors) -> Tensors:
        supplied: Tensors = {}
        for kind in self.kinds:
            for name, value in kind.tensors(values).items():
                if name in supplied:
                    raise TensorSuppliedTwice(name=name)
                supplied[name] = value
        return supplied

    def initial(self, params: PyTree, values: Tensors) -> PyTree:
        for kind in self.kinds:
            params = kind.initial(params, values)
        return params

    def prepare(self, values: Tensors, batch: Batch) -> Batch:
        for kind in self.kinds:
            batch = kind.prepare(values, batch)
        return batch

    def weigh(self, losses: Tensor, values: Tensors, batch: Batch) -> Tensor:
        for kind in self.kinds:
            losses = kind.weigh(losses, values, batch)
        return losses

    def penalty(self, params: PyTree, values: Tensors) -> Tensor | None:
        terms = [term for kind in self.kinds if (term := kind.penalty(params, values)) is not None]
        return sum(terms[1:], start=terms[0]) if terms else None


def together(hparams: Hyperparameters | Sequence[Hyperparameters] | Tensors) -> Together:
    """One object from what a user may pass: a kind, several kinds, or a dict of tensors."""
    if isinstance(hparams, Together):
        return hparams
    if isinstance(hparams, Hyperparameters):
        return Together([hparams])
    if isinstance(hparams, dict):
        return Together([Custom(hparams)])
    return Together(list(hparams))

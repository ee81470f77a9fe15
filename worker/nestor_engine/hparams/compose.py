"""Several kinds of hyperparameters as one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from torch import Tensor, nn

from nestor.errors import (
    ArgumentInvalid,
    ChoiceUnknown,
    HparamsNameTaken,
    LossOfSeveralTasks,
    TaskWeightsTwice,
    TensorSuppliedTwice,
    shown,
)
from nestor_engine.hparams.custom import Custom
from nestor_engine.hparams.hyperparameters import TRANSFORMS, Hyperparameters
from nestor_engine.hparams.initial_values import remarks_on_initial_values
from nestor_engine.objective import Batch, ByPosition, PyTree, Tensors


class CompositeHyperparameters(Hyperparameters):
    """Several kinds of hyperparameters, which apply in their order.

    The names of their tensors must differ. A kind whose author gave no name gets a number if its name is taken:
    the second `L2(model)` is named `l2_2`.

    Raises:
        HparamsNameTaken: two kinds have a name that their author gave.
    """

    def __init__(self, kinds: Sequence[Hyperparameters]) -> None:
        if not isinstance(kinds, list | tuple) or not all(
            isinstance(cast("object", k), Hyperparameters) for k in kinds
        ):
            raise ArgumentInvalid(
                owner="CompositeHyperparameters",
                argument="kinds",
                given=shown(kinds),
                expected="a list of kinds such as L2(model)",
            )
        nested = [one.kinds if isinstance(one, CompositeHyperparameters) else (one,) for one in kinds]
        self.kinds = tuple(kind for several in nested for kind in several)
        self.init, self.transforms, self.bounds, self.priors, self.entry_names = {}, {}, {}, {}, {}
        self.positions: dict[str, ByPosition] = {}  # as Bilevel.by_position
        self._renamed: list[dict[str, str]] = []  # for each kind: name in the kind → name here, where they differ
        for kind in self.kinds:
            names = _free_names(kind, self.init)
            self._renamed.append({own: name for own, name in names.items() if own != name})
            for own, name in names.items():
                self.init[name] = kind.init[own]
                self.transforms[name] = kind.transforms.get(own, "identity")
            if kind.by_position:
                self.positions |= dict.fromkeys(names.values(), "weights" if kind.per_example else "values")
            self.bounds |= {names[own]: bounds for own, bounds in kind.bounds.items()}
            self.priors |= {names[own]: precision for own, precision in kind.priors.items()}
            self.entry_names |= {names[own]: called for own, called in kind.entry_names.items()}
        for name, transform in self.transforms.items():
            if transform not in TRANSFORMS:
                raise ChoiceUnknown(option=f"{name!r} has the transform {transform!r}", choices=sorted(TRANSFORMS))
        with_tasks = [kind for kind in self.kinds if kind.tasks]
        if len(with_tasks) > 1:
            raise TaskWeightsTwice(kind=type(with_tasks[0]).__name__)
        self.tasks = with_tasks[0].tasks if with_tasks else ()
        self.per_example = any(kind.per_example for kind in self.kinds)
        self.by_position = any(kind.by_position for kind in self.kinds)
        self.remarks = tuple(
            remark for kind in self.kinds for remark in (*kind.remarks, *remarks_on_initial_values(kind))
        )

    def __repr__(self) -> str:
        return f"[{', '.join(map(repr, self.kinds))}]"

    def bounded(self, least: float = -math.inf, largest: float = math.inf) -> CompositeHyperparameters:
        """The same kinds, each with these bounds."""
        return CompositeHyperparameters([kind.bounded(least, largest) for kind in self.kinds])

    def with_prior(self, precision: float) -> CompositeHyperparameters:
        """The same kinds, each with this prior."""
        return CompositeHyperparameters([kind.with_prior(precision) for kind in self.kinds])

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

    def for_data(self, train: Tensors) -> CompositeHyperparameters:
        """The same kinds, each with what it must know about the training data."""
        return CompositeHyperparameters([kind.for_data(train) for kind in self.kinds])

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
        for kind, own in self._with_values(values):
            for name, value in kind.tensors(own).items():
                if name in supplied:
                    raise TensorSuppliedTwice(name=name)
                supplied[name] = value
        return supplied

    def initial(self, params: PyTree, values: Tensors) -> PyTree:
        """The initial weights, changed by each kind in order."""
        for kind, own in self._with_values(values):
            params = kind.initial(params, own)
        return params

    def prepare(self, values: Tensors, batch: Batch) -> Batch:
        """The training batch, changed by each kind in order."""
        for kind, own in self._with_values(values):
            batch = kind.prepare(own, batch)
        return batch

    def combine(self, losses: Any, values: Tensors) -> Tensor:
        """One loss, shape () or (B,), from what the training loss returned.

        Raises:
            LossOfSeveralTasks: it returned several losses, and no kind weighs them.
        """
        for kind, own in self._with_values(values):
            losses = kind.combine(losses, own)
        if isinstance(losses, Mapping | tuple | list):
            raise LossOfSeveralTasks(type=type(cast("object", losses)).__name__)
        return losses

    def weigh(self, losses: Tensor, values: Tensors, batch: Batch) -> Tensor:
        """The losses, changed by each kind in order: weights of several kinds multiply."""
        for kind, own in self._with_values(values):
            losses = kind.weigh(losses, own, batch)
        return losses

    def penalty(self, params: PyTree, values: Tensors) -> Tensor | None:
        """The sum of the penalties, shape (); None if no kind has one."""
        found = [kind.penalty(params, own) for kind, own in self._with_values(values)]
        terms = [term for term in found if term is not None]
        return sum(terms[1:], start=terms[0]) if terms else None

    def _with_values(self, values: Tensors) -> Iterator[tuple[Hyperparameters, Tensors]]:
        """Each kind, and the values under the names that it knows."""
        for kind, renamed in zip(self.kinds, self._renamed, strict=True):
            yield kind, values | {own: values[name] for own, name in renamed.items()} if renamed else values


def compose(hparams: Hyperparameters | Sequence[Hyperparameters | Tensors] | Tensors) -> CompositeHyperparameters:
    """One object from the forms that a user may pass: a kind, a dict of tensors, or a list of both.

    Raises:
        ArgumentInvalid: something else, or a list that holds something else.
    """
    if isinstance(hparams, CompositeHyperparameters):
        return hparams
    if isinstance(hparams, list | tuple):
        return CompositeHyperparameters([_kind(one, f"hparams[{i}]") for i, one in enumerate(hparams)])
    return CompositeHyperparameters([_kind(hparams, "hparams")])


def _kind(given: object, argument: str) -> Hyperparameters:
    if isinstance(given, Hyperparameters):
        return given
    if isinstance(given, Mapping):
        return Custom(dict(cast("Mapping[str, Tensor]", given)))
    raise ArgumentInvalid(
        owner="Problem",
        argument=argument,
        given=f"a tensor of shape {tuple(given.shape)}" if isinstance(given, Tensor) else shown(given),
        expected="a kind such as L2(model), a dict such as {'temperature': torch.zeros(())}, or a list of these",
    )


def _free_names(kind: Hyperparameters, taken: Tensors) -> dict[str, str]:
    """Name in the kind → a name that is not taken."""
    clash = next((name for name in kind.init if name in taken), None)
    if clash is None:
        return {name: name for name in kind.init}
    if not kind.default_name:
        raise HparamsNameTaken(name=clash)
    number = 2
    while True:
        names = {name: f"{kind.default_name}_{number}{name.removeprefix(kind.default_name)}" for name in kind.init}
        if taken.keys().isdisjoint(names.values()):
            return names
        number += 1

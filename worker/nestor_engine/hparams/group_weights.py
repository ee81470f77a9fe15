"""A weight for each group of training examples, such as a class, a source of data or an annotator."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal, Self

import torch
from torch import Tensor, nn

from nestor.errors import ColumnUnusable, GroupsOutOfRange
from nestor.program_format import EntryNames
from nestor_engine.data.mapped import extremes, pieces
from nestor_engine.hparams.arguments import at_least, positive
from nestor_engine.hparams.examples import column_of
from nestor_engine.hparams.hyperparameters import Hyperparameters, priors
from nestor_engine.objective import Batch, Tensors

Normalize = Literal["softmax", "sigmoid"]
PRIOR = 0.3  # precision: groups move away from their level by a factor of 3.6, one standard deviation
_TRANSFORMS = {"softmax": "exp", "sigmoid": "sigmoid"}


class GroupWeights(Hyperparameters):
    """A weight for each group of training examples; the training loss becomes the mean of weight × loss.

    A column of integers says which group an example belongs to. With the relative weights r = exp(λ) ("softmax") or
    sigmoid(λ) ("sigmoid"), the weight of group g is

        w_g = r_g / Σ_h p_h r_h,

    where p_h is the fraction of training examples in group h. So the mean weight of a training example stays one, and
    the balance between losses and decays stays what it was. The training loss must return one loss per example, shape
    (B,). The validation loss is not weighted.

    Named `group_weights`, shape (groups,). The transformed values are r, which a fixed `weight=` of a loss can use.

    Args:
        column: the training column with the groups: integers from 0 to groups − 1, shape (n,); or probabilities, shape
            (n, groups), for which a weight is their mean over the groups. It is read after the changes of other kinds.
        groups: the number of groups.
        normalize: with "softmax" one group may outweigh all others; with "sigmoid" a group whose λ is large cannot
            gain more, and only a weight near zero is far from the others.
        init: initial weights, one for each group, up to a common factor; equal by default. A prior of the precision 0.3
            keeps them from going very different ways, which a network that has memorized its examples no longer
            resists; see `with_prior`.

    Raises:
        ProblemInvalid: the column has another shape or type, or holds other numbers.
    """

    per_example = True
    init_shown = None  # `init` are weights
    _usual_name, _count, _counted = "group_weights", "groups", "group"

    def __init__(
        self,
        column: str,
        groups: int,
        *,
        normalize: Normalize = "softmax",
        init: Sequence[float] | None = None,
        name: str | None = None,
    ) -> None:
        kind = type(self).__name__
        at_least(2, kind, self._count, groups)
        self._column, self._groups, self._normalize = column, groups, normalize
        self._fractions = torch.full((groups,), 1 / groups)
        self._name = self._named(name, self._usual_name)
        weights = positive(kind, init, groups)
        start = weights.log() if normalize == "softmax" else (weights / (2 * weights.max())).logit()
        self.init = {self._name: start}
        self.transforms = {self._name: _TRANSFORMS[normalize]}
        self.entry_names = {self._name: EntryNames(axes=(self._counted,))}
        self.priors = priors(self.init, PRIOR)

    def _options(self) -> list[str]:
        return [f"column={self._column!r}", f"normalize={self._normalize!r}"]

    def validate(self, model: nn.Module, train: Tensors) -> None:
        """Check the column with the groups.

        Raises:
            ProblemInvalid: there is no such column, or it holds something else than groups.
        """
        kind, values = type(self).__name__, column_of(type(self).__name__, self._column, train)
        soft = values.is_floating_point() and values.ndim == 2 and values.shape[1] == self._groups
        if not soft and (values.is_floating_point() or values.is_complex() or values.ndim != 1):
            raise ColumnUnusable(
                kind=kind,
                column=self._column,
                expected=f"one integer for each example in the column {self._column!r}, shape (n,), or probabilities "
                f"of shape (n, {self._groups})",
                dtype=values.dtype,
                shape=tuple(values.shape),
                advice="Number the groups from 0. For weights of pixels or tokens, read a tensor in your own loss: "
                "losses * hparams['weights'][batch['y']].",
            )
        if not soft:
            low, high = extremes(values)
            if low < 0 or high >= self._groups:
                raise GroupsOutOfRange(kind=kind, column=self._column, low=low, high=high, groups=self._groups)

    def for_data(self, train: Tensors) -> Self:
        """This kind with the fractions of training examples in each group."""
        column = train[self._column]
        soft = column.is_floating_point()
        counts = sum(
            (part.sum(0) if soft else torch.bincount(part.long(), minlength=self._groups)) for _, part in pieces(column)
        )
        assert isinstance(counts, Tensor)
        kind = copy.copy(self)
        kind._fractions = (counts.double() / counts.sum()).to(self.init[self._name])
        return kind

    def weigh(self, losses: Tensor, values: Tensors, batch: Batch) -> Tensor:
        """Each loss times the weight of its group, shape (B,)."""
        relative, groups = values[self._name], batch[self._column]
        weights = relative / (self._fractions.to(relative.device) * relative).sum()
        each = groups.to(weights.dtype) @ weights if groups.is_floating_point() else weights[groups.long()]
        return losses * each


class ClassWeights(GroupWeights):
    """A weight for each class: what a fixed `F.cross_entropy(…, weight=w)` does, tuned.

    On the whole training split the weighted loss is that of `F.cross_entropy(…, weight=w)`, which divides by the
    weights' mean; on batches it is unbiased. See `GroupWeights`. Named `class_weights`, shape (classes,).

    Args:
        classes: the number of classes.
        column: the label column: integers, shape (n,). Soft labels of `LabelSmoothing` and `LabelCorrection` get the
            mean weight of their classes.
        normalize, init: as for `GroupWeights`; inverse class frequencies are a usual start.
    """

    _usual_name, _count, _counted = "class_weights", "classes", "class"

    def __init__(
        self,
        classes: int,
        *,
        column: str = "y",
        normalize: Normalize = "softmax",
        init: Sequence[float] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(column, classes, normalize=normalize, init=init, name=name)

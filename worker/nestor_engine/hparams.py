"""What can be tuned: kinds of hyperparameters that compose with any model.

A kind names tensors and says where they enter the training loss. Tensors are kept as they are
optimised, without constraint; a transform turns each into the value that the loss reads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nestor_engine.bilevel import Batch, PyTree, Tensors
from nestor_engine.errors import ProblemInvalid
from nestor_engine.flat import named_leaves

TRANSFORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda raw: raw,
    "exp": torch.exp,
    "sigmoid": torch.sigmoid,
    "softplus": F.softplus,
}


class Hyperparameters:
    """A kind of hyperparameters. Subclasses fill `init` and `transforms` and override the hooks they need.

    Attributes:
        init: name → initial value, as optimised.
        transforms: name → one of `TRANSFORMS`; names left out are used as they are.
    """

    init: Tensors
    transforms: dict[str, str]
    per_example = False  # whether `weigh` needs one loss per example

    def prepare(self, values: Tensors, batch: Batch) -> Batch:
        """What the training batch becomes. `values` are the transformed hyperparameters."""
        del values
        return batch

    def weigh(self, losses: Tensor, values: Tensors, batch: Batch) -> Tensor:
        """What the losses become: shape (B,) in and out when `per_example`."""
        del values, batch
        return losses

    def penalty(self, params: PyTree, values: Tensors) -> Tensor | None:
        """What is added to the training loss for the weights themselves."""
        del params, values
        return None


class Custom(Hyperparameters):
    """Any named tensors; the user's own losses read them as their third argument.

    Args:
        tensors: name → initial value, as optimised.
        transforms: name → transform; the losses see the transformed value.
    """

    def __init__(self, tensors: Tensors, transforms: dict[str, str] | None = None) -> None:
        self.init = {name: torch.as_tensor(value).detach().clone() for name, value in tensors.items()}
        self.transforms = dict(transforms or {})


class L2(Hyperparameters):
    """Weight decay: adds ½ Σ exp(λ) w² to the training loss, so that exp(λ) is the decay of torch.optim.

    Named `l2` when there is one decay for all ("global"; shape ()) or one for each tensor
    ("tensor"; shape (number of tensors,), in the order of the parameters), and `l2.<parameter>`,
    each of its parameter's shape, when every weight has its own ("weight").

    Args:
        model: the module, or any pytree of tensors, whose weights decay.
        per: how many decays there are.
        init: the logarithm of the initial decay.
    """

    def __init__(
        self,
        model: nn.Module | PyTree,
        *,
        per: Literal["global", "tensor", "weight"] = "weight",
        init: float = -6.0,
        name: str = "l2",
    ) -> None:
        if per not in ("global", "tensor", "weight"):
            raise ProblemInvalid(reason=f"L2(per={per!r}): choose 'global', 'tensor' or 'weight'.")
        weights = _trainable(model)
        first = next(iter(weights.values()))
        full = lambda shape: torch.full(shape, float(init), dtype=first.dtype, device=first.device)
        self._per, self._name = per, name
        if per == "weight":
            self.init = {f"{name}.{parameter}": full(w.shape) for parameter, w in weights.items()}
        else:
            self.init = {name: full(() if per == "global" else (len(weights),))}
        self.transforms = dict.fromkeys(self.init, "exp")

    def penalty(self, params: PyTree, values: Tensors) -> Tensor:
        leaves = named_leaves(params)
        if self._per == "weight":
            decays = (values[f"{self._name}.{parameter}"] for parameter in leaves)
            return 0.5 * torch.stack([(d * w * w).sum() for d, w in zip(decays, leaves.values(), strict=True)]).sum()
        squares = torch.stack([(w * w).sum() for w in leaves.values()])  # (number of tensors,)
        return 0.5 * (values[self._name] * squares).sum()


class ExampleWeights(Hyperparameters):
    """A weight for every training example: the training loss becomes the mean of weight × loss.

    The training loss must return one loss per example, shape (B,).

    Args:
        n: number of training examples.
        init: initial value before the transform.
        transform: keeps the weights positive; with the sigmoid they stay below one.
    """

    per_example = True

    def __init__(self, n: int, *, init: float = 0.0, transform: str = "sigmoid", name: str = "example_weights") -> None:
        if n < 1:
            raise ProblemInvalid(reason=f"ExampleWeights({n}): give the number of training examples.")
        self._name = name
        self.init = {name: torch.full((n,), float(init))}
        self.transforms = {name: transform}

    def weigh(self, losses: Tensor, values: Tensors, batch: Batch) -> Tensor:
        return losses * values[self._name][batch["index"]]


class Together(Hyperparameters):
    """Several kinds at once; their names must differ."""

    def __init__(self, kinds: Sequence[Hyperparameters]) -> None:
        self.kinds = tuple(kinds)
        self.init, self.transforms = {}, {}
        for kind in self.kinds:
            for name, value in kind.init.items():
                if name in self.init:
                    raise ProblemInvalid(
                        reason=f"Two kinds of hyperparameters are named {name!r}; pass name=… to one of them."
                    )
                self.init[name] = value
                self.transforms[name] = kind.transforms.get(name, "identity")
        for name, transform in self.transforms.items():
            if transform not in TRANSFORMS:
                raise ProblemInvalid(
                    reason=f"{name!r} has the transform {transform!r}; there are {sorted(TRANSFORMS)}."
                )
        self.per_example = any(kind.per_example for kind in self.kinds)

    def values(self, hparams: Tensors) -> Tensors:
        """The transformed hyperparameters."""
        return {name: TRANSFORMS[self.transforms[name]](raw) for name, raw in hparams.items()}

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


def _trainable(model: nn.Module | PyTree) -> Tensors:
    if isinstance(model, nn.Module):
        return {name: p for name, p in model.named_parameters() if p.requires_grad}
    return named_leaves(model)

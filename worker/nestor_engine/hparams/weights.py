"""Hyperparameters of the trained weights: from one for all of them to one for each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn

from nestor.errors import (
    ArgumentInvalid,
    MadeForAnotherModel,
    MadeForPart,
    ModelHasNoParameters,
    PartNotFound,
    shown,
)
from nestor.program_format import EntryNames, labels
from nestor_engine.hparams.axes import axes_of_weights
from nestor_engine.hparams.hyperparameters import Hyperparameters
from nestor_engine.objective import PyTree, Tensors
from nestor_engine.problem.model.wrappers import expect_values, unwrapped
from nestor_engine.tensors.ravel import named_leaves

Per = Literal["global", "tensor", "input", "output", "channel", "weight"]
Only = str | Sequence[str]

# Their weights have the shape (inputs, outputs, …); those of all other modules (outputs, inputs, …). The weight of an
# embedding is the matrix that a one-hot vector is multiplied by, so its rows are the inputs.
_INPUTS_FIRST = (nn.Embedding, nn.EmbeddingBag, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


class OfWeights(Hyperparameters):
    """Base class of kinds with positive numbers for the model's weights, stored as logarithms.

    | per | numbers | names |
    |---|---|---|
    | "global" | one, shape () | `name` |
    | "tensor" | one for each tensor, shape (number of tensors,), in the order of the parameters | `name` |
    | "input" | one for each input feature or input channel of a tensor | `name.<parameter>` |
    | "output" | one for each output unit, filter or output channel of a tensor | `name.<parameter>` |
    | "channel" | one for each filter of a convolution, and one for each other tensor | `name.<parameter>` |
    | "weight" | one for each weight, of its parameter's shape | `name.<parameter>` |

    For "input", "output" and "channel" a parameter has the shape (number of features,). The outputs of a tensor are its
    first dimension, and its inputs the second: (out, in) in Linear, (out, in, k, k) in Conv2d, where a grouped
    convolution has in/groups of them, and (gates × hidden, in) in recurrent layers. In embeddings and transposed
    convolutions the inputs come first, so that each token of an embedding is an input. A tensor with fewer than two
    dimensions, such as a bias or the scale of a norm, has one number, of shape (). A parameter that several modules
    share belongs to the first.

    Args:
        only: the parts of the model, as the first parts of parameter names: "head" and "head." both stand for
            `head.weight` and `head.bias`, but not for `header.weight`. All trained weights by default.
        default_name: the name if the author gives none. With `only`, the one name of "global" and "tensor" is
            `default_name.<part>`.
    """

    def __init__(
        self,
        model: nn.Module | PyTree,
        per: str,
        init: float,
        name: str | None,
        only: Only | None,
        *,
        default_name: str,
    ) -> None:
        kind = type(self).__name__
        _expect_tensors(kind, model)
        model = unwrapped(model) if isinstance(model, nn.Module) else model
        self._per, self._only, init = per, _parts(kind, only), float(init)
        weights = self._chosen(model)
        if not weights:
            self._refuse_nothing(model)
        one_name = per in ("global", "tensor")
        self._name = self._named(name, ".".join([default_name, *(["+".join(self._only)] if one_name and only else [])]))
        first = next(iter(weights.values()))

        def full(shape: tuple[int, ...]) -> Tensor:
            return torch.full(shape, init, dtype=first.dtype, device=first.device)

        self._shapes = {parameter: w.shape for parameter, w in weights.items()}
        self._broadcast = dict(_broadcast_shapes(model, weights, per))
        if one_name:
            self.init = {self._name: full(() if per == "global" else (len(weights),))}
            self.entry_names = {self._name: EntryNames(axes=() if per == "global" else (labels([*weights], "tensor"),))}
        elif per == "weight":
            self.init = {f"{self._name}.{parameter}": full(w.shape) for parameter, w in weights.items()}
            self.entry_names = {
                f"{self._name}.{parameter}": EntryNames(parameter, axes_of_weights(w.ndim))
                for parameter, w in weights.items()
            }
        else:
            sizes = {parameter: torch.Size(shape).numel() for parameter, shape in self._broadcast.items()}
            self.init = {
                f"{self._name}.{parameter}": full((sizes[parameter],) if shape else ())
                for parameter, shape in self._broadcast.items()
            }
            counted = "filter" if per == "channel" else per
            self.entry_names = {
                f"{self._name}.{parameter}": EntryNames(parameter, (counted,) if shape else ())
                for parameter, shape in self._broadcast.items()
            }
        self.transforms = dict.fromkeys(self.init, "exp")
        self.init_shown = f"{kind}(init={init:g})"

    def _options(self) -> list[str]:
        return [f"per={self._per!r}", *([f"only={list(self._only)}"] if self._only else [])]

    def validate(self, model: nn.Module, train: Tensors) -> None:
        """Check that the trained weights have the names and shapes that they had in `__init__`.

        Raises:
            MadeForPart: these are the weights of a part of the model.
            MadeForAnotherModel: these are other weights.
        """
        if self._fits(model):
            return
        named = cast("Iterator[tuple[str, nn.Module]]", model.named_modules())  # whose signature has no types
        if part := next((path for path, module in named if path and self._fits(module)), None):
            only = [f"{part}.{inner}" for inner in self._only] or [part]
            chosen = repr(only[0]) if len(only) == 1 else repr(only)
            raise MadeForPart(kind=type(self).__name__, part=part, only=chosen)
        raise MadeForAnotherModel(kind=type(self).__name__)

    def of(self, leaves: Tensors, values: Tensors) -> Tensors:
        """Each chosen parameter → its number or numbers, with a shape that broadcasts to that of the parameter."""
        names = [name for name in leaves if name in self._shapes]
        if self._per in ("global", "tensor"):
            return dict(zip(names, values[self._name].expand(len(names)).unbind(), strict=True))
        numbers = {parameter: values[f"{self._name}.{parameter}"] for parameter in names}
        if self._per == "weight":
            return numbers
        return {parameter: value.reshape(self._broadcast[parameter]) for parameter, value in numbers.items()}

    def _fits(self, model: nn.Module) -> bool:
        return {name: w.shape for name, w in self._chosen(model).items()} == self._shapes

    def _chosen(self, model: nn.Module | PyTree) -> Tensors:
        weights = trainable(model)
        if not self._only:
            return weights
        return {name: w for name, w in weights.items() if any(_is_in(name, part) for part in self._only)}

    def _refuse_nothing(self, model: nn.Module | PyTree) -> None:
        kind, weights = type(self).__name__, trainable(model)
        if not self._only or not weights:
            raise ModelHasNoParameters(owner=f"{kind}: the model")
        names = [name for name, _ in model.named_parameters()] if isinstance(model, nn.Module) else list(weights)
        for part in self._only:
            if not any(_is_in(name, part) for name in names):
                known = dict.fromkeys(name.split(".")[0] for name in weights)
                raise PartNotFound(kind=kind, part=part, parts=list(known))
        raise ModelHasNoParameters(owner=f"{kind}(only={list(self._only)}): this part of the model")


def trainable(model: nn.Module | PyTree) -> Tensors:
    """The trained weights by name, without those of wrappers; empty parameters are left out.

    Raises:
        ModelInvalid: a tensor has no shape or no values yet, or a trained one is complex.
    """
    if isinstance(model, nn.Module):
        model = unwrapped(model)
        expect_values(model)
        return {name: p for name, p in model.named_parameters() if p.requires_grad and p.numel()}
    return named_leaves(model)


def _parts(kind: str, only: Only | None) -> tuple[str, ...]:
    """The parts without their final dots."""
    if only is None:
        return ()
    given = [only] if isinstance(only, str) else list(only) if isinstance(cast("object", only), list | tuple) else []
    if not given or not all(isinstance(cast("object", part), str) and part.strip(".") for part in given):
        raise ArgumentInvalid(
            owner=kind,
            argument="only",
            given=shown(only),
            expected="the first part of parameter names, such as only='head.', or a list of these",
        )
    return tuple(part.rstrip(".") for part in given)


def _is_in(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")


def _expect_tensors(kind: str, model: nn.Module | PyTree) -> None:
    if isinstance(model, nn.Module):
        return
    if odd := [leaf for leaf in named_leaves(model).values() if not isinstance(cast("object", leaf), Tensor)]:
        raise ArgumentInvalid(
            owner=kind, argument="model", given=shown(odd[0]), expected="the model, which is a torch.nn.Module"
        )


def _broadcast_shapes(model: nn.Module | PyTree, weights: Tensors, per: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Parameter → the shape of its numbers, with a one in each dimension that shares them; () for one number."""
    for name, w in weights.items():
        inputs, outputs = (0, 1) if _has_inputs_first(model, name) else (1, 0)
        kept = {"input": inputs, "output": outputs, "channel": outputs if w.ndim > 2 else None}.get(per)
        if w.ndim < 2 or kept is None:
            yield name, ()
        else:
            yield name, tuple(size if dim == kept else 1 for dim, size in enumerate(w.shape))


def _has_inputs_first(model: nn.Module | PyTree, name: str) -> bool:
    if not isinstance(model, nn.Module):
        return False
    path = (
        f".{name}".split(".parametrizations.")[0]
        if ".parametrizations." in f".{name}"
        else f".{name}".rpartition(".")[0]
    )
    owner = model.get_submodule(path.removeprefix("."))
    # GPT-2 of transformers multiplies by the transposed weight of a Linear.
    is_gpt2 = type(owner).__name__ == "Conv1D" and type(owner).__module__.startswith("transformers.")
    return isinstance(owner, _INPUTS_FIRST) or is_gpt2

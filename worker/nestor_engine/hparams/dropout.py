"""Dropout rates as hyperparameters."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn

from nestor.errors import DropoutNotFound, DropoutRateOutOfRange, MadeForAnotherModel, OptionOutOfRange
from nestor.program_format import EntryNames, labels
from nestor_engine.hparams.hyperparameters import Hyperparameters
from nestor_engine.objective import Tensors
from nestor_engine.problem.model.wrappers import unwrapped

CHANNELS = (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)  # these drop whole channels
DropoutLayer = nn.Dropout | nn.Dropout1d | nn.Dropout2d | nn.Dropout3d
MARGIN = 1e-6  # rates and draws stay this far from 0 and 1, where the logit is infinite


class ConcreteDropout(nn.Module):
    """Dropout whose mask is differentiable in its rate: the concrete relaxation [1] of a Bernoulli draw [2].

    With u uniform, z = sigmoid((logit(rate) + logit(u)) / temperature) is nearly 0 or 1, and nearly 1 with
    probability `rate`; the output is x (1 − z) / (1 − rate). In evaluation mode it is x.

    [1] Maddison, Mnih and Teh (2017), The concrete distribution.
    [2] Gal, Hron and Kendall (2017), Concrete dropout.
    """

    rate: Tensor

    def __init__(self, *, channels: bool, temperature: float) -> None:
        super().__init__()
        self.channels, self.temperature = channels, temperature
        self.register_buffer("rate", torch.empty((), device="meta"))  # supplied at every call

    def forward(self, x: Tensor) -> Tensor:
        """x with dropout, of the shape of `x`; in evaluation mode, `x` itself."""
        if not self.training:
            return x
        shape = (*x.shape[:2], *(1 for _ in x.shape[2:])) if self.channels else x.shape
        u = torch.rand(shape, dtype=x.dtype, device=x.device)
        rate = self.rate.clamp(MARGIN, 1 - MARGIN)
        z = ((rate.logit() + u.logit(MARGIN)) / self.temperature).sigmoid()
        return x * (1 - z) / (1 - rate)


class Dropout(Hyperparameters):
    """The rates of a model's dropout layers, through the concrete relaxation [1].

    Every nn.Dropout, Dropout1d, Dropout2d and Dropout3d is replaced in the copy that is trained; the model
    itself is not changed. The hypergradient is that of the training loss under one draw of the noise.
    Named `dropout`, of shape (layers,) in the order of the model's modules, or () when all share one.

    Args:
        model: the problem's model.
        init: initial rate, between 0 and 1; each layer's own by default, and their mean for "global".
        per: whether each layer has its own rate.
        temperature: of the relaxation. Near zero, masks are those of dropout, but gradients are noisier.

    Raises:
        ProblemInvalid: the model has no dropout layer, or a rate is not strictly between 0 and 1.

    [1] Gal, Hron and Kendall (2017), Concrete dropout.
    """

    init_shown = None  # `init` is a rate

    def __init__(
        self,
        model: nn.Module,
        *,
        init: float | None = None,
        per: Literal["layer", "global"] = "layer",
        temperature: float = 0.1,
        name: str | None = None,
    ) -> None:
        if not temperature > 0:
            raise OptionOutOfRange(option=f"Dropout({temperature=})", rule="it must be positive; 0.1 is usual")
        layers = _layers(model)
        if not layers:
            raise DropoutNotFound()
        rates = {path: layer.p if init is None else init for path, layer in layers.items()}
        if outside := [path for path, rate in rates.items() if not 0 < rate < 1]:
            raise DropoutRateOutOfRange(layer=outside[0], rate=rates[outside[0]])
        self._paths, self._per, self._temperature, self._name = (
            tuple(layers),
            per,
            temperature,
            self._named(name, "dropout"),
        )
        logits = [math.log(rate / (1 - rate)) for rate in rates.values()]
        first = next(model.parameters(), torch.empty(()))
        start = logits if per == "layer" else sum(logits) / len(logits)
        self.init = {self._name: torch.tensor(start, dtype=first.dtype, device=first.device)}
        self.transforms = {self._name: "sigmoid"}
        self.entry_names = {self._name: EntryNames(axes=(labels(self._paths, "layer"),) if per == "layer" else ())}
        self.remarks = tuple(
            f"Dropout does not tune the dropout={module.dropout} inside of {path!r} ({type(module).__name__}), which "
            "stays as it is. Add nn.Dropout modules in its place to tune it."
            for path, module in _modules(model)
            if isinstance(module, nn.RNNBase | nn.MultiheadAttention) and module.dropout
        )

    def validate(self, model: nn.Module, train: Tensors) -> None:
        """Check that the dropout layers have the paths that they had in the model passed to `__init__`.

        Raises:
            MadeForAnotherModel: they do not.
        """
        if tuple(_layers(model)) != self._paths:
            raise MadeForAnotherModel(kind="Dropout")

    def adapt(self, module: nn.Module) -> None:
        """Replace each dropout layer by `ConcreteDropout`, wherever the module refers to it."""
        concrete = {
            id(layer): ConcreteDropout(channels=type(layer) in CHANNELS, temperature=self._temperature).train(
                layer.training
            )
            for layer in _layers(module).values()
        }
        for parent in list(module.modules()):
            # Not named_children, which lists a shared layer only once.
            for attribute, child in list(parent._modules.items()):  # pyright: ignore[reportPrivateUsage] see above
                if id(child) in concrete:
                    setattr(parent, attribute, concrete[id(child)])

    def tensors(self, values: Tensors) -> Tensors:
        """`<path>.rate` → the rate of that layer, shape ()."""
        rates = values[self._name].expand(len(self._paths)).unbind()
        return {f"{path}.rate": rate for path, rate in zip(self._paths, rates, strict=True)}


def _layers(model: nn.Module) -> dict[str, DropoutLayer]:
    # Exact types only: a subclass may do something else.
    return {
        path: module
        for path, module in _modules(model)
        if isinstance(module, DropoutLayer) and type(module) in get_args(DropoutLayer)
    }


def _modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return cast("Iterator[tuple[str, nn.Module]]", unwrapped(model).named_modules())  # whose signature has no types

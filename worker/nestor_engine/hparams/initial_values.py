"""Initial values that look like what the training reads, although they are given before a transform."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from nestor_engine.hparams.hyperparameters import TRANSFORMS, Hyperparameters

# Transform → (values below this one look transformed, the inverse transform, what the inverse is called).
_LOOKS: dict[str, tuple[float, Callable[[float], float], str]] = {
    "exp": (1.0, math.log, "logarithm"),
    "sigmoid": (1.0, lambda value: math.log(value / (1 - value)), "logit"),
    "softplus": (0.5, lambda value: math.log(math.expm1(value)), "inverse softplus"),
}


def remarks_on_initial_values(kind: Hyperparameters) -> Iterator[str]:
    """A sentence for each initial value that was probably meant after the transform.

    A logarithm between 0 and 1 stands for a value between 1 and 2.7, which a decay seldom is; 1e-4 is a usual decay.
    """
    if kind.init_shown is None:
        return
    said: set[str] = set()
    for name, value in kind.init.items():
        transform = kind.transforms.get(name, "identity")
        if transform not in _LOOKS or not value.numel() or not value.is_floating_point():
            continue
        below, inverse, called = _LOOKS[transform]
        smallest, largest = value.detach().aminmax()
        low, high = float(smallest), float(largest)
        if not 0 < low <= high < below:
            continue
        start = kind.init_shown.format(name=name)
        reached = float(TRANSFORMS[transform](smallest))
        sentence = (
            f"{start} starts at {transform}({low:.6g}) = {reached:.6g}: initial values are given before the transform. "
            f"If {low:.6g} was meant, pass its {called}, {inverse(low):.6g}."
        )
        if start not in said:  # one sentence for all tensors of one argument
            said.add(start)
            yield sentence

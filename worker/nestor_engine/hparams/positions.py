"""What validation examples are to hyperparameters with an entry for each training example, when they train, too."""

from __future__ import annotations

import torch

from nestor.errors import PositionsMissing
from nestor_engine.hparams.hyperparameters import TRANSFORMS
from nestor_engine.objective import Bilevel


def position_for_validation(bilevel: Bilevel, n: int) -> int:
    """The training example whose position validation examples take: that of the largest weight.

    Args:
        n: training examples.

    Raises:
        PositionsMissing: a hyperparameter has an entry for each training example that is not a weight.
    """
    known = bilevel.by_position
    if known is None:  # a program of format 1 does not say it
        known = dict.fromkeys((name for name, value in bilevel.hparams.items() if value.shape[:1] == (n,)), "values")
    if wrong := [name for name, meaning in known.items() if meaning != "weights"]:
        raise PositionsMissing(name=wrong[0])
    weights = [
        TRANSFORMS[bilevel.transforms.get(name, "identity")](bilevel.hparams[name].detach().double()) for name in known
    ]
    return int(torch.stack(weights).prod(0).argmax()) if weights else 0

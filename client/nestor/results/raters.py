"""The rater that a trial with `LossReweighting` has learned."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nestor.errors import ArgumentInvalid, shown
from nestor.extras import engine

if TYPE_CHECKING:
    from nestor.results.values import Values
    from nestor_engine.hparams.loss_reweighting import LossReweighting, Rater


def rater(hparams: Values, rating: LossReweighting) -> Rater:
    """The network of `rating` with the values of `hparams`; `trial.rater` documents it."""
    kind = engine("nestor_engine.hparams", what="trial.rater").LossReweighting
    if not isinstance(rating, kind):
        expected = "the LossReweighting of the problem, or one with a network of the same architecture"
        raise ArgumentInvalid(owner="trial.rater", argument="rating", given=shown(rating), expected=expected)
    return rating.rater(hparams)

"""The batches of one fold; without folds there is one, with all data."""

from __future__ import annotations

from dataclasses import dataclass

from nestor_engine.config import Config
from nestor_engine.data.splits import Batches, View
from nestor_engine.distributed import Group
from nestor_engine.objective import Bilevel
from nestor_engine.tensors.random import derive_seed
from nestor_engine.tensors.ravel import Ravel
from nestor_engine.training.inner_loop import InnerLoop


@dataclass(frozen=True)
class FoldData:
    """The inner loop of a fold, and the batches for its hypergradients."""

    inner_loop: InnerLoop
    curvature: Batches
    val: Batches

    @staticmethod
    def of(
        views: tuple[View, View], trained_as: Bilevel, ravel: Ravel, config: Config, seed: int, group: Group
    ) -> FoldData:
        """The data of one fold; each purpose has its own shuffling.

        Args:
            views: training and validation examples.
            trained_as: the problem in the precision of the inner steps.
        """
        train, val = views
        return FoldData(
            InnerLoop(trained_as, ravel, train, config.inner, seed, group, batch_size=config.batch_size),
            Batches(train, config.batch_size, derive_seed(seed, "curvature"), group),
            Batches(val, config.val_batch_size, derive_seed(seed, "val"), group),
        )

    @property
    def seconds(self) -> float:
        """Wall time spent on gathering batches so far."""
        return sum(batches.seconds for batches in (self.inner_loop.source, self.curvature, self.val))

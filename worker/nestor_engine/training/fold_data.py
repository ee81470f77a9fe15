"""Where the batches of one fold come from; without folds, of the trial."""

from __future__ import annotations

from dataclasses import dataclass

from nestor_engine.autodiff.replay import Recorded
from nestor_engine.config import Config
from nestor_engine.data.splits import Batches, View
from nestor_engine.distributed import Group
from nestor_engine.objective import Bilevel
from nestor_engine.responses.response import outer_objective
from nestor_engine.tensors.random import derive_seed
from nestor_engine.tensors.ravel import Ravel
from nestor_engine.training.inner_loop import InnerLoop


@dataclass(frozen=True)
class Course:
    """A training, and what its hypergradients are taken on; `objective` is that of `bilevel`, as its trial keeps it."""

    training: InnerLoop
    curvature: Batches
    val: Batches
    objective: Recorded

    @staticmethod
    def of(
        train: View,
        val: View,
        bilevel: Bilevel,
        trained_as: Bilevel,
        ravel: Ravel,
        config: Config,
        seed: int,
        group: Group,
    ) -> Course:
        return Course(
            InnerLoop(trained_as, ravel, train, config.inner, seed, group, batch_size=config.batch_size),
            Batches(train, config.batch_size, derive_seed(seed, "curvature"), group),
            Batches(val, config.val_batch_size, derive_seed(seed, "val"), group),
            outer_objective(bilevel, ravel),
        )

    @property
    def seconds(self) -> float:
        """Wall time that gathering batches took so far."""
        return sum(batches.seconds for batches in (self.training.source, self.curvature, self.val))

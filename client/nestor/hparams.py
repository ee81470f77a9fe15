"""The kinds of hyperparameters, from `nestor_engine.hparams`, which needs torch and is loaded when first used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nestor_engine.hparams import L2 as L2
    from nestor_engine.hparams import TRANSFORMS as TRANSFORMS
    from nestor_engine.hparams import Custom as Custom
    from nestor_engine.hparams import ExampleWeights as ExampleWeights
    from nestor_engine.hparams import Hyperparameters as Hyperparameters
    from nestor_engine.hparams import Together as Together

__all__ = ["L2", "TRANSFORMS", "Custom", "ExampleWeights", "Hyperparameters", "Together"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'nestor.hparams' has no attribute {name!r}")
    from nestor.extras import engine

    return getattr(engine("nestor_engine.hparams", what=f"nestor.hparams.{name}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)

"""The kinds of hyperparameters, from `nestor_engine.hparams`, which needs torch and is loaded when first used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nestor_engine.hparams import L1 as L1
    from nestor_engine.hparams import L2 as L2
    from nestor_engine.hparams import TRANSFORMS as TRANSFORMS
    from nestor_engine.hparams import Augmentation as Augmentation
    from nestor_engine.hparams import ClassWeights as ClassWeights
    from nestor_engine.hparams import CompositeHyperparameters as CompositeHyperparameters
    from nestor_engine.hparams import Custom as Custom
    from nestor_engine.hparams import DistilledData as DistilledData
    from nestor_engine.hparams import Dropout as Dropout
    from nestor_engine.hparams import ExampleWeights as ExampleWeights
    from nestor_engine.hparams import GroupWeights as GroupWeights
    from nestor_engine.hparams import Hyperparameters as Hyperparameters
    from nestor_engine.hparams import InitializationScale as InitializationScale
    from nestor_engine.hparams import LabelCorrection as LabelCorrection
    from nestor_engine.hparams import LabelSmoothing as LabelSmoothing
    from nestor_engine.hparams import LossReweighting as LossReweighting
    from nestor_engine.hparams import LossWeights as LossWeights
    from nestor_engine.hparams import Submodule as Submodule
    from nestor_engine.hparams import UNet as UNet

__all__ = [
    "L1",
    "L2",
    "TRANSFORMS",
    "Augmentation",
    "ClassWeights",
    "CompositeHyperparameters",
    "Custom",
    "DistilledData",
    "Dropout",
    "ExampleWeights",
    "GroupWeights",
    "Hyperparameters",
    "InitializationScale",
    "LabelCorrection",
    "LabelSmoothing",
    "LossReweighting",
    "LossWeights",
    "Submodule",
    "UNet",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'nestor.hparams' has no attribute {name!r}")
    from nestor.extras import engine

    return getattr(engine("nestor_engine.hparams", what=f"nestor.hparams.{name}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)

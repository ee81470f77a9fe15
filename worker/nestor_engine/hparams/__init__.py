"""What can be tuned: kinds of hyperparameters that compose with any model.

A kind names tensors and says where they enter the training. The tensors are optimized without
constraints; a transform turns each into the value that the training reads.
"""

from __future__ import annotations

from nestor_engine.hparams.augmentation import Augmentation as Augmentation
from nestor_engine.hparams.compose import CompositeHyperparameters as CompositeHyperparameters
from nestor_engine.hparams.compose import compose as compose
from nestor_engine.hparams.custom import Custom as Custom
from nestor_engine.hparams.decay import L1 as L1
from nestor_engine.hparams.decay import L2 as L2
from nestor_engine.hparams.distilled_data import DistilledData as DistilledData
from nestor_engine.hparams.dropout import Dropout as Dropout
from nestor_engine.hparams.example_weights import ExampleWeights as ExampleWeights
from nestor_engine.hparams.group_weights import ClassWeights as ClassWeights
from nestor_engine.hparams.group_weights import GroupWeights as GroupWeights
from nestor_engine.hparams.hyperparameters import TRANSFORMS as TRANSFORMS
from nestor_engine.hparams.hyperparameters import Hyperparameters as Hyperparameters
from nestor_engine.hparams.initialization_scale import InitializationScale as InitializationScale
from nestor_engine.hparams.label_correction import LabelCorrection as LabelCorrection
from nestor_engine.hparams.label_smoothing import LabelSmoothing as LabelSmoothing
from nestor_engine.hparams.loss_reweighting import LossReweighting as LossReweighting
from nestor_engine.hparams.loss_weights import LossWeights as LossWeights
from nestor_engine.hparams.submodule import Submodule as Submodule
from nestor_engine.hparams.unet import UNet as UNet

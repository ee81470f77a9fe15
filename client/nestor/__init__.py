"""Hyperparameter optimisation by implicit differentiation: millions of hyperparameters, one training.

Everything here is loaded when it is first used, so that `import nestor` costs next to nothing and
needs no torch; what a problem is made of comes from `nestor_engine`, which does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nestor import errors as errors
    from nestor import hparams as hparams
    from nestor import schemas as schemas
    from nestor import visualization as visualization
    from nestor.remote.client import Client as Client
    from nestor.schemas import WarmStart as WarmStart
    from nestor.study import Study as Study
    from nestor.study import create_study as create_study
    from nestor.study import delete_study as delete_study
    from nestor.study import get_all_study_names as get_all_study_names
    from nestor.study import load_study as load_study
    from nestor.trial import Trial as Trial
    from nestor_engine import KFAC as KFAC
    from nestor_engine import SGD as SGD
    from nestor_engine import Adam as Adam
    from nestor_engine import AdamDiagonal as AdamDiagonal
    from nestor_engine import AdamW as AdamW
    from nestor_engine import Config as Config
    from nestor_engine import ConjugateGradient as ConjugateGradient
    from nestor_engine import CosineDecay as CosineDecay
    from nestor_engine import Data as Data
    from nestor_engine import Direct as Direct
    from nestor_engine import DirectOnly as DirectOnly
    from nestor_engine import EarlyStopping as EarlyStopping
    from nestor_engine import EmpiricalFisher as EmpiricalFisher
    from nestor_engine import Folds as Folds
    from nestor_engine import GaussNewton as GaussNewton
    from nestor_engine import Hessian as Hessian
    from nestor_engine import Hypernetwork as Hypernetwork
    from nestor_engine import Identity as Identity
    from nestor_engine import Implicit as Implicit
    from nestor_engine import LinearDecay as LinearDecay
    from nestor_engine import Neumann as Neumann
    from nestor_engine import Nystrom as Nystrom
    from nestor_engine import NystromSketch as NystromSketch
    from nestor_engine import PreconditionedCG as PreconditionedCG
    from nestor_engine import Problem as Problem
    from nestor_engine import Richardson as Richardson
    from nestor_engine import RMSprop as RMSprop
    from nestor_engine import StepDecay as StepDecay
    from nestor_engine import Unrolled as Unrolled
    from nestor_engine import WarmStarted as WarmStarted
    from nestor_engine import Warmup as Warmup
    from nestor_engine import evaluate as evaluate
    from nestor_engine import fit as fit
    from nestor_engine.errors import ProblemInvalid as ProblemInvalid

__version__ = "0.1.0"

_MODULES = ("errors", "hparams", "schemas", "visualization")
_CLIENT = {
    "Client": "nestor.remote.client",
    "Study": "nestor.study",
    "Trial": "nestor.trial",
    "WarmStart": "nestor.schemas",
    "create_study": "nestor.study",
    "delete_study": "nestor.study",
    "get_all_study_names": "nestor.study",
    "load_study": "nestor.study",
}
_ENGINE = (
    "Adam",
    "AdamW",
    "AdamDiagonal",
    "Config",
    "ConjugateGradient",
    "CosineDecay",
    "EarlyStopping",
    "Folds",
    "Data",
    "Direct",
    "DirectOnly",
    "EmpiricalFisher",
    "GaussNewton",
    "Hessian",
    "Hypernetwork",
    "Identity",
    "Implicit",
    "LinearDecay",
    "KFAC",
    "Neumann",
    "Nystrom",
    "NystromSketch",
    "PreconditionedCG",
    "Richardson",
    "Problem",
    "RMSprop",
    "SGD",
    "StepDecay",
    "Unrolled",
    "WarmStarted",
    "Warmup",
    "evaluate",
    "fit",
)

__all__ = [  # pyright: ignore[reportUnsupportedDunderAll] the names are those imported above
    "__version__",
    *_MODULES,
    *_CLIENT,
    *_ENGINE,
    "ProblemInvalid",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"nestor.{name}")  # which also makes it an attribute of this package
    if name in _CLIENT:
        value = getattr(importlib.import_module(_CLIENT[name]), name)
    elif name in _ENGINE or name == "ProblemInvalid":
        from nestor.extras import engine

        home = engine(what=f"nestor.{name}")
        value = getattr(home if name in _ENGINE else home.errors, name)
    else:
        raise AttributeError(f"module 'nestor' has no attribute {name!r}")
    globals()[name] = value  # the next look-up does not come here
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

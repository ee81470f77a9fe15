"""Hyperparameter optimization by implicit differentiation: millions of hyperparameters, one training.

Everything here is loaded when it is first used, so that `import nestor` costs next to nothing and
needs no torch; what a problem is made of comes from `nestor_engine`, which does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nestor import data as data
    from nestor import errors as errors
    from nestor import hparams as hparams
    from nestor import options as options
    from nestor import schemas as schemas
    from nestor import visualization as visualization
    from nestor.callbacks import PRUNE as PRUNE
    from nestor.entry_points import EntryPoint as EntryPoint
    from nestor.errors import ProblemInvalid as ProblemInvalid
    from nestor.opening import copy_study as copy_study
    from nestor.opening import create_study as create_study
    from nestor.opening import delete_study as delete_study
    from nestor.opening import get_all_study_names as get_all_study_names
    from nestor.opening import get_trial as get_trial
    from nestor.opening import load_study as load_study
    from nestor.options import *
    from nestor.remote.asynchronous.client import AsyncClient as AsyncClient
    from nestor.remote.client import Client as Client
    from nestor.results.decays import param_groups as param_groups
    from nestor.results.values import load_values as load_values
    from nestor.schemas import WarmStart as WarmStart
    from nestor.study import Study as Study
    from nestor.trial import Trial as Trial
    from nestor_engine import Data as Data
    from nestor_engine import Problem as Problem
    from nestor_engine import evaluate as evaluate
    from nestor_engine import fit as fit
    from nestor_engine import truth as truth

__version__ = "0.1.0"

_MODULES = ("data", "errors", "hparams", "options", "schemas", "visualization")
_CLIENT = {
    "AsyncClient": "nestor.remote.asynchronous.client",
    "Client": "nestor.remote.client",
    "EntryPoint": "nestor.entry_points",
    "PRUNE": "nestor.callbacks",
    "ProblemInvalid": "nestor.errors",
    "Study": "nestor.study",
    "Trial": "nestor.trial",
    "WarmStart": "nestor.schemas",
    "copy_study": "nestor.opening",
    "create_study": "nestor.opening",
    "delete_study": "nestor.opening",
    "get_all_study_names": "nestor.opening",
    "get_trial": "nestor.opening",
    "load_study": "nestor.opening",
    "load_values": "nestor.results.values",
    "param_groups": "nestor.results.decays",
}
_ENGINE = ("Data", "Problem", "evaluate", "fit", "truth")


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"nestor.{name}")  # which also makes it an attribute of this package
    if name in _CLIENT:
        value = getattr(importlib.import_module(_CLIENT[name]), name)
    elif name in _ENGINE:
        from nestor.extras import engine

        value = getattr(engine(what=f"nestor.{name}"), name)
    elif name == "__all__":  # an option is named where it is declared, and nowhere else
        from nestor.options import public_names

        return sorted(["__version__", *_MODULES, *_CLIENT, *_ENGINE, *public_names()])
    else:
        from nestor.options import public_option

        value = public_option(name)
        if value is None:
            raise AttributeError(f"module 'nestor' has no attribute {name!r}")
    globals()[name] = value  # the next look-up does not come here
    return value


def __dir__() -> list[str]:
    return list(__getattr__("__all__"))

"""Hypergradients by implicit differentiation, and warm-started bilevel training with them. Pure torch.

The options are names of this module, too: `nestor_engine.Neumann` is `nestor.Neumann` with the code that computes it.
"""

from __future__ import annotations

from typing import Any

from nestor import errors as errors
from nestor_engine import hparams as hparams
from nestor_engine.config import Config as Config
from nestor_engine.data.splits import Data as Data
from nestor_engine.implementations import implementation_named
from nestor_engine.objective import Bilevel as Bilevel
from nestor_engine.problem.problem import Problem as Problem
from nestor_engine.retraining import Truth as Truth
from nestor_engine.retraining import truth as truth
from nestor_engine.solvers import Outcome as Outcome
from nestor_engine.training.evaluation import evaluate as evaluate
from nestor_engine.training.fit import Fitted as Fitted
from nestor_engine.training.fit import fit as fit
from nestor_engine.training.outer_loop import evaluated as evaluated
from nestor_engine.training.outer_loop import optimize as optimize
from nestor_engine.training.state import State as State
from nestor_engine.training.state import start_from as start_from
from nestor_engine.training.step import Step as Step


def __getattr__(name: str) -> Any:
    return implementation_named(__name__, name)

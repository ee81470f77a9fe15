"""Hypergradients by implicit differentiation, and warm-started bilevel training with them. Pure torch."""

from __future__ import annotations

from nestor_engine import errors as errors
from nestor_engine import hparams as hparams
from nestor_engine.bilevel import Bilevel as Bilevel
from nestor_engine.config import Config as Config
from nestor_engine.config import describe as describe
from nestor_engine.config import restore as restore
from nestor_engine.curvature import KFAC as KFAC
from nestor_engine.curvature import EmpiricalFisher as EmpiricalFisher
from nestor_engine.curvature import GaussNewton as GaussNewton
from nestor_engine.curvature import Hessian as Hessian
from nestor_engine.data import Data as Data
from nestor_engine.loop import Fitted as Fitted
from nestor_engine.loop import evaluate as evaluate
from nestor_engine.loop import fit as fit
from nestor_engine.loop import optimise as optimise
from nestor_engine.optimizers import SGD as SGD
from nestor_engine.optimizers import Adam as Adam
from nestor_engine.optimizers import AdamW as AdamW
from nestor_engine.optimizers import RMSprop as RMSprop
from nestor_engine.problem import Problem as Problem
from nestor_engine.responses import DirectOnly as DirectOnly
from nestor_engine.responses import Hypernetwork as Hypernetwork
from nestor_engine.responses import Implicit as Implicit
from nestor_engine.responses import Unrolled as Unrolled
from nestor_engine.schedules import CosineDecay as CosineDecay
from nestor_engine.schedules import LinearDecay as LinearDecay
from nestor_engine.schedules import StepDecay as StepDecay
from nestor_engine.schedules import Warmup as Warmup
from nestor_engine.solvers import AdamDiagonal as AdamDiagonal
from nestor_engine.solvers import ConjugateGradient as ConjugateGradient
from nestor_engine.solvers import Direct as Direct
from nestor_engine.solvers import Identity as Identity
from nestor_engine.solvers import Neumann as Neumann
from nestor_engine.solvers import Nystrom as Nystrom
from nestor_engine.solvers import NystromSketch as NystromSketch
from nestor_engine.solvers import Outcome as Outcome
from nestor_engine.solvers import PreconditionedCG as PreconditionedCG
from nestor_engine.solvers import Richardson as Richardson
from nestor_engine.solvers import WarmStarted as WarmStarted
from nestor_engine.state import State as State
from nestor_engine.state import start_from as start_from
from nestor_engine.step import Step as Step
from nestor_engine.summaries import Summary as Summary

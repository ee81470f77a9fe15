"""What to invert: which second derivatives of the training loss are taken, one kind a file."""

from __future__ import annotations

from nestor_engine.curvature.curvature import Curvature as Curvature
from nestor_engine.curvature.empirical_fisher import EmpiricalFisher as EmpiricalFisher
from nestor_engine.curvature.gauss_newton import GaussNewton as GaussNewton
from nestor_engine.curvature.hessian import Hessian as Hessian
from nestor_engine.curvature.kfac import KFAC as KFAC
from nestor_engine.curvature.operator import NormState as NormState
from nestor_engine.curvature.operator import Operator as Operator

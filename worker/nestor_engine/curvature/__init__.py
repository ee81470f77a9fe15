"""What to invert: the kinds of second derivatives of the training loss, one kind per file."""

from __future__ import annotations

from typing import Any

from nestor_engine.curvature.curvature import Curvature as Curvature
from nestor_engine.curvature.operator import NormState as NormState
from nestor_engine.curvature.operator import Operator as Operator
from nestor_engine.implementations import implementation_named


def __getattr__(name: str) -> Any:
    return implementation_named(__name__, name)

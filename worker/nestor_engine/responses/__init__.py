"""How to differentiate: methods to compute dF/dλ, one per file."""

from __future__ import annotations

from typing import Any

from nestor_engine.implementations import implementation_named
from nestor_engine.responses.response import Hypergradient as Hypergradient
from nestor_engine.responses.response import OuterStepContext as OuterStepContext
from nestor_engine.responses.response import Response as Response


def __getattr__(name: str) -> Any:
    return implementation_named(__name__, name)

"""What the engine yields: the record of one outer step, and the state after it."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import Field, InstanceOf

from nestor.schemas import steps
from nestor_engine.training.state import State


class Step(steps.Step):
    """One outer update of the hyperparameters, with the inner steps before it.

    Attributes:
        state: the state after this step; later steps do not change it.
    """

    state: Annotated[InstanceOf[State], Field(exclude=True, repr=False)]

    def record(self) -> dict[str, Any]:
        """Everything but the state, as JSON. Metrics that are not finite are strings, other such numbers None."""
        plain = self.model_dump(mode="json")
        return {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in plain.items()}

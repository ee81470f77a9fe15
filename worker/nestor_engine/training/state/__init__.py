"""What a trajectory needs to continue, and its form in a checkpoint."""

from __future__ import annotations

from nestor_engine.training.state.fold_state import FoldState as FoldState
from nestor_engine.training.state.starting import start_from as start_from
from nestor_engine.training.state.state import State as State

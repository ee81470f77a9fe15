"""What tests of the engine share beside the cases."""

from __future__ import annotations

import pytest
import torch

from tests.engine.cases import SEED


@pytest.fixture
def seeded() -> None:
    """The same draws whichever tests came before."""
    torch.manual_seed(SEED)

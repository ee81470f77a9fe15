"""What tests of the engine share: the seed, and the device that they run on."""

from __future__ import annotations

import os

# CUDA reads this when it starts. Without it, matrix products in several streams may give different bits.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import pytest
import torch

from tests.engine.device import DEVICE

if DEVICE.type != "cpu":
    # Before test modules create tensors: on the device by default, with deterministic kernels.
    torch.set_default_device(DEVICE)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]: a property of its module

from tests.engine.cases import SEED


@pytest.fixture
def seeded() -> None:
    """The same draws for any order of tests."""
    torch.manual_seed(SEED)

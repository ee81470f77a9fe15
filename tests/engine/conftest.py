"""What tests of the engine share beside the cases: the seed, and the device that they run on."""

from __future__ import annotations

import os

# Read when CUDA starts: without it, matrix products in several streams need not repeat their bits.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import pytest
import torch

from tests.engine.device import DEVICE

if DEVICE.type != "cpu":
    # Before test modules make tensors: on the device, unless a test says otherwise. Kernels repeat their bits.
    torch.set_default_device(DEVICE)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False

from tests.engine.cases import SEED


@pytest.fixture
def seeded() -> None:
    """The same draws whichever tests came before."""
    torch.manual_seed(SEED)

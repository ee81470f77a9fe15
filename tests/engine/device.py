"""The device that the tests of the engine run on: `make gpu` sets NESTOR_TEST_DEVICE=cuda."""

from __future__ import annotations

import os

import torch

DEVICE = torch.device(os.environ.get("NESTOR_TEST_DEVICE", "cpu"))

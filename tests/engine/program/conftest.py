"""A valid program to attack, and what its refusal must be like."""

from __future__ import annotations

import json
from typing import Any

import pytest
import safetensors.torch
from torch import fx

from nestor.errors import ProgramInvalid, ProgramRejected
from nestor_engine.program import load
from tests.engine.program.problems import exported

Document = dict[str, Any]
REFUSALS = (ProgramInvalid, ProgramRejected)  # of the format, and of what it says


def document() -> Document:
    return json.loads(exported("odd")[1].graphs)


def tensors() -> bytes:
    return exported("odd")[1].tensors


@pytest.fixture
def nothing_is_built(monkeypatch: pytest.MonkeyPatch):
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("something was built from a program that must be refused")

    tensors()  # the valid program itself is made before
    monkeypatch.setattr(fx.Graph, "__init__", refuse)
    monkeypatch.setattr(safetensors.torch, "load", refuse)


def rejected(graphs: Document | bytes, data: bytes | None = None) -> str:
    raw = graphs if isinstance(graphs, bytes) else json.dumps(graphs).encode()
    with pytest.raises(REFUSALS) as caught:
        load(raw, tensors() if data is None else data)
    return str(caught.value)

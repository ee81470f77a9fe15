"""Reads and compares the names and shapes of parameters, buffers and hyperparameters."""

from __future__ import annotations

from itertools import pairwise

from nestor.data.digits import CLASSES, PIXELS
from nestor.schemas import Preset, WarmStart
from nestor_server.storage.safetensors_header import Header

Shapes = dict[str, tuple[int, ...]]
Architecture = dict[str, Shapes]  # for each group whose names are known

GROUPS = {"params": "parameter", "buffers": "buffer", "hparams": "hyperparameter"}


def of_program(header: Header) -> Architecture:
    """The architecture that the tensors of an exported program, or of a checkpoint of format 3, name."""
    return {group: _group(header, group) for group in GROUPS}


def of_start(header: Header, start: WarmStart) -> Architecture:
    """The architecture of a checkpoint or a snapshot. Checkpoints of format 2 have no names, so theirs is empty."""
    if not start.weights:
        return {"hparams": {name: tensor.shape for name, tensor in header.tensors.items()}}
    return of_program(header) if _group(header, "params") else {}


def of_preset(preset: Preset) -> Architecture:
    """The architecture of the preset's MLP."""
    widths = pairwise((PIXELS, *preset.model.hidden, CLASSES))
    shapes = [shape for before, after in widths for shape in ((after, before), (after,))]
    return {"params": dict(zip(preset.model.parameters, shapes, strict=True)), "buffers": {}}


def difference(stored: Architecture, expected: Architecture) -> str | None:
    """The first difference in the groups that both know, as a clause; None if there is no difference."""
    for group, kind in GROUPS.items():
        if group in stored and group in expected and (reason := _difference(kind, stored[group], expected[group])):
            return reason
    return None


def _difference(kind: str, stored: Shapes, expected: Shapes) -> str | None:
    for name, shape in expected.items():
        if name not in stored:
            return f"the trial has no {kind} {name[:80]!r}"
        if stored[name] != shape:
            return f"the {kind} {name[:80]!r} has the shape {stored[name]} in the trial and {shape} in the problem"
    unexpected = [name for name in stored if name not in expected]
    return f"the problem has no {kind} {unexpected[0][:80]!r}" if unexpected else None


def _group(header: Header, group: str) -> Shapes:
    prefix = f"{group}."
    return {name.removeprefix(prefix): t.shape for name, t in header.tensors.items() if name.startswith(prefix)}

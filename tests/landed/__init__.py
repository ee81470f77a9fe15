"""What the version of commit 975f0e6 left behind, which every later version must still open and go on with."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).parent
CHECKPOINTS = HERE / "checkpoints"  # State.save(), format 2
CONTINUED = HERE / "checkpoints.json"  # name → its config, and what three more steps gave
PROGRAMS = HERE / "programs"  # name → what the client uploaded of it
SHIPPED = HERE / "programs.json"  # name → a config, and the trajectory that it gave


def checkpoint_of(name: str) -> Path:
    return CHECKPOINTS / f"{name.replace(',', '').replace(' ', '-')}.safetensors"


def program_of(name: str) -> Path:
    """The directory of its files: `graphs.json`, `tensors.safetensors`, and a file for each split."""
    return PROGRAMS / name.replace(" ", "-")

"""What the version of commit 975f0e6 left behind, which every later version must still open and go on with."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).parent
CHECKPOINTS = HERE / "checkpoints"  # State.save(), format 2
CONTINUED = HERE / "checkpoints.json"  # name → its config, and what three more steps gave


def checkpoint_of(name: str) -> Path:
    return CHECKPOINTS / f"{name.replace(',', '').replace(' ', '-')}.safetensors"

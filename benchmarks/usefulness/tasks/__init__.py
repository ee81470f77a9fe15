"""The tasks. Those that are held out wait for the end: no default may be chosen on them."""

from __future__ import annotations

from pathlib import Path

from benchmarks.usefulness.task import Task
from benchmarks.usefulness.tasks import features, invariance, mixtures, noise, scarce, text, uci

IN_PACKAGES = (*noise.TASKS, *scarce.TASKS, *features.TASKS, *mixtures.TASKS, *invariance.TASKS, *text.TASKS)


def tasks(uci_folder: Path | None = None) -> dict[str, Task]:
    """All tasks by name.

    Args:
        uci_folder: where NAME.npz of the UCI sets are; without it, these tasks are left out.
    """
    outside = uci.tasks(uci_folder) if uci_folder else ()
    return {task.name: task for task in (*IN_PACKAGES, *outside)}

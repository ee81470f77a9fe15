"""The entry points that this worker's runners can call, found out once when the worker starts."""

from __future__ import annotations

import logging
import subprocess
import sys
import tempfile
from pathlib import Path

from pydantic import ValidationError

from nestor.options.presets import package_of, registered
from nestor.schemas import EntryPointInfo
from nestor_worker.supervisor.runners import process as runner_process

log = logging.getLogger(__name__)

IMPORT_SECONDS = 120.0
UNFINISHED = "Its import did not end: it was killed, it ended the process, or it took too long."


def installed(*, seconds: float = IMPORT_SECONDS) -> dict[str, EntryPointInfo]:
    """All entry points by name, also those that cannot be called, with the reason.

    They are imported in a process with the environment of a runner: what it does not find, a runner does not find.

    Args:
        seconds: for all imports together; then one counts as broken, and the others have this time again.
    """
    found: dict[str, EntryPointInfo] = {}
    points = registered()
    left = sorted(points)
    while left:
        found |= _described(left, seconds)
        left = [name for name in left if name not in found]
        if left:  # the first of them ended the process
            broken = left.pop(0)
            found[broken] = EntryPointInfo(entry_point=broken, package=package_of(points[broken]), error=UNFINISHED)
    for info in found.values():
        if info.error is None:
            log.info("offers the entry point %s of %s", info.entry_point, info.package)
        else:
            log.warning("does not offer the entry point %s: %s", info.entry_point, info.error)
    return found


def _described(names: list[str], seconds: float) -> dict[str, EntryPointInfo]:
    """The descriptions that one process writes until it ends."""
    with tempfile.TemporaryDirectory(prefix="nestor-list-", ignore_cleanup_errors=True) as home:
        command = [sys.executable, "-P", "-m", "nestor_worker.runner.entry_points", *names]
        environment = runner_process.environment(Path(home), threads=1, device="cpu")
        try:
            written = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, cwd=home, env=environment, timeout=seconds
            ).stdout
        except subprocess.TimeoutExpired as error:
            written = error.stdout or b""
    infos: dict[str, EntryPointInfo] = {}
    for line in written.split(b"\n"):
        try:
            # The database cannot hold NUL.
            info = EntryPointInfo.model_validate_json(line.replace(rb"\u0000", b""))
        except ValidationError:
            continue  # an incomplete last line
        infos[info.entry_point] = info
    return infos

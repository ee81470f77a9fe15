"""What `nestor doctor` says of this machine as a worker's."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from nestor_server.client_checks import CheckResult
from nestor_worker import containment
from nestor_worker.containment import account


def examine() -> Iterator[CheckResult]:
    """The walls around trials. A machine without one is no mistake, but no place for programs of strangers."""
    for wall in containment.walls():
        remedy = "" if wall.stands else f"before strangers submit trials, let workers run where there is {wall.needs}"
        yield CheckResult(True, str(wall), remedy)
    if sys.platform == "linux" and os.geteuid() == 0:
        yield _services()


def _services() -> CheckResult:
    what = "services: `nestor up` as root runs server and workers under accounts of their own"
    if not (closed := account.obstacles(Path("/"))):
        return CheckResult(True, what)
    remedy = f"install Python and Nestor where all users may read them: they may not read or enter {closed[0]}"
    return CheckResult(True, f"{what}, which may read all files of this machine, also passwords", remedy)

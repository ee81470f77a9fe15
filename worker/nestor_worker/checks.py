"""What `nestor doctor` says of this machine as a worker's."""

from __future__ import annotations

from collections.abc import Iterator

from nestor_server.client_checks import CheckResult
from nestor_worker import containment


def examine() -> Iterator[CheckResult]:
    """The walls around trials. A machine without one is no mistake, but no place for programs of strangers."""
    for wall in containment.walls():
        remedy = "" if wall.stands else f"before strangers submit trials, let workers run where there is {wall.needs}"
        yield CheckResult(True, str(wall), remedy)

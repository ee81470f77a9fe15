"""A hostile program inside a runner finds everything closed that its trial does not need, and its trial runs as ever.

Code of a user never gets that far unless a kernel of torch has a fault. The probe is the code of a package, which runs
behind the same walls.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nestor_worker import checks, containment
from nestor_worker.containment import account, seccomp
from tests.worker import probing

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has these walls")

OF_ONE_DEVICE = {"connect by TCP", "listen by TCP", "ask the kernel about the network"}


@pytest.fixture(scope="module", autouse=True)
def kernel() -> None:
    if missing := [str(wall) for wall in containment.walls() if not wall.stands]:
        pytest.skip(f"this machine lacks walls: {missing}")


@pytest.fixture(scope="module")
def site() -> Iterator[Path]:
    """A directory with the probe as a package, which every account can read."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o755)
    probing.package(path)
    yield path
    shutil.rmtree(path)


def probe(site: Path, how: str, devices: int = 1, user: int | None = None) -> dict[str, Any]:
    paths = [str(site), os.getcwd(), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(paths), "SECRET": "a password"}
    environment["TMPDIR"] = tempfile.gettempdir()
    as_user = [sys.executable, "-m", "nestor_worker.containment.launch", str(user), str(user), str(os.getpid()), "0"]
    program = [sys.executable, "-m", "tests.worker.probing", str(site), how, str(devices)]
    command = program if user is None else [*as_user, *program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, cwd="/")
    assert done.returncode == 0, done.stderr[-3_000:]
    found = json.loads(done.stdout)
    assert "attempts" in found, found
    return found


@pytest.mark.parametrize("how", ["forked", "executed"])
@pytest.mark.parametrize("user", [None, 1], ids=["as the worker", "as the worker of a root's `nestor up`"])
def test_a_probe_is_refused_everything_that_no_trial_needs(site, how, user):
    if user is not None and os.geteuid() != 0:
        pytest.skip("only root can have another account")
    found = probe(site, how, user=user)
    done = {name for name, why in found["attempts"].items() if why is None}
    assert done == set()
    assert {name: why for name, why in found["needs"].items() if why is not None} == {}
    assert found["threads"] == 2  # the one that has built the walls, and the one that it started then


def test_the_processes_of_a_trial_on_several_devices_talk_by_tcp_and_by_nothing_else(site):
    found = probe(site, "executed", devices=2)
    assert {name for name, why in found["attempts"].items() if why is None} == OF_ONE_DEVICE


def test_where_nobody_cannot_read_what_a_trial_needs_one_capability_is_kept(site):
    """Python below root's home is such a place. Landlock decides which files these are."""
    if os.geteuid() != 0:
        pytest.skip("only root can leave its account")
    site.chmod(0o700)
    try:
        found = probe(site, "executed")
    finally:
        site.chmod(0o755)
    assert {name for name, why in found["attempts"].items() if why is None} == set()
    assert found["attempts"]["have capabilities"] == "to read files that landlock allows"


def test_obstacles_are_what_keeps_nobody_out(tmp_path):
    tmp_path.chmod(0o755)
    (tmp_path / "run" / "work").mkdir(parents=True)
    open_file, closed = tmp_path / "open", tmp_path / "closed"
    open_file.write_bytes(b"")
    closed.write_bytes(b"")
    open_file.chmod(0o644)
    closed.chmod(0o600)
    others = set(account.obstacles(tmp_path / "run" / "work", [open_file]))
    assert set(account.obstacles(tmp_path / "run" / "work", [open_file, closed])) - others == {closed}
    tmp_path.chmod(0o700)
    assert tmp_path in account.obstacles(tmp_path / "run" / "work")


def test_the_doctor_says_which_walls_stand():
    found = list(checks.examine())
    walls, services = found[:3], found[3:]
    assert [result.message.split(":")[0] for result in walls] == ["account", "landlock", "seccomp"]
    assert all(result.ok and not result.remedy for result in walls)
    assert len(services) == (os.geteuid() == 0)
    for result in services:
        assert result.ok
        assert ("may read all files" in result.message) == bool(account.obstacles(Path("/"))) == bool(result.remedy)


@pytest.mark.parametrize("machine", seccomp.ARCHITECTURES)
def test_every_call_of_a_filter_has_a_number_of_its_own(machine):
    calls = seccomp.ARCHITECTURES[machine].calls | seccomp.COMMON
    assert len(set(calls.values())) == len(calls)
    assert set(seccomp.EXAMINED) | set(seccomp.HARMLESS) <= set(calls)

"""What root starts by `nestor_worker.containment.launch` has another account, and no rights that it does not need."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from nestor_worker.containment import account
from nestor_worker.containment.account import LISTEN_ON_LOW_PORTS, READ_ALL_FILES

pytestmark = pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root can leave its account")

UID, GID = 61_187, 61_186
TELL = """
import json, os
lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
found = {name: lines[name].split() for name in ("Uid", "Gid", "Groups", "CapEff", "CapBnd", "NoNewPrivs", "Umask")}
print(json.dumps(found | {"home": os.environ["HOME"]}))
"""


def launched(port: int, code: str = TELL, parent: int | None = None) -> subprocess.CompletedProcess[str]:
    ids = (UID, GID, parent or os.getpid(), port)
    return subprocess.run(
        [sys.executable, "-m", "nestor_worker.containment.launch", *map(str, ids), sys.executable, "-c", code],
        env={"PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": tempfile.gettempdir(), "HOME": "/root"},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("port", [0, 80, 1023, 1024, 8000])
def test_it_keeps_no_right_of_root_but_those_to_read_python_and_to_listen_on_its_port(port: int):
    found = json.loads(launched(port).stdout)
    must_read_all = bool(account.obstacles(Path("/")))
    kept = READ_ALL_FILES * must_read_all | LISTEN_ON_LOW_PORTS * (port in (80, 1023))
    assert (found["Uid"], found["Gid"], found["Groups"]) == ([str(UID)] * 4, [str(GID)] * 4, [])
    assert int(found["CapEff"][0], 16) == int(found["CapBnd"][0], 16) == kept
    assert (found["NoNewPrivs"], found["Umask"]) == (["1"], ["0007"])
    assert found["home"] == ("/root" if must_read_all else tempfile.gettempdir())


def test_it_listens_on_a_low_port_of_its_own_alone():
    port = 87
    code = f"import socket; socket.create_server(('127.0.0.1', {port}))"
    done = launched(port, code)
    assert done.returncode == 0 or "Address already in use" in done.stderr
    if int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) > port:
        assert "Permission denied" in launched(0, code).stderr


def test_it_does_not_start_after_the_end_of_its_parent():
    assert launched(0, parent=1).returncode == 1

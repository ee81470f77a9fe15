"""The service that the examples use: a running one, or one that is started for them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from nestor_server.embedded.home import Home, default_home


@contextmanager
def running_service() -> Iterator[str]:
    """The address of NESTOR_SERVER, of the service on this machine, or of a temporary one."""
    if chosen := os.environ.get("NESTOR_SERVER"):
        yield chosen
        return
    if running := Home(default_home()).running():
        yield running["url"]
        return
    command = [sys.executable, "-m", "nestor", "up", "--port", "0"]
    # One thread for the trial: other processes train at the same time, and small matrices do not gain from two.
    environment = {"NESTOR_THREADS": "1"} | os.environ
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        lines = iter(process.stdout or ())
        address = next((line.split()[-1] for line in lines if line.startswith("Nestor is up: ")), None)
        if address is None:
            raise SystemExit(process.wait() or 1)  # the reason is on stderr
        yield address
    finally:
        process.terminate()
        process.wait()

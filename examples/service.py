"""The Nestor that the examples run on: one that is there, or one that is started for as long as they need it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from nestor_server.embedded.home import Home, default_home


@contextmanager
def running_service() -> Iterator[str]:
    """The address of NESTOR_SERVER, of the Nestor that runs on this machine, or of one that runs meanwhile."""
    if chosen := os.environ.get("NESTOR_SERVER"):
        yield chosen
        return
    if running := Home(default_home()).running():
        yield running["url"]
        return
    command = [sys.executable, "-m", "nestor", "up", "--port", "0"]
    # One thread for the trial: others train beside it, and matrices as small as the examples' gain nothing from two.
    environment = {"NESTOR_THREADS": "1"} | os.environ
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        said = iter(process.stdout or ())
        address = next((line.split()[-1] for line in said if "/#token=" in line), None)
        if address is None:
            raise SystemExit(process.wait() or 1)  # it said why on stderr
        yield address.partition("/#token=")[0]
    finally:
        process.terminate()
        process.wait()

"""A supervisor that runs the probe in a runner and prints what came of it: `python -m tests.worker.probing OPTIONS`.

It is a process of its own, so that it can have another account than the tests.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import socket
import sys
import tempfile
from pathlib import Path

from nestor.options import Config
from nestor.schemas import TrialCreate
from nestor_worker.containment import process
from nestor_worker.supervisor.runners.fork_server import ForkServer
from nestor_worker.supervisor.runners.process import Runner, environment
from nestor_worker.workdir import WorkSpec
from tests.support.packages import install
from tests.worker.conftest import SPEC

POINT = "probe:factory"
FILE_BYTES, MEMORY_BYTES = 2**23, 2**30


def main(site: Path, *, forked: bool, devices: int) -> None:
    """Run the probe, a package in the directory `site`, and print its outcomes as JSON."""
    process.hide_memory()
    server = ForkServer(lambda home: environment(home, threads=1, device="cpu")) if forked else None
    runner = Runner(threads=1, devices=("cpu",) * devices, fork_server=server)
    outside = Path(tempfile.mkdtemp())
    try:
        with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as local:
            local.bind(str(outside / "socket"))
            local.listen()
            (outside / "secret").write_text("a password")
            (runner.objects / "object").write_text("an object of all trials")
            aim = {
                "supervisor": os.getpid(),
                "outside": str(outside),
                "secret": str(outside / "secret"),
                "object": str(runner.objects / "object"),
                "temporary": tempfile.gettempdir(),
                "socket": str(outside / "socket"),
                "port": tcp.getsockname()[1],
                "file_bytes": FILE_BYTES,
                "memory_bytes": MEMORY_BYTES,
            }
            _spec(aim, devices).write(runner.directory)
            runner.begin(devices)
            while True:
                try:
                    if runner.inbox.get(timeout=240) is None:
                        break
                except queue.Empty:
                    sys.exit(f"the runner is silent: {runner.exit_reason()}")
            found = runner.directory / "probe.json"
            print(found.read_text() if found.exists() else json.dumps({"why": runner.exit_reason()}))
            assert (outside / "secret").read_text() == "a password"
    finally:
        runner.close()
        if server is not None:
            server.close()
        shutil.rmtree(outside)


def _spec(aim: dict, devices: int) -> WorkSpec:
    config = TrialCreate.model_validate(SPEC).model_dump(mode="json", include=set(Config.model_fields))
    point = {"entry_point": POINT, "params": {"aim": aim}}
    return WorkSpec(
        config, None, best_step=None, best_value=None, warm=None, threads=1, checkpoint_seconds=60, entry_point=point,
        memory_bytes=MEMORY_BYTES, file_bytes=FILE_BYTES, devices=devices,
    )  # fmt: skip


def package(site: Path) -> None:
    """Install the probe below `site`, where every account can read it."""
    install(site, "probe", (Path(__file__).parent / "probe.py").read_text(), {"factory": POINT})


if __name__ == "__main__":
    main(Path(sys.argv[1]), forked=sys.argv[2] == "forked", devices=int(sys.argv[3]))

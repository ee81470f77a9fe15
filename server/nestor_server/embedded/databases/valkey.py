"""A Valkey server on a directory inside the home: Celery's broker."""

from __future__ import annotations

import signal
import socket
from pathlib import Path
from typing import final

from nestor_server.embedded.accounts import of_databases
from nestor_server.embedded.databases.binaries import find_valkey, valkey_within_reach
from nestor_server.embedded.databases.postgres import free_port
from nestor_server.embedded.environment import for_databases
from nestor_server.embedded.home import Home, write_private
from nestor_server.embedded.process import Child, end_orphan

START_SECONDS = 20.0

# "force": a failed last save would make Valkey ignore SIGTERM. The append-only file has the data anyway.
CONFIGURATION = """\
bind 127.0.0.1
port {port}
requirepass {password}
dir {directory}
pidfile {pid_file}
daemonize no
set-proc-title no
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
shutdown-on-sigterm nosave force
"""


@final
class Valkey:
    """The server. The caller has acquired the home."""

    name = "valkey"

    def __init__(self, home: Home) -> None:
        self._home = home
        self.child: Child | None = None  # while it is started

    def start(self) -> str:
        """Wait until the server answers, and return its address.

        Raises:
            NoBinary, ChildFailed
        """
        account = of_databases()
        directory = self._home.directory("valkey", account)
        program = valkey_within_reach(find_valkey(), copies=directory / "program", account=account)
        password = self._home.secret("valkey-password")
        configuration = directory / "valkey.conf"
        self._end_orphan(directory / "valkey.pid", configuration)

        port = free_port()
        # In a file and not in argv, which every user can read.
        text = CONFIGURATION.format(
            port=port, password=password, directory=_quoted(directory), pid_file=_quoted(directory / "valkey.pid")
        )
        write_private(configuration, text)
        if account:
            account.owns(configuration)
        child = self.child = Child(
            self.name,
            [program, configuration],
            log=self._home.log(self.name),
            env=for_databases(),
            cwd=directory,
            account=account,
            orphan_signal=signal.SIGTERM,
        )
        child.start()
        try:
            child.wait_until(lambda: _answers(port, password), timeout=START_SECONDS)
        except BaseException:
            self.stop()
            raise
        return f"redis://:{password}@127.0.0.1:{port}/0"

    def stop(self) -> None:
        """Stop the server. Does nothing if it does not run."""
        if self.child is not None:
            self.child.stop()
            self.child = None

    def _end_orphan(self, pid_file: Path, configuration: Path) -> None:
        """End a server that outlived its owner: two servers appending to one file would corrupt it."""
        try:
            pid = int(pid_file.read_text())
        except (OSError, ValueError):
            return
        end_orphan(pid, configuration, signal.SIGTERM, signal.SIGKILL)
        pid_file.unlink(missing_ok=True)


def _quoted(path: Path) -> str:
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _answers(port: int, password: str) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0) as connection:
            connection.sendall(f"AUTH {password}\r\nPING\r\n".encode())
            reply = b""
            while b"+PONG" not in reply and b"-" not in reply:  # the two replies may arrive in one packet or in two
                received = connection.recv(200)
                if not received:
                    return False
                reply += received
            return b"+PONG" in reply
    except OSError:
        return False

"""The accounts of the parts of `nestor up` if root starts it: none of them is root's."""

from __future__ import annotations

import errno
import os
import pwd
import stat
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nestor_server.embedded.errors import DirectoryShared, NoAccount
from nestor_server.settings import SERVICES

# The ids that systemd gives to services without an account of their own (DynamicUser). No person has one of them.
DYNAMIC = range(61_184, 65_520)


@dataclass(frozen=True)
class Account:
    """A user that a child runs as."""

    name: str
    uid: int
    gid: int

    def owns(self, path: Path) -> None:
        """Make this user the owner of `path`. Only root may."""
        os.chown(path, self.uid, self.gid)

    def takes_over(self, directory: Path, is_ours: Callable[[str], bool] = lambda name: True) -> None:
        """Make this user the owner of a directory, created if missing, if it belongs to root or to an earlier service.

        All that it contains becomes open to the group, which all services share. The directory is the last to change,
        so what was interrupted is done again. A directory that another user owns stays as it is.

        Args:
            is_ours: whether Nestor gives such a name to what it writes there.

        Raises:
            DirectoryShared: something in it is not Nestor's.
        """
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = directory.stat().st_uid
        if owner == self.uid or (owner != 0 and owner not in DYNAMIC):
            return
        if other := next((path.name for path in directory.iterdir() if not is_ours(path.name)), None):
            raise DirectoryShared(directory=str(directory), other=other)
        for path in (*directory.rglob("*"), directory):
            os.chown(path, self.uid, self.gid, follow_symlinks=False)
            _open_to_group(path)


def _open_to_group(path: Path) -> None:
    """Let the group do what the owner may. A link stays as it is, also one that a service makes at this moment."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno == errno.ELOOP:  # a link
            return
        raise
    try:
        mode = stat.S_IMODE(os.fstat(file).st_mode)
        os.fchmod(file, mode | (mode & stat.S_IRWXU) >> 3)
    finally:
        os.close(file)


def of_databases() -> Account | None:
    """The user to run databases as if this process is root; None if it is not, and they run as the same user.

    Raises:
        NoAccount
    """
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(name, entry.pw_uid, entry.pw_gid)
    raise NoAccount


def of_service(name: str, home: Path) -> Account | None:
    """The user to run one of `SERVICES` of a home as if this process is root; None as `of_databases`.

    These users have no names. The two have one group, so that they can share an object store in a directory.
    """
    if os.geteuid() != 0:
        return None
    first = DYNAMIC.start + 2 * (zlib.crc32(str(home).encode()) % (len(DYNAMIC) // 2))
    return Account(f"nestor-{name}", first + SERVICES.index(name), first)

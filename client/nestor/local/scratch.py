"""A directory for temporary files. It is removed when this process ends; after a kill, another process removes it."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

PREFIX = "nestor-scratch-"
LOCK = "lock"


@dataclass(frozen=True)
class _Folder:
    path: Path
    pid: int  # a forked process inherits the value, but the directory stays its parent's


_folder: _Folder | None = None
_creating = threading.Lock()


def directory() -> Path:
    """The directory of this process, below TMPDIR. Directories that killed processes left behind are removed first.

    Raises:
        OSError: it cannot be created.
    """
    global _folder
    with _creating:
        if _folder is None or _folder.pid != os.getpid() or not _folder.path.is_dir():
            remove_orphans()
            _folder = _Folder(Path(tempfile.mkdtemp(prefix=PREFIX)), os.getpid())
            _hold(_folder.path)
        return _folder.path


def remove(path: Path) -> None:
    """Remove a file below `directory`. A forked process leaves the files of its parent alone."""
    if _folder is not None and _folder.pid == os.getpid() and path.is_relative_to(_folder.path):
        with contextlib.suppress(OSError):
            path.unlink()


def remove_orphans() -> None:
    """Remove the directories of this user whose process has ended without removing them."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            held = os.open(folder / LOCK, os.O_RDWR)
            try:
                if _lock(held):
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(held)


def _hold(folder: Path) -> None:
    """Lock the directory for as long as this process lives."""
    held = os.open(folder / "unlocked", os.O_RDWR | os.O_CREAT, 0o600)
    if _lock(held):
        os.rename(folder / "unlocked", folder / LOCK)  # a lock file that others see is always locked


def _lock(descriptor: int) -> bool:
    """Lock an open file until the last process that inherited it has ended; whether that was possible."""
    try:
        import fcntl
    except ImportError:  # Windows: directories of killed processes stay
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # another process has it, or the file system has no locks
        return False
    return True


def _remove_directory() -> None:
    if _folder is not None and _folder.pid == os.getpid():
        shutil.rmtree(_folder.path, ignore_errors=True)


def _after_fork() -> None:
    global _creating
    _creating = threading.Lock()  # another thread of the parent may hold it


# Handlers run in reverse order. The backend's own, which waits for the threads, is registered later and runs before.
atexit.register(_remove_directory)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

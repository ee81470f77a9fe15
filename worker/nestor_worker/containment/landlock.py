"""Closes the file system and TCP to a process, without privileges. See landlock(7), and <linux/landlock.h>.

A process also loses what its file access gave it elsewhere: it can neither trace nor read processes outside, nor signal
them. What stays possible is to learn by stat(2) which paths exist.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from pathlib import Path

from nestor_worker.containment.kernel import prctl, syscall
from nestor_worker.containment.process import PR_SET_NO_NEW_PRIVS

# The numbers of these calls are the same on all architectures.
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
VERSION = 1  # flag of CREATE_RULESET: return the version of the interface
PATH_BENEATH = 1  # type of a rule

WRITE_FILE, READ_FILE, READ_DIR = 1 << 1, 1 << 2, 1 << 3
MAKE_FILES = sum(1 << i for i in (4, 5, 7, 8, 13))  # remove a directory, a file; make a directory, a file; move
TRUNCATE, IOCTL_DEVICE = 1 << 14, 1 << 15
OF_FILES = READ_FILE | WRITE_FILE | TRUNCATE | IOCTL_DEVICE
READ = READ_FILE | READ_DIR
WRITE = READ | WRITE_FILE | MAKE_FILES | TRUNCATE | IOCTL_DEVICE

RIGHTS_BY_ABI = {1: 13, 2: 14, 3: 15, 4: 15}  # how many rights to files there are; 16 in later ones
ABI_OF_TCP, ABI_OF_SCOPES = 4, 6
BIND_AND_CONNECT = 3
SIGNALS_AND_ABSTRACT_SOCKETS = 3


def abi() -> int:
    """The version of the interface; 0 if this kernel has none, or does not let this process use it."""
    try:
        return syscall(CREATE_RULESET, None, 0, VERSION)
    except OSError:
        return 0


def restrict(readable: Iterable[Path], writable: Iterable[Path], *, tcp: bool) -> None:
    """Keep this thread, and those that it starts, to these files and directories. Missing ones are left out.

    It does nothing on a kernel without it. What a version lacks, it does not restrict: TCP before 4, signals before 6.

    Args:
        tcp: whether it may listen and connect.

    Raises:
        OSError
    """
    version = abi()
    if not version:
        return
    rights = (1 << RIGHTS_BY_ABI.get(version, 16)) - 1
    ruleset = struct.pack("Q", rights)
    if version >= ABI_OF_TCP:
        ruleset += struct.pack("Q", 0 if tcp else BIND_AND_CONNECT)
    if version >= ABI_OF_SCOPES:
        ruleset += struct.pack("Q", SIGNALS_AND_ABSTRACT_SOCKETS)
    rules = syscall(CREATE_RULESET, ruleset, len(ruleset), 0)
    try:
        for paths, allowed in ((readable, READ), (writable, WRITE)):
            for path in paths:
                _allow(rules, path, allowed & rights)
        prctl(PR_SET_NO_NEW_PRIVS, 1)
        syscall(RESTRICT_SELF, rules, 0)
    finally:
        os.close(rules)


def _allow(rules: int, path: Path, allowed: int) -> None:
    try:
        at = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not path.is_dir():
            allowed &= OF_FILES
        syscall(ADD_RULE, rules, PATH_BENEATH, struct.pack("=Qi", allowed, at), 0)
    finally:
        os.close(at)

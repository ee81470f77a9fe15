"""System calls that Python's library does not have."""

from __future__ import annotations

import ctypes
import os

_libc = ctypes.CDLL(None, use_errno=True)


def prctl(option: int, argument: int | bytes, more: int = 0) -> None:
    """Call prctl(2).

    Raises:
        OSError
    """
    _checked(_libc.prctl(option, _word(argument), ctypes.c_ulong(more), ctypes.c_ulong(0), ctypes.c_ulong(0)))


def syscall(number: int, *arguments: int | bytes | ctypes.Array[ctypes.c_char] | None) -> int:
    """Call the system call `number`.

    Raises:
        OSError
    """
    return _checked(_libc.syscall(ctypes.c_long(number), *map(_word, arguments)))


def _word(argument: int | bytes | ctypes.Array[ctypes.c_char] | None) -> object:
    return ctypes.c_ulong(argument) if isinstance(argument, int) else argument


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result

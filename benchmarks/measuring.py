"""Processor time of one thread, the peak of memory, and arithmetic."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

Run = Callable[[], object]


def one_thread() -> None:
    """What is compared runs on one thread, so that processor time is what it took."""
    torch.set_num_threads(1)


def seconds(run: Run, *, least: float = 0.0) -> float:
    """Processor seconds of one call: the mean over as many calls as fill `least` seconds."""
    calls, began = 0, time.process_time()
    while True:
        run()
        calls += 1
        took = time.process_time() - began
        if took >= least:
            return took / calls


def peak_mb(run: Run, before: Run) -> float | None:
    """How far resident memory rises above its start during `run`, in MB; None where the system does not tell.

    A forked child measures, so that nothing which this process has allocated and freed can be used again unseen.
    `before` runs first, there: it loads what any computation of the kind loads.
    """
    if not sys.platform.startswith("linux"):
        return None
    gc.collect()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            before()
            libc = ctypes.CDLL(None)
            libc.mallopt(-3, 1 << 16)  # M_MMAP_THRESHOLD: blocks of 64 KiB and more go back to the system when freed
            gc.collect()
            libc.malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from here
            start = status("VmRSS")
            run()
            os.write(writing, f"{(status('VmHWM') - start) / 1e6}".encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as told:
        answer = told.read()
    os.waitpid(child, 0)
    return float(answer) if answer else None


def status(field: str) -> int:
    """Bytes."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{field}:")]
    return int(line.split()[1]) * 1024


def flops(run: Run) -> int:
    """Floating-point operations of matrix products and convolutions, which are nearly all."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()

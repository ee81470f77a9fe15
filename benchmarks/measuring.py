"""Measure time, peak memory and arithmetic: processor time of one CPU thread, or wall-clock time of a GPU."""

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
TURNS = "NESTOR_BENCHMARK_TURNS"  # environment variable: the folder for `wait_for_turn`
DEVICE = torch.device(os.environ.get("NESTOR_TEST_DEVICE", "cpu"))  # the measured device
ON_GPU = DEVICE.type == "cuda"


def one_thread() -> None:
    """Use one thread, so that processor time is the time that a computation took."""
    torch.set_num_threads(1)


def wait_for_turn() -> None:
    """End of the preparation. Under `benchmarks.gpu`, wait until no other benchmark measures or prepares.

    The file `ready` in the folder of NESTOR_BENCHMARK_TURNS says that this process waits, and `go` ends the wait.
    """
    if TURNS not in os.environ:
        return
    if ON_GPU:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    folder = Path(os.environ[TURNS])
    (folder / "ready").touch()
    while not (folder / "go").exists():
        time.sleep(0.05)


def until() -> float:
    """The time after all pending work: processor time on a CPU.

    On a GPU it is wall-clock time, which includes the time in which kernels wait for Python.
    """
    if not ON_GPU:
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def seconds(run: Run, *, least: float = 0.0) -> float:
    """Seconds of one call: the mean over as many calls as fill `least` seconds."""
    calls, began, step = 0, until(), 1
    while True:
        for _ in range(step):
            run()
        calls += step
        took = until() - began
        if took >= least:
            return took / calls
        step = 2 * step if ON_GPU else 1  # synchronizing after each call would prevent calls from overlapping


def peak_mb(run: Run, before: Run) -> float | None:
    """How far memory rises above its start during `run`, in MB; None if the system does not report it.

    On a GPU, it is the memory that torch's allocator hands out.

    A forked child measures, so that freed memory of this process cannot be reused unnoticed. `before` runs first in the
    child and loads what any such computation loads.
    """
    if ON_GPU:
        before()
        torch.cuda.reset_peak_memory_stats()
        start = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - start) / 1e6
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
    with os.fdopen(reading) as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return float(answer) if answer else None


def status(field: str) -> int:
    """Bytes."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{field}:")]
    return int(line.split()[1]) * 1024


def flops(run: Run) -> int:
    """Floating-point operations of matrix products and convolutions, which are almost all operations."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()

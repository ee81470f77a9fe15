"""What an operator can set for a worker alone, besides what it shares with the server."""

from __future__ import annotations

import glob
import os
from pathlib import Path
from typing import Annotated

import platformdirs
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from nestor.errors import TooFewDevices

CPU = ("cpu",)


class Options(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="NESTOR_", extra="ignore", frozen=True)

    devices_per_trial: Annotated[int, Field(ge=1)] = 1  # at most; trials that ask for more go to other workers
    concurrency: Annotated[int, Field(ge=1)] | None = None  # trials at a time; by default one for each device
    threads: Annotated[int, Field(ge=1)] | None = None  # of one trial; by default its share of the cores
    checkpoint_seconds: Annotated[float, Field(gt=0)] = 5.0  # between two checkpoints of a trial, at least
    silence_seconds: Annotated[float, Field(gt=0)] = 3600.0  # a runner that says nothing for so long is ended
    memory_bytes: Annotated[int, Field(ge=2**30)] | None = None  # of one trial; beyond it, allocations fail
    cache_bytes: Annotated[int, Field(ge=0)] = 16 * 2**30  # of what trials read, kept on the disk for the next time
    cache_dir: Path = Path(platformdirs.user_cache_dir("nestor"))  # which all workers of a machine may share
    standby: bool = True  # keep a runner waiting for each free slot: about 400 MB, and a first step within a second

    @property
    def slots(self) -> tuple[tuple[str, ...], ...]:
        """The devices of each trial that may run at a time, as CUDA_VISIBLE_DEVICES names them, or "cpu".

        Raises:
            InvalidInput: this machine has not as many for one trial.
        """
        found, per = devices(), self.devices_per_trial
        if found != CPU and per > len(found):
            raise TooFewDevices(option="NESTOR_DEVICES_PER_TRIAL", wanted=per, devices=len(found))
        n = self.concurrency or max(1, len(found) // per)
        return tuple(tuple(found[i % len(found)] for i in range(k * per, (k + 1) * per)) for k in range(n))


def devices() -> tuple[str, ...]:
    """The devices of this machine, found without importing torch: only runners do."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        found = sorted(path.removeprefix("/dev/nvidia") for path in glob.glob("/dev/nvidia[0-9]*"))
    else:
        found = [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    return tuple(found) or CPU


def cores() -> int:
    """The processor cores that this process may use, which in a container is fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

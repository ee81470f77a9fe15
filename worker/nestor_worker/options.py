"""Settings of a worker, in addition to those that it shares with the server."""

from __future__ import annotations

import glob
import os
from pathlib import Path
from typing import Annotated

import platformdirs
from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from nestor.errors import TooFewDevices

CPU = ("cpu",)
LEAST_MEMORY = 2**30  # bytes of one trial
SHARE = 0.9  # of the machine's memory that all trials together may take


class Options(BaseSettings):
    """`NESTOR_THREADS` sets `threads`, and so on. Units are in the names."""

    model_config = SettingsConfigDict(env_prefix="NESTOR_", extra="ignore", frozen=True)

    devices_per_trial: Annotated[int, Field(ge=1)] = 1  # maximum; trials that request more run on other workers
    worker_count: Annotated[int, Field(ge=1)] = 1  # workers on this machine, which divide its devices and cores
    worker_number: Annotated[int, Field(ge=0)] = 0  # of this one among them, from 0
    concurrency: Annotated[int, Field(ge=1)] | None = None  # concurrent trials; default: one per device
    threads: Annotated[int, Field(ge=1)] | None = None  # of one trial; default: an equal share of the cores
    checkpoint_seconds: Annotated[float, Field(gt=0)] = 5.0  # minimum time between two checkpoints of a trial
    silence_seconds: Annotated[float, Field(gt=0)] = 600.0  # a runner that sends no message for this long is killed
    memory_bytes: Annotated[int, Field(ge=LEAST_MEMORY)] | None = None  # of one trial; allocations above it fail
    cache_bytes: Annotated[int, Field(ge=0)] = 16 * 2**30  # size limit of the cache of blobs on disk
    cache_dir: Path = Path(platformdirs.user_cache_dir("nestor"))  # all workers of a machine may share it
    data_roots: Annotated[tuple[str, ...], NoDecode] = ()  # directories and buckets that trials may read by reference
    contain: bool = (
        True  # false: trials have all rights of the worker's account, such as to find out what a wall breaks
    )
    standby: bool = True  # load torch before there is a trial: 300 MB (per slot on GPUs), a first step within a second

    @field_validator("data_roots", mode="before")
    @classmethod
    def _separated_by_commas(cls, roots: object) -> object:
        return tuple(root.strip() for root in roots.split(",") if root.strip()) if isinstance(roots, str) else roots

    @property
    def slots(self) -> tuple[tuple[str, ...], ...]:
        """The devices of each slot, named as in CUDA_VISIBLE_DEVICES, or "cpu".

        Raises:
            InvalidInput: this machine has fewer devices than `devices_per_trial`.
        """
        found, per = self._share_of(devices()), self.devices_per_trial
        if found != CPU and per > len(found):
            raise TooFewDevices(option="NESTOR_DEVICES_PER_TRIAL", wanted=per, devices=len(found))
        n = self.concurrency or max(1, len(found) // per)
        return tuple(tuple(found[i % len(found)] for i in range(k * per, (k + 1) * per)) for k in range(n))

    @property
    def trial_memory(self) -> int | None:
        """Bytes that one trial may allocate: `memory_bytes`, or an equal share of the machine's memory.

        None, no limit, on GPUs by default: their driver reserves far more addresses than it uses.
        """
        if self.memory_bytes is not None or any(slot[0] != "cpu" for slot in self.slots):
            return self.memory_bytes
        return max(
            LEAST_MEMORY, int(SHARE * memory()) // (self.worker_count * len(self.slots) * self.devices_per_trial)
        )

    def _share_of(self, found: tuple[str, ...]) -> tuple[str, ...]:
        """The devices of this worker. Workers share devices only if there are more workers than devices."""
        number = self.worker_number % self.worker_count
        return found[number :: self.worker_count] or (found[number % len(found)],)


def devices() -> tuple[str, ...]:
    """The devices of this machine, found without torch, which only runners import."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        found = sorted(path.removeprefix("/dev/nvidia") for path in glob.glob("/dev/nvidia[0-9]*"))
    else:
        found = [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    return tuple(found) or CPU


def cores() -> int:
    """The number of cores that this process may use. In a container it can be less than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory() -> int:
    """Bytes of memory that the processes of this machine, or of this container, may use."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(machine, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # no container, or "max"
        return machine

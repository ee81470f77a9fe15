"""What every runner may read and write: its Python, the libraries of the system, and what describes the processor."""

from __future__ import annotations

import sys
from pathlib import Path

SYSTEM = (
    "/usr/lib", "/usr/lib32", "/usr/lib64", "/lib", "/lib64", "/usr/local/lib", "/etc/ld.so.cache",
    "/usr/share/zoneinfo", "/etc/localtime",
    "/proc/self", "/proc/meminfo", "/proc/cpuinfo", "/proc/stat", "/proc/sys/vm/overcommit_memory",
    "/sys/devices/system", "/sys/fs/cgroup", "/dev/urandom", "/dev/random", "/dev/zero",
)  # fmt: skip
OF_NETWORK = tuple(map(Path, ("/sys/class/net", "/sys/bus/pci", "/sys/devices")))  # where gloo looks for interfaces
WRITABLE = (Path("/dev/null"),)
DEVICES_OF_GPUS = (
    *(Path(path) for path in ("/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidia-modeset")),
    *(Path(f"/dev/nvidia{number}") for number in range(64)),
    *(Path(path) for path in ("/dev/nvidia-caps", "/proc/driver/nvidia")),
    Path("/dev/shm"),  # nosec B108 # CUDA's choice
)


def of_python() -> list[Path]:
    """The directories of this Python and of the packages that it imports."""
    return [path for path in map(Path, {sys.base_prefix, sys.prefix, *sys.path}) if path.is_absolute()]


def readable_by_all() -> list[Path]:
    """What every runner may read."""
    return [*of_python(), *map(Path, SYSTEM)]

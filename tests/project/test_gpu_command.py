"""What `make gpu` runs on a GPU also runs here, on the CPU in its shortest form."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.gpu.__main__ import run_benchmarks

ROOT = Path(__file__).parents[2]


@pytest.fixture
def home() -> Iterator[str]:
    """A directory that PostgreSQL's user may enter, unlike that of pytest."""
    with tempfile.TemporaryDirectory(prefix="nestor-test-", ignore_cleanup_errors=True) as directory:
        Path(directory).chmod(0o755)
        yield directory


@pytest.mark.parametrize("part", ["tests", "service", "products", "scaling"])
def test_every_part_runs_on_the_cpu(part: str, home: str, tmp_path: Path):
    """Except `hypergradient`, which downloads the peers, and `joint`, which is long even in its shortest form."""
    found = tmp_path / "gpu.json"
    command = [sys.executable, "-m", "benchmarks.gpu", part, "--quick", "--json", str(found)]
    environment = os.environ | {"NESTOR_TEST_DEVICE": "cpu", "NESTOR_HOME": home}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(found.read_text())
    assert report["about"]["torch"]
    assert report[part]["ok"]
    if part == "tests":
        assert "passed" in report[part]["ended"]
    else:
        assert report[part]["rows"]
    if part == "service":
        values = {row["what"]: row["value"] for row in report[part]["rows"]}
        assert values["five steps on the worker against in this process, difference"] < 1e-4
        assert [value for what, value in values.items() if what.startswith("paused")] == [0.0]


def test_what_does_not_fit_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NESTOR_TEST_DEVICE", "cpu")
    ((part, result),) = run_benchmarks(["scaling"], quick=True, end=time.monotonic())
    assert (part, result["rows"], result["ok"]) == ("scaling", [], True)
    assert result["left_out"] == ["1,000: no time left"]


def test_the_parts_of_an_outer_step_are_shown(tmp_path: Path):
    found = tmp_path / "rows.json"
    command = [sys.executable, "-m", "benchmarks.gpu.outer_step", "--quick", "--json", str(found)]
    environment = os.environ | {"NESTOR_TEST_DEVICE": "cpu"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    values = {row["what"]: row["value"] for row in json.loads(found.read_text())}
    parts = [value for what, value in values.items() if what.startswith("of this")]
    assert all(0 <= part <= 2 * values["outer step, ms"] for part in parts)
    assert 0 < values["of the hypergradient, products, ms"] < values["of this, hypergradient, ms"]
    assert any("aten::" in what for what in values)

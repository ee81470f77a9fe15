"""Logs are rotated while their processes write to them, and errors still show the last lines."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nestor_server.embedded import logs
from nestor_server.embedded.logs import earlier, rotate, tail
from nestor_server.embedded.process import Child
from tests.support.up import wait_for

# Writes three numbered lines whenever `go` is created, and removes it.
WRITER = """
import pathlib, time
n, go = 0, pathlib.Path("go")
while True:
    if go.exists():
        for n in range(n + 1, n + 4):
            print("line", n, flush=True)
        go.unlink()
    time.sleep(0.005)
"""


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MAX_BYTES", 10)


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Child]:
    (tmp_path / "part.log").write_text("of an earlier run\n")
    child = Child("part", [sys.executable, "-c", WRITER], log=tmp_path / "part.log", env={}, cwd=tmp_path)
    child.start()
    yield child
    child.stop()


def write_three_lines(child: Child) -> None:
    go = child.log.with_name("go")
    go.touch()
    wait_for(lambda: not go.exists(), 20)


def test_a_process_goes_on_writing_to_its_rotated_log_and_three_earlier_parts_are_kept(small: None, writer: Child):
    for _ in range(5):
        write_three_lines(writer)
        writer.rotate_log()
    write_three_lines(writer)
    assert writer.log.read_text() == "line 16\nline 17\nline 18\n"
    assert [earlier(writer.log, number).read_text() for number in (1, 2, 3)] == [
        "line 13\nline 14\nline 15\n",
        "line 10\nline 11\nline 12\n",
        "line 7\nline 8\nline 9\n",
    ]
    assert not earlier(writer.log, 4).exists()


def test_an_error_shows_the_last_lines_of_this_run_also_after_a_rotation(small: None, writer: Child):
    write_three_lines(writer)
    assert "line 3" in str(writer.failed("ended"))
    writer.rotate_log()
    assert writer.log.read_text() == ""
    assert str(writer.failed("ended")).endswith("ends with:\nline 1\nline 2\nline 3")
    write_three_lines(writer)
    assert str(writer.failed("ended")).endswith("line 2\nline 3\nline 4\nline 5\nline 6")
    assert "earlier run" not in str(writer.failed("ended"))
    writer.rotate_log()
    assert str(writer.failed("ended")).endswith("ends with:\nline 4\nline 5\nline 6")


def test_the_tail_is_the_last_2000_bytes_of_a_log_and_of_the_part_before_it(tmp_path: Path):
    log = tmp_path / "a.log"
    assert tail(log) == "(nothing)"
    earlier(log, 1).write_text("a" * 1_500)
    assert tail(log) == "a" * 1_500
    log.write_text("b" * 1_500)
    assert tail(log) == "a" * 500 + "b" * 1_500
    assert tail(log, 0) == "b" * 1_500
    log.write_text("c" * 3_000)
    assert tail(log) == "c" * 2_000


def test_only_the_owner_can_read_the_earlier_parts(small: None, tmp_path: Path):
    log = tmp_path / "a.log"
    log.write_text("a long line\n")
    log.chmod(0o644)
    assert rotate(log) == 12
    assert stat.S_IMODE(earlier(log, 1).stat().st_mode) == 0o600


def test_a_short_log_and_a_missing_one_are_left_alone(tmp_path: Path):
    assert rotate(tmp_path / "a.log") == 0
    (tmp_path / "a.log").write_text("short")
    assert rotate(tmp_path / "a.log") == 0
    assert rotate(tmp_path / "missing" / "a.log") == 0
    assert os.listdir(tmp_path) == ["a.log"]


def test_a_log_that_cannot_be_copied_is_kept_with_its_earlier_parts(tmp_path: Path):
    log = tmp_path / "a.log"
    log.write_bytes(bytes(logs.MAX_BYTES + 1))
    for number in (1, 2, 3):
        earlier(log, number).write_text(str(number))
    # A limit on the size of files fails in the middle of the copy, as a full disk does.
    code = f"""
import resource, pathlib
from nestor_server.embedded.logs import rotate
resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))
print(rotate(pathlib.Path({str(log)!r})))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"
    assert log.stat().st_size == logs.MAX_BYTES + 1
    assert [earlier(log, number).read_text() for number in (1, 2, 3)] == ["1", "2", "3"]
    assert len(os.listdir(tmp_path)) == 4

"""`python -m benchmarks.server` runs all its parts, here in their shortest form."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.server.__main__ import PARTS
from benchmarks.server.table import table

ROOT = Path(__file__).parents[2]
WRONG = ("missed", "doubled", "out of order", "not delivered")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    found = tmp_path_factory.mktemp("benchmark") / "rows.json"
    command = [sys.executable, "-m", "benchmarks.server", "--quick", "--json", str(found)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(found.read_text())


def test_every_part_is_measured(rows: list[dict[str, Any]]):
    assert [row for row in rows if "error" in row] == []
    assert {row["part"].partition(",")[0] for row in rows} == set(PARTS)


def test_streams_deliver_each_event_once_also_when_database_and_server_restart(rows: list[dict[str, Any]]):
    streams = [row for row in rows if "delay p50, ms" in row]
    assert len(streams) == 4
    assert [[row[name] for name in WRONG] for row in streams] == [[0, 0, 0, 0]] * 4
    assert [row["open"] for row in streams] == [20] * 4
    cut, _, _, restarted = streams
    assert (cut["resumed"], restarted["resumed"]) == (2, 20)


def test_all_requests_of_a_small_burst_are_answered(rows: list[dict[str, Any]]):
    assert [row["200"] for row in rows if row["part"] == "bursts"] == [50, 10, 40]


def test_all_small_trials_of_two_users_are_completed(rows: list[dict[str, Any]]):
    submitted, trained = (row for row in rows if row["part"] == "trials")
    assert (submitted["201"], submitted["distinct"]) == (4, 4)
    assert (trained["complete"], trained["steps"], trained["second attempts"]) == (4, 20, 0)


def test_a_part_has_a_table_with_a_row_for_each_case():
    rows = [{"part": "bursts", "case": "40 at once", "seconds": 0.123456, "200": 1_000}]
    rows += [{"part": "bursts", "case": "the rest", "error": "TimeoutError"}]
    assert table(rows).splitlines() == [
        "**bursts**",
        "",
        "|  | seconds | 200 |",
        "|---|---|---|",
        "| 40 at once | 0.123 | 1,000 |",
        "| the rest | TimeoutError |  |",
    ]


def test_a_count_that_is_the_same_in_all_rows_stands_below_the_table():
    rows = [{"part": "streams", "case": f"{n} at once", "open": n, "missed": 0, "refused": 0} for n in (50, 200)]
    assert table(rows).splitlines() == [
        "**streams**",
        "",
        "|  | open |",
        "|---|---|",
        "| 50 at once | 50 |",
        "| 200 at once | 200 |",
        "",
        "In all rows: missed 0, refused 0.",
    ]

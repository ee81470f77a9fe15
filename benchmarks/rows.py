"""Rows of a table, each measured in a process of its own, so that no memory of one counts for another."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from examples.provenance import ROOT

Row = dict[str, Any]


def shared_options(text: str | None, *, quick: str) -> argparse.ArgumentParser:
    """The options that these benchmarks share.

    Args:
        text: the docstring of the benchmark, whose first line describes it.
        quick: what `--quick` does.
    """
    parser = argparse.ArgumentParser(description=(text or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--quick", action="store_true", help=quick)
    return parser


def in_own_process(module: str, options: dict[str, object], known: Row) -> Row:
    """The row that `python -m module` prints as its last line, or what is `known` with the reason of the failure."""
    arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    reason = (done.stderr.strip().splitlines() or [f"ended by signal {-done.returncode}"])[-1]
    return {**known, "error": reason[:160]}


def collected(rows: Iterable[Row], path: Path | None) -> list[Row]:
    """All rows, each shown on stderr when it is measured, and in the end written to `path`."""
    found: list[Row] = []
    for row in rows:
        found.append(row)
        print(row, file=sys.stderr, flush=True)
    if path is not None:
        path.write_text(json.dumps(found, indent=1))
    return found

"""`python -m nestor_worker`: the same as `nestor worker`."""

from __future__ import annotations

from nestor_worker.cli import app

app(prog_name="nestor-worker")

"""`python -m nestor.cli` is `nestor`."""

from __future__ import annotations

from nestor.cli import main

main()

"""What the service bears: bursts, event streams, slow clients, long trials, long queues, uploads and faults."""

from __future__ import annotations

from benchmarks.server.table import table

__all__ = ["table"]

"""The modules of `nestor.remote` that wait, for asyncio. `python -m nestor.remote.asynchronous` writes them."""

from __future__ import annotations

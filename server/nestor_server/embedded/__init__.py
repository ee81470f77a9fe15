"""PostgreSQL and Valkey as child processes, from pip wheels: what is tested is what is run."""

from __future__ import annotations

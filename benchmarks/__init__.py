"""Benchmarks to run by hand, each as `python -m benchmarks.<name>` from the repository's root."""

from __future__ import annotations

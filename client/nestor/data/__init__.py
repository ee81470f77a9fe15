"""Data by reference: files that workers read where they lie, and that are never uploaded."""

from __future__ import annotations

from nestor.data.reference import Ref as Ref
from nestor.data.reference import ref as ref

__all__ = ["Ref", "ref"]

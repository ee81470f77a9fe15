"""Bytes by their digest: where they lie, how they are read, and when they are deleted."""

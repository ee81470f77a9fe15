"""Turns what pydantic finds wrong with an option or a schema into Nestor's sentences and error classes."""

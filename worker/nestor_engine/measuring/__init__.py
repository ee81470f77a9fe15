"""Losses and metrics of many examples, exact although the examples come in chunks."""

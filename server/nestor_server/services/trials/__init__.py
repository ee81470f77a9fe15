"""Trials: submission, actions, queries, attempts, and warm starts."""

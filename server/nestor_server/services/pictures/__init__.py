"""Hyperparameters as PNG."""

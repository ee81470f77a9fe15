"""The problem as its author writes it, and its validation."""

"""Graphs of allowed operators: what programs and kept traces are made of, checked and made runnable."""

"""Checks that run a problem once and say what is wrong with it."""

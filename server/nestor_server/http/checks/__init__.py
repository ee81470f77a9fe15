"""Checks of requests before their route runs, and the messages of failed checks."""

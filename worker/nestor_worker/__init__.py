"""Runs trials: a Celery worker whose every task supervises one runner process."""

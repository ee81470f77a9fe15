"""Decides which worker runs which trial: state transitions, leases, the event log, and fair shares."""

"""Signed notices about trials to addresses that the operator allows: an outbox, and what delivers it."""

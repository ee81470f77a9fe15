"""A trial's life: its states, its leases, its event log, and whose turn it is."""

"""Who runs which trial: transitions of state, leases, the event log, and fair shares."""

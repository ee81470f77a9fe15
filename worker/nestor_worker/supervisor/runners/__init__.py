"""The supervisor's side of runners: their processes, and those that wait for a trial."""

"""The worker's side of a trial: the task, its lease, and the process that runs it."""

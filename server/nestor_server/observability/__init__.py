"""What operators see of servers and workers: metrics, traces and logs."""

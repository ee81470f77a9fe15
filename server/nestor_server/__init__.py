"""The API server: REST interface, dashboard, scheduling of trials, and the commands that operate them."""

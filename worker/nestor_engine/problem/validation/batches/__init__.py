"""How losses and metrics depend on the batch."""

"""What may be a model: its arguments and outputs, wrappers around it, and what it holds besides parameters."""

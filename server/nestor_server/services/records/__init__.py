"""What a trial recorded: steps, events, and hyperparameters at each step."""

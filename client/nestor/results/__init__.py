"""Results of a trial: progress, steps as table rows, hyperparameters and weights."""

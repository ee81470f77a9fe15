"""Programs, data sets, and the names and shapes of parameters and hyperparameters."""

"""Programs, data sets, presets, and the names and shapes of parameters and hyperparameters."""

"""What a trial gives back: its progress, its steps as rows, its hyperparameters and its weights."""

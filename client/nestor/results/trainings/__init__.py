"""Trainings under a trial's best hyperparameters, which judge it."""

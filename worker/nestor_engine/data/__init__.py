"""Data as columns, their splits and folds, and batches by number."""

"""Trials: submitting and steering them, finding them, and what they start from."""

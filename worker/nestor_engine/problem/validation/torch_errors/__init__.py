"""What to do about errors that torch raises in a check."""

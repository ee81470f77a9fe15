"""What a trial works on: programs, data sets, and the names and shapes of what is trained and tuned."""

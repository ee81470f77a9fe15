"""What every request goes through: who asks, what may pass, how refusals, repetitions and files are answered."""

"""What only a GPU shows: `python -m benchmarks.gpu`."""

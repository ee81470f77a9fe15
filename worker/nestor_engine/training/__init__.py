"""The outer loop, the inner loop, and what they carry and report."""

"""Named tensors as vectors and as bytes, and random draws as functions of a seed."""

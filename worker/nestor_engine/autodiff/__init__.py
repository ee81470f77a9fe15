"""Gradients and curvature products at one linearization, by autograd or by a graph that is traced once."""

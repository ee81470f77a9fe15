"""Gradients and curvature products at one point, by autograd or by a graph that is traced once."""

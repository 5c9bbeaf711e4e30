"""Layers of models on particles: message passing, tensor fields, and learned vectors that break the symmetry."""

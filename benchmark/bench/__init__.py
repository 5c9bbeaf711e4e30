"""Benchmarks of symbench itself: `make bench`."""

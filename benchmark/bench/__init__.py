"""Benches of symbench itself: `make bench`."""

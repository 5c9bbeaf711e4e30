"""Baselines, one file each, found because they lie here; their contract is baseline.py."""

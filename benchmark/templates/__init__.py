"""Baselines that work, from which `symbench new-baseline` writes new ones; see `benchmark/scaffold.py`."""

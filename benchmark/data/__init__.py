"""Data: contract of a dataset, data files, simulation, import, checks and windows."""

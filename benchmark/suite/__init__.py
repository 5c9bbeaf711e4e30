"""Suites: reads the YAML, expands it into cells, solves budgets, and puts in tuned settings."""

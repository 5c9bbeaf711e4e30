"""Forecast and symmetry errors of a model, and what it costs."""
